//! What both trainers have from Hugging Face's.

use serde_json::{Value, json};

use super::note::Fate;
use super::recipe::Recipe;
use super::settings::Settings;

/// Carries a parameter that this build's training may or may not have.
pub fn offer(settings: &mut Settings<'_>, recipe: &mut Recipe, key: &str, name: &'static str, value: Value) {
    if settings.offers(name, &value) {
        recipe.train.insert(name, value);
    } else {
        settings.lost(key, "this version's training does not have it");
    }
}

/// AdamW, with its numbers, under the names that Hugging Face's trainer has for it; `key` names the kind.
pub fn optimizer(settings: &mut Settings<'_>, recipe: &mut Recipe, key: &str) {
    for (key, name) in [
        ("weight_decay", "weight_decay"),
        ("max_grad_norm", "max_grad_norm"),
        ("adam_beta1", "beta1"),
        ("adam_beta2", "beta2"),
        ("adam_epsilon", "epsilon"),
    ] {
        if let Some(value) = settings.number(key) {
            recipe.train.insert(name, json!(value));
        }
    }
    let Some(name) = settings.text(key) else { return };
    let ours = match name {
        "adamw_torch" | "adamw_torch_fused" | "adamw_hf" | "adamw_apex_fused" | "adamw" => return,
        "adamw_bnb_8bit" | "adamw_8bit" | "adamw_torch_8bit" => "adamw_8bit",
        "paged_adamw_8bit" => "paged_adamw_8bit",
        "paged_adamw_32bit" | "paged_adamw" => "paged_adamw",
        other => {
            settings.lost(
                key,
                format!("`{other}` is not offered; AdamW is used, and its learning rate may want to be another"),
            );
            return;
        }
    };
    if settings.offers("optimizer", &json!(ours)) {
        recipe.train.insert("optimizer", json!(ours));
    } else {
        settings.lost(key, "AdamW is used with 32-bit states, which are larger and no less exact");
    }
}

/// Why nothing is lost where only what a block begins with is offloaded.
pub const BLOCK_INPUTS: &str = "the inputs of the blocks wait in page-locked host memory; on the CPU nothing moves";

/// Block inputs in host memory for activations that another trainer keeps there, and `why` that is all the same.
pub fn offload(settings: &mut Settings<'_>, recipe: &mut Recipe, key: &str, why: &str) {
    recipe.train.insert("checkpointing", json!(true));
    recipe.train.insert("offload", json!("block-inputs"));
    settings.note(key, Fate::NotNeeded, why);
}

/// The schedules that Hugging Face's trainer and ours share.
pub fn scheduler(settings: &mut Settings<'_>, recipe: &mut Recipe, key: &str, name: &str) {
    let ours = match name {
        "cosine" => "cosine",
        "linear" => "linear",
        "constant" | "constant_with_warmup" => "constant",
        other => {
            settings.lost(key, format!("`{other}` is not offered; `cosine` is used"));
            "cosine"
        }
    };
    recipe.train.insert("schedule", json!(ours));
}
