//! Plugins of every world that was released, and of worlds that are not known.

use luthier_plugins::{
    CompiledCache, FilterEngine, JudgeError, Limits, OnTrap, PluginComponent, TextBatch, TextColumn, Worker, World,
};
use serde_json::json;

const SMALL: Limits = Limits { memory_mib: 32, timeout_ms: 5_000, fuel: None };
const V0_1: &[u8] = include_bytes!("fixtures/hostile-v0.1.wasm");

fn load(wasm: &[u8]) -> luthier_core::StageResult<PluginComponent> {
    let engine = FilterEngine::new(false).expect("an engine, and short texts");
    PluginComponent::load(&engine, &CompiledCache::disabled(), "old", wasm, SMALL)
}

fn batch(texts: &[&'static str]) -> TextBatch<'static> {
    TextBatch {
        texts: TextColumn::from_texts(texts.iter().copied()).expect("an engine, and short texts"),
        reads: vec![],
    }
}

#[test]
fn a_plugin_of_the_first_world_still_works() {
    let plugin = load(V0_1).unwrap();
    assert_eq!(plugin.world(), World::V0_1);
    assert_eq!(plugin.manifest().reasons, ["asked"]);
    let mut worker = Worker::open(&plugin, &json!({})).unwrap();
    let verdicts = worker.judge(&batch(&["drop", "x", "edit", "log"]), OnTrap::Fail).unwrap();
    assert_eq!(verdicts.drop, [1, 0, 0, 0]);
    assert_eq!(verdicts.edits, [(2, "edited".to_owned())]);
    assert_eq!(worker.take_lines().len(), 100);

    let mut texts = vec!["drop"; 300];
    (texts[7], texts[200], texts[299]) = ("refuse", "panic", "recurse");
    let verdicts = worker.judge(&batch(&texts), OnTrap::Drop).unwrap();
    let said: Vec<String> = verdicts.faults.iter().map(|(row, why)| format!("{row}: {why}")).collect();
    insta::assert_snapshot!(said.join("\n"), @r"
    7: refused the row: no such row
    200: panicked at hostile/src/lib.rs:27: the row says so
    299: recursed too deep
    ");
    let answer = worker.judge(&batch(&["x", "panic"]), OnTrap::Fail);
    let Err(JudgeError::Row(failed)) = answer else { panic!("expected an error, got {answer:?}") };
    assert_eq!(failed.row, 1);

    let error = Worker::open(&plugin, &json!({"obey": 3})).err().unwrap();
    insta::assert_snapshot!(error.message, @"plugin `hostile` refuses its configuration: `config.obey`: expected a list, found `3`");
}

#[test]
fn unknown_worlds_are_refused_by_name() {
    let renamed = |version: &[u8; 6]| {
        let mut wasm = V0_1.to_vec();
        for at in 0..wasm.len() - 6 {
            if &wasm[at..at + 6] == b"@0.1.0" {
                wasm[at..at + 6].copy_from_slice(version);
            }
        }
        let error = load(&wasm).err().unwrap();
        format!("{error}\nhint: {}", error.hints.join("\nhint: "))
    };
    insta::assert_snapshot!(renamed(b"@0.9.0"), @"
    plugin `old` was built for the world `luthier:filter@0.9.0`, and this build knows `0.1.0`, `0.2.0`, `0.3.0`
    hint: update Luthier, or rebuild the plugin with the SDK that comes with this build
    ");
    insta::assert_snapshot!(renamed(b"@0.0.1"), @"
    plugin `old` was built for the world `luthier:filter@0.0.1`, and this build knows `0.1.0`, `0.2.0`, `0.3.0`
    hint: rebuild the plugin with the SDK in plugins/sdk, or from a world in plugins/wit
    ");
    // Right name, other shape.
    insta::assert_snapshot!(renamed(b"@0.2.0"), @"
    plugin `old` returned nonsense: failed to convert function to given type: type mismatch with results: expected variant of 2 cases, found 3 cases
    hint: the plugin is broken: rebuild it with the SDK in plugins/sdk
    ");
}
