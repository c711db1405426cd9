//! Axolotl's configuration, key by key.

mod data;

use luthier_engine::spec::{Node, NodeValue};
use serde_json::{Value, json};

use super::note::Fate;
use super::recipe::{HeldOut, Recipe, model_source};
use super::settings::{Needless, Settings};
use super::shared::{BLOCK_INPUTS, offer, offload, optimizer, scheduler};

const NEEDLESS: Needless = &[
    (
        "every run keeps its log, losses and report by itself",
        &[
            "logging_steps",
            "wandb_*",
            "mlflow_*",
            "comet_*",
            "trackio_*",
            "use_wandb",
            "use_mlflow",
            "report_to",
            "debug",
            "profiler_*",
            "include_tokens_per_second",
            "include_tkps",
            "plugins",
            "use_tensorboard",
        ],
    ),
    (
        "outputs go into the store, checkpoints are written and resumed by themselves",
        &[
            "output_dir",
            "dataset_prepared_path",
            "save_*",
            "saves_per_epoch",
            "resume_from_checkpoint",
            "auto_resume_from_checkpoints",
            "hub_model_id",
            "hub_strategy",
            "push_dataset_to_hub",
            "shuffle_merged_datasets",
        ],
    ),
    (
        "attention and kernels are the engine's own, with the same results",
        &[
            "flash_attention",
            "flash_attn_*",
            "attn_implementation",
            "sdp_attention",
            "xformers_attention",
            "s2_attention",
            "eager_attention",
            "flex_attention",
            "lora_mlp_kernel",
            "lora_qkv_kernel",
            "lora_o_kernel",
            "liger_*",
            "unsloth_*",
            "cut_cross_entropy",
            "chunked_cross_entropy*",
            "torch_compile*",
        ],
    ),
    (
        "sums are in f32, weights as their format holds them",
        &["bf16", "fp16", "tf32", "bfloat16", "float16", "lora_fan_in_fan_out"],
    ),
    (
        "the model's own files say it",
        &[
            "model_type",
            "tokenizer_type",
            "tokenizer_config",
            "is_llama_derived_model",
            "is_mistral_derived_model",
            "is_qwen_derived_model",
            "is_falcon_derived_model",
            "trust_remote_code",
            "special_tokens",
            "tokenizer_use_fast",
            "tokenizer_legacy",
            "strict",
            "base_model_config",
            "base_model_ignore_patterns",
        ],
    ),
    (
        "samples are never padded, and each packed sample keeps its own attention",
        &[
            "pad_to_sequence_len",
            "eval_sample_packing",
            "batch_flattening",
            "sample_packing_eff_est",
            "group_by_length",
            "sample_packing_bin_size",
            "sample_packing_group_size",
            "total_num_tokens",
            "excess_length_warning",
        ],
    ),
    (
        "Luthier runs on one device, with all its threads",
        &[
            "local_rank",
            "world_size",
            "deepspeed",
            "fsdp",
            "fsdp_config",
            "fsdp_version",
            "ddp*",
            "dataloader_*",
            "dataset_processes",
            "dataset_num_proc",
            "tensor_parallel_size",
            "context_parallel_size",
            "dp_shard_size",
            "gradient_checkpointing_kwargs",
            "gpu_memory_limit",
            "max_memory",
            "device_map",
            "use_ray",
            "ray_*",
            "low_cpu_mem_usage",
        ],
    ),
    ("a loss that is not a number stops the run by itself", &["loss_watchdog_threshold", "loss_watchdog_patience"]),
    ("QLoRA is always NF4 with double quantisation", &["bnb_config_kwargs"]),
];

