//! Training, resuming and evaluating a tiny model on the emulated driver, through the stages as the runner calls them:
//! near the CPU's numbers, the same bits every time, in exactly the memory that was planned.
#![expect(clippy::unwrap_used, reason = "a test")]

#[path = "../examples/roofline/launches.rs"]
mod launches;
#[path = "conformance/support/mod.rs"]
#[expect(dead_code, clippy::print_stderr, reason = "what the tests of operations share; a part of it is used here")]
mod support;
#[path = "common/training_spec.rs"]
mod training_spec;
#[path = "training/turing.rs"]
mod turing;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use camino::{Utf8Path, Utf8PathBuf};
use libloading::{Library, Symbol};
use luthier_core::{
    ArtifactKind, CancelToken, Digest, ErrorClass, EventSink, InputArtifact, PrepareEnv, StageContext, StageEvent,
    StageId, StageOutcome, StageRequest, StageResult, digest_path,
};
use luthier_cuda::Precision;
use luthier_formats::model_files::ModelFiles;
use luthier_formats::tokens::TokenSet;
use luthier_kernels::device::{Component, CpuDevice, Device, DeviceExt, Operation, Sampling, Storage};
use luthier_model::adapter::LoraSpec;
use luthier_model::memory::{MemoryPlan, RunShape, WeightTypes};
use luthier_model::train::{Duration, OptimizerSpec, StateFormat, TrainSpec, Trainer};
use luthier_model::{BaseFormat, Decoder, LanguageModel, LanguageModelOptions, LoadOptions, Sampler};
use luthier_test::{TinyModel, token_set};
use serde_json::{Value, json};

/// A counter of the emulated driver.
fn counter(name: &str) -> usize {
    // SAFETY: the emulated driver is loaded, and the function takes nothing.
    unsafe {
        let driver = Library::new("libcuda.so").unwrap();
        let get: Symbol<'_, unsafe extern "C" fn() -> usize> = driver.get(name.as_bytes()).unwrap();
        get()
    }
}

/// Bytes that the driver has given out and not got back.
fn used() -> usize {
    counter("emulator_used")
}

/// The driver's counters are the process's, so one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// A tiny model and its tokens.
struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { directory: tempfile::tempdir().unwrap() };
        let model = TinyModel::new(3);
        model.write_directory(&bench.path("model"));
        token_set(9, model.config.vocab_size).write(&bench.path("data")).unwrap();
        bench
    }

    fn path(&self, name: &str) -> Utf8PathBuf {
        Utf8Path::from_path(self.directory.path()).unwrap().join(name)
    }

    /// Runs a stage in the scratch directory `name`, and stops it after so many losses.
    fn run(
        &self,
        kind: &str,
        with: &Value,
        name: &str,
        after: usize,
        inputs: &[(&str, ArtifactKind)],
    ) -> StageResult<StageOutcome> {
        let registry = luthier_stages::registry();
        let stage = registry.get(kind).unwrap();
        let directory = self.path("pipeline");
        let prepared = stage.prepare(with, PrepareEnv { directory: &directory, cache: None, build: false }).unwrap();
        let scratch = self.path(name);
        for part in ["out", "tmp", "checkpoint"] {
            fs_err::create_dir_all(scratch.join(part)).unwrap();
        }
        let inputs: BTreeMap<String, Vec<InputArtifact>> = inputs
            .iter()
            .map(|(port, kind)| {
                let path = if *port == "adapter" { self.path("cuda/out/adapter") } else { self.path(port) };
                let digest = digest_path(&path).unwrap().0;
                let artifact = InputArtifact { from: format!("{port}.{kind}"), kind: *kind, digest, path };
                ((*port).to_owned(), vec![artifact])
            })
            .collect();
        let request = StageRequest {
            version: 1,
            stage: StageId::new("tested").unwrap(),
            kind: kind.to_owned(),
            config: prepared.config,
            inputs,
            sources: BTreeMap::new(),
            outputs: prepared.outputs,
            scratch,
            cache: self.path("cache"),
            directory,
            threads: 2,
            device: "cpu".to_owned(),
            offline: true,
            fresh: false,
        };
        let cancel = CancelToken::new();
        let sink = StopAfter { after, seen: Mutex::new(0), cancel: cancel.clone() };
        stage.run(&mut StageContext::new(request, &sink, cancel))
    }

    fn train(&self, with: &Value, name: &str, after: usize) -> StageResult<StageOutcome> {
        self.run("train", with, name, after, &[("model", ArtifactKind::Model), ("data", ArtifactKind::Tokens)])
    }

    fn adapter(&self, name: &str) -> Digest {
        digest_path(&self.path(name).join("out/adapter")).unwrap().0
    }

    /// All values of an adapter.
    fn values(&self, name: &str) -> Vec<f32> {
        let bytes = fs_err::read(self.path(name).join("out/adapter/adapter_model.safetensors")).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes[8 + header..].chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect()
    }
}

