//! What does not stay on the device, on the emulated driver: block inputs and moments in host memory, frozen blocks on disk.
//! The bits are those of a run that keeps everything there, on whichever stream the driver is late; memory is that of the plan; and a wait
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
use luthier_kernels::device::{Component, CpuDevice, Device, HostComponent};
use luthier_model::adapter::{LoraSpec, Targets};
use luthier_model::memory::{MemoryPlan, RunShape, WeightTypes};
use luthier_model::train::{OptimizerSpec, StateFormat, TrainSpec, Trainer};
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

/// Pages of a block of 256 elements that an adapter of `v_proj` of rank 16 has: 16 · 64 elements and 32 · 16.
const PAGES: usize = 6;

/// Which streams the driver lets wait as long as it may.
const SCHEDULES: [usize; 4] = [0, 1, 2, 3];

struct Bench {
    directory: tempfile::TempDir,
}

/// What a run leaves: the bits of its losses, and digests of its values and of its moments.
type Bits = (Vec<u64>, [blake3::Hash; 2]);

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
        self.run_on(device(Precision::F32, true), spec, stream)
    }

    fn run_on(&self, device: Arc<dyn Device>, spec: &TrainSpec, stream: bool) -> Bits {
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
        let left = trainer.checkpoint();
        (losses, [bytemuck::cast_slice(&left.params), left.states.as_slice()].map(blake3::hash))
    }
}

fn device(precision: Precision, graphs: bool) -> Arc<dyn Device> {
    let mut device = support::emulated(precision).unwrap();
    device.capture_graphs(graphs);
    Arc::new(device)
}

fn offloaded(spec: &TrainSpec) -> TrainSpec {
    TrainSpec { offload: true, ..spec.clone() }
}

fn paged(spec: &TrainSpec) -> TrainSpec {
    TrainSpec { pages: Some(Utf8PathBuf::new()), ..spec.clone() }
}

/// Tensors on both sides of the least that has 8-bit moments.
fn eight_bit(spec: &TrainSpec) -> TrainSpec {
    let mut spec = spec.clone();
    spec.lora.rank_pattern.insert("(gate|up|down)_proj".to_owned(), 70);
    spec.optimizer.states = StateFormat::Blocks8;
    spec
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
fn paged_moments_give_the_bits_of_those_that_stay_however_late_a_stream_is() {
    let _alone = ALONE.lock();
    if support::emulated(Precision::F32).is_none() {
        return;
    }
    let bench = Bench::new(2, 9);
    let all = TrainSpec { batch: 9, ..spec(9, 4) };
    for (name, spec) in [("f32", all.clone()), ("8 bits", eight_bit(&all)), ("one page", spec(3, 3))] {
        let mut spec = spec;
        if name == "one page" {
            spec.lora.targets = Targets::Pattern(r"model\.layers\.1\.self_attn\.v_proj".to_owned());
            spec.lora.rank = 2;
        }
        let expected = bench.run(&spec, false);
        for late in SCHEDULES {
            control("emulator_set_late_streams", late);
            for graphs in [false, true] {
                let found = bench.run_on(device(Precision::F32, graphs), &paged(&spec), false);
                assert_eq!(found, expected, "{name}, schedule {late}, graphs {graphs}");
            }
        }
        control("emulator_set_late_streams", 0);
    }
    assert_eq!((control("emulator_used", 0), control("emulator_pinned", 0)), (0, 0), "bytes that nobody freed");
}

#[test]
fn all_that_moves_together_gives_the_bits_of_what_stays() {
    let _alone = ALONE.lock();
    if support::emulated(Precision::F32).is_none() {
        return;
    }
    let bench = Bench::new(5, 9);
    for precision in [Precision::F32, Precision::Bf16] {
        let spec = eight_bit(&spec(3, 3));
        let run = |spec: &TrainSpec, stream| bench.run_on(device(precision, true), spec, stream);
        let expected = run(&spec, false);
        for late in SCHEDULES {
            control("emulator_set_late_streams", late);
            assert_eq!(run(&offloaded(&spec), true), expected, "{precision:?}, schedule {late}");
            assert_eq!(run(&paged(&offloaded(&spec)), true), expected, "{precision:?}, paged, schedule {late}");
        }
        control("emulator_set_late_streams", 0);
    }
    assert_eq!((control("emulator_used", 0), control("emulator_pinned", 0)), (0, 0), "bytes that nobody freed");
}

#[test]
fn a_checkpoint_of_paged_moments_is_that_of_moments_that_stay_and_goes_on_either_way() {
    let _alone = ALONE.lock();
    if support::emulated(Precision::F32).is_none() {
        return;
    }
    let bench = Bench::new(2, 9);
    let data = TokenSet::open(&bench.path("data")).unwrap();
    let spec = eight_bit(&spec(9, 5));
    for (graphs, late) in [(false, 3), (true, 0)] {
        control("emulator_set_late_streams", late);
        let device = device(Precision::F32, graphs);
        let decoder = bench.decoder(&device, false);
        let open = |spec: &TrainSpec| Trainer::new(&decoder, &data, None, spec.clone()).unwrap();
        let steps = |trainer: &mut Trainer<'_>, until: u64| {
            while trainer.step() < until {
                trainer.compute().unwrap();
                trainer.apply().unwrap();
            }
            trainer.checkpoint()
        };
        let (mut resident, mut moved) = (open(&spec), open(&paged(&spec)));
        let (kept, found) = (steps(&mut resident, 3), steps(&mut moved, 3));
        assert_eq!(found.states, kept.states);
        assert!(kept.states.iter().any(|byte| *byte != 0));
        let expected = steps(&mut resident, 5);
        assert_eq!(steps(&mut moved, 5).states, expected.states);
        // From what the other one left, and back to a step that it was at before.
        moved.restore(&kept).unwrap();
        resident.restore(&found).unwrap();
        for trainer in [&mut moved, &mut resident] {
            let again = steps(trainer, 5);
            assert_eq!((again.states, again.params), (expected.states.clone(), expected.params.clone()));
        }
        let mut fresh = open(&paged(&spec));
        fresh.restore(&found).unwrap();
        assert_eq!(steps(&mut fresh, 5).params, expected.params);
    }
    control("emulator_set_late_streams", 0);
}

