//! An Ollama Modelfile for an exported model.
//!
//! Ollama has its own template language and guesses a template for models that bring only a Jinja one; a wrong guess is
//! the most common way in which a good model answers nonsense. So the Jinja template is taken apart by rendering it: what
//! it puts before and after each role's text is read off one conversation and put together again in Ollama's language.
//! The result is compared with the Jinja template on other conversations, and dropped if it differs anywhere.

use luthier_formats::chat_template::ChatTemplate;
use luthier_formats::gguf::{GgufFile, MetaValue};
use serde_json::{Value, json};

use super::config::ExportConfig;

/// `num_ctx` when neither the configuration nor a smaller model says otherwise.
const LARGEST_DEFAULT_CONTEXT: usize = 8192;

/// What a template puts around the text of one role.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Role {
    before: String,
    after: String,
}

/// A template whose output is the turns one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Turns {
    /// Written first when there is no system message.
    without_system: String,
    system: Option<Role>,
    user: Role,
    assistant: Role,
    generation: String,
}

fn message(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

/// The pieces of `text` between `marks`, which must occur once each, in order.
fn between<'a>(text: &'a str, marks: &[&str]) -> Option<Vec<&'a str>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    for mark in marks {
        let (piece, after) = rest.split_once(mark)?;
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    Some(pieces)
}

impl Turns {
    /// Reads the turns off a template; `None` if it is not made of turns. `bos` is a token that the runtime adds itself.
    pub(super) fn of(template: &ChatTemplate, bos: Option<&str>) -> Option<Self> {
        let render = |messages: Vec<Value>, prompt: bool| template.render(&Value::Array(messages), prompt).ok();
        let marks = ["first-question", "first-answer", "second-question", "second-answer"];
        let dialogue = vec![
            message("user", marks[0]),
            message("assistant", marks[1]),
            message("user", marks[2]),
            message("assistant", marks[3]),
        ];
        let plain = render(dialogue.clone(), false)?;
        let [head, _, turn, answer_head, assistant_after] = between(&plain, &marks)?[..] else { return None };
        let generation = render(dialogue, true)?.strip_prefix(plain.as_str())?.to_owned();
        let asked = render(vec![message("user", marks[0])], true)?;
        let [_, question_end] = between(&asked, &marks[..1])?[..] else { return None };
        let user_after = question_end.strip_suffix(generation.as_str())?;
        let user_before = turn.strip_prefix(assistant_after)?;
        let mut turns = Self {
            without_system: head.strip_suffix(user_before)?.to_owned(),
            system: None,
            user: Role { before: user_before.to_owned(), after: user_after.to_owned() },
            assistant: Role {
                before: answer_head.strip_prefix(user_after)?.to_owned(),
                after: assistant_after.to_owned(),
            },
            generation,
        };
        if let Some(led) = render(vec![message("system", "the-system"), message("user", marks[0])], false)
            && let [before, after, _] = between(&led, &["the-system", marks[0]])?[..]
        {
            turns.system = Some(Role {
                before: before.to_owned(),
                after: after.strip_suffix(turns.user.before.as_str())?.to_owned(),
            });
        }
        turns.agrees_with(template).then(|| turns.without_bos(bos))
    }

    /// Drops a leading BOS that the runtime adds.
    fn without_bos(mut self, bos: Option<&str>) -> Self {
        let Some(bos) = bos else { return self };
        let strip = |text: &mut String| {
            if let Some(rest) = text.strip_prefix(bos) {
                *text = rest.to_owned();
            }
        };
        strip(&mut self.without_system);
        if let Some(system) = &mut self.system {
            strip(&mut system.before);
        }
        self
    }

    /// The conversation as these turns make it.
    fn render(&self, messages: &[(&str, &str)]) -> Option<String> {
        let mut text = String::new();
        if messages.first().is_none_or(|(role, _)| *role != "system") {
            text.push_str(&self.without_system);
        }
        for (role, content) in messages {
            let around = match *role {
                "system" => self.system.as_ref()?,
                "user" => &self.user,
                _ => &self.assistant,
            };
            text.extend([around.before.as_str(), content, around.after.as_str()]);
        }
        text.push_str(&self.generation);
        Some(text)
    }

