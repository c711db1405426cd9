//! What is kept between runs, how much is judged again, and that nobody can tell from the outputs.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use camino::Utf8Path;
use luthier_core::{ArtifactKind, Digest};
use luthier_formats::dataset::{DatasetReader, DatasetShape, DatasetWriter, string_column};
use serde_json::{Value, json};

use super::FilterStage;
use crate::testing::{Bench, Done};

/// Texts of 1 to 60 words, some with addresses.
fn texts(from: usize, count: usize) -> Vec<String> {
    (from..from + count)
        .map(|number| {
            let mut text = "the luthier and the violin ".repeat(1 + number * 7 % 12);
            if number % 5 == 0 {
                text.push_str(&"https://example.org/some/page ".repeat(1 + number % 7));
            }
            text + &format!("{number}.")
        })
        .collect()
}

fn dataset(bench: &mut Bench, texts: &[String]) {
    let schema = Arc::new(DatasetShape::Text.schema([]));
    let path = bench.root().join("data");
    if path.exists() {
        fs_err::remove_dir_all(&path).unwrap();
    }
    let mut writer = DatasetWriter::create(&path, Arc::clone(&schema), DatasetShape::Text).unwrap();
    let ids = texts.iter().map(|text| Digest::of(text.as_bytes()).hex()[..32].to_owned());
    let columns: Vec<ArrayRef> = vec![
        Arc::new(ids.map(Some).collect::<StringArray>()),
        Arc::new(texts.iter().map(|text| Some(text.as_str())).collect::<StringArray>()),
    ];
    writer.write(&RecordBatch::try_new(schema, columns).unwrap()).unwrap();
    writer.finish().unwrap();
    bench.disconnect();
    bench.input("data", ArtifactKind::Dataset, &path);
}

/// Runs with what earlier runs left, and without; the outputs must be the same. Returns the rows that were judged.
fn judged(bench: &mut Bench, with: &Value) -> u64 {
    let done = bench.run(&FilterStage, with).unwrap();
    let nothing = tempfile::tempdir().unwrap();
    let used = std::mem::replace(&mut bench.cache, Utf8Path::from_path(nothing.path()).unwrap().to_owned());
    let anew = bench.run(&FilterStage, with).unwrap();
    bench.cache = used;
    assert_eq!(done.digest(), anew.digest(), "the cache shows in the outputs of {with}");
    assert_eq!(done.outcome.sections, anew.outcome.sections);
    rows_judged(&done)
}

fn rows_judged(done: &Done) -> u64 {
    done.outcome.metrics["rows_judged"].value as u64
}

fn steps(max_urls: f64, min_chars: u64) -> Value {
    json!({"steps": [
        {"plugin": "builtin:url-ratio", "config": {"max": max_urls}},
        {"plugin": "builtin:length", "config": {"min_chars": min_chars}},
        {"dedup": "exact"},
    ]})
}

#[test]
fn new_rows_cost_their_shard_and_moved_thresholds_cost_nothing() {
    let mut bench = Bench::new();
    let mut rows = texts(0, 40_000);
    dataset(&mut bench, &rows);
    let first = judged(&mut bench, &steps(0.2, 40));
    assert!((60_000..80_000).contains(&first), "{first}: all rows, and those that the first step leaves");
    assert_eq!(judged(&mut bench, &steps(0.2, 40)), 0);

    // A longest text of the second step, and a bound that lets rows of the first through, which the second never saw.
    assert_eq!(judged(&mut bench, &steps(0.2, 100)), 0);
    assert_eq!(judged(&mut bench, &steps(0.1, 100)), 0, "fewer rows for the second step");
    let more = judged(&mut bench, &steps(0.5, 100));
    assert!((1..8_000).contains(&more), "{more}: the rows that the first step lets through now");
    assert_eq!(judged(&mut bench, &steps(0.2, 40)), 0, "and back");

    rows.splice(10_000..10_000, texts(100_000, 3));
    dataset(&mut bench, &rows);
    let one = judged(&mut bench, &steps(0.2, 40));
    // An end that the length of a shard set moves, and with it the next ones, up to one that a row's id sets.
    assert!((3..first * 2 / 3).contains(&one), "{one} of {first}: the shards up to the next end that stays");
}

