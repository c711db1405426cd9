//! LLaMA-Factory's configuration, key by key.

use luthier_engine::spec::{Node, NodeValue};
use serde_json::{Value, json};

use super::note::Fate;
use super::recipe::{HeldOut, Recipe, is_local, model_source};
use super::settings::{Needless, Settings};
use super::shared::{BLOCK_INPUTS, offer, offload, optimizer, scheduler};

const NEEDLESS: Needless = &[
    (
        "every run keeps its log, losses and report by itself",
        &[
            "logging_steps",
            "logging_*",
            "plot_loss",
            "report_to",
            "run_name",
            "use_swanlab",
            "swanlab_*",
            "use_wandb",
            "include_num_input_tokens_seen",
        ],
    ),
    (
        "outputs go into the store, checkpoints are written and resumed by themselves",
        &[
            "output_dir",
            "overwrite_output_dir",
            "overwrite_cache",
            "save_*",
            "resume_from_checkpoint",
            "tokenized_path",
            "cache_dir",
            "load_best_model_at_end",
        ],
    ),
    (
        "attention and kernels are the engine's own, with the same results",
        &["flash_attn", "enable_liger_kernel", "use_unsloth", "use_kt", "kt_*", "use_v1_kernels"],
    ),
    (
        "sums are in f32, weights as their format holds them",
        &["bf16", "fp16", "pure_bf16", "tf32", "infer_dtype", "upcast_layernorm", "upcast_lmhead_output"],
    ),
    (
        "the model's own files say it",
        &["trust_remote_code", "use_fast_tokenizer", "split_special_tokens", "model_revision", "hf_hub_token"],
    ),
    (
        "Luthier runs on one device, with all its threads",
        &[
            "ddp_*",
            "deepspeed",
            "fsdp*",
            "preprocessing_num_workers",
            "dataloader_*",
            "ray_*",
            "low_cpu_mem_usage",
            "local_rank",
            "device_map",
            "placement_strategy",
            "resources_per_worker",
        ],
    ),
    (
        "QLoRA is always NF4 with double quantisation, of the original weights",
        &["quantization_method", "quantization_type", "double_quantization", "bnb_4bit*"],
    ),
    ("a batch of validation is what fits", &["per_device_eval_batch_size", "batch_eval_metrics"]),
    ("train or predict is for the pipeline to say", &["do_train", "do_eval"]),
];

const UNSUPPORTED: Needless = &[
    (
        "whole modules are not trained beside adapters",
        &[
            "additional_target",
            "freeze_trainable_layers",
            "freeze_trainable_modules",
            "resize_vocab",
            "new_special_tokens",
            "add_tokens",
            "add_special_tokens",
        ],
    ),
    (
        "starting from another adapter is not offered; merge it into the base first",
        &["adapter_name_or_path", "create_new_adapter"],
    ),
    (
        "another optimiser or adapter family is not offered",
        &[
            "use_galore",
            "use_apollo",
            "use_badam",
            "use_adam_mini",
            "use_muon",
            "use_llama_pro",
            "pissa_init",
            "pissa_iter",
            "pissa_convert",
            "use_oft",
            "finetuning_args",
        ],
    ),
    (
        "generations are an `eval` stage's: `generation: {}`",
        &["predict_with_generate", "do_predict", "max_new_tokens", "temperature", "top_p", "do_sample"],
    ),
    ("the context is not stretched", &["rope_scaling", "shift_attn"]),
    (
        "streams are not endless here: `limit` takes the first rows",
        &["streaming", "buffer_size", "mix_strategy", "interleave_probs"],
    ),
    (
        "images, sound and video are not read",
        &[
            "image_max_pixels",
            "image_min_pixels",
            "video_max_pixels",
            "freeze_vision_tower",
            "freeze_multi_modal_projector",
            "media_dir",
        ],
    ),
    (
        "only the best adapter of the watched loss is kept: set `validate_every` and `early_stopping`",
        &["early_stopping_steps", "metric_for_best_model"],
    ),
    ("turns of the past are trained as all others; `train_on: last` trains only the last", &["mask_history"]),
    ("accuracy is an `eval` stage's", &["compute_accuracy", "eval_on_each_dataset"]),
    (
        "an `export` or `merge` stage does it; both are in the pipeline",
        &[
            "export_dir",
            "export_size",
            "export_device",
            "export_quantization_bit",
            "export_legacy_format",
            "export_hub_model_id",
        ],
    ),
];