    fn agrees_with(&self, template: &ChatTemplate) -> bool {
        let (system, question, answer) = (("system", "Be brief."), ("user", "What is 2 + 2?"), ("assistant", "4"));
        let again = ("user", "And 3 + 3, \"please\"?");
        let conversations: [&[(&str, &str)]; 5] = [
            &[question],
            &[question, answer, again],
            &[question, answer, again, answer, question],
            &[system, question],
            &[system, question, answer, again],
        ];
        conversations.iter().filter(|messages| self.system.is_some() || messages[0].0 != "system").all(|messages| {
            let jinja: Vec<Value> = messages.iter().map(|(role, content)| message(role, content)).collect();
            template.render(&Value::Array(jinja), true).ok() == self.render(messages)
        })
    }

    /// In Ollama's language (Go's text/template); `None` if the text cannot be quoted in a Modelfile.
    fn to_ollama(&self) -> Option<String> {
        let text = |text: &str| text.replace("{{", "{{ \"{{\" }}");
        let turn = |role: &Role| format!("{}{{{{ .Content }}}}{}", text(&role.before), text(&role.after));
        let mut out = String::new();
        if !self.without_system.is_empty() {
            out.push_str(&match self.system {
                Some(_) => format!("{{{{ if not .System }}}}{}{{{{ end }}}}", text(&self.without_system)),
                None => text(&self.without_system),
            });
        }
        out.push_str("{{ range .Messages }}");
        if let Some(system) = &self.system {
            out.push_str(&format!("{{{{ if eq .Role \"system\" }}}}{}{{{{ else ", turn(system)));
        } else {
            out.push_str("{{ ");
        }
        out.push_str(&format!("if eq .Role \"user\" }}}}{}", turn(&self.user)));
        out.push_str(&format!(
            "{{{{ else if eq .Role \"assistant\" }}}}{}{{{{ end }}}}{{{{ end }}}}",
            turn(&self.assistant)
        ));
        out.push_str(&text(&self.generation));
        (!out.contains("\"\"\"")).then_some(out)
    }

    /// Control tokens that end an answer or begin the next turn.
    fn stops<'a>(&self, control: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
        let ends = [&self.assistant.after, &self.user.before];
        control.filter(|token| !token.is_empty() && ends.iter().any(|end| end.contains(token))).collect()
    }
}

/// The Modelfile and what could not be put into it.
pub(super) struct Modelfile {
    pub text: String,
    pub warning: Option<String>,
}

