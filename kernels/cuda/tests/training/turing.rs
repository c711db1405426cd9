//! The same on a device of compute capability 7.5, which keeps activations in f16 and scales the loss.

use luthier_core::StageError;
use luthier_kernels::device::FloatType;
use luthier_model::train::LossScale;

use super::*;

/// Devices are of capability 7.5 while it lives.
struct Turing;

impl Turing {
    /// `None` where there is no emulated driver.
    fn new() -> Option<Self> {
        if support::is_real() || support::emulated(Precision::F32).is_none() {
            return None;
        }
        support::in_capability(7, 5);
        Some(Self)
    }
}

impl Drop for Turing {
    fn drop(&mut self) {
        support::in_capability(8, 0);
    }
}

/// A model whose matrices are this much spread.
fn spread(spread: f32) -> Bench {
    let bench = Bench::new();
    fs_err::remove_dir_all(bench.path("model")).unwrap();
    TinyModel { spread, ..TinyModel::new(3) }.write_directory(&bench.path("model"));
    bench
}

fn metric(outcome: &StageOutcome, name: &str) -> f64 {
    outcome.metrics[name].value
}

#[test]
fn a_training_in_f16_is_that_of_the_cpu_and_goes_on_after_a_stop() {
    let _alone = ALONE.lock();
    let Some(_turing) = Turing::new() else { return };
    let bench = Bench::new();
    let cpu = bench.train(&with("cpu", "f32"), "cpu", 99).unwrap();
    let half = bench.train(&with("cuda", "f16"), "cuda", 99).unwrap();
    assert_eq!(used(), 0, "bytes that nobody freed");
    // Factors have 11 bits, eight times as fine as bf16's.
    for name in ["loss_first", "loss"] {
        let (cpu, half) = (metric(&cpu, name), metric(&half, name));
        assert!((cpu - half).abs() < 2.5e-3, "{name}: {cpu} {half}");
    }
    assert!(metric(&half, "loss") < metric(&half, "loss_first"));
    assert_eq!(metric(&half, "skipped_steps"), 0.0);
    assert!(!cpu.metrics.contains_key("skipped_steps"));
    let distance = support::nmse(&bench.values("cuda"), &bench.values("cpu"));
    assert!(distance < 1e-2, "adapters differ by {distance:e} of their energy");

    for order in ["rev", "warps"] {
        support::in_order(order);
        bench.train(&with("cuda", "auto"), order, 99).unwrap();
        assert_eq!(bench.adapter(order), bench.adapter("cuda"), "in the order {order}");
    }
    support::in_order("fwd");
    for stop in [2, 1] {
        bench.train(&with("cuda", "f16"), "stopped", stop).unwrap_err();
    }
    let resumed = bench.train(&with("cuda", "f16"), "stopped", 99).unwrap();
    assert_eq!(metric(&resumed, "resumed_from"), 3.0);
    assert_eq!(bench.adapter("stopped"), bench.adapter("cuda"));

    let inputs = [("model", ArtifactKind::Model), ("adapter", ArtifactKind::Adapter)];
    let evaluate = |device: &str| {
        let with = json!({"forgetting": {"enabled": true, "window": 32, "documents": 2}, "device": device});
        bench.run("eval", &with, &format!("eval-{device}"), 99, &inputs).unwrap()
    };
    let (expected, found) = (evaluate("cpu"), evaluate("cuda"));
    // Changes are small differences of perplexities in the hundreds, which are compared themselves.
    let compared = |name: &str, deterministic: bool| deterministic && !name.starts_with("change.");
    for (name, metric) in expected.metrics.iter().filter(|(name, metric)| compared(name, metric.deterministic)) {
        let (a, b) = (metric.value, found.metrics[name].value);
        assert!((a - b).abs() <= 2e-3 * a.abs().max(1.0), "{name}: {a} {b}");
    }
    assert_eq!(used(), 0, "bytes that nobody freed");
}

