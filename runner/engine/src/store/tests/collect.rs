use crate::lock::Lock;
use crate::store::GcOptions;
use crate::testkit::{Bench, CHAIN, id};

fn options(keep_runs: usize) -> GcOptions {
    GcOptions { keep_runs, locks: Vec::new(), keep_for: None, keep_size: None, dry_run: false }
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

/// A run in another process, which waits in stage `b` until the file `go` is there.
#[test]
fn a_collection_takes_nothing_from_another_process() {
    const WAITING: &str = "\
luthier: 1
stages:
  a: {uses: work, with: {text: one, tree: true}}
  b: {uses: work, in: a, with: {text: two, mode: wait}}
  c: {uses: work, in: [b], with: {text: three}}
";
    let bench = Bench::new(WAITING);
    bench.recipe.store(0, std::sync::atomic::Ordering::Relaxed);
    let program = std::env::current_exe().unwrap();
    let mut child = super::kill::spawn(&program, &bench.root);
    let began = std::time::Instant::now();
    let claims = bench.root.join(".luthier/store/claims");
    // `a` is finished and `b` executes: the moment at which no lock and no finished run names anything.
    while !bench.store().latest(&bench.pipeline()).unwrap().contains_key(&id("a"))
        || fs_err::read_dir(&claims).map_or(0, Iterator::count) == 0
    {
        assert!(began.elapsed().as_secs() < 60, "the child does not start");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    for _ in 0..5 {
        let report = bench.store().gc(&options(0)).unwrap();
        assert!(report.removed.iter().all(|gone| gone.what == "run" || gone.what == "temporary"), "{report:?}");
    }
    bench.write("go", "");
    assert!(child.wait().unwrap().success());
    assert_eq!(bench.output("c"), "onetwothree");
    let report = bench.store().verify(&mut |_, _| {}).unwrap();
    assert_eq!((report.records, report.damaged, report.missing), (3, vec![], vec![]));

    // Collections all through runs of another process: what they make is whole.
    for round in 0..6 {
        fs_err::remove_file(bench.root.join("p.lock")).unwrap();
        bench.store().gc(&options(0)).unwrap();
        let mut child = super::kill::spawn(&program, &bench.root);
        let mut collections = 0;
        while child.try_wait().unwrap().is_none() {
            bench.store().gc(&options(0)).unwrap();
            collections += 1;
        }
        let ended = child.wait().unwrap();
        assert!(ended.success(), "round {round}, {collections} collections: {}", bench.read("child.log"));
        let report = bench.store().verify(&mut |_, _| {}).unwrap();
        assert_eq!((&report.damaged, &report.missing), (&vec![], &vec![]), "round {round}");
        bench.run();
        assert_eq!(bench.output("c"), "onetwothree", "round {round}");
    }
}

#[test]
fn young_results_and_those_that_fit_may_stay() {
    let bench = Bench::new("luthier: 1\nstages:\n  a: {uses: work, with: {text: aaaa}}\n");
    bench.run();
    for (old, new) in [("aaaa", "bbbbb"), ("bbbbb", "cccccc"), ("cccccc", "ddddddd")] {
        bench.edit(old, new);
        bench.run();
    }
    let store = bench.store();
    let records = store.files("records").unwrap();
    let mut aged: Vec<(u64, camino::Utf8PathBuf)> = Vec::new();
    for name in &records {
        let path = bench.root.join(".luthier/store/records").join(name);
        let key: luthier_core::Digest = name[3..67].parse().unwrap();
        let size = store.record(&key).unwrap().unwrap().outputs.values().map(|output| output.size).sum();
        aged.push((size, path));
    }
    aged.sort();
    // The results of 4, 5, 6 and 7 bytes are 40, 30, 20 and 10 days old.
    for ((_, path), days) in aged.iter().zip([40, 30, 20, 10]) {
        let time = std::time::SystemTime::now() - std::time::Duration::from_secs(days * 86_400);
        fs_err::File::options().write(true).open(path).unwrap().file().set_modified(time).unwrap();
    }
    let would = |options: GcOptions| {
        let report = store.gc(&GcOptions { dry_run: true, ..options }).unwrap();
        let gone =
            report.removed.iter().filter(|gone| gone.what == "object").map(|gone| gone.bytes).collect::<Vec<_>>();
        assert_eq!(report.stages.values().map(|share| share.bytes).sum::<u64>(), gone.iter().sum::<u64>());
        assert!(report.stages.keys().all(|stage| stage == "a"), "{report:?}");
        gone.iter().sum::<u64>()
    };
    let days = |days: u64| Some(std::time::Duration::from_secs(days * 86_400));
    assert_eq!(would(options(0)), 4 + 5 + 6, "the lock keeps the last");
    assert_eq!(would(GcOptions { keep_for: days(25), ..options(0) }), 4 + 5);
    assert_eq!(would(GcOptions { keep_for: days(1), ..options(0) }), 4 + 5 + 6);
    assert_eq!(would(GcOptions { keep_size: Some(18), ..options(0) }), 4);
    assert_eq!(would(GcOptions { keep_size: Some(17), ..options(0) }), 4 + 5);
    assert_eq!(
        would(GcOptions { keep_size: Some(0), ..options(0) }),
        4 + 5 + 6,
        "a lock's results stay whatever their size"
    );
    assert_eq!(would(GcOptions { keep_for: days(35), keep_size: Some(13), ..options(0) }), 4 + 5);
}

#[test]
fn locks_of_git_revisions_are_roots() {
    use crate::lock::Revisions;
    let bench = Bench::new("luthier: 1\nstages:\n  a: {uses: work, with: {text: one}}\n");
    let git = |arguments: &[&str]| {
        let output = std::process::Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main"])
            .args(arguments)
            .current_dir(&bench.root)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let commit = |text: &str| {
        bench.run();
        git(&["add", "p.yaml", "p.lock"]);
        git(&["commit", "-q", "-m", text]);
    };
    git(&["init", "-q"]);
    fs_err::write(bench.root.join("readme"), "").unwrap();
    git(&["add", "readme"]);
    git(&["commit", "-q", "-m", "before there was a lock"]);
    git(&["tag", "empty"]);
    commit("one");
    bench.edit("text: one", "text: other");
    commit("other");
    git(&["checkout", "-q", "-b", "side"]);
    bench.edit("text: other", "text: branch");
    commit("branch");
    git(&["checkout", "-q", "main"]);
    let file = bench.root.join("p.lock");
    let objects = |revisions: &Revisions| {
        let locks = Lock::at_revisions(&file, revisions).unwrap();
        let report = bench.store().gc(&GcOptions { locks, dry_run: true, ..options(0) }).unwrap();
        report.removed.iter().filter(|gone| gone.what == "object").map(|gone| gone.bytes).collect::<Vec<_>>()
    };
    let of = |named: &[&str]| Revisions {
        named: named.iter().map(|&name| name.to_owned()).collect(),
        ..Revisions::default()
    };
    let mut none = objects(&of(&[]));
    none.sort_unstable();
    assert_eq!(none, [3, 6], "`other` is what the file says now");
    assert_eq!(objects(&of(&["side"])), [3]);
    assert_eq!(objects(&of(&["HEAD~1", "empty"])), [6]);
    assert_eq!(objects(&of(&["empty..side"])), [0; 0], "a range is all its commits");
    assert_eq!(objects(&Revisions { all_branches: true, ..Revisions::default() }), [3]);
    assert_eq!(objects(&Revisions { all_branches: true, history: true, ..Revisions::default() }), [0; 0]);
    let error = Lock::at_revisions(&file, &of(&["nowhere"])).unwrap_err();
    assert_eq!(error.code(), "lock::git");
    assert!(Lock::at_revisions(&file, &of(&["--exec=x"])).is_err());
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

#[test]
fn shards_go_when_no_kept_run_has_used_them() {
    use std::time::{Duration, SystemTime};

    use luthier_core::{Digest, ShardCache};
    let bench = Bench::new(CHAIN);
    let cache = bench.workspace().cache_dir();
    let shards = ShardCache::new(&cache, false);
    let (old, new) = (Digest::of(b"old"), Digest::of(b"new"));
    shards.put(&old, b"old");
    for entry in ShardCache::entries(&ShardCache::directory(&cache)).unwrap() {
        let used = SystemTime::now() - Duration::from_secs(60);
        fs_err::File::options().append(true).open(&entry.path).unwrap().file().set_modified(used).unwrap();
    }
    bench.run();
    shards.put(&new, b"new");
    let store = bench.store();
    let gone = |report: crate::store::GcReport| -> Vec<String> {
        report.removed.into_iter().filter(|gone| gone.what == "shard").map(|gone| gone.name).collect()
    };
    assert_eq!(gone(store.gc(&GcOptions { dry_run: true, ..options(1) }).unwrap()), [old.hex()]);
    assert!(shards.get(&new).is_some());
    assert_eq!(gone(store.gc(&options(1)).unwrap()), [old.hex()]);
    assert_eq!(gone(store.gc(&options(0)).unwrap()), [new.hex()]);
    assert_eq!(ShardCache::entries(&ShardCache::directory(&cache)).unwrap(), []);
}
