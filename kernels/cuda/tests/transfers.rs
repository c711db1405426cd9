//! What does not stay on the device: block inputs in host memory, on the emulated driver. The bits are those of a run that
//! keeps everything there, on whichever stream the driver is late; memory is that of the plan; and a wait between the
//! streams that is left out is noticed.
#![expect(clippy::unwrap_used, reason = "a test")]

#[path = "conformance/support/mod.rs"]
#[expect(dead_code, clippy::print_stderr, reason = "what the tests of operations share; a part of it is used here")]
mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use camino::{Utf8Path, Utf8PathBuf};
use libloading::{Library, Symbol};
use luthier_cuda::Precision;
use luthier_formats::model_files::ModelFiles;
use luthier_formats::tokens::TokenSet;
use luthier_kernels::device::{Component, CpuDevice, Device};
use luthier_model::adapter::{Initialization, LoraSpec, Targets};
use luthier_model::memory::{MemoryPlan, RunShape, WeightTypes};
use luthier_model::train::{Duration, OptimizerSpec, Schedule, StateFormat, TrainSpec, Trainer};
use luthier_model::{BaseFormat, Decoder, LoadOptions};
use luthier_test::{TinyModel, token_set};

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
const SCHEDULES: [usize; 3] = [0, 1, 2];

struct Bench {
    directory: tempfile::TempDir,
}

/// What a run leaves: losses and values, as bits.
type Bits = (Vec<u64>, Vec<u32>);

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

    fn decoder(&self, device: &Arc<dyn Device>) -> Decoder {
        let data = TokenSet::open(&self.path("data")).unwrap();
        let files = ModelFiles::open(&self.path("model")).unwrap();
        Decoder::load(device, &files, LoadOptions { base: BaseFormat::Nf4, positions: data.meta.longest }).unwrap()
    }

    /// All steps of a run, with a validation after each but the last.
    fn run(&self, spec: &TrainSpec) -> Bits {
        let device: Arc<dyn Device> = Arc::new(support::emulated(Precision::F32).unwrap());
        let data = TokenSet::open(&self.path("data")).unwrap();
        let decoder = self.decoder(&device);
        let mut trainer = Trainer::new(&decoder, &data, Some(&data), spec.clone()).unwrap();
        let mut losses = Vec::new();
        while trainer.step() < trainer.total() {
            losses.push(trainer.compute().unwrap().loss.to_bits());
            trainer.apply().unwrap();
            if trainer.step() < trainer.total() {
                losses.push(trainer.evaluate(&data).unwrap().to_bits());
            }
        }
        (losses, trainer.values().iter().map(|value| value.to_bits()).collect())
    }
}