struct StopAfter {
    after: usize,
    seen: Mutex<usize>,
    cancel: CancelToken,
}

impl EventSink for StopAfter {
    fn emit(&self, event: StageEvent) {
        if matches!(event, StageEvent::Point { series, .. } if series == "loss") {
            let mut seen = self.seen.lock().unwrap();
            *seen += 1;
            if *seen == self.after {
                self.cancel.cancel();
            }
        }
    }
}

fn with(device: &str, compute: &str) -> Value {
    json!({
        "rank": 4, "alpha": 8, "batch": 4, "steps": 5, "learning_rate": 1e-2, "seed": 5, "dropout": 0.1,
        "checkpoint_seconds": 0, "device": device, "compute_type": compute, "cublas": "never",
    })
}

#[test]
fn a_training_is_that_of_the_cpu_repeats_its_bits_and_goes_on_after_a_stop() {
    let _alone = ALONE.lock();
    if support::emulated(Precision::F32).is_none() {
        return;
    }
    let bench = Bench::new();
    let cpu = bench.train(&with("cpu", "f32"), "cpu", 99).unwrap();
    let cuda = bench.train(&with("cuda", "f32"), "cuda", 99).unwrap();
    assert_eq!(used(), 0, "bytes that nobody freed");
    assert_eq!(cuda.metrics["driver_memory"].value, 0.0, "the emulated driver keeps nothing for itself");
    assert_eq!(cuda.metrics["engine_memory"].value, cuda.metrics["planned_memory"].value);
    assert_eq!(cuda.metrics["host_memory"].value, f64::from((4 << 20) + (4 << 10)));
    assert!(!cpu.metrics.contains_key("driver_memory") && !cpu.metrics.contains_key("host_memory"));
    let loss = |outcome: &StageOutcome, name: &str| outcome.metrics[name].value;
    // Sums in another order: some units in the last place of f32 a step.
    for name in ["loss_first", "loss"] {
        assert!(
            (loss(&cpu, name) - loss(&cuda, name)).abs() < 1e-4,
            "{name}: {} {}",
            loss(&cpu, name),
            loss(&cuda, name)
        );
    }
    assert!(loss(&cuda, "loss") < loss(&cuda, "loss_first"));
    // AdamW divides by the root of tiny second moments, so elements near zero move by whole steps either way.
    let distance = support::nmse(&bench.values("cuda"), &bench.values("cpu"));
    assert!(distance < 1e-4, "adapters differ by {distance:e} of their energy");

    for order in ["rev", "warps"] {
        support::in_order(order);
        bench.train(&with("cuda:0", "f32"), order, 99).unwrap();
        assert_eq!(bench.adapter(order), bench.adapter("cuda"), "in the order {order}");
    }
    support::in_order("fwd");
    for stop in [2, 1] {
        let error = bench.train(&with("cuda", "f32"), "stopped", stop).unwrap_err();
        assert_eq!(error.class, ErrorClass::Interrupted);
    }
    let resumed = bench.train(&with("cuda", "f32"), "stopped", 99).unwrap();
    assert_eq!(resumed.metrics["resumed_from"].value, 3.0);
    assert_eq!(bench.adapter("stopped"), bench.adapter("cuda"));

    let half = bench.train(&with("cuda", "bf16"), "bf16", 99).unwrap();
    // Factors have 8 bits: a loss of 5.7 nats is off by a few thousandths.
    assert!((loss(&cpu, "loss_first") - loss(&half, "loss_first")).abs() < 2e-2, "{}", loss(&half, "loss_first"));
    assert!(loss(&half, "loss") < loss(&half, "loss_first"));
    assert_eq!(used(), 0, "bytes that nobody freed");

    let eval = |device: &str, name: &str| {
        let inputs = [("model", ArtifactKind::Model), ("adapter", ArtifactKind::Adapter)];
        let with = json!({
            "forgetting": {"enabled": true, "window": 32, "documents": 2}, "device": device, "compute_type": "f32", "cublas": "never",
        });
        bench.run("eval", &with, name, 99, &inputs).unwrap()
    };
    let (expected, found) = (eval("cpu", "eval-cpu"), eval("cuda", "eval-cuda"));
    assert!(!expected.metrics.is_empty());
    for (name, metric) in &expected.metrics {
        let (a, b) = (metric.value, found.metrics[name].value);
        assert!(!metric.deterministic || (a - b).abs() <= 1e-4 * a.abs().max(1.0), "{name}: {a} {b}");
    }
    assert_eq!(used(), 0, "bytes that nobody freed");
}

