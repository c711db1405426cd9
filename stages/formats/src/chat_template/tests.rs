use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;

fn template(source: &str) -> ChatTemplate {
    let tokens =
        BTreeMap::from([("bos_token".to_owned(), "<s>".to_owned()), ("eos_token".to_owned(), "</s>".to_owned())]);
    ChatTemplate::from_source(source, tokens, "test").expect("compiles")
}

/// Renders made by transformers (tests/golden/templates/make.py); of more templates where the variable names a file.
#[test]
fn renders_as_transformers_does() {
    compare(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/templates/cases.json"));
    if let Ok(path) = std::env::var("LUTHIER_TEMPLATE_CASES") {
        compare(&path);
    }
}

fn compare(path: &str) {
    let cases: Value = serde_json::from_slice(&fs_err::read(path).expect("golden")).expect("JSON");
    let tokens: BTreeMap<String, String> = serde_json::from_value(cases["tokens"].clone()).expect("tokens");
    let (mut equal, mut wrong) = (0, Vec::new());
    for render in cases["renders"].as_array().expect("renders") {
        let name = render["template"].as_str().expect("a name");
        let conversation = render["conversation"].as_str().expect("a name");
        let source = cases["templates"][name].as_str().expect("a source");
        let options = RenderOptions {
            add_generation_prompt: render["add_generation_prompt"] == json!(true),
            tools: (render["tools"] == json!(true)).then(|| cases["tools"].clone()),
            date: cases["date"].as_str().map_or_else(Date::default, |date| date.parse().expect("a date")),
            ..RenderOptions::default()
        };
        let result = ChatTemplate::from_source(source, tokens.clone(), name)
            .and_then(|template| template.render_with(&cases["conversations"][conversation], &options));
        let fits = match (&result, render["output"].as_str(), render["error"].as_str()) {
            (Ok(rendered), Some(output), None) => rendered.text == output,
            // Where Python's words for a type error differ, failing is what counts.
            (Err(error), None, Some(message)) => error.code == "template::failed" || error.message.ends_with(message),
            _ => false,
        };
        if fits {
            equal += 1;
        } else {
            let ours = result.map_or_else(|error| format!("error {error} {:?}", error.code), |rendered| rendered.text);
            wrong.push(format!(
                "{name} / {conversation}\n  ours   {ours:?}\n  theirs {:?}",
                render["output"].as_str().or(render["error"].as_str())
            ));
        }
    }
    assert!(
        equal > 400 && wrong.is_empty(),
        "{} of {} differ:\n{}",
        wrong.len(),
        wrong.len() + equal,
        wrong.join("\n")
    );
}

#[test]
fn generation_blocks_are_found_by_construction() {
    let template = template(
        "{% for m in messages %}{% if m.role == 'assistant' %}[A]{%- generation -%} {{ m.content }}{{ eos_token }} {%- endgeneration %}{% else %}[U]{{ m.content }}{% endif %}{% endfor %}",
    );
    assert!(template.has_generation_tags());
    let messages = json!([
        {"role": "user", "content": "x\u{f8ff}\u{f8fe}y"}, {"role": "assistant", "content": "[A]"},
        {"role": "user", "content": "z"}, {"role": "assistant", "content": ""},
    ]);
    let rendered = template.render_with(&messages, &RenderOptions::default()).expect("renders");
    assert_eq!(rendered.text, "[U]x\u{f8ff}\u{f8fe}y[A][A]</s>[U]z[A]</s>");
    let said: Vec<&str> = rendered.generated.iter().map(|range| &rendered.text[range.clone()]).collect();
    assert_eq!(said, ["[A]</s>", "</s>"]);
}

#[test]
fn hostile_templates_are_errors() {
    let error = ChatTemplate::from_source("{% for x in %}", BTreeMap::new(), "t.jinja").expect_err("syntax");
    assert_eq!(error.code, "template::failed");
    assert!(error.to_string().starts_with("t.jinja:1: the template has a syntax error"), "{error}");
    let endless = template("{% for a in range(10000) %}{% for b in range(10000) %}{{ b }}{% endfor %}{% endfor %}");
    let error = endless.render(&json!([]), false).expect_err("too long");
    assert!(error.message.contains("does not come to an end"), "{error}");
    let deep = template(&format!("{}x{}", "{{ (", ") }}"));
    assert!(deep.render(&json!([]), false).is_ok());
    let refuses = template("{{ raise_exception('no system turn') }}");
    let error = refuses.render(&json!([]), false).expect_err("raised");
    assert_eq!(error.to_string(), "the chat template refuses the conversation: no system turn");
}

#[test]
fn dates_are_configured_not_read() {
    let template = template("{{ strftime_now('%d %b %Y, %A %-d/%-m/%y %j %%') }}");
    assert_eq!(template.render(&json!([]), false).expect("renders"), "26 Jul 2024, Friday 26/7/24 208 %");
    let options = RenderOptions { date: "2026-11-24".parse().expect("a date"), ..RenderOptions::default() };
    assert_eq!(
        template.render_with(&json!([]), &options).expect("renders").text,
        "24 Nov 2026, Tuesday 24/11/26 328 %"
    );
    assert!("2026-02-29".parse::<Date>().is_err() && "2024-02-29".parse::<Date>().is_ok());
}

#[test]
fn the_built_in_chatml_renders() {
    let rendered = template(CHATML).render(&json!([{"role": "user", "content": "Hi"}]), true).expect("renders");
    assert_eq!(rendered, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
}