pub fn read(settings: &mut Settings<'_>, recipe: &mut Recipe) {
    stage(settings);
    let revision = settings.text("model_revision");
    match settings.text("model_name_or_path") {
        Some(name) => {
            (recipe.model, recipe.base_model) = model_source(name, revision);
            if recipe.base_model.is_some() && revision.is_none() {
                settings.note(
                    "model_name_or_path",
                    Fate::NotNeeded,
                    "taken from the hub's `main`; pin a commit and `blake3` to make it reproducible",
                );
            }
        }
        None => settings.missing("model_name_or_path", "the model to tune", "model_name_or_path: Qwen/Qwen3-0.6B"),
    }
    dataset(settings, recipe);
    tokens(settings, recipe);
    adapter(settings, recipe);
    schedule(settings, recipe);
    settings.needless(NEEDLESS);
    settings.unsupported(UNSUPPORTED);
}

fn stage(settings: &mut Settings<'_>) {
    match settings.text("stage") {
        None | Some("sft" | "pt") => {}
        Some(other) => settings.lost("stage", format!("`{other}` is not offered; made a supervised training of it")),
    }
}

fn dataset(settings: &mut Settings<'_>, recipe: &mut Recipe) {
    let directory = settings.text("dataset_dir").unwrap_or("data").trim_end_matches('/').to_owned();
    let names: Vec<String> = match settings.take("dataset").map(|node| (&node.value, node)) {
        Some((NodeValue::Text(text), _)) => {
            text.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
        }
        Some((NodeValue::List(items), _)) => items.iter().filter_map(Node::text).map(str::to_owned).collect(),
        Some((_, node)) => {
            settings.wrong("dataset", node, "names, separated by commas");
            Vec::new()
        }
        None => {
            settings.missing("dataset", "the data to train on", "dataset: alpaca_en_demo");
            Vec::new()
        }
    };
    for name in &names {
        recipe.files.push(if is_local(name) { name.clone() } else { format!("{directory}/{name}.json") });
    }
    if names.iter().any(|name| !is_local(name)) {
        settings.note("dataset", Fate::NotNeeded, format!("read from `{directory}/NAME.json`, where LLaMA-Factory keeps its own; see `{directory}/dataset_info.json` for others"));
    }
    if let Some(limit) = settings.integer("max_samples") {
        recipe.rows.insert("limit", json!(limit));
        if names.len() > 1 {
            settings.note("max_samples", Fate::NotCarried, "it counts per dataset there, and over all of them here");
        }
    }
    match settings.number("val_size") {
        Some(size) if size >= 1.0 => recipe.held_out = Some(HeldOut::Rows(size as u64)),
        Some(size) if size > 0.0 => recipe.held_out = Some(HeldOut::Fraction(size)),
        _ => {}
    }
    settings
        .unsupported(&[("connect an `ingest` of it, tokenized, to the training's `validation`", &["eval_dataset"])]);
}

fn tokens(settings: &mut Settings<'_>, recipe: &mut Recipe) {
    recipe.tokens.insert("max_length", json!(settings.integer("cutoff_len").unwrap_or(2048)));
    // LLaMA-Factory cuts what is too long.
    recipe.tokens.insert("on_long", json!("truncate"));
    let packing = settings.flag("packing") == Some(true);
    let neat = settings.flag("neat_packing") == Some(true);
    if packing || neat {
        recipe.tokens.insert("packing", json!(true));
        if !neat {
            settings.note(
                "packing",
                Fate::NotNeeded,
                "packed samples never see each other here, as with `neat_packing`",
            );
        }
    }
    if settings.flag("train_on_prompt") == Some(true) {
        recipe.tokens.insert("train_on", json!("all"));
    }
    match settings.text("template") {
        None | Some("default" | "empty") => {}
        Some("chatml") => drop(recipe.tokens.insert("template", json!("chatml"))),
        Some(name) if name.ends_with("_nothink") || name.ends_with("_no_think") => {
            recipe.tokens.insert("variables", json!({"enable_thinking": false}));
            settings.note("template", Fate::NotNeeded, "the model's own template is used, told not to think");
        }
        Some(name) => settings.note(
            "template",
            Fate::NotNeeded,
            format!("the model's own template is used, which should be `{name}`"),
        ),
    }
    if let Some(flag) = settings.flag("enable_thinking") {
        recipe.tokens.insert("variables", json!({"enable_thinking": flag}));
    }
    settings.unsupported(&[("give it as a row's `system`, by a `map`", &["default_system"])]);
}

