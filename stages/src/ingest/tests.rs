use std::io::Write;

use arrow::array::AsArray;
use luthier_core::{StageError, digest_path};
use luthier_formats::dataset::{DatasetReader, DatasetShape, optional_column, string_column};
use serde_json::{Value, json};

use super::*;
use crate::testing::{Bench, Done};

fn run(bench: &mut Bench, with: &Value) -> Done {
    bench.run(&IngestStage, with).expect("ingested")
}

fn fail(bench: &mut Bench, with: &Value) -> StageError {
    bench.run(&IngestStage, with).expect_err("an error")
}

fn open(done: &Done) -> DatasetReader {
    DatasetReader::open(&done.out.join("dataset")).expect("a dataset")
}

/// The text columns of all rows.
fn rows(done: &Done) -> Vec<Vec<String>> {
    let reader = open(done);
    let mut rows = Vec::new();
    for batch in reader.batches(100) {
        let batch = batch.expect("a batch");
        for row in 0..batch.num_rows() {
            let columns = reader.shape().columns().iter();
            rows.push(columns.map(|name| string_column(&batch, name).expect("text").value(row).to_owned()).collect());
        }
    }
    rows
}

const DICTIONARY: &str = "luthier L UW1 TH IY0 ER0\nread R EH1 D\nread(2) R IY1 D # present tense\n\n'bout B AW1 T\n";
const PATTERN: &str = r"^(?<word>[^\s(]+)(?:\((?<variant>\d+)\))? (?<phonemes>[A-Z0-9 ]+?)(?: #.*)?$";

#[test]
fn lines_become_prompts_by_pattern_and_map() {
    let mut bench = Bench::new();
    let file = bench.write("cmudict.dict", DICTIONARY);
    bench.input("files", ArtifactKind::File, &file);
    let with = json!({
        "format": "lines", "pattern": PATTERN, "keep": ["word", "variant"],
        "map": {"prompt": "How is '{{ row.word }}' pronounced?", "completion": "{{ row.phonemes }}"},
    });
    let done = run(&mut bench, &with);
    assert_eq!(open(&done).shape(), DatasetShape::PromptCompletion);
    assert_eq!(
        rows(&done),
        [
            ["How is 'luthier' pronounced?", "L UW1 TH IY0 ER0"],
            ["How is 'read' pronounced?", "R EH1 D"],
            ["How is 'read' pronounced?", "R IY1 D"],
            ["How is ''bout' pronounced?", "B AW1 T"],
        ]
    );
    let batch = open(&done).batches(10).next().expect("a batch").expect("readable");
    let variant = optional_column(&batch, "variant").expect("kept").as_string::<i32>().iter().collect::<Vec<_>>();
    assert_eq!(variant, [None, None, Some("2"), None]);
}

#[test]
fn output_does_not_depend_on_threads() {
    let text: String =
        (0..20_000).map(|n| format!("{{\"prompt\": \"p{n}\", \"completion\": \"c{}\"}}\n", n % 77)).collect();
    let mut digests = Vec::new();
    for threads in [1, 2, 5] {
        let mut bench = Bench::new();
        bench.threads = threads;
        bench.write("x.jsonl", &text);
        let done = run(&mut bench, &json!({"files": "x.jsonl"}));
        assert_eq!(done.outcome.metrics["rows"].value, 20_000.0);
        digests.push(digest_path(&done.out).expect("readable").0);
    }
    assert!(digests.iter().all(|digest| *digest == digests[0]));
}

#[test]
fn a_broken_line_is_named() {
    let mut bench = Bench::new();
    let mut text: String = (1..=20).map(|n| format!("{{\"text\": \"row {n}\"}}\n")).collect();
    text = text.replace("{\"text\": \"row 17\"}", "{\"text\": \"row 17\"");
    bench.write("data/x.jsonl", &text);
    let error = fail(&mut bench, &json!({"files": "data/*.jsonl"}));
    assert_eq!(
        error.to_string(),
        "data/x.jsonl:17: the row is not valid JSON: EOF while parsing an object at column 17"
    );
    assert!(error.hints[0].contains("`on_error: skip`"));

    let done = run(&mut bench, &json!({"files": "data/*.jsonl", "on_error": "skip"}));
    assert_eq!(rows(&done).len(), 19);
    let rejected = fs_err::read_to_string(done.out.join("rejected")).expect("rejected");
    let rejected: Value = serde_json::from_str(&rejected).expect("one line of JSON");
    assert_eq!(rejected["file"], "data/x.jsonl");
    assert_eq!((&rejected["line"], &rejected["text"]), (&json!(17), &json!("{\"text\": \"row 17\"")));
    assert_eq!(done.outcome.warnings.len(), 1);

    let error = fail(&mut bench, &json!({"files": "data/*.jsonl", "on_error": "skip", "max_errors": 0}));
    assert_eq!(error.code, "ingest::too_many_errors");
}