fn spec(batch: usize, steps: u64) -> TrainSpec {
    TrainSpec {
        lora: LoraSpec {
            rank: 4,
            alpha: 8.0,
            dropout: 0.1,
            targets: Targets::AllLinear,
            layers: None,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            rslora: false,
            dora: false,
            initialization: Initialization::Kaiming,
        },
        optimizer: OptimizerSpec {
            learning_rate: 1e-2,
            schedule: Schedule::Linear,
            decay_steps: None,
            warmup: 0.0,
            weight_decay: 0.01,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            max_grad_norm: 1.0,
            b_ratio: 1.0,
            states: StateFormat::F32,
        },
        batch,
        accumulate: 1,
        duration: Duration::Steps(steps),
        seed: 7,
        checkpointing: true,
        share_prefix: true,
        neftune: 0.0,
        pages: None,
        offload: false,
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
        let expected = bench.run(&spec);
        for late in SCHEDULES {
            control("emulator_set_late_streams", late);
            assert_eq!(bench.run(&offloaded(&spec)), expected, "schedule {late}");
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
    for layers in [1, 2, 5] {
        let bench = Bench::new(layers, 9);
        let device: Arc<dyn Device> = Arc::new(support::emulated(Precision::F32).unwrap());
        // What small copies go through is the device's own.
        let own = control("emulator_pinned", 0);
        let data = TokenSet::open(&bench.path("data")).unwrap();
        let files = ModelFiles::open(&bench.path("model")).unwrap();
        let types = WeightTypes::of_files(&files, BaseFormat::Nf4);
        let plan =
            |spec: &TrainSpec| MemoryPlan::new(files.config(), types, spec, RunShape::of_data(&data, spec)).unwrap();
        let spec = offloaded(&spec(3, 2));
        let (kept, moved) = (plan(&TrainSpec { offload: false, ..spec.clone() }), plan(&spec));
        assert_eq!(kept.total() - moved.total(), moved.host, "what the device has not, the host has");
        assert_eq!(kept.checkpoint * layers.saturating_sub(1), moved.host * (layers + 1), "all inputs but the last");
        let decoder = bench.decoder(&device);
        let mut trainer = Trainer::new(&decoder, &data, None, spec.clone()).unwrap();
        trainer.compute().unwrap();
        trainer.apply().unwrap();
        let ledger = device.ledger();
        for component in Component::ALL.into_iter().filter(|component| *component != Component::Scratch) {
            assert_eq!(ledger.peak(component), moved.bytes(component), "{component}");
        }
        let current: usize = Component::ALL.into_iter().map(|component| ledger.current(component)).sum();
        assert_eq!(control("emulator_used", 0), current, "bytes of the driver and of the ledger");
        assert_eq!(ledger.host_peak(), moved.host);
        // The driver gives whole allocations, of no bytes too.
        assert_eq!(control("emulator_pinned", 0) - own, moved.host);
        drop(trainer);
        assert_eq!((ledger.host(), control("emulator_pinned", 0)), (0, own));
        drop((decoder, device));
        assert_eq!(control("emulator_used", 0), 0, "bytes that nobody freed");
    }
}

#[test]
fn the_cpu_has_nothing_to_move() {
    let bench = Bench::new(5, 9);
    let device: Arc<dyn Device> = Arc::new(CpuDevice::new(1).unwrap());
    let data = TokenSet::open(&bench.path("data")).unwrap();
    let decoder = bench.decoder(&device);
    let error = Trainer::new(&decoder, &data, None, offloaded(&spec(3, 2))).err().unwrap();
    assert_eq!(error.to_string(), "the device `cpu` computes in host memory already");
    assert_eq!(error.hints, ["remove `offload`, or set `device: cuda`"]);
}

/// The waits of a run that can be left out without that anything changes, whichever stream is late.
fn unnoticed(bench: &Bench, spec: &TrainSpec) -> (Vec<usize>, usize) {
    let expected = bench.run(spec);
    let before = control("emulator_skip_wait", 0);
    bench.run(spec);
    let waits = control("emulator_skip_wait", 0) - before;
    let unnoticed = (1..=waits).filter(|number| {
        let noticed = [1, 2].into_iter().any(|late| {
            control("emulator_set_late_streams", late);
            control("emulator_skip_wait", *number);
            bench.run(spec) != expected
        });
        control("emulator_skip_wait", 0);
        control("emulator_set_late_streams", 0);
        !noticed
    });
    (unnoticed.collect(), waits)
}

#[test]
fn each_wait_for_an_offloaded_input_is_needed() {
    let _alone = ALONE.lock();
    if support::emulated(Precision::F32).is_none() {
        return;
    }
    let (unnoticed, waits) = unnoticed(&Bench::new(4, 1), &offloaded(&spec(1, 2)));
    // A step of four blocks, three inputs of which move: two waits to store, two to fetch each.
    assert_eq!(waits, 2 * 3 * 4);
    // Where the host reads the losses before backward begins, the first input may come back without a wait.
    let first_fetch = 3 * 2 + 1;
    assert!(unnoticed.iter().all(|number| number % 12 == first_fetch), "{unnoticed:?}");
}
