//! Code that never ends, in all the ways in which code can fail to.

use std::time::{Duration, Instant};

use wasmtime::{Instance, Module, Store, Trap};

use super::{Deadline, is_deadline};
use crate::engine::FilterEngine;

const END: u8 = 0x0b;
const BLOCK: [u8; 2] = [0x02, 0x40];
const LOOP: [u8; 2] = [0x03, 0x40];
const BRANCH: u8 = 0x0c;
const BRANCH_IF: u8 = 0x0d;
const CALL: u8 = 0x10;
const TAIL_CALL: u8 = 0x12;
const GET: u8 = 0x20;
const SET: u8 = 0x21;
const CONST: u8 = 0x41;
const ADD: u8 = 0x6a;
const STORE: [u8; 3] = [0x36, 0x02, 0x00];

fn section(number: u8, content: &[u8]) -> Vec<u8> {
    // LEB128 in two bytes.
    let length = [content.len() as u8 | 0x80, (content.len() >> 7) as u8];
    [&[number], &length[..], content].concat()
}

/// A module whose functions take and return nothing and have one local; the first is exported as `f`.
fn module(pages: Option<u8>, bodies: &[Vec<u8>]) -> Vec<u8> {
    let count = bodies.len() as u8;
    let code: Vec<u8> =
        bodies.iter().flat_map(|body| [&[body.len() as u8 + 4, 1, 1, 0x7f], &body[..], &[END]].concat()).collect();
    let mut wasm = b"\0asm\x01\0\0\0".to_vec();
    wasm.extend(section(1, &[1, 0x60, 0, 0]));
    wasm.extend(section(3, &[&[count], &vec![0; bodies.len()][..]].concat()));
    wasm.extend(pages.map(|pages| section(5, &[1, 0, pages])).into_iter().flatten());
    wasm.extend(section(7, &[1, 1, b'f', 0, 0]));
    wasm.extend(section(10, &[&[count], &code[..]].concat()));
    wasm
}

/// What stops a call of `f`, if anything does, and a second one.
fn stopped(engine: &FilterEngine, wasm: &[u8]) -> [Option<bool>; 2] {
    let module =
        Module::new(engine.inner(), engine.deadlines().prepare(wasm).expect("a sound module")).expect("a sound module");
    let mut store = Store::new(engine.inner(), ());
    if engine.meters_fuel() {
        store.set_fuel(u64::MAX).expect("a metered store");
    }
    let deadline = engine.deadlines().add(&mut store);
    [0, 1].map(|_| {
        let start = Instant::now();
        let (answer, over) = deadline.during(&mut store, Duration::from_millis(30), |store| {
            let instance = Instance::new(&mut *store, &module, &[])?;
            instance.get_typed_func::<(), ()>(&mut *store, "f")?.call(store, ())
        });
        let trap = *answer.err()?.downcast_ref::<Trap>().expect("a trap");
        Some(is_deadline(trap, over) && start.elapsed() >= Duration::from_millis(30))
    })
}

fn each_engine(check: impl Fn(&FilterEngine)) {
    for fuel in [false, true] {
        check(&FilterEngine::new(fuel).expect("an engine"));
    }
}

#[test]
fn every_endless_code_is_stopped() {
    let forever = [&LOOP[..], &[BRANCH, 0, END]].concat();
    let counting = [&LOOP[..], &[GET, 0, CONST, 1, ADD, SET, 0, BRANCH, 0, END]].concat();
    let storing = [&LOOP[..], &[CONST, 0, CONST, 0], &STORE, &[BRANCH, 0, END]].concat();
    // The inner one is left, the outer one never.
    let nested = [&LOOP[..], &LOOP, &[GET, 0, BRANCH_IF, 0, END, BRANCH, 0, END]].concat();
    // What follows looks as well, but is never reached.
    let before_others = [&LOOP[..], &[CONST, 1, BRANCH_IF, 0, END], &LOOP, &[END], &BLOCK, &[END]].concat();
    let calling_itself = vec![TAIL_CALL, 0];
    // Each calls the next one eight times: 2^36 calls without a loop.
    let calls = |next: u8| [CALL, next].repeat(8);
    let tree: Vec<Vec<u8>> = (1..=12).map(calls).chain([vec![]]).collect();
    each_engine(|engine| {
        for pages in [None, Some(0), Some(1)] {
            for body in [&forever, &counting, &nested, &before_others, &calling_itself] {
                let stops = stopped(engine, &module(pages, std::slice::from_ref(body)));
                assert_eq!(stops, [Some(true); 2], "{pages:?} {body:x?}");
            }
        }
        assert_eq!(stopped(engine, &module(Some(1), std::slice::from_ref(&storing))), [Some(true); 2]);
        assert_eq!(stopped(engine, &module(None, &tree)), [Some(true); 2]);
    });
}

#[test]
fn a_trap_before_the_deadline_is_a_trap() {
    let beyond = [&[CONST, 0x7f, CONST, 0], &STORE[..]].concat();
    each_engine(|engine| {
        assert_eq!(stopped(engine, &module(Some(1), std::slice::from_ref(&beyond))), [Some(false); 2])
    });
}

#[test]
fn time_that_is_over_after_the_call_stops_no_other() {
    let engine = FilterEngine::new(false).unwrap();
    let module =
        Module::new(engine.inner(), engine.deadlines().prepare(&module(None, &[vec![CALL, 1], vec![]])).unwrap());
    let mut store = Store::new(engine.inner(), ());
    let deadline: Deadline = engine.deadlines().add(&mut store);
    let (instance, _) = deadline.during(&mut store, Duration::from_secs(9), |store| {
        Instance::new(&mut *store, module.as_ref().unwrap(), &[]).unwrap()
    });
    let f = instance.get_typed_func::<(), ()>(&mut store, "f").unwrap();
    // The guest is done when its time ends.
    let (done, over) = deadline.during(&mut store, Duration::from_millis(5), |store| {
        f.call(&mut *store, ()).unwrap();
        std::thread::sleep(Duration::from_millis(60));
    });
    assert_eq!((done, over), ((), true));
    let (answer, over) = deadline.during(&mut store, Duration::from_secs(9), |store| f.call(store, ()));
    assert!(answer.is_ok() && !over);
}

#[test]
fn atomic_instructions_are_refused() {
    let engine = FilterEngine::new(false).unwrap();
    // `memory.atomic.notify`
    let wasm = module(Some(1), &[vec![CONST, 0, CONST, 0, 0xfe, 0, 2, 0, 0x1a]]);
    let error = engine.deadlines().prepare(&wasm).unwrap_err();
    assert!(error.to_string().contains("atomic"), "{error}");
}