#[test]
fn cublas_computes_large_products_where_it_is_found_and_not_refused() {
    let _alone = ALONE.lock();
    if support::is_real() || support::emulated(Precision::F32).is_none() {
        return;
    }
    let bench = Bench::new();
    // A batch of enough rows for cuBLAS.
    fs_err::remove_dir_all(bench.path("data")).unwrap();
    token_set(24, TinyModel::new(3).config.vocab_size).write(&bench.path("data")).unwrap();
    let with = |device: &str, cublas: &str| {
        let mut with = with(device, "bf16");
        with["batch"] = json!(24);
        with["cublas"] = json!(cublas);
        with
    };
    let class = |cublas: &str| {
        let (directory, stages) = (bench.path("pipeline"), luthier_stages::registry());
        let env = PrepareEnv { directory: &directory, cache: None, build: false };
        stages.get("train").unwrap().prepare(&with("cuda", cublas), env).unwrap().numeric_class.unwrap()
    };
    // SAFETY: loading it runs nothing; it stays, so that whoever asks for cuBLAS finds this one by the name inside it.
    let library = unsafe { Library::new(support::emulator::build_cublas()) }.unwrap();
    // SAFETY: the function takes nothing.
    let products = || unsafe {
        let count: Symbol<'_, unsafe extern "C" fn() -> u64> = library.get(b"emulator_cublas_products").unwrap();
        count()
    };
    assert_eq!(class("auto"), "cuda-8.0-bf16-cublas120904");
    assert_eq!(class("never"), "cuda-8.0-bf16");
    let cpu = bench.train(&with("cpu", "auto"), "cpu", 99).unwrap();
    let own = bench.train(&with("cuda", "never"), "cuda", 99).unwrap();
    assert_eq!(products(), 0);
    let theirs = bench.train(&with("cuda", "auto"), "cublas", 99).unwrap();
    assert!(products() > 0);
    assert_eq!(used(), 0, "bytes that nobody freed");
    for name in ["loss_first", "loss"] {
        let [cpu, own, theirs] = [&cpu, &own, &theirs].map(|outcome| outcome.metrics[name].value);
        // Factors have 8 bits, as in the test above; both round them alike, so their difference is that of sums.
        assert!((cpu - theirs).abs() < 2e-2, "{name}: {theirs}, on the CPU {cpu}");
        assert!((own - theirs).abs() < 2e-3, "{name}: {theirs}, with our kernels {own}");
    }
    assert!(theirs.metrics["loss"].value < theirs.metrics["loss_first"].value);
    let distance = support::nmse(&bench.values("cublas"), &bench.values("cuda"));
    assert!(distance < 1e-2, "adapters differ by {distance:e} of their energy");
    std::mem::forget(library);

    let inputs = [("model", ArtifactKind::Model), ("adapter", ArtifactKind::Adapter)];
    let evaluate = |cublas: &str| {
        let with = json!({
            "forgetting": {"enabled": true, "window": 128, "documents": 1}, "device": "cuda", "cublas": cublas,
        });
        bench.run("eval", &with, cublas, 99, &inputs).unwrap()
    };
    let (own, theirs) = (evaluate("never"), evaluate("auto"));
    for (name, metric) in own.metrics.iter().filter(|(_, metric)| metric.deterministic) {
        let (a, b) = (metric.value, theirs.metrics[name].value);
        assert!((a - b).abs() <= 2e-3 * a.abs().max(1.0), "{name}: {a} {b}");
    }
}