#[test]
fn every_format_reads_the_same_rows() {
    let mut bench = Bench::new();
    let jsonl =
        "{\"prompt\":\"a, \\\"b\\\"\",\"completion\":\"1\"}\r\n{\"prompt\":\"line\\nbreak\",\"completion\":\"2\"}\r\n";
    bench.write("x.jsonl", format!("\u{feff}{jsonl}"));
    bench.write("x.json", "[ {\"prompt\":\"a, \\\"b\\\"\",\"completion\":\"1\"},\n\n{\"prompt\":\"line\\nbreak\",\n\"completion\":\"2\"} ]\n");
    bench.write("map.json", "{\"k1\": {\"prompt\":\"a, \\\"b\\\"\",\"completion\":\"1\"}, \"k2\":{\"prompt\":\"line\\nbreak\",\"completion\":\"2\"}}");
    bench.write("x.csv", "prompt,completion\r\n\"a, \"\"b\"\"\",1\r\n\"line\nbreak\",2\r\n");
    bench.write("x.tsv", "prompt\tcompletion\n\"a, \"\"b\"\"\"\t1\n\"line\nbreak\"\t2\n");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(jsonl.as_bytes()).expect("compress");
    bench.write("x.jsonl.gz", gzip.finish().expect("compress"));
    bench.write("x.jsonl.zst", zstd::encode_all(jsonl.as_bytes(), 3).expect("compress"));
    let reference = run(&mut bench, &json!({"files": "x.jsonl"}));
    assert_eq!(rows(&reference), [["a, \"b\"", "1"], ["line\nbreak", "2"]]);
    let digest = digest_path(&reference.out).expect("readable").0;
    fs_err::copy(reference.out.join("dataset/part-00000.parquet"), bench.path("x.parquet")).expect("copy");
    for name in ["x.json", "map.json", "x.csv", "x.tsv", "x.jsonl.gz", "x.jsonl.zst", "x.parquet"] {
        let done = run(&mut bench, &json!({"files": name}));
        assert_eq!(digest_path(&done.out).expect("readable").0, digest, "{name}");
    }
    // Names do not help when a file comes out of the store.
    let blob = bench.path("blob");
    fs_err::copy(bench.path("x.jsonl.gz"), &blob).expect("copy");
    bench.input("files", ArtifactKind::File, &blob);
    let done = run(&mut bench, &json!({}));
    assert_eq!(digest_path(&done.out).expect("readable").0, digest);
}

#[test]
fn every_shape_is_recognised() {
    let mut bench = Bench::new();
    let mut shaped = |row: Value| {
        bench.write("x.jsonl", row.to_string());
        let done = bench.run(&IngestStage, &json!({"files": "x.jsonl"})).expect("ingested");
        let first = rows(&done).remove(0);
        (open(&done).shape(), first)
    };
    let chat = |row: Vec<String>| serde_json::from_str::<Value>(&row[0]).expect("JSON");
    let turns = json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]);
    let (shape, row) = shaped(json!({"messages": turns, "other": 1}));
    assert_eq!((shape, chat(row)), (DatasetShape::Chat, turns.clone()));
    let (_, row) = shaped(json!({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}));
    assert_eq!(chat(row), turns);
    let (_, row) = shaped(json!({"prompt": [turns[0]], "completion": [turns[1]]}));
    assert_eq!(chat(row), turns);
    let (shape, row) = shaped(json!({"instruction": "i", "input": "x", "output": "o"}));
    assert_eq!((shape, row), (DatasetShape::PromptCompletion, vec!["i\nx".to_owned(), "o".to_owned()]));
    let (shape, row) = shaped(json!({"instruction": "i", "input": "", "output": "o", "system": "s"}));
    assert_eq!(shape, DatasetShape::Chat);
    assert_eq!(chat(row)[0], json!({"role": "system", "content": "s"}));
    // A content in pieces is one text: the templates of text models can do nothing else with it.
    let pieces = json!([{"type": "text", "text": "q"}, {"type": "text", "text": ""}]);
    let (_, row) = shaped(json!({"messages": [{"role": "user", "content": pieces}, turns[1]]}));
    assert_eq!(chat(row), turns);
    let (shape, row) = shaped(json!({"text": "t"}));
    assert_eq!((shape, row), (DatasetShape::Text, vec!["t".to_owned()]));
}