#[test]
fn memory_on_both_sides_is_that_of_the_plan_and_of_the_driver() {
    let _alone = ALONE.lock();
    if support::emulated(Precision::F32).is_none() {
        return;
    }
    for (layers, offload, stream, paged, states) in [
        (1, true, true, false, StateFormat::F32),
        (2, true, false, true, StateFormat::F32),
        (2, false, true, false, StateFormat::F32),
        (5, true, false, false, StateFormat::Blocks8),
        (5, false, true, true, StateFormat::Blocks8),
        (5, false, false, true, StateFormat::Blocks8),
        (5, true, true, true, StateFormat::F32),
    ] {
        let bench = Bench::new(layers, 9);
        let device: Arc<dyn Device> = Arc::new(support::emulated(Precision::F32).unwrap());
        let data = TokenSet::open(&bench.path("data")).unwrap();
        let files = ModelFiles::open(&bench.path("model")).unwrap();
        let types = WeightTypes::of_files(&files, BaseFormat::Nf4);
        let plan = |spec: &TrainSpec| {
            let (shape, kind) = (RunShape::of_data(&data, spec), device.activation_type());
            MemoryPlan::of_device(files.config(), types, spec, shape, kind, device.costs()).unwrap()
        };
        let spec = TrainSpec { offload, pages: paged.then(Utf8PathBuf::new), ..spec(3, 2) };
        let spec = TrainSpec { optimizer: OptimizerSpec { states, ..spec.optimizer }, ..spec };
        let resident = TrainSpec { offload: false, pages: None, ..spec.clone() };
        let (kept, moved) = (plan(&resident), plan(&spec));
        let inputs = moved.host.block_inputs;
        assert_eq!(kept.checkpoint - moved.checkpoint, inputs, "what the device has not, the host has");
        let moving = if offload { layers.saturating_sub(1) } else { 0 };
        assert_eq!(kept.checkpoint * moving, inputs * (layers + 1), "all inputs but the last");
        assert_eq!(paged, moved.host.moments >= kept.optimizer && moved.optimizer < kept.optimizer / 4);
        let moved = if stream { moved.streamed(files.config(), true) } else { moved };
        let decoder = bench.decoder(&device, stream);
        let mut trainer = Trainer::new(&decoder, &data, None, spec.clone()).unwrap();
        trainer.compute().unwrap();
        trainer.apply().unwrap();
        let ledger = device.ledger();
        for component in Component::ALL {
            assert_eq!(ledger.peak(component), moved.bytes(component), "{component}");
        }
        for component in HostComponent::ALL {
            assert_eq!(ledger.host_peak(component), moved.host.bytes(component), "on the host: {component}");
        }
        assert_eq!(control("emulator_used", 0), moved.total(), "bytes of the driver and of the plan");
        assert_eq!((ledger.host_total_peak(), control("emulator_pinned", 0)), (moved.host.total(), moved.host.total()));
        drop(trainer);
        drop(decoder);
        assert_eq!(control("emulator_pinned", 0), moved.host.staging, "the device's own");
        assert!(HostComponent::ALL.into_iter().skip(1).all(|component| ledger.host(component) == 0));
        drop(device);
        assert_eq!((control("emulator_used", 0), control("emulator_pinned", 0)), (0, 0), "bytes that nobody freed");
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
fn unnoticed(bench: &Bench, spec: &TrainSpec, stream: bool, graphs: bool) -> (Vec<usize>, usize) {
    let run = || bench.run_on(device(Precision::F32, graphs), spec, stream);
    let before = control("emulator_skip_wait", 0);
    let expected = run();
    let waits = control("emulator_skip_wait", 0) - before;
    let unnoticed = (1..=waits).filter(|number| {
        let noticed = SCHEDULES.into_iter().any(|late| {
            control("emulator_set_late_streams", late);
            control("emulator_skip_wait", *number);
            run() != expected
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
    let (unnoticed, waits) = unnoticed(&Bench::new(4, 1), &offloaded(&spec(1, 1)), false, false);
    // Of four blocks three inputs move: two waits to store and two to fetch each.
    assert_eq!(waits, 3 * 4);
    // Where the host reads the losses before backward begins, the first input may come back without a wait.
    assert!(unnoticed.is_empty() || unnoticed == [7], "{unnoticed:?}");
}

#[test]
fn a_wait_for_a_page_of_moments_that_is_left_out_is_noticed() {
    let _alone = ALONE.lock();
    if support::emulated(Precision::F32).is_none() {
        return;
    }
    let mut spec = spec(2, 2);
    spec.lora.targets = Targets::Names(vec!["v_proj".to_owned()]);
    spec.lora.rank = 16;
    for graphs in [false, true] {
        let (mut unnoticed, waits) = unnoticed(&Bench::new(1, 2), &paged(&spec), false, graphs);
        let step = 2 + 2 * PAGES;
        assert_eq!(
            waits,
            2 * step + 2,
            "the first and the last of a step, two a page, and the host's for a checkpoint"
        );
        // In the first step the moments of `A` stay zero, as `B` is.
        unnoticed.retain(|number| *number > step);
        // Before the first the host has waited for the device, and each of the last and the host's stands for the others; a
        // graph without the first or the last is not captured.
        assert_eq!(unnoticed, [step + 1, 2 * step, 2 * step + 1, 2 * step + 2], "graphs {graphs}");
    }
}

#[test]
fn a_wait_for_a_streamed_block_that_is_left_out_is_noticed() {
    let _alone = ALONE.lock();
    if support::emulated(Precision::F32).is_none() {
        return;
    }
    let (unnoticed, waits) = unnoticed(&Bench::new(4, 1), &spec(1, 1), true, false);
    // Two blocks that find an empty slot: two waits each. Two forward and two backward: the host's besides.
    assert_eq!(waits, 2 * 2 + 4 * 3);
    // Before the first two the host has waited for the device already, and the last stage is free since the one before is.
    assert!(unnoticed.iter().all(|number| [1, 3, 14].contains(number)), "{unnoticed:?}");
}