#[test]
fn tokens_chosen_on_the_device_are_the_cpu_s() {
    let _alone = ALONE.lock();
    let Some(cuda) = support::emulated(Precision::F32) else { return };
    let bench = Bench::new();
    let devices: [Arc<dyn Device>; 2] = [Arc::new(CpuDevice::new(2).unwrap()), Arc::new(cuda)];
    let prompts: Vec<Vec<u32>> = (1..5u32).map(|length| (0..length).map(|at| 9 * length + 5 * at).collect()).collect();
    let answers = devices.map(|device| {
        let model = bench.path("model");
        let base = BaseFormat::Stored;
        let options = LanguageModelOptions { model: &model, adapter: None, base, max_tokens: 64, threads: 2 };
        let mut model = LanguageModel::load_on(&device, options).unwrap();
        [(0.0, 0, 1.0), (0.8, 0, 1.0), (1.0, 20, 1.0), (1.5, 0, 0.6)].map(|(temperature, top_k, top_p)| {
            let sampling = Sampling { temperature, top_k, top_p };
            let sampler = (temperature > 0.0).then_some(Sampler { sampling, seed: 11 });
            model.generate(&prompts, 8, &[2], sampler).unwrap()
        })
    });
    let [cpu, cuda] = &answers;
    assert_eq!(cuda, cpu);
    assert!(cpu[0] != cpu[1] && cpu[1] != cpu[2], "something is drawn");
    assert_eq!(used(), 0, "bytes that nobody freed");
}

fn spec() -> TrainSpec {
    let spec = training_spec::spec(4, 2);
    TrainSpec { optimizer: OptimizerSpec { states: StateFormat::Blocks8, ..spec.optimizer }, ..spec }
}

/// Trains two steps in memory of which every byte is planned; `cublas` says whose the large products are.
fn check_memory(bench: &Bench, spec: &TrainSpec, base: BaseFormat, cublas: bool) {
    let mut device = support::emulated(Precision::Bf16).unwrap();
    if cublas {
        device.use_cublas().unwrap();
    }
    let device: Arc<dyn Device> = Arc::new(device);
    let data = TokenSet::open(&bench.path("data")).unwrap();
    let files = ModelFiles::open(&bench.path("model")).unwrap();
    let types = WeightTypes::of_files(&files, base);
    let shape = RunShape::of_data(&data, spec).validated(data.meta.longest);
    let kind = device.activation_type();
    let plan = MemoryPlan::of_device(files.config(), types, spec, shape, kind, device.costs()).unwrap();
    let before = counter("emulator_most_used");
    let decoder = Decoder::load(&device, &files, LoadOptions { base, positions: data.meta.longest }).unwrap();
    let mut trainer = Trainer::new(&decoder, &data, Some(&data), spec.clone()).unwrap();
    for _ in 0..2 {
        trainer.check_gradients().unwrap();
        trainer.compute().unwrap();
        trainer.apply().unwrap();
        trainer.evaluate(&data).unwrap();
        let _ = trainer.checkpoint();
    }
    let ledger = device.ledger();
    for component in Component::ALL {
        assert_eq!(ledger.peak(component), plan.bytes(component), "{component}");
        assert_eq!(ledger.current(component), plan.bytes(component), "{component}");
    }
    assert_eq!(used(), plan.total(), "bytes of the driver and of the plan");
    // The most is that of all trainings so far.
    assert_eq!(counter("emulator_most_used"), before.max(plan.total()));
    drop(trainer);
    drop((decoder, device));
    assert_eq!(used(), 0, "bytes that nobody freed");
}

#[test]
fn memory_is_that_of_the_plan_and_of_the_driver_to_the_byte() {
    let _alone = ALONE.lock();
    if support::emulated(Precision::Bf16).is_none() || support::is_real() {
        return;
    }
    let bench = Bench::new();
    let mut dora = TrainSpec { batch: 9, checkpointing: false, share_prefix: false, ..spec() };
    (dora.lora.dora, dora.lora.dropout) = (true, 0.0);
    dora.optimizer.states = StateFormat::F32;
    let shared = TrainSpec { lora: LoraSpec { dropout: 0.0, ..spec().lora }, ..spec() };
    for spec in [spec(), dora, shared] {
        for base in [BaseFormat::Nf4, BaseFormat::Stored] {
            check_memory(&bench, &spec, base, false);
        }
    }
    // SAFETY: the emulated library has no initialisers. It stays loaded, so that it is found by its name.
    std::mem::forget(unsafe { Library::new(support::emulator::build_cublas()) }.unwrap());
    check_memory(&bench, &TrainSpec { batch: 9, ..spec() }, BaseFormat::Nf4, true);
}