#[test]
fn tools_that_are_left_out_are_told() {
    let mut bench = Bench::new();
    bench.write("x.jsonl", r#"{"messages": [{"role": "user", "content": "q"}], "tools": [{"name": "say"}]}"#);
    let warnings = run(&mut bench, &json!({"files": "x.jsonl"})).outcome.warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("`keep: [tools]`"), "{warnings:?}");
    let done = run(&mut bench, &json!({"files": "x.jsonl", "keep": ["tools"]}));
    assert!(done.outcome.warnings.is_empty() && open(&done).schema().field_with_name("tools").is_ok());
}

#[test]
fn unknown_columns_get_a_map_to_paste() {
    let mut bench = Bench::new();
    bench.write("x.jsonl", r#"{"question": "q", "answer": "a"}"#);
    let error = fail(&mut bench, &json!({"files": "x.jsonl"}));
    assert_eq!(error.code, "ingest::shape");
    assert_eq!(
        error.hints,
        [r#"say what to train: `map: {prompt: "{{ row.question }}", completion: "{{ row.answer }}"}`"#]
    );
    let error = fail(
        &mut bench,
        &json!({"files": "x.jsonl", "map": {"prompt": "{{ row.questoin }}", "completion": "{{ row.answer }}"}}),
    );
    assert!(error.message.contains("its columns are [`question`, `answer`]"), "{error}");
    let error = fail(
        &mut bench,
        &json!({"files": "x.jsonl", "keep": ["questoin"], "map": {"prompt": "{{ row.question }}", "completion": "x"}}),
    );
    assert!(error.message.contains("did you mean `question`?"), "{error}");
}

#[test]
fn another_delimiter_is_noticed_and_read() {
    let mut bench = Bench::new();
    bench.write("x.csv", "prompt;completion\n\"a;b\";c\n");
    let error = fail(&mut bench, &json!({"files": "x.csv"}));
    assert_eq!(error.hints, ["if `;` separates the columns, say so: `delimiter: \";\"`"]);
    assert_eq!(rows(&run(&mut bench, &json!({"files": "x.csv", "delimiter": ";"}))), [["a;b", "c"]]);
}

#[test]
fn files_are_called_as_the_pipeline_finds_them() {
    let mut bench = Bench::new();
    bench.write("data/a.jsonl", "{\"text\": \"fine\"}\nbroken\n");
    bench.write("../beside/b.jsonl", "broken\n");
    let with = json!({"files": ["data/*.jsonl", "../beside/b.jsonl"], "on_error": "skip"});
    let rejected = fs_err::read_to_string(run(&mut bench, &with).out.join("rejected")).expect("rejected");
    let files: Vec<Value> =
        rejected.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["file"].clone()).collect();
    assert_eq!(files, ["data/a.jsonl", "../beside/b.jsonl"]);
    let error = fail(&mut bench, &json!({"files": "../beside/b.jsonl", "shape": "text"}));
    assert!(error.to_string().starts_with("../beside/b.jsonl:1: the row is not valid JSON"), "{error}");
}

#[test]
fn hostile_text_survives_or_is_refused() {
    let mut bench = Bench::new();
    let long = "x".repeat(10 << 20);
    let text = format!(
        "{{\"text\":\"nul \\u0000 end\"}}\n{{\"text\":\"\u{202e}עברית 👩‍👧 \\ud83d\\ude00\"}}\n{{\"text\":\"\\ud800\"}}\n{{\"text\":\"{long}\"}}\n"
    );
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(b"{\"text\":\"\xff\xfe\"}\n[1]\n{\"text\": 5}\n");
    bench.write("x.jsonl", bytes);
    let done = run(&mut bench, &json!({"files": "x.jsonl", "on_error": "skip"}));
    let rows = rows(&done);
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[0][0], "nul \0 end");
    assert_eq!(rows[1][0], "\u{202e}עברית 👩‍👧 😀");
    assert_eq!(rows[2][0].len(), 10 << 20);
    let rejected = fs_err::read_to_string(done.out.join("rejected")).expect("rejected");
    let reasons: Vec<String> = rejected
        .lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line).expect("JSON");
            format!("{} {}", row["line"], row["reason"].as_str().expect("text"))
        })
        .collect();
    assert_eq!(
        reasons,
        [
            "3 has a broken `\\u` escape at column 16: half of a surrogate pair, or too few digits",
            "5 is not UTF-8: byte 0xff at column 10",
            "6 is a list, expected a JSON object",
            "7 has a number in `text`, expected text",
        ]
    );
}