const UNSUPPORTED: Needless = &[
    (
        "new tokens would need trained embeddings",
        &["tokens", "added_tokens_overrides", "embeddings_skip_upcast", "embedding_lr"],
    ),
    (
        "whole modules are not trained beside adapters",
        &["lora_modules_to_save", "peft_trainable_token_indices", "unfrozen_parameters"],
    ),
    ("starting from another adapter is not offered; merge it into the base first", &["lora_model_dir"]),
    (
        "preference and reward training is not offered",
        &["rl", "rl_beta", "dpo_*", "kto_*", "reward_model", "process_reward_model", "orpo_alpha"],
    ),
    ("the context is not stretched", &["rope_scaling", "overrides_of_model_config", "relora_steps", "relora"]),
    ("long samples cannot be split into overlapping ones", &["sample_packing_sequentially", "curriculum_sampling"]),
    (
        "only AdamW's own parameters are offered",
        &[
            "optim_args",
            "optim_target_modules",
            "lr_groups",
            "cosine_min_lr_ratio",
            "cosine_constant_lr_ratio",
            "lr_div_factor",
        ],
    ),
    (
        "generations while training are not offered; add an `eval` stage",
        &["eval_table_size", "eval_max_new_tokens", "do_causal_lm_eval", "eval_causal_lm_metrics", "generate_samples"],
    ),
    (
        "early stopping counts validations every N steps; set `validate_every` and `early_stopping`",
        &["early_stopping_patience"],
    ),
];

const ALL_ACTIVATIONS: &str = "of the activations only the inputs of the blocks wait in host memory, the others are computed \
                               again; on the CPU nothing moves";
const TO_DISK: &str = "the inputs of the blocks wait in page-locked host memory, not on disk, and the other activations are \
                       computed again; on the CPU nothing moves";

pub fn read(settings: &mut Settings<'_>, recipe: &mut Recipe) {
    model(settings, recipe);
    data::datasets(settings, recipe);
    tokens(settings, recipe);
    adapter(settings, recipe);
    schedule(settings, recipe);
    settings.needless(NEEDLESS);
    settings.unsupported(UNSUPPORTED);
}

fn model(settings: &mut Settings<'_>, recipe: &mut Recipe) {
    let revision = settings.text("revision_of_model");
    match settings.text("base_model") {
        Some(name) => {
            (recipe.model, recipe.base_model) = model_source(name, revision);
            if recipe.base_model.is_some() && revision.is_none() {
                settings.note(
                    "base_model",
                    Fate::NotNeeded,
                    "taken from the hub's `main`; pin a commit and `blake3` to make it reproducible",
                );
            }
        }
        None => settings.missing("base_model", "the model to tune", "base_model: Qwen/Qwen2.5-0.5B-Instruct"),
    }
}

fn tokens(settings: &mut Settings<'_>, recipe: &mut Recipe) {
    if let Some(length) = settings.integer("sequence_len") {
        recipe.tokens.insert("max_length", json!(length));
    }
    if settings.flag("sample_packing") == Some(true) {
        recipe.tokens.insert("packing", json!(true));
    }
    if settings.flag("train_on_inputs") == Some(true) {
        recipe.tokens.insert("train_on", json!("all"));
    }
    match settings.text("excess_length_strategy") {
        Some("truncate") => drop(recipe.tokens.insert("on_long", json!("truncate"))),
        Some("raise") => drop(recipe.tokens.insert("on_long", json!("fail"))),
        _ => {}
    }
    match settings.text("chat_template") {
        None | Some("tokenizer_default") => {}
        Some("chatml") => drop(recipe.tokens.insert("template", json!("chatml"))),
        Some("jinja") => settings.lost("chat_template", "save `chat_template_jinja` to a file and name it: `template: chat.jinja` in both tokenize stages"),
        Some(other) => settings.lost("chat_template", format!("the model's own template is used, which should be `{other}`; else name a Jinja file: `template: chat.jinja`")),
    }
    settings.unsupported(&[("save it to a file and name it: `template: chat.jinja`", &["chat_template_jinja"])]);
    if let Some(roles) = settings.take("roles_to_train") {
        recipe.tokens.insert("roles_to_train", roles.to_value());
    }
    for key in ["train_on_eot", "train_on_eos"] {
        match settings.text(key) {
            Some("all" | "turn" | "last" | "none") if recipe.tokens.contains_key("train_on_eot") => {}
            Some(word @ ("turn" | "last" | "none")) => drop(recipe.tokens.insert("train_on_eot", json!(word))),
            Some(other) => {
                settings.lost(key, format!("`{other}` is not offered; the end of each trained turn is trained"))
            }
            None => {}
        }
    }
    match settings.number("val_set_size") {
        Some(size) if size >= 1.0 => recipe.held_out = Some(HeldOut::Rows(size as u64)),
        Some(size) if size > 0.0 => recipe.held_out = Some(HeldOut::Fraction(size)),
        _ => {}
    }
    recipe.deduplicate = settings.flag("dataset_exact_deduplication") == Some(true);
    settings
        .unsupported(&[("connect an `ingest` of it, tokenized, to the training's `validation`", &["test_datasets"])]);
}