#[test]
fn a_bound_in_the_rounding_of_a_score_judges_those_rows_again() {
    let mut bench = Bench::new();
    // A fifth of each text is an address.
    let text = |number: usize| format!("https://e.org/{number:06} {}", "x".repeat(79));
    dataset(&mut bench, &(0..1000).map(text).collect::<Vec<_>>());
    let with = |max: f64| json!({"steps": [{"plugin": "builtin:url-ratio", "config": {"max": max}}]});
    assert_eq!(judged(&mut bench, &with(0.9)), 1000);
    assert_eq!(judged(&mut bench, &with(0.3)), 0);
    assert_eq!(judged(&mut bench, &with(20.0 / 100.0)), 1000, "every score is the bound, as far as it shows");
}

#[test]
fn bounds_on_scores_select_and_are_no_part_of_what_is_kept() {
    let mut bench = Bench::new();
    dataset(&mut bench, &texts(0, 5_000));
    let with = |keep: Value| json!({"steps": [{"plugin": "builtin:url-ratio", "config": {"max": 1.0}, "keep": keep}]});
    let kept = |done: &Done| done.outcome.metrics["rows_kept"].value as u64;
    let all = bench.run(&FilterStage, &with(json!({"url-chars": {"max": 1.0}}))).unwrap();
    assert_eq!((rows_judged(&all), kept(&all)), (5_000, 5_000));
    let some = bench.run(&FilterStage, &with(json!({"url-chars": {"max": 0.0}}))).unwrap();
    assert_eq!((rows_judged(&some), kept(&some)), (0, 4_000));
    let dropped = DatasetReader::open(&some.out.join("dropped")).unwrap().batches(1).next().unwrap().unwrap();
    assert_eq!(string_column(&dropped, "filter_reason").unwrap().value(0), "url-chars > 0");
    assert_eq!(
        bench.issues(&FilterStage, &with(json!({"url-char": {"max": 0.1}, "other": {}}))),
        [
            "steps[0].keep.other | expected `min` or `max`, found neither | such as `{min: 0.5}`",
            "steps[0].keep.other | plugin `url-ratio` has no score `other` | its scores are [`url-chars`]",
        ]
    );
    let both = json!({"steps": [{"dedup": "exact", "keep": {"x": {"min": 1.0}}}]});
    assert_eq!(
        bench.issues(&FilterStage, &both),
        [
            "steps[0].keep | `keep` belongs to plugins, and this step is a `dedup` | options of a deduplication go into it: \
          `dedup: {method: minhash, …}`"
        ]
    );
}

#[test]
fn what_decides_a_score_is_judged_again_and_a_step_behind_is_not() {
    let mut bench = Bench::new();
    dataset(&mut bench, &texts(0, 3_000));
    let with = |more: &[Value]| {
        let first =
            json!({"plugin": "builtin:fineweb-quality", "config": {"min_punctuated": 0.0, "max_short_lines": 1.0}});
        json!({"steps": std::iter::once(first).chain(more.iter().cloned()).collect::<Vec<_>>()})
    };
    assert_eq!(judged(&mut bench, &with(&[])), 3_000);
    assert_eq!(judged(&mut bench, &with(&[json!({"dedup": "minhash"})])), 0);
    let again = json!({"steps": [{"plugin": "builtin:fineweb-quality",
        "config": {"min_punctuated": 0.0, "max_short_lines": 1.0, "short_line": 31}}]});
    assert_eq!(judged(&mut bench, &again), 3_000, "a short line is part of a score");
}

#[test]
fn a_filter_that_stops_at_its_first_check_judges_only_what_gets_further() {
    let mut bench = Bench::new();
    let text = |number: usize| match number % 4 {
        0 => format!("same\nsame\nsame\n{number}"),
        1 => format!("{number} {}", "the old violin ".repeat(20)),
        _ => (0..40).map(|word| format!("word{} ", 40 * number + word)).collect(),
    };
    dataset(&mut bench, &(0..2_000).map(text).collect::<Vec<_>>());
    let with = |config: Value| json!({"steps": [{"plugin": "builtin:gopher-repetition", "config": config}]});
    assert_eq!(judged(&mut bench, &with(json!({}))), 2_000);
    assert_eq!(judged(&mut bench, &with(json!({"max_lines": 0.1}))), 0, "stricter");
    assert_eq!(judged(&mut bench, &with(json!({}))), 0, "and back: nothing was forgotten");
    let looser = json!({"max_paragraphs": 0, "max_lines": 0, "max_line_chars": 0, "max_paragraph_chars": 0});
    assert_eq!(judged(&mut bench, &with(looser)), 500, "the rows whose words were never looked at");
}

