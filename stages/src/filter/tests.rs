use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use camino::Utf8Path;
use luthier_core::{ArtifactKind, Section, StageError};
use luthier_formats::dataset::{DatasetReader, DatasetShape, DatasetWriter, string_column};
use serde_json::json;

use super::FilterStage;
use crate::testing::Bench;

/// Writes a prompt/completion dataset of dictionary rows with the further column `word`.
fn dictionary(bench: &mut Bench, rows: &[(&str, &str)]) {
    let extra = [arrow::datatypes::Field::new("word", arrow::datatypes::DataType::Utf8, true)];
    let schema = Arc::new(DatasetShape::PromptCompletion.schema(extra));
    let path = bench.root().join("dictionary");
    let mut writer = DatasetWriter::create(&path, Arc::clone(&schema), DatasetShape::PromptCompletion).unwrap();
    let column = |make: &dyn Fn(usize, &(&str, &str)) -> String| -> ArrayRef {
        Arc::new(rows.iter().enumerate().map(|(at, row)| Some(make(at, row))).collect::<StringArray>())
    };
    let columns = vec![
        column(&|at, _| format!("id-{at}")),
        column(&|_, (word, _)| format!("How is '{word}' pronounced?")),
        column(&|_, (_, phonemes)| (*phonemes).to_owned()),
        column(&|_, (word, _)| (*word).to_owned()),
    ];
    writer.write(&RecordBatch::try_new(schema, columns).unwrap()).unwrap();
    writer.finish().unwrap();
    bench.input("data", ArtifactKind::Dataset, &path);
}

fn column(dataset: &Utf8Path, name: &str) -> Vec<String> {
    let reader = DatasetReader::open(dataset).unwrap();
    let mut found = Vec::new();
    for batch in reader.batches(100) {
        let batch = batch.unwrap();
        found.extend(string_column(&batch, name).unwrap().iter().map(|text| text.unwrap_or_default().to_owned()));
    }
    found
}

fn filters() -> String {
    format!("{}/../pipelines/filters", env!("CARGO_MANIFEST_DIR"))
}

fn render(error: &StageError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!("\ncause: {cause}")).unwrap_or_default();
    format!("{error}{cause}\nhint: {}", error.hints.join("\nhint: "))
}

/// False, with the reason printed, where plugins cannot be built.
fn wasm_target(error: Option<&StageError>) -> bool {
    match error {
        Some(error) if error.code == "plugin::no_target" => {
            eprintln!("skipped: {}", render(error));
            false
        }
        _ => true,
    }
}

const ROWS: &[(&str, &str)] = &[
    ("luthier", "L UW1 TH IY0 ER0"),
    ("it's", "IH1 T S"),
    ("aaa", "T R IH1 P AH0 L EY1"),
    ("tomato", "T AH0 M EY1 T OW2"),
    ("at", "AE1 T"),
    ("tomato", "T AH0 M AA1 T OW2"),
    ("violin", "V AY2 AH0 L IH1 N"),
];

#[test]
fn exact_dedup_keeps_the_first_row_and_the_order() {
    let mut bench = Bench::new();
    dictionary(&mut bench, ROWS);
    let done = bench.run(&FilterStage, &json!({"steps": [{"dedup": "exact", "on": "word"}]})).unwrap();
    assert_eq!(column(&done.out.join("kept"), "id"), ["id-0", "id-1", "id-2", "id-3", "id-4", "id-6"]);
    assert_eq!(column(&done.out.join("dropped"), "id"), ["id-5"]);
    assert_eq!(column(&done.out.join("dropped"), "filter_reason"), ["duplicate"]);
    assert_eq!(column(&done.out.join("dropped"), "filter_step"), ["dedup-exact"]);
    assert_eq!(done.outcome.metrics["rows_kept"].value, 6.0);
    let funnel: serde_json::Value = serde_json::from_slice(&fs_err::read(done.out.join("funnel")).unwrap()).unwrap();
    assert_eq!((&funnel["version"], &funnel["rows_in"], &funnel["rows_kept"]), (&json!(1), &json!(7), &json!(6)));
    let step = &funnel["steps"][0];
    assert_eq!((&step["name"], &step["rows_in"], &step["rows_out"]), (&json!("dedup-exact"), &json!(7), &json!(6)));
    assert_eq!(step["reasons"], json!({"duplicate": {"rows": 1, "samples": ["tomato"]}}));
}

