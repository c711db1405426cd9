//! Each write of a run fails, or tears, in turn; afterwards the store is whole and the next run makes the same bytes.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use luthier_core::{CancelToken, ErrorClass};

use crate::run::{self, RunOptions};
use crate::store::{Fault, FaultHook, Step, Store};
use crate::testkit::{Bench, CHAIN};

/// Strikes at step `at`, and ever after if the process is to look dead from there on.
fn strike(at: u64, fault: Fault, dead: bool) -> (FaultHook, Arc<AtomicU64>) {
    let count = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&count);
    let hook: FaultHook = Arc::new(move |step, _path| {
        let now = seen.fetch_add(1, Ordering::Relaxed);
        match now.cmp(&at) {
            std::cmp::Ordering::Less => None,
            std::cmp::Ordering::Equal if fault == Fault::Tear && !matches!(step, Step::Write | Step::Append) => {
                Some(Fault::Fail(ErrorKind::Other))
            }
            std::cmp::Ordering::Equal => Some(fault),
            std::cmp::Ordering::Greater => dead.then_some(Fault::Fail(ErrorKind::Other)),
        }
    });
    (hook, count)
}

#[test]
fn every_write_may_fail_or_tear() {
    let good = Bench::new(CHAIN);
    good.run();
    let lock = good.read("p.lock");
    let mut faults = 0;
    for (fault, dead) in
        [(Fault::Fail(ErrorKind::Other), true), (Fault::Tear, true), (Fault::Fail(ErrorKind::Interrupted), false)]
    {
        let mut at = 0;
        loop {
            let bench = Bench::new(CHAIN);
            let (hook, count) = strike(at, fault, dead);
            let store = Store::with_faults(&bench.workspace(), hook).unwrap();
            let options = RunOptions { threads: 1, keep_going: true, ..bench.options() };
            let outcome = run::run(&bench.pipeline(), &store, &options, Arc::new(|_| {}), CancelToken::new());
            let struck = count.load(Ordering::Relaxed) > at;
            drop(store);
            let report = bench.store().verify(&mut |_, _| {}).unwrap();
            assert_eq!((&report.damaged, &report.missing), (&vec![], &vec![]), "{fault:?} at step {at}");
            if !struck {
                assert!(outcome.is_ok_and(|summary| summary.succeeded()));
                break;
            }
            faults += 1;
            let summary = bench.run();
            assert!(summary.succeeded(), "{fault:?} at step {at}: {summary:?}");
            assert_eq!(bench.read("p.lock"), lock, "{fault:?} at step {at}");
            at += 1;
        }
    }
    println!("{faults} injected faults");
    assert!(faults > 150, "only {faults} steps were struck");
}

/// Two runs on one store, of which one is held up at each of its writes in turn: they share the work, and neither sees
/// anything half done.
#[test]
fn every_write_may_be_overtaken() {
    let good = Bench::new(CHAIN);
    good.run();
    let lock = good.read("p.lock");
    let mut delays = 0;
    for at in 0..60 {
        let bench = Bench::new(CHAIN);
        let (hook, count) = strike(at, Fault::Delay(std::time::Duration::from_millis(12)), false);
        let store = Store::with_faults(&bench.workspace(), hook).unwrap();
        let go =
            |store: &Store| run::run(&bench.pipeline(), store, &bench.options(), Arc::new(|_| {}), CancelToken::new());
        let (held_up, other) = std::thread::scope(|scope| {
            let held_up = scope.spawn(|| go(&store));
            let other = scope.spawn(|| go(&bench.store()));
            (held_up.join().unwrap(), other.join().unwrap())
        });
        assert!(held_up.is_ok_and(|summary| summary.succeeded()), "step {at}");
        assert!(other.is_ok_and(|summary| summary.succeeded()), "step {at}");
        assert_eq!(bench.executed(), ["a", "b", "c", "d"], "step {at}: each stage ran once, in one of the two");
        let report = bench.store().verify(&mut |_, _| {}).unwrap();
        assert_eq!((&report.damaged, &report.missing), (&vec![], &vec![]), "step {at}");
        assert_eq!(bench.read("p.lock"), lock, "step {at}");
        delays += u32::from(count.load(Ordering::Relaxed) > at);
    }
    println!("{delays} writes held up");
    // The run that is held up may find everything made, so how many it writes itself varies.
    assert!(delays > 4, "only {delays} steps were held up");
}

#[test]
fn full_and_read_only_disks_are_named_with_a_remedy() {
    for (kind, message, hint) in [
        (ErrorKind::StorageFull, "no space left on the device of the store", "luthier gc --dry-run"),
        (ErrorKind::ReadOnlyFilesystem, "cannot be written", "--store"),
        (ErrorKind::PermissionDenied, "cannot be written", "--store"),
    ] {
        let bench = Bench::new("luthier: 1\nstages:\n  a: {uses: work}\n");
        let hook: FaultHook = Arc::new(move |step, _| (step == Step::Synchronise).then_some(Fault::Fail(kind)));
        let store = Store::with_faults(&bench.workspace(), hook).unwrap();
        let summary =
            run::run(&bench.pipeline(), &store, &bench.options(), Arc::new(|_| {}), CancelToken::new()).unwrap();
        let failure = summary.stages[0].failure.clone().unwrap();
        assert_eq!(failure.class, ErrorClass::Store);
        assert_eq!(summary.error_class(), Some(ErrorClass::Store));
        assert!(failure.message.contains(message), "{failure:?}");
        assert!(failure.hints[0].contains(hint), "{failure:?}");
        assert!(failure.causes[0].contains("injected fault"), "{failure:?}");
    }
}