#[test]
fn text_is_cut_by_line_paragraph_or_document() {
    let mut bench = Bench::new();
    bench.write("x.txt", "one\r\ntwo\r\n\r\n\r\nthree\n");
    let mut cut =
        |by: &str| rows(&bench.run(&IngestStage, &json!({"files": "x.txt", "sample_by": by})).expect("ingested"));
    assert_eq!(cut("line"), [["one"], ["two"], ["three"]]);
    assert_eq!(cut("paragraph"), [["one\ntwo"], ["three"]]);
    assert_eq!(cut("document"), [["one\r\ntwo\r\n\r\n\r\nthree\n"]]);
}

#[test]
fn a_sample_is_stable_under_reordering() {
    let mut bench = Bench::new();
    let lines: Vec<String> = (0..1000).map(|n| format!("{{\"text\": \"row {n}\"}}\n")).collect();
    bench.write("a.jsonl", lines.concat());
    bench.write("b.jsonl", lines.iter().rev().cloned().collect::<String>());
    let mut take = |file: &str, seed: u64| {
        let with = json!({"files": file, "sample": {"count": 50, "seed": seed}});
        let mut found = rows(&bench.run(&IngestStage, &with).expect("ingested"));
        found.sort();
        found
    };
    let (a, b) = (take("a.jsonl", 1), take("b.jsonl", 1));
    assert_eq!((a.len(), &a), (50, &b));
    assert_ne!(a, take("a.jsonl", 2));
    let done = run(&mut bench, &json!({"files": "a.jsonl", "limit": 7}));
    assert_eq!(rows(&done).len(), 7);
}

#[test]
fn damaged_files_say_so() {
    let mut bench = Bench::new();
    let zst = zstd::encode_all("{\"text\": \"x\"}\n".repeat(5000).as_bytes(), 3).expect("compress");
    bench.write("x.jsonl.zst", &zst[..zst.len() / 2]);
    assert_eq!(fail(&mut bench, &json!({"files": "x.jsonl.zst"})).code, "ingest::damaged");
    bench.write("x.parquet", b"PAR1 but not really PAR1");
    assert_eq!(fail(&mut bench, &json!({"files": "x.parquet"})).code, "ingest::damaged");
    bench.write("x.json", "[{\"text\": \"a\"}, {\"text\": \"b\"");
    let error = fail(&mut bench, &json!({"files": "x.json"}));
    assert!(error.to_string().starts_with("x.json:1: found the end of the file"), "{error}");
    bench.write("u16.txt", b"\xff\xfea\0");
    assert_eq!(fail(&mut bench, &json!({"files": "u16.txt"})).code, "ingest::encoding");
    bench.write("x.bin", b"\x00\x01\x02");
    assert_eq!(fail(&mut bench, &json!({"files": "x.bin"})).code, "ingest::format");
    bench.write("x.jsonl.bz2", b"BZh91AY&SY");
    let error = fail(&mut bench, &json!({"files": "x.jsonl.bz2"}));
    assert_eq!((error.code, error.hints[0].as_str()), ("ingest::packed", "unpack it: bunzip2 --keep x.jsonl.bz2"));
    bench.write("x.csv", "a,b\n1,2,3\n");
    let map = json!({"prompt": "{{ row.a }}", "completion": "{{ row.b }}"});
    let error = fail(&mut bench, &json!({"files": "x.csv", "map": map}));
    assert_eq!(error.to_string(), "x.csv:2: the row has 3 fields, the header has 2");
    bench.write("none.jsonl", "\n\n");
    assert_eq!(fail(&mut bench, &json!({"files": "none.jsonl"})).code, "ingest::empty");
    assert_eq!(fail(&mut bench, &json!({})).code, "ingest::no_files");
}

