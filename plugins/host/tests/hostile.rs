//! Guests that mean harm: each is survived, explained, and pinned to its row.

mod support;

use luthier_plugins::{
    CompiledCache, FilterEngine, JudgeError, Limits, OnTrap, PluginComponent, TextBatch, TextColumn, Worker,
};
use serde_json::{Value, json};
use support::{build, repository};

const SMALL: Limits = Limits { memory_mib: 32, timeout_ms: 300, fuel: None };
const METERED: Limits = Limits { memory_mib: 32, timeout_ms: 20_000, fuel: Some(20_000_000) };

fn load(guest: &str, limits: Limits) -> Option<PluginComponent> {
    let wasm = build(&repository().join("plugins/guests").join(guest))?;
    let engine = FilterEngine::new(limits.fuel.is_some()).expect("a sound guest");
    let shared = CompiledCache::new(camino::Utf8Path::new(env!("CARGO_TARGET_TMPDIR")));
    Some(PluginComponent::load(&engine, &shared, guest, &wasm, limits).expect("a sound guest"))
}

fn batch(texts: &[&str]) -> TextBatch<'static> {
    TextBatch { texts: TextColumn::from_texts(texts.iter().copied()).expect("a sound guest"), reads: Vec::new() }
}

/// A batch of harmless rows with `text` at row 700.
fn among_others(text: &str) -> TextBatch<'static> {
    let mut texts = vec!["fine"; 1_000];
    texts[700] = text;
    batch(&texts)
}

fn failure(worker: &mut Worker, batch: &TextBatch<'_>) -> String {
    match worker.judge(batch, OnTrap::Fail) {
        Err(JudgeError::Row(failed)) => format!("row {}: {}", failed.row, failed.fault),
        other => panic!("expected a row that fails, got {other:?}"),
    }
}

