//! Plans from a model's shape, with and without its weights and data.

use luthier_test::TinyModel;
use serde_json::json;

use super::*;
use crate::testing::Bench;

/// A directory with nothing but config.json.
fn config_only(bench: &Bench, name: &str, json: &Value) -> camino::Utf8PathBuf {
    bench.write(&format!("{name}/config.json"), json.to_string());
    bench.path(name)
}

fn llama_8b() -> Value {
    json!({
        "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0, "max_position_embeddings": 131072, "tie_word_embeddings": false,
        "torch_dtype": "bfloat16",
    })
}

fn llama_70b() -> Value {
    let mut config = llama_8b();
    config["hidden_size"] = json!(8192);
    config["intermediate_size"] = json!(28672);
    config["num_hidden_layers"] = json!(80);
    config["num_attention_heads"] = json!(64);
    config
}

#[test]
fn weights_of_published_models_are_what_arithmetic_says() {
    let bench = Bench::new();
    for (name, config, linear, tables, adapters) in [
        ("8b", llama_8b(), 6_979_321_856_usize, 2 * 128_256 * 4096_usize, 41_943_040_usize),
        ("70b", llama_70b(), 68_451_041_280, 2 * 128_256 * 8192, 207_093_760),
    ] {
        let path = config_only(&bench, name, &config);
        let with = json!({"rank": 16, "batch": 1, "length": 2048, "checkpointing": true});
        let plan = predict_memory(&path, None, &with).expect("a plan").bytes;
        // Half a byte a weight, one byte per 64, four bytes per 64 · 256; norms in f32.
        let hidden = config["hidden_size"].as_u64().unwrap() as usize;
        let layers = config["num_hidden_layers"].as_u64().unwrap() as usize;
        let norms = 4 * hidden * (2 * layers + 1);
        assert_eq!(plan.weights, linear / 2 + linear / 64 + 4 * linear / (64 * 256) + norms, "{name}");
        assert_eq!(plan.embeddings, 2 * tables, "{name}");
        assert_eq!(plan.trainable_parameters, adapters, "{name}");
        assert_eq!((plan.adapters, plan.gradients, plan.optimizer), (4 * adapters, 4 * adapters, 8 * adapters));
        assert_eq!(plan.checkpoint, 4 * (layers + 1) * hidden * 2048);
    }
}

#[test]
fn seventy_billion_parameters_fit_eighty_gigabytes() {
    let bench = Bench::new();
    let path = config_only(&bench, "70b", &llama_70b());
    let with = json!({"rank": 16, "batch": 1, "length": 2048, "checkpointing": true});
    let prediction = predict_memory(&path, None, &with).expect("a plan");
    let fits: Vec<(u64, bool)> = prediction.fits.iter().map(|fit| (fit.gigabytes, fit.fits)).collect();
    assert_eq!(fits, [(8, false), (16, false), (24, false), (48, false), (80, true)]);
}

#[test]
fn eight_billion_parameters_fit_a_small_card_only_when_frugal() {
    let bench = Bench::new();
    let path = config_only(&bench, "8b", &llama_8b());
    let fits = |with: Value| {
        let prediction = predict_memory(&path, None, &with).expect("a plan");
        prediction.fits.iter().filter(|fit| fit.fits).map(|fit| fit.gigabytes).collect::<Vec<_>>()
    };
    assert_eq!(fits(json!({"batch": 1, "length": 1024, "checkpointing": true})), [8, 16, 24, 48, 80]);
    // 43 thousand floats a token and layer are saved: 11 GB beside 7 GB of weights and states.
    assert_eq!(fits(json!({"batch": 1, "length": 2048})), [24, 48, 80]);
    assert_eq!(fits(json!({"batch": 1, "length": 2048, "checkpointing": true, "method": "lora"})), [24, 48, 80]);
}