#[test]
fn configuration_errors_point_and_help() {
    let bench = Bench::new();
    fs_err::create_dir_all(bench.path("data")).expect("a directory");
    insta::assert_snapshot!(
        bench.issues(&IngestStage, &json!({
            "files": ["data", "nothing/*.jsonl", "s3://h/x.jsonl"], "format": "jsonl", "pattern": "(", "keep": ["id"],
            "map": {"prompt": "{{ row.x", "text": "x"},
        })).join("\n"),
        @r#"
    pattern | the regular expression does not parse: unclosed group | named groups are written `(?<name>…)`; a bracket that is text gets a backslash before it
    pattern | `pattern` belongs to `format: lines` | set `format: lines`, or remove `pattern`
    map.prompt | the template does not parse: unexpected end of input, expected end of variable block | such as `map: {prompt: "{{ row.question }}", completion: "{{ row.answer }}"}`
    map | `map` has [prompt, text], expected `prompt` and `completion` (and perhaps `system`), or `text`, or `messages` | such as `map: {prompt: "{{ row.question }}", completion: "{{ row.answer }}"}`
    keep[0] | `id` is a column that datasets have anyway, and cannot be kept beside it | remove it from `keep`; a `map` over `row` can write such a column of the file elsewhere
    files[0] | `data` is a directory, expected files | name its files: `data/*.jsonl`
    files[1] | no file matches `nothing/*.jsonl` | it is looked for beside the pipeline; `*` and `?` stay within a name, `**` is any directories
    files[2] | `s3://` is not a scheme that `fetch` knows | give its `https://` address (a presigned one if it is private), or copy it first: a stage with `uses: command`, connected with `in:`
    "#
    );
    insta::assert_snapshot!(
        bench.issues(&IngestStage, &json!({
            "files": ["", "[ab].jsonl"], "format": "jsonl", "delimiter": ";;", "max_errors": 3,
        })).join("\n"),
        @r#"
    delimiter | `delimiter` belongs to `format: csv` | set `format: csv`, or remove `delimiter`
    delimiter | `;;` separates no fields, expected one ASCII character | such as `delimiter: ";"`, or `"\t"` for a tab
    max_errors | `max_errors` belongs to `on_error: skip`; without it the first broken row fails | add `on_error: skip`, or remove `max_errors`
    files[0] | an empty path | name files: `files: [data/*.jsonl]`
    files[1] | there is no file `[ab].jsonl` | globs know `*`, `?` and `**` only: list what else there is, `files: [a.jsonl, b.jsonl]`
    "#
    );
    insta::assert_snapshot!(
        bench.issues(&IngestStage, &json!({"files": "x", "format": "lines"})).join("\n"),
        @r#"format | `lines` needs a `pattern`, or a `map` over `row.line` | add `pattern: '^(?<word>\S+) (?<rest>.*)$'`"#
    );
}

#[test]
fn paths_do_not_enter_the_key_but_settings_do() {
    let bench = Bench::new();
    bench.write("a.jsonl", "");
    bench.write("b.jsonl", "");
    let key = |with: Value| bench.prepare(&IngestStage, &with).expect("valid").key;
    assert_eq!(key(json!({"files": "a.jsonl"})), key(json!({"files": ["b.jsonl"]})));
    let base = key(json!({"files": "a.jsonl"}));
    for change in [
        json!({"format": "jsonl"}),
        json!({"shape": "text"}),
        json!({"limit": 3}),
        json!({"keep": ["x"]}),
        json!({"sample": {"count": 3}}),
        json!({"on_error": "skip"}),
        json!({"on_error": "skip", "max_errors": 3}),
        json!({"delimiter": ";"}),
        json!({"map": {"text": "{{ row.x }}"}}),
        json!({"sample_by": "document"}),
        json!({"pattern": "(?<x>.)"}),
        json!({"pattern": "(?<x>.)", "ignore": "#"}),
    ] {
        let mut with = json!({"files": "a.jsonl"});
        with.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
        assert_ne!(key(with), base, "{change}");
    }
}