#[test]
fn the_type_of_a_device_is_in_the_key_and_another_is_refused() {
    let _alone = ALONE.lock();
    let Some(_turing) = Turing::new() else { return };
    let bench = Bench::new();
    let (directory, stages) = (bench.path("pipeline"), luthier_stages::registry());
    let prepare = |compute: &str| {
        let env = PrepareEnv { directory: &directory, cache: None, build: false };
        stages.get("train").unwrap().prepare(&with("cuda", compute), env)
    };
    let class = |compute: &str| prepare(compute).unwrap().numeric_class.unwrap();
    assert_eq!(["auto", "f16", "f32"].map(class), ["cuda-7.5-f16", "cuda-7.5-f16", "cuda-7.5-f32"]);
    let issues = prepare("bf16").unwrap_err();
    assert_eq!(issues[0].message, "`cuda:0`, of compute capability 7.5, does not compute in bf16");
}

#[test]
fn steps_whose_gradients_overflow_are_left_out_and_the_scale_is_halved() {
    let _alone = ALONE.lock();
    let Some(_turing) = Turing::new() else { return };
    // Gradients of a head and of blocks so large leave the range at the first scales.
    let bench = spread(1.5);
    let with = |device: &str| {
        let mut with = with(device, "auto");
        with["steps"] = json!(12);
        with["learning_rate"] = json!(1e-3);
        with
    };
    let whole = bench.train(&with("cuda"), "cuda", 99).unwrap();
    let skipped = metric(&whole, "skipped_steps");
    assert!((1.0..9.0).contains(&skipped), "{skipped} steps were left out");
    assert_eq!(metric(&whole, "steps"), 12.0);
    assert!(bench.values("cuda").iter().all(|value| value.is_finite()));
    // Also while steps are still left out, and between them.
    for stop in [1, 1, 3] {
        bench.train(&with("cuda"), "stopped", stop).unwrap_err();
    }
    let resumed = bench.train(&with("cuda"), "stopped", 99).unwrap();
    assert_eq!(metric(&resumed, "skipped_steps"), skipped);
    assert_eq!(bench.adapter("stopped"), bench.adapter("cuda"));
}

#[test]
fn an_activation_beyond_the_range_is_named() {
    let _alone = ALONE.lock();
    let Some(_turing) = Turing::new() else { return };
    let bench = spread(60.0);
    let expect = |error: StageError| {
        let place = "the input of `model.layers.0.mlp.down_proj` is beyond 65504, the largest number of f16";
        assert_eq!(error.code, "model::f16_overflow");
        assert!(error.message.contains(place), "{error}");
        assert!(error.hints.concat().contains("`compute_type: f32`"));
    };
    expect(bench.train(&with("cuda", "auto"), "cuda", 99).unwrap_err());
    bench.train(&with("cuda", "f32"), "f32", 99).unwrap();
    let inputs = [("model", ArtifactKind::Model)];
    let with = json!({"forgetting": {"enabled": true, "window": 32, "documents": 1}, "device": "cuda"});
    expect(bench.run("eval", &with, "eval", 99, &inputs).unwrap_err());
}

#[test]
fn cublas_computes_large_products_of_halves() {
    let _alone = ALONE.lock();
    let Some(_turing) = Turing::new() else { return };
    let bench = Bench::new();
    // A batch of enough rows for cuBLAS.
    fs_err::remove_dir_all(bench.path("data")).unwrap();
    token_set(24, TinyModel::new(3).config.vocab_size).write(&bench.path("data")).unwrap();
    // SAFETY: loading it runs nothing; it stays, so that whoever asks for cuBLAS finds this one by the name inside it.
    let library = unsafe { Library::new(support::emulator::build_cublas()) }.unwrap();
    // SAFETY: the function takes nothing.
    let products = || unsafe {
        let count: Symbol<'_, unsafe extern "C" fn() -> u64> = library.get(b"emulator_cublas_products").unwrap();
        count()
    };
    let train = |cublas: &str| {
        let mut with = with("cuda", "auto");
        (with["batch"], with["cublas"]) = (json!(24), json!(cublas));
        bench.train(&with, cublas, 99).unwrap()
    };
    let before = products();
    let own = train("never");
    assert_eq!(products(), before);
    let theirs = train("auto");
    assert!(products() > before);
    for name in ["loss_first", "loss"] {
        let (own, theirs) = (metric(&own, name), metric(&theirs, name));
        // Both round alike, so their difference is that of sums and of which way a few halves were rounded.
        assert!((own - theirs).abs() < 3e-4, "{name}: {own} {theirs}");
    }
    let distance = support::nmse(&bench.values("auto"), &bench.values("never"));
    assert!(distance < 1e-2, "adapters differ by {distance:e} of their energy");
    check_memory(&bench, &TrainSpec { batch: 24, ..spec() }, BaseFormat::Nf4, true);
    std::mem::forget(library);
}