#[test]
fn a_cuda_device_takes_scratch_memory_for_itself() {
    let bench = Bench::new();
    let path = config_only(&bench, "8b", &llama_8b());
    let plan = |device: &str, length: usize| {
        let with = json!({"batch": 1, "length": length, "checkpointing": true, "device": device});
        predict_memory(&path, None, &with).expect("a plan").bytes
    };
    for length in [16, 2048, 8192] {
        let (host, device) = (plan("cpu", length), plan("cuda", length));
        // The largest matrix in 16 bits, cuBLAS's workspace, sines and cosines.
        let least = 2 * 14336 * 4096 + (32 << 20) + 2 * 4 * 64 * length;
        let own = device.scratch - host.scratch;
        assert!((least..least + 4 * 14336 * (length + 64)).contains(&own), "{length} tokens: {own} and {least} bytes");
    }
    assert_eq!(plan("cuda:1", 2048), plan("cuda", 2048));
}

#[test]
fn what_a_device_computes_in_and_whose_its_products_are_is_planned_for() {
    let bench = Bench::new();
    let path = config_only(&bench, "8b", &llama_8b());
    let plan = |with: Value| {
        let mut all = json!({"batch": 1, "length": 2048, "checkpointing": true, "device": "cuda"});
        all.as_object_mut().expect("an object").extend(with.as_object().expect("an object").clone());
        predict_memory(&path, None, &all).expect("a plan").bytes
    };
    let usual = plan(json!({}));
    assert_eq!(usual, plan(json!({"compute_type": "bf16", "cublas": "auto"})));
    let own = plan(json!({"cublas": "never"}));
    assert_eq!(usual.scratch - own.scratch, 32 << 20, "cuBLAS's workspace");
    assert_eq!(usual.total() - own.total(), 32 << 20);
    let narrow = plan(json!({"compute_type": "f16"}));
    // The head is stored in bf16, so a device without it converts that too.
    assert!(narrow.activations == usual.activations && narrow.scratch >= usual.scratch, "{narrow:?} {usual:?}");
    let wide = plan(json!({"compute_type": "f32"}));
    // What is kept of a block is twice as wide, but for what is f32 in both.
    assert!((1.8..2.0).contains(&(wide.activations as f64 / usual.activations as f64)), "{wide:?} {usual:?}");
    assert!(wide.scratch < own.scratch, "nothing is converted");
}

#[test]
fn paged_moments_leave_two_pages_on_a_device_with_memory_of_its_own() {
    let bench = Bench::new();
    let path = config_only(&bench, "8b", &llama_8b());
    let plan = |device: &str, optimizer: &str| {
        let with = json!({
            "batch": 1, "length": 512, "checkpointing": true, "device": device, "optimizer": optimizer,
        });
        predict_memory(&path, None, &with).expect("a plan").bytes
    };
    for (resident, paged) in [("adamw", "paged_adamw"), ("adamw_8bit", "paged_adamw_8bit")] {
        let (kept, moved) = (plan("cuda", resident), plan("cuda", paged));
        // Two pages of sixteen, or of 8 MiB if that is less; a page is cut where a block ends.
        let lanes = (kept.optimizer / 8).min(2 * (8 << 20));
        assert!((lanes - lanes / 1000..=lanes).contains(&moved.optimizer), "{} of {lanes} bytes", moved.optimizer);
        assert_eq!((kept.host.moments, moved.paged), (0, 0));
        assert_eq!(kept.total() - moved.total(), kept.optimizer - moved.optimizer);
        // Pages are cut where blocks end and parts begin aligned.
        let more = moved.host.moments - kept.optimizer;
        assert!(more <= kept.optimizer / 500, "{more} bytes beside {}", kept.optimizer);
        let here = plan("cpu", paged);
        assert_eq!((here.optimizer, here.paged, here.host.total()), (0, kept.optimizer, 0));
    }
}

