use std::io::Write;

use luthier_core::Digest;
use serde_json::{Value, json};

use super::IngestStage;
use super::hostile_tests::texts;
use crate::fetch::tests::Server;
use crate::testing::Bench;

fn packed(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn key(bench: &Bench, with: &Value) -> Value {
    bench.prepare(&IngestStage, with).unwrap().key
}

#[test]
fn files_are_read_from_addresses_in_their_place_and_fetched_once() {
    let mut bench = Bench::new();
    bench.write("a.jsonl", "{\"text\": \"first\"}\n");
    bench.write("z.jsonl", "{\"text\": \"last\"}\n");
    let content = packed("{\"text\": \"middle\"}\n");
    let digest = Digest::of(&content);
    // The first answer ends half-way.
    let server = Server::new(content, 1, "200 OK");
    let requests = || server.requests.lock().unwrap().len();
    let from = |address: &str| format!("{address}/data.jsonl.gz?signature=1.2#blake3={digest}");
    let with = json!({"files": ["a.jsonl", from(&server.address), "z.jsonl"]});
    let done = bench.run(&IngestStage, &with).unwrap();
    assert_eq!(texts(&done), ["first", "middle", "last"]);
    assert_eq!(requests(), 2);
    assert!(done.outcome.warnings.is_empty(), "{:?}", done.outcome.warnings);

    let mapped = json!({"files": from(&server.address), "map": {"text": "<{{ row.text }}>"}});
    let again = bench.run(&IngestStage, &mapped).unwrap();
    assert_eq!(texts(&again), ["<middle>"]);
    assert_eq!(requests(), 2, "what is pinned is kept");

    let mirror = json!({"files": ["a.jsonl", from("https://mirror.example"), "z.jsonl"]});
    assert_eq!(key(&bench, &with), key(&bench, &mirror));
    let moved = json!({"files": [from(&server.address), "a.jsonl", "z.jsonl"]});
    assert_ne!(key(&bench, &with), key(&bench, &moved), "the order of files is that of rows");
    let unpinned = |host: &str| key(&bench, &json!({"files": format!("https://{host}/x.jsonl")}));
    assert_ne!(unpinned("a"), unpinned("b"));
}

#[test]
fn a_broken_row_and_a_changed_file_name_the_address() {
    let mut bench = Bench::new();
    let server = Server::new(b"{\"text\": \"fine\"}\n{broken\n".to_vec(), 0, "200 OK");
    let address = |digest: Digest| format!("{}/rows.jsonl?key=secret#blake3={digest}", server.address);
    let right = address(Digest::of(b"{\"text\": \"fine\"}\n{broken\n"));
    let error = bench.run(&IngestStage, &json!({"files": right})).unwrap_err();
    let location = error.location.as_ref().map(|location| (location.file.to_string(), location.line));
    assert_eq!(location, Some((format!("{}/rows.jsonl", server.address), 2)), "{error}");

    let error = bench.run(&IngestStage, &json!({"files": address(Digest::of(b"other"))})).unwrap_err();
    assert_eq!(error.code, "fetch::digest_mismatch");
    let hint = error.hints.join("");
    assert!(right.ends_with(hint.split('`').nth(1).unwrap()), "{hint}");

    let mut offline = Bench::new();
    offline.offline = true;
    let error = offline.run(&IngestStage, &json!({"files": "https://host.example/x.jsonl"})).unwrap_err();
    assert_eq!(error.code, "fetch::offline");
    insta::assert_snapshot!(error.hints.join("; "), @"run once without `--offline`; what is pinned with `#blake3=…` is then kept");
}
