//! What does not stay on the device, on the emulated driver: block inputs in host memory, frozen blocks on disk. The bits are
//! those of a run that keeps everything there, on whichever stream the driver is late; memory is that of the plan; and a wait
//! between the streams that is left out is noticed.
#![expect(clippy::unwrap_used, reason = "a test")]

#[path = "conformance/support/mod.rs"]
#[expect(dead_code, clippy::print_stderr, reason = "what the tests of operations share; a part of it is used here")]
mod support;
#[path = "common/training_spec.rs"]
mod training_spec;

use std::sync::{Arc, Mutex};

use camino::{Utf8Path, Utf8PathBuf};
use libloading::{Library, Symbol};
use luthier_cuda::Precision;
use luthier_formats::model_files::ModelFiles;
use luthier_formats::tokens::TokenSet;
use luthier_kernels::device::{Component, CpuDevice, Device};
use luthier_model::adapter::{LoraSpec, Targets};
use luthier_model::memory::{MemoryPlan, RunShape, WeightTypes};
use luthier_model::train::{TrainSpec, Trainer};
use luthier_model::{BaseFormat, Decoder, LoadOptions, write_shards};
use luthier_test::{TinyModel, token_set};
use training_spec::spec;

/// The driver's settings and counters are the process's, so one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn control(name: &str, argument: usize) -> usize {
    // SAFETY: the emulated driver is loaded; its controls take and give at most one word.
    unsafe {
        let driver = Library::new("libcuda.so").unwrap();
        let function: Symbol<'_, unsafe extern "C" fn(usize) -> usize> = driver.get(name.as_bytes()).unwrap();
        function(argument)
    }
}

/// Which streams the driver lets wait as long as it may.
const SCHEDULES: [usize; 4] = [0, 1, 2, 3];

struct Bench {
    directory: tempfile::TempDir,
}

/// What a run leaves: the bits of its losses, and a digest of its values.
type Bits = (Vec<u64>, blake3::Hash);

impl Bench {
    /// A model of `layers` blocks and `samples` sequences.
    fn new(layers: usize, samples: usize) -> Self {
        let bench = Self { directory: tempfile::tempdir().unwrap() };
        let mut model = TinyModel::new(3);
        model.config.layers = layers;
        model.write_directory(&bench.path("model"));
        token_set(samples, model.config.vocab_size).write(&bench.path("data")).unwrap();
        bench
    }

    fn path(&self, name: &str) -> Utf8PathBuf {
        Utf8Path::from_path(self.directory.path()).unwrap().join(name)
    }

    fn decoder(&self, device: &Arc<dyn Device>, stream: bool) -> Decoder {
        let data = TokenSet::open(&self.path("data")).unwrap();
        let files = ModelFiles::open(&self.path("model")).unwrap();
        if stream {
            write_shards(&files, &self.path("shards")).unwrap();
            return Decoder::stream(device, files.config(), &self.path("shards"), data.meta.longest).unwrap();
        }
        Decoder::load(device, &files, LoadOptions { base: BaseFormat::Nf4, positions: data.meta.longest }).unwrap()
    }

    /// All steps of a run, with a validation after each but the last.
    fn run(&self, spec: &TrainSpec, stream: bool) -> Bits {
        let device: Arc<dyn Device> = Arc::new(support::emulated(Precision::F32).unwrap());
        let data = TokenSet::open(&self.path("data")).unwrap();
        let decoder = self.decoder(&device, stream);
        let mut trainer = Trainer::new(&decoder, &data, Some(&data), spec.clone()).unwrap();
        let mut losses = Vec::new();
        while trainer.step() < trainer.total() {
            losses.push(trainer.compute().unwrap().loss.to_bits());
            trainer.apply().unwrap();
            if trainer.step() < trainer.total() {
                losses.push(trainer.evaluate(&data).unwrap().to_bits());
            }
        }
        (losses, blake3::hash(bytemuck::cast_slice(&trainer.values())))
    }
}

fn offloaded(spec: &TrainSpec) -> TrainSpec {
    TrainSpec { offload: true, ..spec.clone() }
}

#[test]
fn offloaded_inputs_give_the_bits_of_those_that_stay_however_late_a_stream_is() {
    let _alone = ALONE.lock();
    if support::emulated(Precision::F32).is_none() {
        return;
    }
    let bench = Bench::new(5, 9);
    let upper = LoraSpec { targets: Targets::Pattern(r"model\.layers\.[1-4]\..*".to_owned()), ..spec(3, 3).lora };
    for spec in [spec(3, 3), TrainSpec { accumulate: 2, ..spec(2, 2) }, TrainSpec { lora: upper, ..spec(3, 2) }] {
        let expected = bench.run(&spec, false);
        for late in SCHEDULES {
            control("emulator_set_late_streams", late);
            assert_eq!(bench.run(&offloaded(&spec), false), expected, "schedule {late}");
        }
        control("emulator_set_late_streams", 0);
    }
    assert_eq!((control("emulator_used", 0), control("emulator_pinned", 0)), (0, 0), "bytes that nobody freed");
}

#[test]
fn streamed_blocks_give_the_bits_of_those_that_stay_however_late_a_stream_is() {
    let _alone = ALONE.lock();
    if support::emulated(Precision::F32).is_none() {
        return;
    }
    for (layers, targets, dora) in [
        (1, Targets::AllLinear, false),
        (2, Targets::AllLinear, false),
        (5, Targets::AllLinear, false),
        // The lowest block of backward shares a slot with the first of the next forward.
        (5, Targets::Pattern(r"model\.layers\.[234]\..*".to_owned()), false),
        (3, Targets::AllLinear, true),
    ] {
        let bench = Bench::new(layers, 9);
        let dropout = if dora { 0.0 } else { 0.1 };
        let spec = TrainSpec { lora: LoraSpec { targets, dora, dropout, ..spec(3, 2).lora }, ..spec(3, 2) };
        let expected = bench.run(&spec, false);
        for late in SCHEDULES {
            control("emulator_set_late_streams", late);
            assert_eq!(bench.run(&spec, true), expected, "{layers} layers, schedule {late}");
        }
        control("emulator_set_late_streams", 0);
    }
    assert_eq!((control("emulator_used", 0), control("emulator_pinned", 0)), (0, 0), "bytes that nobody freed");
}