impl Modelfile {
    /// For an exported file, to lie beside it under the name `model.gguf`.
    pub(super) fn of(
        file: &GgufFile,
        template: Option<&ChatTemplate>,
        max_positions: usize,
        config: &ExportConfig,
    ) -> Self {
        let tokens = file.metadata("tokenizer.ggml.tokens").and_then(MetaValue::as_strings).unwrap_or_default();
        let token = |key: &str| {
            let id = file.metadata(&format!("tokenizer.ggml.{key}_token_id")).and_then(MetaValue::as_u64)?;
            tokens.get(usize::try_from(id).ok()?).map(String::as_str)
        };
        let adds_bos = file.metadata("tokenizer.ggml.add_bos_token").and_then(MetaValue::as_bool) == Some(true);
        let bos = token("bos").filter(|_| adds_bos);
        let types = file.metadata("tokenizer.ggml.token_type").and_then(MetaValue::as_i32s).unwrap_or_default();
        let control = tokens.iter().zip(&types).filter(|(_, kind)| **kind == 3).map(|(token, _)| token.as_str());

        let mut stops: Vec<&str> = ["eos", "eot", "eom"].into_iter().filter_map(token).collect();
        let mut warning = None;
        let template = match template {
            None => Some("{{ .Prompt }}".to_owned()),
            Some(template) => match Turns::of(template, bos) {
                Some(turns) => {
                    stops.extend(turns.stops(control));
                    turns.to_ollama()
                }
                None => None,
            },
        };
        let mut text = "# ollama create NAME -f Modelfile, with the exported file beside it as model.gguf\n\
                        FROM ./model.gguf\n"
            .to_owned();
        match template {
            Some(template) => text.push_str(&format!("TEMPLATE \"\"\"{template}\"\"\"\n")),
            None => {
                warning = Some(
                    "the Modelfile has no TEMPLATE: the model's chat template is not a plain sequence of turns, and Ollama \
                     will guess one; write it by hand before use"
                        .to_owned(),
                );
            }
        }
        if let Some(system) = &config.system {
            text.push_str(&format!("SYSTEM \"\"\"{system}\"\"\"\n"));
        }
        let context = config.context.map_or(max_positions.min(LARGEST_DEFAULT_CONTEXT), |context| context as usize);
        text.push_str(&format!("PARAMETER num_ctx {context}\n"));
        let mut written: Vec<&str> = Vec::new();
        for stop in stops {
            if !written.contains(&stop) && !stop.contains('"') {
                text.push_str(&format!("PARAMETER stop \"{stop}\"\n"));
                written.push(stop);
            }
        }
        Self { text, warning }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(source: &str) -> ChatTemplate {
        let tokens = [("bos_token".to_owned(), "<s>".to_owned()), ("eos_token".to_owned(), "</s>".to_owned())];
        ChatTemplate::from_source(source, tokens.into(), "test").expect("a template")
    }

    const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
        {{ '<|im_start|>system\nYou are helpful<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + \
        message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}\
        {% endif %}";
    const LLAMA3: &str = "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' \
        + m['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}\
        {{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}";
    const MISTRAL: &str = "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + \
        ' [/INST]' }}{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}{% else %}\
        {{ raise_exception('no system here') }}{% endif %}{% endfor %}";

    #[test]
    fn known_templates_translate() {
        let show =
            |source: &str| Turns::of(&template(source), Some("<s>")).and_then(|turns| turns.to_ollama()).unwrap();
        insta::assert_snapshot!(show(CHATML), @r##"
{{ if not .System }}<|im_start|>system
You are helpful<|im_end|>
{{ end }}{{ range .Messages }}{{ if eq .Role "system" }}<|im_start|>system
{{ .Content }}<|im_end|>
{{ else if eq .Role "user" }}<|im_start|>user
{{ .Content }}<|im_end|>
{{ else if eq .Role "assistant" }}<|im_start|>assistant
{{ .Content }}<|im_end|>
{{ end }}{{ end }}<|im_start|>assistant
"##);
        insta::assert_snapshot!(show(LLAMA3), @r##"
{{ range .Messages }}{{ if eq .Role "system" }}<|start_header_id|>system<|end_header_id|>

{{ .Content }}<|eot_id|>{{ else if eq .Role "user" }}<|start_header_id|>user<|end_header_id|>

{{ .Content }}<|eot_id|>{{ else if eq .Role "assistant" }}<|start_header_id|>assistant<|end_header_id|>

{{ .Content }}<|eot_id|>{{ end }}{{ end }}<|start_header_id|>assistant<|end_header_id|>
"##);
        insta::assert_snapshot!(show(MISTRAL), @r##"
{{ range .Messages }}{{ if eq .Role "user" }}[INST] {{ .Content }} [/INST]{{ else if eq .Role "assistant" }} {{ .Content }}</s>{{ end }}{{ end }}
"##);
    }

    #[test]
    fn a_bos_that_the_runtime_does_not_add_stays() {
        let turns = Turns::of(&template(LLAMA3), None).expect("turns");
        assert_eq!(turns.without_system, "<s>");
        assert!(turns.system.expect("a system role").before.starts_with("<s><|start_header_id|>system"));
    }

    #[test]
    fn templates_that_are_no_turns_are_not_guessed() {
        // Numbers its turns, so no text is the same twice.
        let numbered = "{% for m in messages %}{{ loop.index ~ m['role'] ~ ':' ~ m['content'] ~ '\n' }}{% endfor %}\
                        {% if add_generation_prompt %}{{ 'answer:' }}{% endif %}";
        assert_eq!(Turns::of(&template(numbered), None), None);
        // Shortens a long conversation: right for the first probe, wrong for a later one.
        let last = "{% for m in messages[-4:] %}{{ '<' + m['role'] + '>' + m['content'] + '\n' }}{% endfor %}\
                    {% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}";
        assert_eq!(Turns::of(&template(last), None), None);
        assert_eq!(Turns::of(&template("{{ raise_exception('never') }}"), None), None);
    }

    #[test]
    fn braces_are_quoted() {
        let turns = Turns { generation: "{{".to_owned(), ..Turns::default() };
        assert!(turns.to_ollama().expect("quotable").ends_with("{{ \"{{\" }}"));
        let turns = Turns { generation: "\"\"\"".to_owned(), ..Turns::default() };
        assert_eq!(turns.to_ollama(), None);
    }
}