fn decoder(bench: &Bench, files: &ModelFiles) -> Decoder {
    let mut device = support::emulated(Precision::Bf16).unwrap();
    device.capture_graphs(false);
    let device: Arc<dyn Device> = Arc::new(device);
    assert_eq!(device.activation_type(), FloatType::F16);
    let positions = TokenSet::open(&bench.path("data")).unwrap().meta.longest;
    Decoder::load(&device, files, LoadOptions { base: BaseFormat::Nf4, positions }).unwrap()
}

/// What is multiplied and divided by powers of two loses nothing, so norms and updates do not depend on the scale as long
/// as nothing underflows; and a step that is left out moves nothing but the order of the data.
#[test]
fn the_scale_is_in_no_number_that_leaves_a_step() {
    let _alone = ALONE.lock();
    let Some(_turing) = Turing::new() else { return };
    let bench = Bench::new();
    let files = ModelFiles::open(&bench.path("model")).unwrap();
    let (decoder, data) = (decoder(&bench, &files), TokenSet::open(&bench.path("data")).unwrap());
    let spec = TrainSpec { duration: Duration::Steps(6), ..spec() };
    let trainer = |exponent: i32| {
        let mut trainer = Trainer::new(&decoder, &data, None, spec.clone()).unwrap();
        let scale = LossScale { exponent, good: 0, skipped: 0 };
        let checkpoint = trainer.checkpoint();
        trainer.restore(&luthier_model::train::Checkpoint { loss_scale: Some(scale), ..checkpoint }).unwrap();
        trainer
    };
    let norms = [14, 15].map(|exponent| {
        let mut trainer = trainer(exponent);
        let report = trainer.compute().unwrap();
        assert_eq!(report.loss_scale, Some(f64::from(exponent).exp2()));
        (report.grad_norm, trainer.gradients())
    });
    assert!((norms[0].0 / norms[1].0 - 1.0).abs() < 1e-6, "{} {}", norms[0].0, norms[1].0);
    assert!(support::nmse(&norms[0].1, &norms[1].1) < 1e-8);

    let mut trainer = trainer(60);
    let (before, states) = (trainer.values(), trainer.checkpoint().states);
    let report = trainer.compute().unwrap();
    assert!(report.skipped && report.loss.is_finite() && !report.grad_norm.is_finite());
    trainer.apply().unwrap();
    assert_eq!((trainer.values(), trainer.checkpoint().states), (before, states));
    assert_eq!((trainer.step(), trainer.skipped()), (1, 1));
    assert_eq!(trainer.loss_scale().unwrap().exponent, 59);
    let second = trainer.compute().unwrap();
    // The schedule has not moved.
    assert_eq!(second.learning_rate, report.learning_rate);
    assert_ne!(second.samples, report.samples);
}

#[test]
fn memory_in_f16_is_that_of_the_plan_and_graphs_change_no_bit() {
    let _alone = ALONE.lock();
    let Some(_turing) = Turing::new() else { return };
    let bench = Bench::new();
    let mut dora = TrainSpec { batch: 9, checkpointing: false, share_prefix: false, ..spec() };
    (dora.lora.dora, dora.lora.dropout) = (true, 0.0);
    let shared = TrainSpec { lora: LoraSpec { dropout: 0.0, ..spec().lora }, ..spec() };
    for spec in [&spec(), &dora, &shared] {
        for base in [BaseFormat::Nf4, BaseFormat::Stored] {
            check_memory(&bench, spec, base, false);
        }
    }
    let samples = TokenSet::open(&bench.path("data")).unwrap().samples.len();
    let spec = TrainSpec { batch: samples, duration: Duration::Steps(4), ..shared };
    let (numbers, values, _) = run_steps(&bench, &spec, false);
    let (same_numbers, same_values, replayed) = run_steps(&bench, &spec, true);
    assert_eq!((numbers, values), (same_numbers, same_values));
    // Beside the norm's two, gradients are divided by the loss scale.
    assert!(replayed[2..].iter().all(|calls| *calls == [3, 2]), "{replayed:?}");
    assert_eq!(used(), 0, "bytes that nobody freed");
}