#[test]
fn a_built_in_is_known_by_what_it_says_however_it_runs() {
    let mut bench = Bench::new();
    dataset(&mut bench, &texts(0, 2_000));
    let with = |run: &str, least: u64| {
        json!({"steps": [{"plugin": "builtin:c4-paragraphs", "run": run,
            "config": {"min_paragraphs": least, "min_length": 100}}]})
    };
    assert_eq!(rows_judged(&bench.run(&FilterStage, &with("native", 1)).unwrap()), 2_000);
    match bench.run(&FilterStage, &with("wasm", 1)) {
        Err(error) if error.code == "plugin::no_target" => eprintln!("skipped: {error}"),
        done => assert_eq!(rows_judged(&done.unwrap()), 0),
    }
    bench.fresh = true;
    let Ok(anew) = bench.run(&FilterStage, &with("wasm", 1)) else { return };
    assert_eq!(rows_judged(&anew), 2_000);
    bench.fresh = false;
    let strict = json!({"on_empty": "allow", "steps": with("wasm", 2)["steps"]});
    let moved = bench.run(&FilterStage, &strict).unwrap();
    assert_eq!((rows_judged(&moved), moved.outcome.metrics["rows_kept"].value as u64), (0, 0));
}

#[test]
fn edits_of_an_earlier_step_are_what_a_later_one_judges() {
    let mut bench = Bench::new();
    let mut rows = texts(0, 2_000);
    rows.iter_mut().take(300).for_each(|text| text.push_str(" Write to someone@luthier.org"));
    dataset(&mut bench, &rows);
    let with = |email: &str| {
        json!({"steps": [
            {"plugin": "builtin:pii", "config": {"email": email}},
            {"plugin": "builtin:length", "config": {"min_chars": 1}},
        ]})
    };
    assert_eq!(judged(&mut bench, &with("(a)")), 4_000);
    assert_eq!(judged(&mut bench, &with("(a)")), 0);
    assert_eq!(
        judged(&mut bench, &with("(b)")),
        2_300,
        "all for the changed step, and those that it edits for the next"
    );
}

#[test]
fn damaged_entries_are_computed_again() {
    let mut bench = Bench::new();
    dataset(&mut bench, &texts(0, 3_000));
    let with = json!({"steps": [{"plugin": "builtin:url-ratio"}]});
    let sound = bench.run(&FilterStage, &with).unwrap();
    for path in bench.shard_files() {
        let mut bytes = fs_err::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs_err::write(&path, bytes).unwrap();
    }
    let again = bench.run(&FilterStage, &with).unwrap();
    assert_eq!(rows_judged(&again), 3_000);
    assert_eq!(again.digest(), sound.digest());
}

#[test]
fn forced_runs_judge_everything() {
    let mut bench = Bench::new();
    dataset(&mut bench, &texts(0, 1_000));
    let with = json!({"steps": [{"plugin": "builtin:url-ratio"}]});
    bench.run(&FilterStage, &with).unwrap();
    bench.fresh = true;
    assert_eq!(rows_judged(&bench.run(&FilterStage, &with).unwrap()), 1_000);
}

/// Long and short texts, some of which every filter of FineWeb's chain drops, rewrites or keeps.
fn web_texts(count: usize) -> Vec<String> {
    let word = |seed: usize| -> String {
        let mut state = seed as u64 + 1;
        (0..3 + seed % 6)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                char::from(b'a' + (state >> 40) as u8 % 26)
            })
            .collect()
    };
    let sentence = |number: usize| {
        let mut words: Vec<String> = (0..7 + number % 7).map(|at| word(97 * number + at)).collect();
        words.insert(2, ["the", "and", "of", "with"][number % 4].to_owned());
        format!("{}.", words.join(" "))
    };
    (0..count)
        .map(|number| {
            let lines = (0..4 + number % 13).map(|line| match (number + line) % 9 {
                0 if number % 3 == 0 => "read more...".to_owned(),
                1 if number % 4 == 0 => format!("uses javascript to show {line}."),
                2 if number % 5 == 0 => "the same line again and again.".to_owned(),
                3 if number % 11 == 0 => "{ code }.".to_owned(),
                _ => format!("{} {}", sentence(17 * number + line), sentence(31 * number + 2 * line)),
            });
            lines.collect::<Vec<_>>().join("\n")
        })
        .collect()
}

