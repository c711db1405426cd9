use camino::Utf8Path;
use luthier_core::{Digest, digest_path};

use super::*;

fn sample_set() -> TokenSet {
    let samples: Vec<TokenSample> = (0..5000u32)
        .map(|row| {
            let length = 2 + (row % 7) as usize;
            let ids = (0..length as u32).map(|at| (row + at) % 100).collect();
            TokenSample { id: format!("row{row}"), ids, mask: (0..length).map(|at| at >= 1).collect() }
        })
        .collect();
    let bins: Vec<Vec<u32>> = (0..2500).map(|bin| vec![bin, 4999 - bin]).collect();
    let tokens = samples.iter().map(|sample| sample.ids.len() as u64).sum();
    let trained_tokens = samples.iter().map(|sample| sample.trained() as u64).sum();
    let meta = TokensMeta {
        version: TokensMeta::VERSION,
        max_length: 16,
        vocab_size: 100,
        tokenizer: Digest::of(b"tokenizer"),
        template: None,
        eos_ids: vec![2],
        packed: true,
        samples: samples.len(),
        bins: bins.len(),
        tokens,
        trained_tokens,
        longest: 8,
    };
    TokenSet { samples, bins, meta }
}

#[test]
fn round_trips_with_equal_bytes() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let root = Utf8Path::from_path(dir.path()).expect("UTF-8");
    let set = sample_set();
    set.write(&root.join("a")).expect("write");
    set.write(&root.join("b")).expect("write");
    assert_eq!(TokenSet::open(&root.join("a")).expect("open"), set);
    assert_eq!(digest_path(&root.join("a")).expect("a").0, digest_path(&root.join("b")).expect("b").0);
    assert!(set.fill() > 0.5 && set.bin_tokens(0) == 2 + 2 + (4999 % 7));
}

#[test]
fn broken_sets_are_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let root = Utf8Path::from_path(dir.path()).expect("UTF-8");
    let refuse = |change: &dyn Fn(&mut TokenSet), what: &str| {
        let mut set = sample_set();
        change(&mut set);
        let error = set.write(&root.join("broken")).expect_err(what);
        assert!(error.message.contains(what), "{}", error.message);
    };
    refuse(&|set| set.samples[3].mask[0] = true, "sample 3 (`row3`) trains its first token");
    refuse(&|set| set.samples[3].ids[0] = 100, "has id 100, but the vocabulary has 100 entries");
    refuse(&|set| set.bins[0] = vec![0, 7, 4999], "sample 7 is in two bins");
    refuse(&|set| set.bins[0].truncate(1), "sample 4999 is in no bin");
    refuse(&|set| set.bins[0].clear(), "bin 0 is empty");
    refuse(&|set| set.meta.tokens += 1, "tokens.json says");
    refuse(&|set| set.samples[9].mask.truncate(3), "has 4 ids and 3 mask entries");

    assert_eq!(TokenSet::open(root).expect_err("nothing there").code, "tokens::missing");
    let set = sample_set();
    set.write(&root.join("a")).expect("write");
    let table = root.join("a/tokens.parquet");
    let bytes = fs_err::read(&table).expect("read");
    fs_err::write(&table, &bytes[..bytes.len() / 2]).expect("write");
    assert_eq!(TokenSet::open(&root.join("a")).expect_err("truncated").code, "dataset::damaged");
    fs_err::write(root.join("a/tokens.json"), r#"{"version": 9}"#).expect("write");
    assert_eq!(TokenSet::open(&root.join("a")).expect_err("another version").code, "tokens::version");
}
