use crate::lock::Lock;
use crate::store::GcOptions;
use crate::testkit::{Bench, CHAIN, id};

fn options(keep_runs: usize) -> GcOptions {
    GcOptions { keep_runs, locks: Vec::new(), dry_run: false }
}

#[test]
fn what_nothing_names_goes_and_the_rest_works_on() {
    let bench = Bench::new(CHAIN);
    bench.run();
    let first = bench.read("p.lock");
    bench.edit("text: two", "text: deux");
    bench.run();
    bench.executed();
    let store = bench.store();
    let dry = store.gc(&GcOptions { dry_run: true, ..options(0) }).unwrap();
    assert_eq!(store.gc(&options(2)).unwrap().removed, [], "the last two runs keep all");
    let kept = GcOptions { locks: vec![Lock::parse(&first, "p.lock".into()).unwrap()], ..options(0) };
    assert!(store.gc(&GcOptions { dry_run: true, ..kept }).unwrap().removed.iter().all(|gone| gone.what == "run"));

    let done = store.gc(&options(0)).unwrap();
    assert_eq!((&done.removed, done.freed_bytes), (&dry.removed, dry.freed_bytes), "the dry run said what would go");
    let count = |what| done.removed.iter().filter(|gone| gone.what == what).count();
    assert_eq!((count("object"), count("record"), count("run"), count("tree")), (1, 2, 2, 0), "{done:?}");
    assert_eq!(store.verify(&mut |_, _| {}).unwrap().missing, Vec::<String>::new());
    assert!(bench.run().succeeded());
    assert!(bench.executed().is_empty(), "what the lock names is still there");
    bench.edit("text: deux", "text: two");
    bench.run();
    assert_eq!(bench.executed(), ["b", "c"]);
}

#[test]
fn a_lock_that_does_not_parse_stops_the_collection() {
    let bench = Bench::new(CHAIN);
    bench.run();
    bench.write("p.lock", "<<<<<<< ours\n");
    let error = bench.store().gc(&options(0)).unwrap_err();
    assert!(error.to_string().contains("p.lock` cannot be read, so nothing was removed"), "{error}");
    assert_eq!(bench.store().verify(&mut |_, _| {}).unwrap().records, 4);
}

#[test]
fn what_a_running_process_uses_stays() {
    let bench = Bench::new(CHAIN);
    bench.run();
    let store = bench.store();
    let key = store.latest(&bench.pipeline()).unwrap()[&id("c")].key;
    fs_err::remove_file(bench.root.join("p.lock")).unwrap();
    let live = store.live("20990101-000000-000-0000").unwrap();
    live.uses(&key).unwrap();
    store.gc(&options(0)).unwrap();
    assert!(store.record(&key).unwrap().is_some());
    assert_eq!(store.verify(&mut |_, _| {}).unwrap().records, 1);
    drop(live);
    store.gc(&options(0)).unwrap();
    assert_eq!(store.verify(&mut |_, _| {}).unwrap().objects, 0);
    // A run that was killed leaves its note, but not its lock.
    fs_err::create_dir_all(bench.root.join(".luthier/store/live")).unwrap();
    fs_err::write(bench.root.join(".luthier/store/live/dead"), format!("{key}\n")).unwrap();
    bench.run();
    fs_err::remove_file(bench.root.join("p.lock")).unwrap();
    store.gc(&options(0)).unwrap();
    assert_eq!(bench.store().verify(&mut |_, _| {}).unwrap().records, 0);
}

#[test]
fn checkpoints_of_recent_runs_stay() {
    let bench = Bench::new("luthier: 1\nstages:\n  a: {uses: work, with: {mode: resume}}\n");
    bench.run();
    let store = bench.store();
    store.gc(&options(1)).unwrap();
    assert_eq!(fs_err::read_dir(bench.workspace().scratch_dir()).unwrap().count(), 1);
    let report = store.gc(&options(0)).unwrap();
    assert!(report.removed.iter().any(|gone| gone.what == "checkpoint" && gone.bytes == 10), "{report:?}");
}

#[test]
fn rot_is_found_and_mended() {
    let bench = Bench::new(CHAIN);
    bench.run();
    bench.executed();
    let store = bench.store();
    let records = store.latest(&bench.pipeline()).unwrap();
    let path = store.artifact_path(&records[&id("c")].outputs["out"]);
    // As a failing disk would: other bytes, same size, same times.
    let modified = fs_err::metadata(&path).unwrap().modified().unwrap();
    let mut permissions = fs_err::metadata(&path).unwrap().permissions();
    #[expect(clippy::permissions_set_readonly_false, reason = "the test plays the failing disk")]
    permissions.set_readonly(false);
    fs_err::set_permissions(&path, permissions).unwrap();
    fs_err::write(&path, "ONETWO").unwrap();
    fs_err::File::options().write(true).open(&path).unwrap().file().set_modified(modified).unwrap();

    let mut seen = (0, 0);
    let report = store.verify(&mut |done, total| seen = (done, total)).unwrap();
    assert_eq!(seen.0, seen.1);
    assert_eq!(report.damaged.len(), 1);
    assert!(report.damaged[0].problem.starts_with("its bytes hash to "), "{report:?}");
    bench.run();
    assert_eq!(bench.executed(), ["b"], "`c` has the same bytes, and finds them mended");
    assert_eq!(bench.output("c"), "onetwo");
    assert_eq!(bench.store().verify(&mut |_, _| {}).unwrap().damaged, []);
}

#[test]
fn disk_usage_adds_up() {
    let bench = Bench::new(CHAIN);
    bench.run();
    let usage = bench.store().disk_usage().unwrap();
    // one, onetwo, on, b
    assert_eq!(usage.objects, 3 + 6 + 2 + 1);
    assert!(usage.records > 0 && usage.runs > 0);
    assert_eq!((usage.scratch, usage.cache), (0, 0));
}