#[test]
fn offloaded_inputs_are_of_a_device_with_memory_of_its_own() {
    let bench = Bench::new();
    let path = config_only(&bench, "8b", &llama_8b());
    let plan = |device: &str, offload: &str| {
        let with = json!({
            "batch": 1, "length": 8192, "checkpointing": true, "device": device, "offload": offload,
        });
        predict_memory(&path, None, &with).expect("a plan").bytes
    };
    let (kept, moved) = (plan("cuda", "none"), plan("cuda", "block-inputs"));
    // 32 inputs and the final hidden states: two of them at a time on the device.
    let input = kept.checkpoint / 33;
    assert_eq!((moved.checkpoint, moved.host.block_inputs), (2 * input, 31 * input));
    assert_eq!(kept.total() - moved.total(), moved.host.block_inputs);
    assert_eq!((moved.host.staging, kept.host.total()), ((4 << 20) + (4 << 10), moved.host.staging));
    let here = (plan("cpu", "block-inputs").checkpoint, plan("cpu", "none").host.total());
    assert_eq!(here, (4 * 33 * 4096 * 8192, 0));
    let issues = bench.issues(&PlanStage, &json!({"device": "gpu", "offload": "block-inputs"}));
    assert_eq!(
        issues,
        [
            "offload | block inputs are kept with all else that backward needs | set `checkpointing: true`, or remove `offload`",
            "device | there is no device `gpu` to plan for | write `cpu` or `cuda`",
        ]
    );
}

/// An 8B model in NF4, rank 16 on all projections, AdamW in f32, block inputs in host memory, on a CUDA device: every
/// byte that the engine allocates there, what the driver takes for itself aside.
#[test]
fn eight_billion_parameters_on_a_cuda_device() {
    let bench = Bench::new();
    let model = config_only(&bench, "8b", &llama_8b());
    let total = |length: usize| {
        let plan = json!({
            "rank": 16, "checkpointing": true, "batch": 1, "length": length, "device": "cuda",
            "offload": "block-inputs", "share_prefix": false,
        });
        predict_memory(&model, None, &plan).expect("a plan").total
    };
    let found = total(2048);
    assert!(found as f64 <= 6.8 * 1_073_741_824.0, "{found} bytes for 2,048 tokens");
    let slope = (total(8192) - total(4096)) / 4096;
    assert!(slope <= 240_000, "{slope} bytes per token");
}

#[test]
fn seventy_billion_parameters_are_streamed_through_a_card_of_twenty_four_gigabytes() {
    let bench = Bench::new();
    let path = config_only(&bench, "70b", &llama_70b());
    let plan = |device: &str, stream: &str, offload: &str, length: usize| {
        let with = json!({
            "rank": 16, "batch": 1, "length": length, "checkpointing": true, "device": device, "stream": stream,
            "offload": offload, "optimizer": "adamw_8bit",
        });
        predict_memory(&path, None, &with).expect("a plan")
    };
    let fits = |prediction: Prediction| prediction.fits.iter().find(|fit| fit.fits).map(|fit| fit.gigabytes);
    assert_eq!(fits(plan("cuda", "none", "block-inputs", 2048)), Some(48));
    assert_eq!(fits(plan("cuda", "layers", "none", 2048)), Some(16));
    assert_eq!(fits(plan("cuda", "layers", "block-inputs", 2048)), Some(16));
    let (here, there) = (plan("cpu", "layers", "none", 512).bytes, plan("cuda", "layers", "none", 512).bytes);
    // The parts of a block this large are multiples of what a device aligns to.
    assert_eq!((there.weights, there.host.blocks), (here.weights, 2 * here.block));
}

fn run(with: &Value) -> Result<(StageOutcome, Value), StageError> {
    let mut bench = Bench::new();
    let path = config_only(&bench, "8b", &llama_8b());
    bench.input("model", ArtifactKind::Model, &path);
    let done = bench.run(&PlanStage, with)?;
    let text = fs_err::read_to_string(done.out.join("plan")).expect("a plan");
    Ok((done.outcome, serde_json::from_str(&text).expect("JSON")))
}