#[test]
fn plugin_crates_run_as_wasm_the_same_for_any_number_of_threads() {
    let mut bench = Bench::new();
    let rows: Vec<(&str, &str)> = ROWS.iter().copied().cycle().take(10_000).collect();
    dictionary(&mut bench, &rows);
    let with = json!({"steps": [
        {"plugin": format!("{}/word-shape", filters()), "config": {"min": 3, "max": 10}},
        {"plugin": format!("{}/phoneme-balance", filters()), "config": {"min": 0.5, "max": 1.2}},
        {"dedup": "exact", "on": ["word", "completion"]},
    ]});
    bench.fresh = true;
    bench.threads = 1;
    let one = match bench.run(&FilterStage, &with) {
        Ok(done) => done,
        Err(error) if !wasm_target(Some(&error)) => return,
        Err(error) => panic!("{}", render(&error)),
    };
    assert_eq!(column(&one.out.join("kept"), "id"), ["id-0", "id-3", "id-5", "id-6"]);
    let reasons = column(&one.out.join("dropped"), "filter_reason");
    assert_eq!(reasons[..4], ["not-letters", "too-many-phonemes", "too-short", "duplicate"]);
    assert_eq!(reasons.len(), 9_996);
    bench.threads = 3;
    let three = bench.run(&FilterStage, &with).unwrap();
    for output in ["kept", "dropped", "funnel"] {
        let digest = |out: &Utf8Path| luthier_core::digest_path(&out.join(output)).unwrap().0;
        assert_eq!(digest(&one.out), digest(&three.out));
    }
    assert_eq!(one.outcome, three.outcome);
    let Section::Funnel { steps, .. } = &one.outcome.sections[0] else { panic!("a funnel") };
    let left: Vec<u64> = steps.iter().map(|(_, rows)| *rows).collect();
    assert_eq!(left, [10_000, 7_143, 5_714, 4]);
}

/// A dataset of texts.
fn texts(bench: &mut Bench, rows: &[&str]) {
    let schema = Arc::new(DatasetShape::Text.schema([]));
    let path = bench.root().join("texts");
    let mut writer = DatasetWriter::create(&path, Arc::clone(&schema), DatasetShape::Text).unwrap();
    let ids: ArrayRef = Arc::new((0..rows.len()).map(|at| Some(format!("id-{at}"))).collect::<StringArray>());
    let texts: ArrayRef = Arc::new(rows.iter().map(|text| Some(*text)).collect::<StringArray>());
    writer.write(&RecordBatch::try_new(schema, vec![ids, texts]).unwrap()).unwrap();
    writer.finish().unwrap();
    bench.input("data", ArtifactKind::Dataset, &path);
}

const PROSE: &str = "One sentence is here. Another follows it.\nshort\nThe third one ends well!\nHave you read [1] this?\n\
                     I have, and that is that.";

#[test]
fn builtins_rewrite_text_and_report_scores() {
    let mut bench = Bench::new();
    texts(&mut bench, &[PROSE, "no sentence", "{ code }.", "a b c. lorem ipsum d."]);
    let with =
        json!({"steps": [{"plugin": "builtin:c4-quality"}, {"plugin": "builtin:length", "config": {"min_words": 5}}]});
    let done = bench.run(&FilterStage, &with).unwrap();
    let kept = column(&done.out.join("kept"), "text");
    assert_eq!(
        kept,
        [
            "One sentence is here. Another follows it.\nThe third one ends well!\nHave you read  this?\nI have, and that is that."
        ]
    );
    let dropped = column(&done.out.join("dropped"), "filter_reason");
    assert_eq!(dropped, ["too_few_sentences", "curly_bracket", "lorem_ipsum"]);
    // Dropped rows are written as they came in.
    assert_eq!(column(&done.out.join("dropped"), "text")[1], "{ code }.");
    let drawn = done.outcome.sections.iter().filter(|section| matches!(section, Section::Histogram { .. })).count();
    assert_eq!(drawn, 4);
}