fn adapter(settings: &mut Settings<'_>, recipe: &mut Recipe) {
    let four_bit = settings.flag("load_in_4bit") == Some(true);
    if settings.flag("load_in_8bit") == Some(true) {
        settings.lost(
            "load_in_8bit",
            "the base is held as stored, which is more exact and larger; `method: qlora` is the smaller one",
        );
    }
    let method = match settings.text("adapter") {
        Some("qlora") => "qlora",
        Some("lora" | "peft") if four_bit => "qlora",
        Some("lora" | "peft") => "lora",
        Some(other) => {
            settings.lost("adapter", format!("`{other}` is not offered; made a LoRA of it"));
            "lora"
        }
        None => {
            settings.note("adapter", Fate::NotCarried, "without it the whole model would be tuned; made a LoRA of it");
            "lora"
        }
    };
    recipe.train.insert("method", json!(method));
    if let Some(rank) = settings.integer("lora_r") {
        recipe.train.insert("rank", json!(rank));
    }
    for (key, name) in [("lora_alpha", "alpha"), ("lora_dropout", "dropout"), ("loraplus_lr_ratio", "loraplus_ratio")] {
        if let Some(value) = settings.number(key) {
            recipe.train.insert(name, json!(value));
        }
    }
    let linear = settings.flag("lora_target_linear") == Some(true);
    match settings.take("lora_target_modules").map(Node::to_value) {
        Some(_) if linear => settings.lost("lora_target_modules", "`lora_target_linear` covers it"),
        Some(Value::String(one)) if one == "all-linear" => drop(recipe.train.insert("targets", json!(one))),
        Some(modules) => drop(recipe.train.insert("targets", modules)),
        None if linear => drop(recipe.train.insert("targets", json!("all-linear"))),
        None => {}
    }
    for (key, name) in [("lora_rank_pattern", "rank_pattern"), ("lora_alpha_pattern", "alpha_pattern")] {
        if let Some(node) = settings.take(key) {
            recipe.train.insert(name, node.to_value());
        }
    }
    for (key, name) in [("peft_use_rslora", "rslora"), ("peft_use_dora", "dora")] {
        if settings.flag(key) == Some(true) {
            offer(settings, recipe, key, name, json!(true));
        }
    }
    if let Some(layers) = settings.take("peft_layers_to_transform") {
        offer(settings, recipe, "peft_layers_to_transform", "layers_to_transform", layers.to_value());
    }
    if let Some(node) = settings.take("peft_init_lora_weights") {
        match node.to_value() {
            Value::Bool(true) => {}
            Value::String(name) if name == "gaussian" => drop(recipe.train.insert("init", json!("gaussian"))),
            other => {
                settings.lost("peft_init_lora_weights", format!("`{other}` is not offered; PEFT's default is used"))
            }
        }
    }
    if let Some(alpha) = settings.number("neftune_noise_alpha") {
        offer(settings, recipe, "neftune_noise_alpha", "neftune_noise_alpha", json!(alpha));
    }
}