/// Every filter of the chain, alone in its group: what neighbours say of a text must not show.
fn apart(steps: &[Value]) -> Vec<Value> {
    let wall = |at: usize| json!({"plugin": "builtin:length", "on": "id", "name": format!("wall-{at}")});
    steps.iter().enumerate().flat_map(|(at, step)| [step.clone(), wall(at)]).collect()
}

/// The funnel without the steps that [`apart`] puts between the others.
fn funnel(done: &Done) -> Vec<Value> {
    let funnel: Value = serde_json::from_slice(&fs_err::read(done.out.join("funnel")).unwrap()).unwrap();
    let steps = funnel["steps"].as_array().unwrap().iter();
    steps.filter(|step| !step["name"].as_str().unwrap().starts_with("wall-")).cloned().collect()
}

#[test]
fn neighbours_say_together_what_they_say_one_after_the_other() {
    let step = |name: &str, config: Value| json!({"plugin": format!("builtin:{name}"), "config": config});
    let mut chain = [
        step("gopher-repetition", json!({"max_lines": 0.05})),
        step("c4-quality", json!({"terminal_punctuation": false, "min_sentences": 4})),
        step("gopher-quality", json!({"min_words": 20, "min_stop_words": 1})),
        step("fineweb-quality", json!({"min_punctuated": 0.0, "max_short_lines": 0.05})),
    ];
    chain[2]["keep"] = json!({"words": {"max": 150.0}});
    let texts = web_texts(3_000);
    let (mut drops, mut edited) = (BTreeSet::new(), 0);
    for order in [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 1, 0], [3, 1, 2, 0]] {
        let steps: Vec<Value> = order.iter().map(|at| chain[*at].clone()).collect();
        let with = |steps: &[Value]| json!({"steps": steps});
        let (mut together, mut alone) = (Bench::new(), Bench::new());
        dataset(&mut together, &texts);
        dataset(&mut alone, &texts);
        let one = together.run(&FilterStage, &with(&steps)).unwrap();
        let other = alone.run(&FilterStage, &with(&apart(&steps))).unwrap();
        for output in ["kept", "dropped"] {
            let digest = |done: &Done| luthier_core::digest_path(&done.out.join(output)).unwrap().0;
            assert_eq!(digest(&one), digest(&other), "{output} of {order:?}");
        }
        assert_eq!(funnel(&one), funnel(&other), "{order:?}");
        for step in funnel(&one) {
            let counts = |name: &str| step[name].as_u64().unwrap();
            if counts("rows_in") > counts("rows_out") {
                drops.insert(step["name"].as_str().unwrap().to_owned());
            }
            edited += counts("edited");
        }
        // And so do the ledgers: each run finds in those of the other way all that it asks for. The steps between, which are
        // all the same, are new to them.
        let cache = std::mem::replace(&mut together.cache, alone.cache.clone());
        alone.cache = cache;
        assert_eq!(rows_judged(&together.run(&FilterStage, &with(&steps)).unwrap()), 0, "{order:?}");
        let walls = rows_judged(&alone.run(&FilterStage, &with(&apart(&steps))).unwrap());
        assert_eq!(Some(walls), funnel(&one)[0]["rows_out"].as_u64(), "{order:?}: none but those of the first wall");
    }
    assert!(drops.len() == 4 && edited > 100, "{drops:?} drop, {edited} edits: too little to tell apart");
}

#[test]
fn neighbours_behind_a_changed_one_are_not_asked_again() {
    let mut bench = Bench::new();
    dataset(&mut bench, &texts(0, 2_000));
    let with = |short: u64, max: f64| {
        json!({"steps": [
            {"plugin": "builtin:fineweb-quality",
                "config": {"min_punctuated": 0.0, "max_short_lines": 1.0, "short_line": short}},
            {"plugin": "builtin:url-ratio", "config": {"max": max}},
            {"plugin": "builtin:length", "config": {"min_chars": 1}},
        ]})
    };
    let all = judged(&mut bench, &with(30, 0.2));
    assert!((4_000..6_000).contains(&all), "{all}");
    assert_eq!(judged(&mut bench, &with(31, 0.2)), 2_000, "the first step alone");
    let more = judged(&mut bench, &with(31, 1.0));
    assert_eq!(more, 6_000 - all, "the rows that get to the last step only now");
}