#[test]
fn a_chat_is_rewritten_message_by_message() {
    let mut bench = Bench::new();
    let path = bench.root().join("chats");
    let chat = |address: &str, call: &str| {
        json!([
            {"role": "user", "content": format!("two lines:\n{address} and \"quoted\"")},
            {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": call}}]},
            {"role": "tool", "content": [{"type": "text", "text": format!("to {address}")}], "name": "mail"},
            {"role": "assistant", "content": "Sent."},
        ])
        .to_string()
    };
    let plain = chat("nobody", "send");
    let rows: [&[&str]; 3] = [&[&chat("joe@example.com", "send")], &[&plain], &[&chat("ann@example.com", "x")]];
    crate::testing::write_dataset(&path, DatasetShape::Chat, &rows);
    bench.input("data", ArtifactKind::Dataset, &path);
    // The second run takes from the shards of the first what was found out.
    for on in [None, Some("messages"), None] {
        let mut step = json!({"plugin": "builtin:pii", "keep": {"emails": {"max": 2}}});
        if let Some(on) = on {
            step["on"] = json!(on);
        }
        let done = bench.run(&FilterStage, &json!({"steps": [step]})).unwrap();
        let kept = column(&done.out.join("kept"), "messages");
        assert_eq!(kept, [chat("<email>", "send"), plain.clone(), chat("<email>", "x")], "{on:?}");
    }
    let step = json!({"plugin": "builtin:pii", "keep": {"emails": {"max": 1}}});
    let done = bench.run(&FilterStage, &json!({"steps": [step]})).unwrap();
    assert_eq!(column(&done.out.join("kept"), "id"), ["id1"]);
    // What is asked and what is answered stand for the columns that other shapes have.
    let step = json!({"plugin": "builtin:overlap", "config": {"min_words": 1}});
    let done = bench.run(&FilterStage, &json!({"steps": [step, {"dedup": "exact", "on": "completion"}]})).unwrap();
    assert_eq!(column(&done.out.join("kept"), "id"), ["id0"]);
    let error = bench.run(&FilterStage, &json!({"steps": [{"plugin": "builtin:pii", "on": "prompt"}]})).unwrap_err();
    assert_eq!(
        render(&error),
        "step `pii` rewrites the text it judges, but what it judges is no column\n\
         hint: leave `on:` out: every message of a chat is judged and rewritten by itself"
    );
    let step = json!({"plugin": "builtin:pii", "keep": {"emails": {"max": 1}}});
    let done = bench.run(&FilterStage, &json!({"steps": [step]})).unwrap();
    let Some(Section::Samples { rows, .. }) =
        done.outcome.sections.iter().find(|section| matches!(section, Section::Samples { .. }))
    else {
        panic!("no dropped rows are shown")
    };
    assert!(rows[0][2].starts_with("two lines:\n"), "{rows:?}");
}

#[test]
fn bad_configurations_are_reported_at_once_with_paths() {
    let bench = Bench::new();
    bench.write("notes/readme.md", "");
    let with = json!({"steps": [
        {"plugin": "builtin:gopher-qualty"},
        {"plugin": "builtin:length", "config": {"min_words": "five", "mox_words": 3}},
        {"plugin": "builtin:length", "config": {"min_words": 5, "max_words": 3}},
        {"plugin": "./nowhere"},
        {"plugin": "./notes"},
        {"plugin": "./notes/readme.md"},
        {"dedup": "exact", "config": {}},
        {"dedup": "exact", "plugin": "builtin:length"},
        {"name": "empty"},
        {"tokens": {"min": 9, "max": 3}, "limits": {"timeout_ms": 9}},
        {"decontaminate": {"contained": 0}},
    ]});
    insta::assert_snapshot!(bench.issues(&FilterStage, &with).join("\n"), @r#"
    steps[0].plugin | there is no built-in filter `gopher-qualty` | did you mean `builtin:gopher-quality`?
    steps[1].config.mox_words | unknown key `mox_words` (known keys: `min_chars`, `max_chars`, `min_words`, `max_words`) | did you mean `max_words`?
    steps[1].config.min_words | expected a whole number of 0 or more that fits, found the string `five` | `luthier plugin inspect builtin:length` documents its configuration
    steps[2].config | a minimum is larger than its maximum, so every row would be dropped | `luthier plugin inspect builtin:length` documents its configuration
    steps[3].plugin | there is no plugin at `./nowhere` | `luthier plugin new ./nowhere` makes one; built-in filters are named `builtin:NAME`
    steps[4].plugin | `./notes` is a directory without a plugin: it has none of `Cargo.toml`, `judge.py`, `judge.js`, `judge.c` | `luthier plugin new NAME --lang rust|python|javascript|c` makes a plugin; a component that something else built is named by its `.wasm` file
    steps[5].plugin | `./notes/readme.md` is neither a directory nor a `.wasm` file | name the directory of a plugin, or a component that ends in `.wasm`
    steps[6].config | `config` belongs to plugins, and this step is a `dedup` | options of a deduplication go into it: `dedup: {method: minhash, …}`
    steps[7] | a step is one thing, and this one has `plugin` and `dedup` | make a step of each
    steps[8] | a step needs `plugin`, `dedup`, `decontaminate` or `tokens`, found none | add `plugin: builtin:NAME`, `plugin: ./path` or `dedup: exact`
    steps[9].limits | `limits` belongs to plugins, and this step is a `tokens` | options go into `tokens: {…}`
    steps[9].tokens | `min` is larger than `max`, so every row would be dropped | swap them, or leave one out
    steps[10].decontaminate.contained | `contained: 0` would drop every row | 0.8 is the default
    "#);
    let with =
        json!({"steps": [{"dedup": "exakt"}, {"dedup": {"method": "exact", "normalise": "none"}}], "on_emty": 1});
    insta::assert_snapshot!(bench.issues(&FilterStage, &with).join("\n"), @r#"
    steps[0].dedup | `exakt` is not one of `exact`, `minhash` | did you mean `exact`?
    steps[1].dedup.normalise | unknown key `normalise` | did you mean `normalize`?
    on_emty | unknown key `on_emty` | did you mean `on_empty`?
    "#);
    insta::assert_snapshot!(bench.issues(&FilterStage, &json!({"steps": []})).join("\n"), @"steps | found 0 entries, at least 1 needed | -");
}

#[test]
fn every_setting_that_matters_is_in_the_key() {
    let bench = Bench::new();
    let key = |with: serde_json::Value| bench.prepare(&FilterStage, &with).unwrap().key;
    let base = json!({"steps": [{"plugin": "builtin:length"}, {"dedup": "exact"}]});
    // A result within one budget of failures is none within a smaller one.
    let budget =
        |most: u64| key(json!({"steps": [{"plugin": "builtin:length", "on_trap": "drop", "max_traps": most}]}));
    assert_ne!(budget(2), budget(100));
    for (changed, with) in [
        (true, json!({"steps": [{"plugin": "builtin:length", "config": {"min_words": 1}}, {"dedup": "exact"}]})),
        (true, json!({"steps": [{"plugin": "builtin:length", "on": "prompt"}, {"dedup": "exact"}]})),
        (true, json!({"steps": [{"plugin": "builtin:length", "name": "long"}, {"dedup": "exact"}]})),
        (true, json!({"steps": [{"plugin": "builtin:length", "on_trap": "drop"}, {"dedup": "exact"}]})),
        (true, json!({"steps": [{"plugin": "builtin:length"}, {"dedup": {"method": "exact", "normalize": "loose"}}]})),
        (true, json!({"steps": [{"dedup": "exact"}, {"plugin": "builtin:length"}]})),
        (true, json!({"steps": [{"plugin": "builtin:length"}, {"dedup": "exact"}], "on_empty": "allow"})),
        (false, json!({"steps": [{"plugin": "builtin:length", "run": "wasm"}, {"dedup": "exact"}]})),
        (false, json!({"steps": [{"plugin": "builtin:length", "limits": {"timeout_ms": 9}}, {"dedup": "exact"}]})),
        (false, json!({"steps": [{"plugin": "builtin:length", "max_traps": 7}, {"dedup": "exact"}]})),
        (false, json!({"steps": [{"plugin": "builtin:length"}, {"dedup": {"method": "exact"}}]})),
        (false, json!({"steps": [{"plugin": "builtin:length"}, {"dedup": {"method": "exact", "memory_mib": 9}}]})),
    ] {
        assert_eq!(key(with.clone()) != key(base.clone()), changed, "{with}");
    }
}

#[test]
fn an_empty_result_names_the_step_that_dropped_most() {
    let mut bench = Bench::new();
    texts(&mut bench, &["one", "two", "two", "three"]);
    let steps = json!([{"dedup": "exact"}, {"plugin": "builtin:length", "config": {"min_words": 5}}]);
    let error = bench.run(&FilterStage, &json!({"steps": steps})).unwrap_err();
    insta::assert_snapshot!(render(&error), @r#"
    none of 4 rows is left: step `length` dropped 3 of the 3 it saw, most of them for `few_words`
    hint: loosen step `length`, or write `on_empty: allow`
    "#);
    let done = bench.run(&FilterStage, &json!({"steps": steps, "on_empty": "allow"})).unwrap();
    assert_eq!(done.outcome.metrics["rows_kept"].value, 0.0);
    assert!(column(&done.out.join("kept"), "text").is_empty());
    let mut bench = Bench::new();
    texts(&mut bench, &[]);
    let error = bench.run(&FilterStage, &json!({"steps": steps})).unwrap_err();
    insta::assert_snapshot!(render(&error), @r#"
    the dataset to filter has no rows
    hint: look at the stage before, or write `on_empty: allow`
    "#);
}

#[test]
fn a_missing_column_lists_what_there_is() {
    let mut bench = Bench::new();
    dictionary(&mut bench, ROWS);
    let error = bench.run(&FilterStage, &json!({"steps": [{"dedup": "exact", "on": "wrod"}]})).unwrap_err();
    insta::assert_snapshot!(render(&error), @r#"
    step `dedup-exact` reads column `wrod`, but the dataset has [`id`, `prompt`, `completion`, `word`]
    hint: did you mean `word`?
    "#);
}

#[test]
fn plugin_failures_name_the_row_or_set_it_aside() {
    let mut bench = Bench::new();
    texts(&mut bench, &["fine", "panic", "drop", "loop", "fine"]);
    let hostile = format!("{}/../plugins/guests/hostile", env!("CARGO_MANIFEST_DIR"));
    let error = bench.run(&FilterStage, &json!({"steps": [{"plugin": hostile}]})).unwrap_err();
    if !wasm_target(Some(&error)) {
        return;
    }
    insta::assert_snapshot!(render(&error), @r#"
    plugin `hostile` failed on row 2 (id id-1): it panicked at hostile/src/lib.rs:27: the row says so
    hint: fix the plugin, or set such rows aside with `on_trap: drop` on the step
    "#);
    let step = json!({"plugin": hostile, "on_trap": "drop", "limits": {"fuel": 10_000_000}});
    let done = bench.run(&FilterStage, &json!({"steps": [step]})).unwrap();
    assert_eq!(column(&done.out.join("kept"), "text"), ["fine", "fine"]);
    insta::assert_snapshot!(column(&done.out.join("dropped"), "filter_reason").join("\n"), @r#"
    plugin-trap: panicked at hostile/src/lib.rs:27: the row says so
    asked
    plugin-trap: used all its fuel (10000000 per call)
    "#);
    let step = json!({"plugin": hostile, "on_trap": "drop", "max_traps": 1, "limits": {"fuel": 10_000_000}});
    let error = bench.run(&FilterStage, &json!({"steps": [step]})).unwrap_err();
    insta::assert_snapshot!(render(&error), @r#"
    plugin `hostile` failed on 2 rows, more than `max_traps: 1`; the last was row 4: it used all its fuel (10000000 per call)
    hint: fix the plugin, or raise `max_traps` on the step
    "#);
    let error = bench.run(&FilterStage, &json!({"steps": [{"plugin": hostile, "config": {"obey": 3}}]})).unwrap_err();
    insta::assert_snapshot!(render(&error), @r#"
    step `hostile`: plugin `hostile` refuses its configuration: `config.obey`: expected a list, found `3`
    hint: `luthier plugin inspect PATH` prints the configuration that `hostile` takes
    "#);
}

#[test]
fn a_plugin_that_does_not_compile_shows_the_compiler_s_words() {
    let mut bench = Bench::new();
    texts(&mut bench, &["one"]);
    bench.write(
        "broken/Cargo.toml",
        "[package]\nname = \"broken\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n",
    );
    bench.write("broken/src/lib.rs", "pub fn f() -> u32 { \"not a number\" }\n");
    let error = bench.run(&FilterStage, &json!({"steps": [{"plugin": "./broken"}]})).unwrap_err();
    if !wasm_target(Some(&error)) {
        return;
    }
    assert_eq!(error.message, "plugin `broken` does not compile");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("src/lib.rs:1:21") && cause.contains("mismatched types"), "{cause}");

    bench.write("broken/src/lib.rs", "");
    let error = bench.run(&FilterStage, &json!({"steps": [{"plugin": "./broken"}]})).unwrap_err();
    insta::assert_snapshot!(render(&error), @r#"
    crate `broken` builds, but makes no component
    hint: add `[lib]` with `crate-type = ["cdylib"]` to its Cargo.toml
    "#);
}

#[test]
fn cancelling_stops_a_run() {
    let mut bench = Bench::new();
    texts(&mut bench, &["one"]);
    bench.cancel.cancel();
    let error = bench.run(&FilterStage, &json!({"steps": [{"dedup": "exact"}]})).unwrap_err();
    assert_eq!(error.class, luthier_core::ErrorClass::Interrupted);
}

#[test]
fn minhash_keeps_the_first_of_a_cluster_whatever_the_threads() {
    let mut bench = Bench::new();
    let base = "the quick violin maker planes the spruce top by hand until it rings like a bell in the cold morning air \
                and then carves the scroll with a small knife while the varnish dries on the maple back beside the window";
    let word = |number: usize| -> String {
        let letter = |place: u32| char::from(b'a' + (number / 26usize.pow(place) % 26) as u8);
        (0..4).map(letter).collect()
    };
    let mut rows: Vec<String> =
        (0..9_000).map(|row| (0..8).map(|at| format!("{} ", word(row * 8 + at))).collect()).collect();
    rows[10] = base.to_owned();
    rows[5_000] = format!("{base} today");
    rows[8_000] = format!("Today {}!", base.to_uppercase());
    rows[8_500] = String::new();
    rows[8_600] = String::new();
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    texts(&mut bench, &rows);
    let steps = json!([
        {"plugin": "builtin:length", "config": {"max_words": 1000}},
        {"dedup": {"method": "minhash", "ngrams": 3}},
        {"dedup": "exact"},
    ]);
    bench.fresh = true;
    bench.threads = 1;
    let one = bench.run(&FilterStage, &json!({"steps": steps})).unwrap();
    let dropped = column(&one.out.join("dropped"), "id");
    assert_eq!(dropped, ["id-5000", "id-8000", "id-8600"]);
    assert_eq!(column(&one.out.join("dropped"), "filter_reason"), ["near-duplicate", "near-duplicate", "duplicate"]);
    bench.threads = 3;
    let three = bench.run(&FilterStage, &json!({"steps": steps})).unwrap();
    assert_eq!(one.outcome, three.outcome);
    let digest = |out: &Utf8Path| luthier_core::digest_path(out).unwrap().0;
    assert_eq!(digest(&one.out), digest(&three.out));
}