fn schedule(settings: &mut Settings<'_>, recipe: &mut Recipe) {
    if let Some(rate) = settings.number("learning_rate") {
        recipe.train.insert("learning_rate", json!(rate));
    }
    let name = settings.text("lr_scheduler").unwrap_or("cosine");
    scheduler(settings, recipe, "lr_scheduler", name);
    let steps = settings.number("warmup_steps");
    if let Some(warmup) = steps.or(settings.number("warmup_ratio")).filter(|warmup| *warmup > 0.0) {
        recipe.train.insert("warmup", json!(warmup));
    }
    if let Some(batch) = settings.integer("micro_batch_size") {
        recipe.train.insert("batch", json!(batch));
    }
    if let Some(accumulate) = settings.integer("gradient_accumulation_steps") {
        recipe.train.insert("accumulate", json!(accumulate));
    } else if let Some(whole) = settings.integer("batch_size") {
        let batch = recipe.train.get("batch").and_then(Value::as_u64).unwrap_or(1).max(1);
        recipe.train.insert("accumulate", json!((whole / batch).max(1)));
    }
    match settings.integer("max_steps") {
        Some(steps) => {
            recipe.train.insert("steps", json!(steps));
            settings.needless(&[("`max_steps` decides", &["num_epochs"])]);
        }
        None => {
            let epochs = settings.number("num_epochs").filter(|epochs| *epochs > 0.0).unwrap_or(1.0);
            recipe.train.insert("epochs", json!(epochs));
        }
    }
    optimizer(settings, recipe, "optimizer");
    checkpointing(settings, recipe);
    if let Some(steps) = settings.integer("eval_steps").filter(|_| recipe.held_out.is_some()) {
        recipe.train.insert("validate_every", json!(steps));
    }
    settings.needless(&[(
        "validation is by steps: set `validate_every`; the end is always measured",
        &["evals_per_epoch", "eval_strategy", "evaluation_strategy", "eval_steps", "eval_batch_size"],
    )]);
    recipe.seed = settings.integer("seed").unwrap_or(42);
}

fn checkpointing(settings: &mut Settings<'_>, recipe: &mut Recipe) {
    let key = "gradient_checkpointing";
    if let Some(node) = settings.take(key) {
        match &node.value {
            NodeValue::Bool(false) => {}
            NodeValue::Bool(true) => drop(recipe.train.insert("checkpointing", json!(true))),
            NodeValue::Text(mode) if mode == "offload" => offload(settings, recipe, key, ALL_ACTIVATIONS),
            NodeValue::Text(mode) if mode == "offload_disk" => offload(settings, recipe, key, TO_DISK),
            NodeValue::Text(_) => drop(recipe.train.insert("checkpointing", json!(true))),
            _ => settings.wrong(key, node, "`true` or `false`"),
        }
    }
    let key = "activation_offloading";
    if let Some(node) = settings.take(key) {
        match &node.value {
            NodeValue::Bool(false) => {}
            NodeValue::Bool(true) => offload(settings, recipe, key, ALL_ACTIVATIONS),
            NodeValue::Text(mode) if mode == "legacy" => offload(settings, recipe, key, ALL_ACTIVATIONS),
            NodeValue::Text(mode) if mode == "disk" => offload(settings, recipe, key, TO_DISK),
            NodeValue::Text(mode) if mode == "hidden_states" => offload(settings, recipe, key, BLOCK_INPUTS),
            _ => settings.wrong(key, node, "`true`, `false`, `legacy`, `disk` or `hidden_states`"),
        }
    }
    if settings.flag("layer_offloading") == Some(true) {
        if recipe.train.get("method") == Some(&json!("qlora")) {
            recipe.train.insert("stream", json!("layers"));
            let why = "frozen blocks come from files on disk, two of them on the device at a time";
            settings.note("layer_offloading", Fate::NotNeeded, why);
        } else {
            settings
                .lost("layer_offloading", "frozen blocks are streamed in NF4 only: `method: qlora`, `stream: layers`");
        }
    }
}