#[test]
fn every_failure_names_its_row() {
    let Some(plugin) = load("hostile", SMALL) else { return };
    let mut worker = Worker::open(&plugin, &json!({})).unwrap();
    let mut said = Vec::new();
    for text in [
        "panic",
        "index",
        "undeclared",
        "refuse",
        "loop",
        "bomb",
        "recurse",
        "flood",
        "file",
        "clock",
        "network",
        "environment",
        "exit",
        "print",
    ] {
        said.push(format!("{text}: {}", failure(&mut worker, &among_others(text))));
        // The worker goes on with a fresh instance.
        assert_eq!(worker.judge(&batch(&["drop", "x"]), OnTrap::Fail).unwrap().drop, [1, 0]);
    }
    insta::assert_snapshot!(said.join("\n"), @"
    panic: row 700: panicked at hostile/src/lib.rs:27: the row says so
    index: row 700: panicked at hostile/src/lib.rs:30: index out of bounds: the len is 0 but the index is 5
    undeclared: row 700: refused the row: dropped for `never declared`, which is not a declared reason (`asked`)
    refuse: row 700: refused the row: no such row
    loop: row 700: ran longer than 300 ms
    bomb: row 700: wanted more than 32 MiB of memory
    recurse: row 700: recursed too deep
    flood: row 700: returned nonsense: it returned 8388608 bytes of edits for 5 bytes of text
    file: row 700: called `wasi:filesystem/preopens@0.2.6#get-directories`, which filters have no access to
    clock: row 700: called `wasi:clocks/wall-clock@0.2.6#now`, which filters have no access to
    network: row 700: called `wasi:sockets/tcp-create-socket@0.2.6#create-tcp-socket`, which filters have no access to
    environment: row 700: called `wasi:cli/environment@0.2.6#get-environment`, which filters have no access to
    exit: row 700: called `wasi:cli/exit@0.2.6#exit`, which filters have no access to
    print: row 700: called `wasi:cli/stdout@0.2.6#get-stdout`, which filters have no access to
    ");
}

#[test]
fn failing_rows_are_set_aside_and_the_others_judged() {
    let Some(plugin) = load("hostile", METERED) else { return };
    let mut worker = Worker::open(&plugin, &json!({})).unwrap();
    let mut texts = vec!["drop"; 600];
    for (row, text) in [(0, "panic"), (17, "loop"), (18, "bomb"), (300, "recurse"), (599, "file")] {
        texts[row] = text;
    }
    texts[400] = "edit";
    let verdicts = worker.judge(&batch(&texts), OnTrap::Drop).unwrap();
    let rows: Vec<usize> = verdicts.faults.iter().map(|(row, _)| *row).collect();
    assert_eq!(rows, [0, 17, 18, 300, 599]);
    assert!(verdicts.faults[1].1.contains("fuel"), "{:?}", verdicts.faults[1]);
    assert_eq!(verdicts.edits, [(400, "edited".to_owned())]);
    assert_eq!(verdicts.drop.iter().filter(|drop| **drop == 1).count(), 594);
    // Twice the same, bit for bit.
    assert_eq!(worker.judge(&batch(&texts), OnTrap::Drop).unwrap(), verdicts);
}

#[test]
fn a_deadline_is_never_a_verdict() {
    let Some(plugin) = load("hostile", SMALL) else { return };
    let mut worker = Worker::open(&plugin, &json!({})).unwrap();
    let answer = worker.judge(&batch(&["x", "loop"]), OnTrap::Drop);
    let Err(JudgeError::Row(failed)) = answer else { panic!("expected an error, got {answer:?}") };
    assert_eq!(failed.row, 1);
    assert_eq!(failed.fault.to_string(), "ran longer than 300 ms");
    assert_eq!(
        failed.fault.hint(&SMALL),
        "raise `limits: {timeout_ms: 1200}` on the step, or fix the loop in the plugin"
    );
}

#[test]
fn hash_tables_have_a_constant_seed() {
    let Some(plugin) = load("hostile", SMALL) else { return };
    let order = || {
        let mut worker = Worker::open(&plugin, &json!({})).unwrap();
        worker.judge(&batch(&["hash"]), OnTrap::Fail).unwrap().edits[0].1.clone()
    };
    assert_eq!(order(), order());
}

#[test]
fn logs_are_bounded() {
    let Some(plugin) = load("hostile", SMALL) else { return };
    let mut worker = Worker::open(&plugin, &json!({})).unwrap();
    worker.judge(&batch(&["log"]), OnTrap::Fail).unwrap();
    let lines = worker.take_lines();
    assert_eq!(lines.len(), 100);
    assert!(lines.iter().all(|line| line.len() <= 4_096));
}

#[test]
fn every_lie_is_found_and_pinned() {
    let Some(plugin) = load("liar", SMALL) else { return };
    let mut said = Vec::new();
    for lie in [
        "long",
        "reason",
        "scores",
        "nan",
        "offsets",
        "backwards",
        "rows",
        "encoding",
        "huge",
        "row",
        "order",
        "wild",
        "vast",
        "crooked",
        "error",
    ] {
        let mut worker = Worker::open(&plugin, &Value::from(lie)).unwrap();
        said.push(format!("{lie}: {}", failure(&mut worker, &among_others("lie"))));
        assert_eq!(worker.judge(&batch(&["truth"]), OnTrap::Fail).unwrap().scores, [0.5]);
    }
    insta::assert_snapshot!(said.join("\n"), @"
    long: row 700: returned nonsense: it returned 2 verdicts for 1 rows
    reason: row 700: returned nonsense: it gave reason number 9, but declares 1
    scores: row 700: returned nonsense: it returned 2 scores for 1 rows of 1
    nan: row 700: returned nonsense: it returned a score that is not a finite number
    offsets: row 700: returned nonsense: the offsets of its edits do not ascend from 0 to their length
    backwards: row 700: returned nonsense: the offsets of its edits do not ascend from 0 to their length
    rows: row 700: returned nonsense: the rows of its edits are not ascending or not in the batch
    encoding: row 700: returned nonsense: an edited text is not UTF-8
    huge: row 700: wanted more than 32 MiB of memory
    row: row 700: returned nonsense: the rows that it refuses are not ascending or not in the batch
    order: row 700: returned nonsense: the rows that it refuses are not ascending or not in the batch
    wild: row 700: returned nonsense: list pointer/length out of bounds of memory
    vast: row 700: returned nonsense: list pointer/length out of bounds of memory
    crooked: row 700: returned nonsense: list pointer is not aligned
    error: row 700: failed: cannot
    ");
}

#[test]
fn texts_of_a_guest_are_bounded_and_tame() {
    let Some(plugin) = load("liar", SMALL) else { return };
    let mut worker = Worker::open(&plugin, &json!("essay")).unwrap();
    let said = failure(&mut worker, &batch(&["lie"]));
    assert!(said.starts_with("row 0: refused the row: long \u{fffd}[31mlong"), "{said}");
    assert!(said.len() < 1_300 && said.ends_with('…'), "{}", said.len());
}

#[test]
fn foreign_imports_are_refused_by_name() {
    let Some(wasm) = build(&repository().join("plugins/guests/unknown-import")) else { return };
    let engine = FilterEngine::new(false).unwrap();
    let error = PluginComponent::load(&engine, &CompiledCache::disabled(), "unknown-import", &wasm, SMALL)
        .err()
        .expect("refused");
    insta::assert_snapshot!(format!("{error}\nhint: {}", error.hints.join("\nhint: ")), @"
    plugin `unknown-import` imports `evil:net/exfiltrate@0.1.0`, which filters have no access to
    hint: a filter may import `luthier:filter/host@0.2.0` only: remove the others from its world
    ");
}

#[test]
fn what_is_no_component_is_refused() {
    let engine = FilterEngine::new(false).unwrap();
    let said: Vec<String> = [b"".as_slice(), b"GGUF", b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0"]
        .into_iter()
        .map(|wasm| {
            let error = PluginComponent::load(&engine, &CompiledCache::disabled(), "x", wasm, SMALL);
            let error = error.err().expect("refused");
            format!("{error}\nhint: {}", error.hints.join("\nhint: "))
        })
        .collect();
    insta::assert_snapshot!(said.join("\n"), @"
    plugin `x` is not a WebAssembly component
    hint: build it for the target `wasm32-wasip2`, whose linker makes components
    plugin `x` is not a WebAssembly component
    hint: build it for the target `wasm32-wasip2`, whose linker makes components
    plugin `x` is a core module, not a component
    hint: build it for the target `wasm32-wasip2`, whose linker makes components
    plugin `x` is not a filter: it exports nothing, expected `luthier:filter/filter@0.3.0`
    hint: `luthier plugin new NAME` makes one
    ");
}
