//! The example plugins of the quickstart, built, compiled, cached and run as a pipeline runs them.

mod support;

use camino::Utf8Path;
use luthier_plugins::{CompiledCache, FilterEngine, Limits, OnTrap, PluginComponent, TextBatch, TextColumn, Worker};
use support::{build, repository};

/// A cache directory of the test's own.
struct Cache(tempfile::TempDir);

impl Cache {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory, or short texts"))
    }

    fn path(&self) -> &Utf8Path {
        Utf8Path::from_path(self.0.path()).expect("a temporary directory, or short texts")
    }
}

fn batch<'a>(texts: &[&'a str], reads: &[&[&'a str]]) -> TextBatch<'static> {
    TextBatch {
        texts: TextColumn::from_texts(texts.iter().copied()).expect("a temporary directory, or short texts"),
        reads: reads
            .iter()
            .map(|column| {
                TextColumn::from_texts(column.iter().copied()).expect("a temporary directory, or short texts")
            })
            .collect(),
    }
}

#[test]
fn word_shape_and_phoneme_balance_judge_as_their_unit_tests_say() {
    let cache = Cache::new();
    let engine = FilterEngine::new(false).unwrap();
    let compiled = CompiledCache::new(cache.path());
    let filters = repository().join("pipelines/filters");

    let Some(wasm) = build(&filters.join("word-shape")) else { return };
    let plugin = PluginComponent::load(&engine, &compiled, "word-shape", &wasm, Limits::DEFAULT).unwrap();
    assert_eq!(plugin.manifest().name, "word-shape");
    assert_eq!(plugin.manifest().text, "word");
    assert_eq!(plugin.manifest().reasons, ["not-letters", "too-short", "too-long"]);
    assert_eq!(plugin.manifest().config_schema["properties"]["min"]["default"], 1);
    assert_eq!(plugin.manifest().config_schema["properties"]["min"]["description"], "Fewest letters.");
    let mut worker = Worker::open(&plugin, &serde_json::json!({"min": 3, "max": 10})).unwrap();
    let rows = batch(&["luthier", "it's", "at", "luthierships", "", "café"], &[]);
    assert_eq!(worker.judge(&rows, OnTrap::Fail).unwrap().drop, [0, 1, 2, 3, 2, 1]);
    assert_eq!(worker.judge(&rows.slice(1..3), OnTrap::Fail).unwrap().drop, [1, 2]);

    let wasm = build(&filters.join("phoneme-balance")).unwrap();
    let plugin = PluginComponent::load(&engine, &compiled, "phoneme-balance", &wasm, Limits::DEFAULT).unwrap();
    assert_eq!(plugin.manifest().reads, ["completion"]);
    let mut worker = Worker::open(&plugin, &serde_json::json!({})).unwrap();
    let rows = batch(&["luthier", "aaa", "though"], &[&["L UW1 TH IY0 ER0", "T R IH1 P AH0 L EY1", "DH OW1"]]);
    let verdicts = worker.judge(&rows, OnTrap::Fail).unwrap();
    assert_eq!(verdicts.drop, [0, 2, 1]);
    assert_eq!(verdicts.scores, [5.0 / 7.0, 7.0 / 3.0, 2.0 / 6.0]);
}

#[test]
fn a_wrong_configuration_names_every_issue() {
    let engine = FilterEngine::new(false).unwrap();
    let Some(wasm) = build(&repository().join("pipelines/filters/word-shape")) else { return };
    let plugin =
        PluginComponent::load(&engine, &CompiledCache::disabled(), "word-shape", &wasm, Limits::DEFAULT).unwrap();
    let config = serde_json::json!({"min": 0, "max": "ten", "mox": 1});
    let error = Worker::open(&plugin, &config).err().expect("three issues");
    insta::assert_snapshot!(error.message, @"plugin `word-shape` refuses its configuration: `config.min`: 0 is out of range: expected at least 1; `config.max`: expected an integer, found the string `ten`; `config.mox`: unknown key `mox`");
}

#[test]
fn a_damaged_cache_entry_is_compiled_again() {
    let cache = Cache::new();
    let engine = FilterEngine::new(false).unwrap();
    let Some(wasm) = build(&repository().join("pipelines/filters/word-shape")) else { return };
    let compiled = CompiledCache::new(cache.path());
    let load = || PluginComponent::load(&engine, &compiled, "word-shape", &wasm, Limits::DEFAULT).unwrap();
    load();
    let directory = cache.path().join("plugins/compiled-v1");
    let entries = luthier_core::fs::walk_files(&directory).unwrap();
    assert_eq!(entries.len(), 1);
    let entry = directory.join(&entries[0]);
    let good = fs_err::read(&entry).unwrap();
    load();
    for damage in [good.len() - 1, 60, 20, 3] {
        let mut bytes = good.clone();
        bytes[damage] ^= 1;
        fs_err::write(&entry, &bytes).unwrap();
        load();
        assert_eq!(fs_err::read(&entry).unwrap(), good, "byte {damage}");
    }
    fs_err::write(&entry, b"").unwrap();
    load();
    assert_eq!(fs_err::read(&entry).unwrap(), good);
}

#[test]
fn an_entry_of_another_engine_is_compiled_again() {
    let cache = Cache::new();
    let Some(wasm) = build(&repository().join("pipelines/filters/word-shape")) else { return };
    let compiled = CompiledCache::new(cache.path());
    let directory = cache.path().join("plugins/compiled-v1");
    let load = |fuel: bool| {
        let engine = FilterEngine::new(fuel).unwrap();
        let limits = Limits { fuel: fuel.then_some(1_000_000_000), ..Limits::DEFAULT };
        PluginComponent::load(&engine, &compiled, "word-shape", &wasm, limits).unwrap()
    };
    let entries = || {
        let files = luthier_core::fs::walk_files(&directory).unwrap();
        files.into_iter().map(|file| fs_err::read(directory.join(&file)).map(|code| (file, code)).unwrap())
    };
    load(false);
    load(true);
    let kept: Vec<_> = entries().collect();
    assert_eq!(kept.len(), 2, "one per way of compiling");
    // Whole and with a right digest, but each under the other's name.
    fs_err::write(directory.join(&kept[0].0), &kept[1].1).unwrap();
    fs_err::write(directory.join(&kept[1].0), &kept[0].1).unwrap();
    for fuel in [false, true] {
        let plugin = load(fuel);
        let mut worker = Worker::open(&plugin, &serde_json::json!({})).unwrap();
        assert_eq!(worker.judge(&batch(&["luthier", "it's"], &[]), OnTrap::Fail).unwrap().drop, [0, 1]);
    }
    assert_eq!(entries().collect::<Vec<_>>(), kept);
}