#[test]
fn an_operation_that_borrows_more_than_was_planned_says_so() {
    let _alone = ALONE.lock();
    let Some(device) = support::emulated(Precision::Bf16) else { return };
    let planned = [Operation::MatmulNt([64, 16, 128], Storage::Nf4), Operation::Norm(100)];
    device.reserve(&planned).unwrap();
    let device: &dyn Device = &device;
    let x = device.buffer::<f32>(Component::Scratch, 40_000_000).unwrap();
    let mut out = device.buffer::<f64>(Component::Scratch, 1).unwrap();
    device.norm(x.slice(..4_000_000), out.all_mut());
    device.synchronize().unwrap();
    device.norm(x.all(), out.all_mut());
    let error = device.synchronize().unwrap_err().to_string();
    let expected = "an operation borrows 39064 bytes of scratch memory, but the largest that was planned borrows 4096";
    assert!(error.contains(expected), "{error}");
    assert_eq!(device.ledger().current(Component::Scratch), 4 * 40_000_000 + 8 + 4096);
}

#[test]
fn a_step_waits_for_the_device_once_and_copies_pinned_memory_only() {
    let _alone = ALONE.lock();
    let Some(device) = support::emulated(Precision::Bf16) else { return };
    if support::is_real() {
        return;
    }
    let bench = Bench::new();
    let device: Arc<dyn Device> = Arc::new(device);
    let data = TokenSet::open(&bench.path("data")).unwrap();
    let files = ModelFiles::open(&bench.path("model")).unwrap();
    let options = LoadOptions { base: BaseFormat::Nf4, positions: data.meta.longest };
    let decoder = Decoder::load(&device, &files, options).unwrap();
    for (accumulate, neftune, paged) in [(1, 0.0, false), (3, 5.0, false), (1, 0.0, true)] {
        let pages = paged.then(Utf8PathBuf::new);
        let spec = TrainSpec { batch: 2, accumulate, neftune, pages, duration: Duration::Steps(5), ..spec() };
        let mut trainer = Trainer::new(&decoder, &data, None, spec).unwrap();
        for step in 0..5 {
            let before = ["emulator_waits", "emulator_pageable_copies"].map(counter);
            trainer.compute().unwrap();
            trainer.apply().unwrap();
            let after = ["emulator_waits", "emulator_pageable_copies"].map(counter);
            // Where copies were queued beside the operations, both streams are waited for, unless a graph has them.
            let waits = if paged && (1..=2).contains(&step) { 3 } else { 1 };
            assert_eq!([after[0] - before[0], after[1] - before[1]], [waits, 0], "step {step}");
        }
        trainer.settle().unwrap();
    }
}

/// Launches of the first step of a model of so many layers.
fn first_step(layers: usize, checkpointing: bool) -> usize {
    let mut device = support::emulated(Precision::Bf16).unwrap();
    device.capture_graphs(false);
    let device: Arc<dyn Device> = Arc::new(device);
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| Utf8Path::from_path(directory.path()).unwrap().join(name);
    let mut model = TinyModel::new(3);
    model.config.layers = layers;
    model.write_directory(&path("model"));
    token_set(24, model.config.vocab_size).write(&path("data")).unwrap();
    let data = TokenSet::open(&path("data")).unwrap();
    let files = ModelFiles::open(&path("model")).unwrap();
    let options = LoadOptions { base: BaseFormat::Nf4, positions: data.meta.longest };
    let decoder = Decoder::load(&device, &files, options).unwrap();
    let mut spec = TrainSpec { batch: 12, checkpointing, share_prefix: false, ..spec() };
    (spec.lora.rank, spec.lora.dropout) = (16, 0.0);
    let mut trainer = Trainer::new(&decoder, &data, None, spec).unwrap();
    let before = counter("emulator_launch_calls");
    trainer.compute().unwrap();
    counter("emulator_launch_calls") - before
}

