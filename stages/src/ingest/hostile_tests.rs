//! Input that nobody would write, and input that is larger than memory.

use std::io::Write;
use std::process::Command;

use luthier_formats::dataset::{DatasetReader, string_column};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::IngestStage;
use crate::testing::{Bench, Done};

pub(super) fn texts(done: &Done) -> Vec<String> {
    let reader = DatasetReader::open(&done.out.join("dataset")).unwrap();
    let mut rows = Vec::new();
    for batch in reader.batches(1000) {
        rows.extend(string_column(&batch.unwrap(), "text").unwrap().iter().flatten().map(str::to_owned));
    }
    rows
}

fn rejected(done: &Done) -> Vec<Value> {
    let text = fs_err::read_to_string(done.out.join("rejected")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const HOSTILE: [&str; 9] = [
    "nul \0 in the middle",
    "line\nbreak \r\n and tab \t",
    "\u{feff}a mark in front and \u{feff} inside",
    "\u{202e}right to left \u{202c} עברית العربية",
    "👩‍👩‍👧‍👦 🏳️‍🌈 e\u{301} \u{1f600}",
    "\u{fffd} \u{ffff} \u{10ffff} \u{7f} \u{85} \u{2028}",
    "  space around  ",
    "\"quotes\", 'commas',; \\ back\\slashes \\u0041",
    "{{ row.text }} {% raw %} <|im_end|>",
];

#[test]
fn text_comes_through_every_format_as_it_was() {
    let mut bench = Bench::new();
    let rows: Vec<Value> = HOSTILE.iter().map(|text| json!({"text": text})).collect();
    bench.write("x.jsonl", rows.iter().map(|row| format!("{row}\r\n")).collect::<String>());
    bench.write("x.json", format!("\u{feff} {} \r\n", json!(rows)));
    let quoted = |text: &&str| format!("\"{}\"\r\n", text.replace('"', "\"\""));
    bench.write("x.csv", format!("text\r\n{}", HOSTILE.iter().map(quoted).collect::<String>()));
    bench.write("x.tsv", format!("\u{feff}text\n{}", HOSTILE.iter().map(quoted).collect::<String>()));
    let escaped = |text: &&str| -> String {
        let units: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
        format!("{{\"\\u0074ext\":\"{units}\"}}\n")
    };
    bench.write("escaped.jsonl", HOSTILE.iter().map(escaped).collect::<String>());
    for name in ["x.jsonl", "x.json", "x.csv", "x.tsv", "escaped.jsonl"] {
        let done = bench.run(&IngestStage, &json!({"files": name})).unwrap();
        assert_eq!(texts(&done), HOSTILE, "{name}");
        fs_err::copy(done.out.join("dataset/part-00000.parquet"), bench.path("x.parquet")).unwrap();
        assert_eq!(texts(&bench.run(&IngestStage, &json!({"files": "x.parquet"})).unwrap()), HOSTILE, "{name}");
    }
    // A mark in front of a file is none of its text.
    bench.write("x.txt", "\u{feff}one\r\ntwo\n\u{feff}three");
    assert_eq!(texts(&bench.run(&IngestStage, &json!({"files": "x.txt"})).unwrap()), ["one", "two", "\u{feff}three"]);
}

#[test]
fn what_cannot_be_text_is_named_with_its_place() {
    let mut bench = Bench::new();
    let deep = format!("{{\"text\": {}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let lines: Vec<Vec<u8>> = vec![
        br#"{"text": "\ud800"}"#.to_vec(),
        br#"{"text": "\udc00\ud800"}"#.to_vec(),
        br#"{"text": "\ud83d x"}"#.to_vec(),
        br#"{"text": "a", "text": "the last of equal keys stays"}"#.to_vec(),
        deep.into_bytes(),
        br#"{"text": 1e999}"#.to_vec(),
        b"{\"text\": \"\xc3\x28\"}".to_vec(),
        b"{\"text\": \"\xed\xa0\x80\"}".to_vec(),
        br#"{"text": "tab	inside"}"#.to_vec(),
        br#"{"text": null}"#.to_vec(),
        b"{".to_vec(),
        b"NaN".to_vec(),
        br#"{"text": "fine", "n": 123456789012345678901234567890}"#.to_vec(),
    ];
    bench.write("x.jsonl", lines.join(&b'\n'));
    let done = bench.run(&IngestStage, &json!({"files": "x.jsonl", "shape": "text", "on_error": "skip"})).unwrap();
    assert_eq!(texts(&done), ["the last of equal keys stays", "fine"]);
    let reasons: Vec<String> = rejected(&done)
        .iter()
        .map(|row| format!("{}:{} {}", row["file"].as_str().unwrap(), row["line"], row["reason"].as_str().unwrap()))
        .collect();
    insta::assert_snapshot!(reasons.join("\n"), @r#"
    x.jsonl:1 has a broken `\u` escape at column 17: half of a surrogate pair, or too few digits
    x.jsonl:2 has a broken `\u` escape at column 16: half of a surrogate pair, or too few digits
    x.jsonl:3 has a broken `\u` escape at column 17: half of a surrogate pair, or too few digits
    x.jsonl:5 is not valid JSON: recursion limit exceeded at column 136
    x.jsonl:6 is not valid JSON: number out of range at column 14
    x.jsonl:7 is not UTF-8: byte 0xc3 at column 11
    x.jsonl:8 is not UTF-8: byte 0xed at column 11
    x.jsonl:9 is not valid JSON: control character (\u0000-\u001F) found while parsing a string at column 14
    x.jsonl:10 has null in `text`, expected text
    x.jsonl:11 is not valid JSON: EOF while parsing an object at column 1
    x.jsonl:12 is not valid JSON: expected value at column 1
    "#);
    // The same, as one array.
    let values: Vec<&[u8]> = lines[..lines.len() - 3].iter().map(Vec::as_slice).collect();
    let array = [b"[".as_slice(), &values.join(&b",\n"[..]), b"]"].concat();
    bench.write("x.json", array);
    let done = bench.run(&IngestStage, &json!({"files": "x.json", "shape": "text", "on_error": "skip"})).unwrap();
    assert_eq!(texts(&done), ["the last of equal keys stays"]);
    assert_eq!(
        rejected(&done).iter().map(|row| row["line"].as_u64().unwrap()).collect::<Vec<_>>(),
        [1, 2, 3, 5, 6, 7, 8, 9, 10]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_bytes_make_it_panic(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"{}[]\",:\\\n\r\t0u".to_vec())], 0..400),
        start in prop::sample::select(vec!["", "{\"text\": \"", "[{\"text\": 1}, ", "text,b\n", "PAR1", "\u{1f}\u{8b}"]),
    ) {
        let mut bench = Bench::new();
        bench.write("x", [start.as_bytes(), &bytes].concat());
        for format in ["auto", "jsonl", "json", "csv", "tsv", "parquet", "text", "lines"] {
            let mut with = json!({"files": "x", "format": format, "on_error": "skip"});
            if format == "lines" {
                with["pattern"] = json!("(?<text>.+)");
            }
            if let Ok(done) = bench.run(&IngestStage, &with) {
                let metric = |name: &str| done.outcome.metrics.get(name).map_or(0.0, |metric| metric.value);
                prop_assert_eq!(metric("records"), metric("rows") + metric("rejected") + metric("ignored"));
            }
        }
    }
}

/// Bytes of input, and the most that may be resident while it is read.
const INPUT: usize = 512 << 20;
const CEILING: u64 = 256 << 20;

/// Writes a compressed file of lines of `length` characters.
fn write_large(bench: &Bench, length: usize) {
    let file = fs_err::File::create(bench.path("x.jsonl.zst")).unwrap();
    let mut out = zstd::Encoder::new(file, 1).unwrap();
    for line in 0..INPUT / length {
        let text = format!("row {line} ").repeat(1 + length / "row 0 ".len());
        writeln!(out, "{{\"text\": \"{}\"}}", &text[..length]).unwrap();
    }
    out.finish().unwrap();
}

/// Run by the test below in a process of its own.
#[test]
#[ignore = "a part of `memory_is_bounded_whatever_the_input`"]
fn read_a_large_file() {
    let Ok(length) = std::env::var("LUTHIER_TEST_LENGTH") else { return };
    let length: usize = length.parse().unwrap();
    let mut bench = Bench::new();
    write_large(&bench, length);
    let done = bench.run(&IngestStage, &json!({"files": "x.jsonl.zst"})).unwrap();
    assert_eq!(done.outcome.metrics["rows"].value as usize, INPUT / length);
    let status = fs_err::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    println!("peak {} KiB", peak.trim().trim_end_matches(" kB"));
}

#[test]
fn a_json_file_that_does_not_go_on_ends() {
    let mut bench = Bench::new();
    for text in ["[:", "[}", "[1:2]", "{\"a\"::1}", "{\"a\":]", "{\"a\":,}", "[{\"text\": \"a\"}:"] {
        bench.write("x.json", text);
        let with = json!({"files": "x.json", "format": "json", "shape": "text", "on_error": "skip"});
        let error = bench.run(&IngestStage, &with).unwrap_err();
        assert_eq!(error.code, "ingest::json", "{text}");
        assert!(error.to_string().contains("expected a value"), "{text}: {error}");
    }
}

#[test]
fn a_quote_that_nothing_closes_takes_no_rows_with_it() {
    let mut bench = Bench::new();
    let with = json!({"files": ["empty.csv", "x.csv"], "shape": "prompt_completion", "on_error": "skip"});
    bench.write("empty.csv", "");
    for (text, line) in [
        ("prompt,completion\na,b\nc,\"d\ne,f\n", 3),
        ("prompt,completion\n\"a,b\nc,d", 2),
        ("\"prompt,completion\na,b\n", 1),
    ] {
        bench.write("x.csv", text);
        let error = bench.run(&IngestStage, &with).unwrap_err();
        let said = format!("x.csv:{line}: a quote that opens in this row is not closed by the end of the file");
        assert_eq!(error.to_string(), said);
    }
    // Read no further than a row may be long.
    let long = format!("prompt,completion\na,b\nc,\"{}", "d\n".repeat(40 << 20));
    bench.write("x.csv", long);
    let error = bench.run(&IngestStage, &with).unwrap_err();
    assert_eq!(error.to_string(), "x.csv:3: the row takes more than 64 MiB: a quote that opens in it is not closed");
    for text in ["prompt,completion\na,\"b\"", "prompt,completion\r\na,\"b\"\r\n\r\n"] {
        bench.write("x.csv", text);
        assert_eq!(bench.run(&IngestStage, &with).unwrap().outcome.metrics["records"].value, 1.0);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn memory_is_bounded_whatever_the_input() {
    for length in [1_000, 10 << 20] {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "ingest::hostile_tests::read_a_large_file", "--ignored", "--nocapture"])
            .env("LUTHIER_TEST_LENGTH", length.to_string())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success(), "{said}{}", String::from_utf8_lossy(&child.stderr));
        let peak = said.lines().find_map(|line| line.split("peak ").nth(1)?.strip_suffix(" KiB")).unwrap();
        let peak = peak.parse::<u64>().unwrap() << 10;
        assert!(peak < CEILING, "{peak} bytes for lines of {length}");
    }
}