#[test]
fn the_stage_writes_a_report_and_tables() {
    let (outcome, report) = run(&json!({"batch": 2, "length": 1024})).expect("a plan");
    assert_eq!(outcome.metrics["total"].value, report["total"].as_f64().unwrap());
    let titles: Vec<&str> = outcome
        .sections
        .iter()
        .map(|section| match section {
            Section::Table { title, .. } | Section::Text { title, .. } => title.as_str(),
            _ => "",
        })
        .collect();
    assert_eq!(
        titles,
        [
            "Memory by component",
            "Peaks that share the workspace",
            "Devices",
            "On a device that computes in bf16: computed, not run by this build",
            "Devices that compute in bf16",
            "To need less"
        ]
    );
    assert!(report["advice"][0].as_str().unwrap().starts_with("`checkpointing: true` (a third more time): "));
}

#[test]
fn a_budget_that_is_too_small_fails_with_the_ways_out() {
    let error = run(&json!({"batch": 8, "length": 2048, "budget": "16GB"})).expect_err("too large");
    assert_eq!((error.code, error.class), ("plan::over_budget", ErrorClass::Expectation));
    assert!(error.message.ends_with("and 500 MB in reserve, but the budget is 16.0 GB"), "{error}");
    assert!(error.hints[0].starts_with("`checkpointing: true`"), "{:?}", error.hints);
    assert!(run(&json!({"batch": 1, "length": 512, "budget": "16GB", "checkpointing": true})).is_ok());
    let issues = Bench::new().issues(&PlanStage, &json!({"budget": "plenty", "lenght": 3}));
    assert_eq!(issues, ["lenght | unknown key `lenght` | did you mean `length`?"]);
    let issues = Bench::new().issues(&PlanStage, &json!({"budget": "plenty"}));
    assert_eq!(issues, ["budget | `plenty` is not a size | write `24GB` or `16GiB`"]);
}

#[test]
fn a_plan_with_data_is_that_of_the_training() {
    let mut bench = crate::train::tests::bench(10);
    let done = bench.run(&PlanStage, &json!({"rank": 4, "batch": 4, "steps": 6, "seed": 5})).expect("a plan");
    let with = json!({"rank": 4, "batch": 4, "steps": 6, "seed": 5});
    let trained = bench.run(&crate::train::TrainStage, &with).expect("trained");
    assert_eq!(done.outcome.metrics["total"].value, trained.outcome.metrics["engine_memory"].value);
}

#[test]
fn a_streamed_training_is_planned_and_gives_the_same_adapter() {
    let mut bench = crate::train::tests::bench(10);
    let with = json!({"rank": 4, "batch": 4, "steps": 6, "seed": 5});
    let mut streamed = with.clone();
    streamed["stream"] = json!("layers");
    let planned = bench.run(&PlanStage, &streamed).expect("a plan");
    let resident = bench.run(&crate::train::TrainStage, &with).expect("trained");
    let adapter = |done: &crate::testing::Done| {
        fs_err::read(done.out.join("adapter").join("adapter_model.safetensors")).expect("an adapter")
    };
    let expected = adapter(&resident);
    // A bench of its own, so that nothing of the first run is gone on from.
    let mut bench = crate::train::tests::bench(10);
    let trained = bench.run(&crate::train::TrainStage, &streamed).expect("trained");
    assert_eq!(adapter(&trained), expected);
    let memory = |done: &crate::testing::Done, name: &str| done.outcome.metrics[name].value;
    assert_eq!(memory(&planned, "total"), memory(&trained, "engine_memory"));
    let issues = bench.issues(&crate::train::TrainStage, &json!({"method": "lora", "stream": "layers"}));
    assert_eq!(
        issues,
        [
            "stream | blocks are streamed in NF4, but `method` keeps them as stored | set `method: qlora`, or remove `stream`"
        ]
    );
}

#[test]
fn a_model_with_weights_is_planned_as_stored() {
    let bench = Bench::new();
    let path = bench.path("base");
    TinyModel::new(3).dtype(luthier_formats::quant::TensorType::BF16).write_directory(&path);
    let plan = predict_memory(&path, None, &json!({"method": "lora", "rank": 1, "length": 16})).expect("a plan").bytes;
    assert_eq!(plan.embeddings, 2 * 2 * 304 * 64);
}