#[test]
fn a_layer_takes_fewer_than_forty_launches_a_pass() {
    let _alone = ALONE.lock();
    if support::is_real() || support::emulated(Precision::Bf16).is_none() {
        return;
    }
    let [two, three] = [2, 3].map(|layers| first_step(layers, false));
    let [two_again, three_again] = [2, 3].map(|layers| first_step(layers, true));
    let (once, again) = (three - two, three_again - two_again);
    assert_eq!(once, launches::FORWARD + launches::BACKWARD, "forward and backward");
    assert_eq!(again - once, launches::AGAIN, "recomputing");
    assert!([launches::FORWARD, launches::AGAIN, launches::BACKWARD].iter().all(|count| *count < 40));
}

/// Losses, norms and adapters of a run, and for each step its calls of kernels and of graphs.
fn run_steps(bench: &Bench, spec: &TrainSpec, graphs: bool) -> (Vec<[u64; 2]>, Vec<u32>, Vec<[usize; 2]>) {
    let mut device = support::emulated(Precision::Bf16).unwrap();
    device.capture_graphs(graphs);
    let device: Arc<dyn Device> = Arc::new(device);
    let data = TokenSet::open(&bench.path("data")).unwrap();
    let files = ModelFiles::open(&bench.path("model")).unwrap();
    let options = LoadOptions { base: BaseFormat::Nf4, positions: data.meta.longest };
    let decoder = Decoder::load(&device, &files, options).unwrap();
    let mut trainer = Trainer::new(&decoder, &data, None, spec.clone()).unwrap();
    let (mut numbers, mut calls) = (Vec::new(), Vec::new());
    while trainer.step() < trainer.total() {
        let before = ["emulator_launch_calls", "emulator_graph_launches"].map(counter);
        let report = trainer.compute().unwrap();
        trainer.apply().unwrap();
        numbers.push([report.loss.to_bits(), report.grad_norm.to_bits()]);
        let after = ["emulator_launch_calls", "emulator_graph_launches"].map(counter);
        calls.push([after[0] - before[0], after[1] - before[1]]);
    }
    trainer.settle().unwrap();
    (numbers, trainer.values().iter().map(|value| value.to_bits()).collect(), calls)
}

#[test]
fn graphs_change_no_bit_and_take_the_place_of_launches() {
    let _alone = ALONE.lock();
    if support::emulated(Precision::Bf16).is_none() || support::is_real() {
        return;
    }
    let bench = Bench::new();
    let samples = TokenSet::open(&bench.path("data")).unwrap().samples.len();
    // All samples in each step: micro-batches of one sample come back in another order, one of all of them does not change.
    let whole = TrainSpec { batch: samples, duration: Duration::Steps(4), neftune: 5.0, ..spec() };
    let single = TrainSpec { batch: 1, accumulate: samples, duration: Duration::Steps(3), ..spec() };
    let mut dora = TrainSpec { neftune: 0.0, ..whole.clone() };
    dora.lora.dora = true;
    let plain = TrainSpec { neftune: 0.0, lora: LoraSpec { dropout: 0.0, ..spec().lora }, ..whole.clone() };
    let paged = TrainSpec { pages: Some(Utf8PathBuf::new()), ..whole.clone() };
    let offloaded = TrainSpec { offload: true, ..paged.clone() };
    for (name, spec) in [
        ("noise", &whole),
        ("accumulated", &single),
        ("dora", &dora),
        ("shared prefix", &plain),
        ("paged", &paged),
        ("offloaded too", &offloaded),
    ] {
        let (numbers, values, launched) = run_steps(&bench, spec, false);
        let (same_numbers, same_values, replayed) = run_steps(&bench, spec, true);
        assert_eq!(numbers, same_numbers, "{name}");
        assert_eq!(values, same_values, "{name}");
        assert!(launched.iter().all(|[kernels, graphs]| *kernels > 100 && *graphs == 0), "{name}: {launched:?}");
        if spec.batch > 1 {
            assert_eq!(replayed[0], launched[0], "{name}: a first step launches");
            // Nothing is launched one by one but the norm: its pieces and their sum.
            assert_eq!(replayed[1][1], 2, "{name}: a second step captures");
            assert!(replayed[2..].iter().all(|calls| *calls == [2, 2]), "{name}: {replayed:?}");
        } else {
            assert!(replayed[2][0] < launched[2][0], "{name}: {replayed:?}");
        }
    }
    assert_eq!(used(), 0, "bytes that nobody freed");
}