fn adapter(settings: &mut Settings<'_>, recipe: &mut Recipe) {
    let bits = settings.integer("quantization_bit");
    let method = match (settings.text("finetuning_type").unwrap_or("lora"), bits) {
        ("lora", Some(4)) => "qlora",
        ("lora", None) => "lora",
        ("lora", Some(bits)) => {
            settings.lost(
                "quantization_bit",
                format!("{bits} bits are not offered, 4 are: `method: qlora`; the base is held as stored"),
            );
            "lora"
        }
        (other, _) => {
            settings.lost("finetuning_type", format!("`{other}` is not offered; made a LoRA of it"));
            "lora"
        }
    };
    recipe.train.insert("method", json!(method));
    let rank = settings.integer("lora_rank").unwrap_or(8);
    recipe.train.insert("rank", json!(rank));
    // Its default is twice the rank.
    recipe.train.insert("alpha", json!(settings.number("lora_alpha").unwrap_or(rank as f64 * 2.0)));
    for (key, name) in [("lora_dropout", "dropout"), ("loraplus_lr_ratio", "loraplus_ratio")] {
        if let Some(value) = settings.number(key) {
            recipe.train.insert(name, json!(value));
        }
    }
    let targets: Vec<String> = match settings.take("lora_target").map(Node::to_value) {
        Some(Value::String(text)) => text.split(',').map(|name| name.trim().to_owned()).collect(),
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => vec!["all".to_owned()],
    };
    let targets = if targets.iter().any(|name| name == "all") { json!("all-linear") } else { json!(targets) };
    recipe.train.insert("targets", targets);
    for (key, name) in [("use_rslora", "rslora"), ("use_dora", "dora")] {
        if settings.flag(key) == Some(true) {
            offer(settings, recipe, key, name, json!(true));
        }
    }
    if let Some(alpha) = settings.number("neftune_noise_alpha").filter(|alpha| *alpha > 0.0) {
        offer(settings, recipe, "neftune_noise_alpha", "neftune_noise_alpha", json!(alpha));
    }
}

fn schedule(settings: &mut Settings<'_>, recipe: &mut Recipe) {
    // What Hugging Face's trainer takes where nothing is written.
    recipe.train.insert("learning_rate", json!(settings.number("learning_rate").unwrap_or(5e-5)));
    let name = settings.text("lr_scheduler_type").unwrap_or("linear");
    scheduler(settings, recipe, "lr_scheduler_type", name);
    let steps = settings.number("warmup_steps").filter(|steps| *steps > 0.0);
    if let Some(warmup) = steps.or(settings.number("warmup_ratio")).filter(|warmup| *warmup > 0.0) {
        recipe.train.insert("warmup", json!(warmup));
    }
    recipe.train.insert("batch", json!(settings.integer("per_device_train_batch_size").unwrap_or(8)));
    if let Some(accumulate) = settings.integer("gradient_accumulation_steps") {
        recipe.train.insert("accumulate", json!(accumulate));
    }
    match settings.integer("max_steps") {
        Some(steps) => {
            recipe.train.insert("steps", json!(steps));
            settings.needless(&[("`max_steps` decides", &["num_train_epochs"])]);
        }
        None => {
            recipe.train.insert("epochs", json!(settings.number("num_train_epochs").unwrap_or(3.0)));
        }
    }
    optimizer(settings, recipe, "optim");
    // On unless it is switched off.
    let offloads = settings.flag("use_unsloth_gc") == Some(true);
    if settings.flag("disable_gradient_checkpointing") == Some(true) {
        settings.needless(&[("`disable_gradient_checkpointing` leaves nothing to offload", &["use_unsloth_gc"])]);
    } else if offloads {
        offload(settings, recipe, "use_unsloth_gc", BLOCK_INPUTS);
    } else {
        recipe.train.insert("checkpointing", json!(true));
    }
    if let Some(steps) = settings.integer("eval_steps").filter(|_| recipe.held_out.is_some()) {
        recipe.train.insert("validate_every", json!(steps));
    }
    settings.needless(&[(
        "validation is by steps: set `validate_every`; the end is always measured",
        &["eval_strategy", "evaluation_strategy", "eval_steps"],
    )]);
    recipe.seed = settings.integer("seed").unwrap_or(42);
}
