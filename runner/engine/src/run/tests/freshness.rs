//! Run: everything ran. Run again: nothing. Touch X: exactly what depends on X.

use crate::run::{LockOutcome, RunEvent, RunStatus};
use crate::testkit::{Bench, CHAIN, id, with_status};

#[test]
fn run_reuse_touch() {
    let bench = Bench::new(CHAIN);
    let summary = bench.run();
    assert!(summary.succeeded());
    assert_eq!(bench.executed(), ["a", "b", "c", "d"]);
    assert_eq!((bench.output("c").as_str(), bench.output("d").as_str()), ("onetwo", "on"));
    assert_eq!(summary.lock, LockOutcome::Written);

    let summary = bench.run();
    assert_eq!(bench.executed(), Vec::<String>::new());
    assert_eq!(with_status(&summary, RunStatus::Reused), ["a", "b", "c", "d"]);
    assert_eq!(summary.lock, LockOutcome::Unchanged);

    bench.edit("text: two", "text: deux");
    bench.run();
    assert_eq!(bench.executed(), ["b", "c"]);
    assert_eq!(bench.output("c"), "onedeux");

    bench.edit("text: deux", "text: two");
    let summary = bench.run();
    assert_eq!(bench.executed(), Vec::<String>::new(), "earlier results are still there");
    assert!(summary.succeeded());
    assert_eq!(bench.output("c"), "onetwo");
}

#[test]
fn cosmetic_edits_run_nothing() {
    let bench = Bench::new(CHAIN);
    bench.run();
    bench.executed();
    bench.write(
        "p.yaml",
        "# a comment\nstages:\n  d: {in: {data: a}, uses: work, with: {tree: true, keep: 2, quiet: true}}\n  c: {in: b, uses: work, with: {text: \"\"}}\n  b:\n    with:\n      text: 'two'   # another\n    uses: work\n    in: a\n  a: {with: {keep: 0, text: one, threads: 3}, uses: work}\nluthier: 1\n",
    );
    let summary = bench.run();
    assert_eq!(bench.executed(), Vec::<String>::new());
    assert_eq!(summary.lock, LockOutcome::Unchanged);
}

#[test]
fn a_moved_or_copied_project_keeps_its_results() {
    let bench = Bench::new(CHAIN);
    bench.write("data.txt", "data");
    bench.edit("{text: one}", "{text: one, file: data.txt}");
    bench.run();
    let before = bench.read("p.lock");
    let other = Bench::new(&bench.read("p.yaml"));
    other.write("data.txt", "data");
    other.run();
    assert_eq!(before, other.read("p.lock"), "no path, time or host is in a lock");
    assert!(!before.contains(bench.root.as_str()));
}

#[test]
fn equal_output_stops_a_rerun_from_spreading() {
    let bench = Bench::new(CHAIN);
    bench.run();
    bench.executed();
    // `d` keeps two bytes of what `a` makes.
    bench.edit("text: one", "text: once");
    bench.edit("  d:\n", "  e:\n    uses: work\n    in: d\n  d:\n");
    bench.run();
    assert_eq!(bench.executed(), ["a", "b", "c", "d", "e"]);
    bench.edit("text: once", "text: only");
    let (summary, events) = bench.run_events(&bench.options());
    assert_eq!(bench.executed(), ["a", "b", "c", "d"], "`d` made `on` again, so `e` is reused");
    assert_eq!(with_status(&summary, RunStatus::Reused), ["e"]);
    let order: Vec<&str> = events
        .iter()
        .filter_map(|event| match event {
            RunEvent::StageFinished { stage, .. } => Some(stage.as_str()),
            RunEvent::StageReused { stage, .. } => Some(stage.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(order.first(), Some(&"a"));
    assert!(order.iter().position(|stage| *stage == "d") < order.iter().position(|stage| *stage == "e"));
}

#[test]
fn sources_count_by_content() {
    let bench = Bench::new(
        "luthier: 1\nstages:\n  a: {uses: work, with: {file: in.txt}}\n  t: {uses: work, with: {directory: lib}}\n",
    );
    bench.write("in.txt", "first");
    bench.write("lib/src/x.rs", "fn x() {}");
    bench.run();
    assert_eq!(bench.executed(), ["a", "t"]);
    bench.write("in.txt", "first");
    bench.write("lib/target/debug/junk", "compiled");
    bench.write("lib/.git/HEAD", "ref");
    bench.run();
    assert_eq!(bench.executed(), Vec::<String>::new(), "same bytes, other times; build output does not count");
    bench.write("in.txt", "other");
    bench.run();
    assert_eq!(bench.executed(), ["a"]);
    assert_eq!(bench.output("a"), "other");
    bench.write("lib/src/y.rs", "");
    bench.run();
    assert_eq!(bench.executed(), ["t"]);
}

#[test]
fn lost_and_damaged_outputs_are_made_again() {
    let bench = Bench::new(CHAIN);
    bench.run();
    bench.executed();
    let store = bench.store();
    let records = store.latest(&bench.pipeline()).expect("records");
    let path = |stage: &str| store.artifact_path(&records[&id(stage)].outputs["out"]);

    fs_err::remove_file(path("b")).expect("removed");
    let summary = bench.run();
    // `c` has the same bytes as `b`, and with it the same object.
    assert_eq!(bench.executed(), ["b"]);
    assert!(summary.succeeded());

    overwrite(&path("a"), "ONE");
    bench.run();
    assert_eq!(bench.executed(), ["a"], "same size, other bytes; its readers have what they need");
    assert_eq!(bench.output("a"), "one");

    overwrite(&path("d").join("part/a"), "no");
    bench.edit("  d:\n", "  e:\n    uses: work\n    in: d\n  d:\n");
    bench.run();
    assert_eq!(bench.executed(), ["d", "e"], "trees are looked into before they are read");
    assert_eq!(bench.output("e"), "on");
}

fn overwrite(path: &camino::Utf8Path, text: &str) {
    let mut permissions = fs_err::metadata(path).expect("a file").permissions();
    #[expect(clippy::permissions_set_readonly_false, reason = "the test plays the careless user")]
    permissions.set_readonly(false);
    fs_err::set_permissions(path, permissions).expect("writable");
    fs_err::write(path, text).expect("written");
}

#[test]
fn a_lost_index_or_memo_costs_nothing_but_time() {
    let bench = Bench::new(CHAIN);
    bench.run();
    bench.executed();
    fs_err::remove_dir_all(bench.root.join(".luthier/store/index")).expect("removed");
    fs_err::remove_file(bench.root.join(".luthier/store/memo")).expect("removed");
    let summary = bench.run();
    assert_eq!(bench.executed(), Vec::<String>::new());
    assert_eq!(with_status(&summary, RunStatus::Reused).len(), 4);
}