#[test]
fn memory_on_both_sides_is_that_of_the_plan_and_of_the_driver() {
    let _alone = ALONE.lock();
    if support::emulated(Precision::F32).is_none() {
        return;
    }
    for (layers, offload, stream) in
        [(1, true, true), (2, true, false), (2, false, true), (5, true, false), (5, false, true), (5, true, true)]
    {
        let bench = Bench::new(layers, 9);
        let device: Arc<dyn Device> = Arc::new(support::emulated(Precision::F32).unwrap());
        let own = control("emulator_pinned", 0);
        let data = TokenSet::open(&bench.path("data")).unwrap();
        let files = ModelFiles::open(&bench.path("model")).unwrap();
        let types = WeightTypes::of_files(&files, BaseFormat::Nf4);
        let plan =
            |spec: &TrainSpec| MemoryPlan::new(files.config(), types, spec, RunShape::of_data(&data, spec)).unwrap();
        let spec = TrainSpec { offload, ..spec(3, 2) };
        let (kept, moved) = (plan(&TrainSpec { offload: false, ..spec.clone() }), plan(&spec));
        assert_eq!(kept.total() - moved.total(), moved.host, "what the device has not, the host has");
        let moving = if offload { layers.saturating_sub(1) } else { 0 };
        assert_eq!(kept.checkpoint * moving, moved.host * (layers + 1), "all inputs but the last");
        let moved = if stream { moved.streamed(files.config(), true) } else { moved };
        let decoder = bench.decoder(&device, stream);
        let mut trainer = Trainer::new(&decoder, &data, None, spec.clone()).unwrap();
        trainer.compute().unwrap();
        trainer.apply().unwrap();
        let ledger = device.ledger();
        for component in Component::ALL.into_iter().filter(|component| *component != Component::Scratch) {
            assert_eq!(ledger.peak(component), moved.bytes(component), "{component}");
        }
        let current: usize = Component::ALL.into_iter().map(|component| ledger.current(component)).sum();
        assert_eq!(control("emulator_used", 0), current, "bytes of the driver and of the ledger");
        // What small copies go through is the device's own.
        assert_eq!((ledger.host_peak(), control("emulator_pinned", 0) - own), (moved.host, moved.host));
        drop(trainer);
        drop(decoder);
        assert_eq!((ledger.host(), control("emulator_pinned", 0)), (0, own));
        drop(device);
        assert_eq!(control("emulator_used", 0), 0, "bytes that nobody freed");
    }
}

#[test]
fn the_cpu_has_nothing_to_move() {
    let bench = Bench::new(5, 9);
    let device: Arc<dyn Device> = Arc::new(CpuDevice::new(1).unwrap());
    let data = TokenSet::open(&bench.path("data")).unwrap();
    let decoder = bench.decoder(&device, false);
    let error = Trainer::new(&decoder, &data, None, offloaded(&spec(3, 2))).err().unwrap();
    assert_eq!(error.to_string(), "the device `cpu` computes in host memory already");
    assert_eq!(error.hints, ["remove `offload`, or set `device: cuda`"]);
}

/// The waits of a run of one step that can be left out without that anything changes, whichever stream is late, and how
/// many there are.
fn unnoticed(bench: &Bench, spec: &TrainSpec, stream: bool) -> (Vec<usize>, usize) {
    let before = control("emulator_skip_wait", 0);
    let expected = bench.run(spec, stream);
    let waits = control("emulator_skip_wait", 0) - before;
    let unnoticed = (1..=waits).filter(|number| {
        let noticed = SCHEDULES.into_iter().any(|late| {
            control("emulator_set_late_streams", late);
            control("emulator_skip_wait", *number);
            bench.run(spec, stream) != expected
        });
        control("emulator_skip_wait", 0);
        control("emulator_set_late_streams", 0);
        !noticed
    });
    (unnoticed.collect(), waits)
}

#[test]
fn a_wait_for_an_offloaded_input_that_is_left_out_is_noticed() {
    let _alone = ALONE.lock();
    if support::emulated(Precision::F32).is_none() {
        return;
    }
    let (unnoticed, waits) = unnoticed(&Bench::new(4, 1), &offloaded(&spec(1, 1)), false);
    // Of four blocks three inputs move: two waits to store and two to fetch each.
    assert_eq!(waits, 3 * 4);
    // Where the host reads the losses before backward begins, the first input may come back without a wait.
    assert!(unnoticed.is_empty() || unnoticed == [7], "{unnoticed:?}");
}

#[test]
fn a_wait_for_a_streamed_block_that_is_left_out_is_noticed() {
    let _alone = ALONE.lock();
    if support::emulated(Precision::F32).is_none() {
        return;
    }
    let (unnoticed, waits) = unnoticed(&Bench::new(4, 1), &spec(1, 1), true);
    // Two blocks that find an empty slot: two waits each. Two forward and two backward: the host's besides.
    assert_eq!(waits, 2 * 2 + 4 * 3);
    // Before the first two the host has waited for the device already, and the last stage is free since the one before is.
    assert!(unnoticed.iter().all(|number| [1, 3, 14].contains(number)), "{unnoticed:?}");
}
