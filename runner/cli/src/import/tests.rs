use luthier_engine::spec::SourceText;

use super::{Fate, convert};
use crate::args::ImportFrom;

const AXOLOTL: &str = "\
base_model: NousResearch/Llama-3.2-1B
load_in_4bit: true
datasets:
  - path: data/rows.jsonl
    type: alpaca
val_set_size: 0.1
output_dir: ./out
adapter: qlora
sequence_len: 2048
sample_packing: true
lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_target_modules: [gate_proj, down_proj, q_proj]
lora_modules_to_save: [embed_tokens, lm_head]
wandb_project:
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 1
optimizer: lion_8bit
lr_scheduler: cosine
learning_rate: 2e-4
gradient_checkpointing: true
warmup_ratio: 0.1
weight_decay: 0.0
bf16: auto
flash_attention: true
frobnicate: 7
";

const LLAMA_FACTORY: &str = "\
### model
model_name_or_path: Qwen/Qwen3-4B-Instruct-2507
quantization_bit: 4
stage: dpo
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
dataset: identity,alpaca_en_demo
template: qwen3_nothink
cutoff_len: 2048
max_samples: 1000
output_dir: saves/qwen3-4b/lora/sft
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: polynomial
warmup_ratio: 0.1
bf16: true
val_size: 0.1
eval_steps: 500
";

fn imported(from: ImportFrom, text: &str) -> String {
    let source = SourceText::new("peer.yml", text);
    let imported = convert(from, &source, &luthier_stages::registry()).expect("a pipeline");
    let notes: Vec<String> = imported
        .notes
        .iter()
        .map(|note| {
            let mark = if note.fate == Fate::NotCarried { "-" } else { " " };
            format!("{mark} {:>2} {note}", note.line)
        })
        .collect();
    format!("{}\n{} carried\n{}", imported.yaml, imported.carried, notes.join("\n"))
}

#[test]
fn an_axolotl_file_becomes_a_pipeline() {
    insta::assert_snapshot!(imported(ImportFrom::Axolotl, AXOLOTL));
}

#[test]
fn a_llama_factory_file_becomes_a_pipeline() {
    insta::assert_snapshot!(imported(ImportFrom::LlamaFactory, LLAMA_FACTORY));
}

/// What moves between a card and its host to save memory is carried over, with a word on where it differs.
#[test]
fn offloading_is_carried_over() {
    let axolotl = |text: &str| {
        imported(
            ImportFrom::Axolotl,
            &format!("base_model: org/model\ndatasets: [{{path: rows.jsonl, type: alpaca}}]\n{text}"),
        )
    };
    let offloaded = "      checkpointing: true\n      offload: \"block-inputs\"\n";
    for (text, why) in [
        (
            "gradient_checkpointing: true\nactivation_offloading: true\n",
            "only the inputs of the blocks wait in host memory",
        ),
        ("activation_offloading: legacy\n", "only the inputs of the blocks wait in host memory"),
        ("activation_offloading: disk\n", "wait in page-locked host memory, not on disk"),
        ("activation_offloading: hidden_states\n", "the inputs of the blocks wait in page-locked host memory"),
        ("gradient_checkpointing: offload\n", "only the inputs of the blocks wait in host memory"),
        ("gradient_checkpointing: offload_disk\n", "wait in page-locked host memory, not on disk"),
    ] {
        let found = axolotl(text);
        // Of the plan and of the training.
        assert_eq!(found.matches(offloaded).count(), 2, "{text}{found}");
        assert!(found.contains(why) && !found.contains("Not carried over:\n#   line 3"), "{text}{found}");
    }
    let plain = axolotl("gradient_checkpointing: true\nactivation_offloading: false\n");
    assert!(plain.contains("checkpointing: true") && !plain.contains("offload"), "{plain}");

    let streamed = axolotl("adapter: qlora\nlayer_offloading: true\noptimizer: paged_adamw_32bit\n");
    assert_eq!(streamed.matches("      stream: \"layers\"\n").count(), 2, "{streamed}");
    assert_eq!(streamed.matches("      optimizer: \"paged_adamw\"\n").count(), 2, "{streamed}");
    let refused = axolotl("adapter: lora\nlayer_offloading: true\noptimizer: paged_adamw_8bit\n");
    assert!(refused.contains("#   line 4: layer_offloading: frozen blocks are streamed in NF4 only"), "{refused}");
    assert!(
        !refused.contains("stream: \"layers\"") && refused.contains("optimizer: \"paged_adamw_8bit\""),
        "{refused}"
    );

    let factory = |text: &str| {
        imported(
            ImportFrom::LlamaFactory,
            &format!("model_name_or_path: org/model\ndataset: rows.jsonl\ncutoff_len: 64\n{text}"),
        )
    };
    let found = factory("use_unsloth_gc: true\noptim: paged_adamw_8bit\n");
    assert_eq!(found.matches(offloaded).count(), 2, "{found}");
    assert!(found.contains("optimizer: \"paged_adamw_8bit\""), "{found}");
    let found = factory("use_unsloth_gc: true\ndisable_gradient_checkpointing: true\n");
    assert!(!found.contains("offload: ") && !found.contains("checkpointing: true"), "{found}");
}

/// Rows under other names are renamed by a template.
#[test]
fn columns_keep_their_meaning() {
    let text = "\
base_model: org/model
datasets:
  - path: org/set
    split: train_sft
    type: chat_template
    field_messages: turns
    message_property_mappings: {role: speaker, content: text}
";
    let found = imported(ImportFrom::Axolotl, text);
    assert!(found.contains("row['turns']") && found.contains("turn['speaker']"), "{found}");
    assert!(found.contains("org/set/resolve/refs%2Fconvert%2Fparquet/default/train_sft/0000.parquet"), "{found}");
}

#[test]
fn what_is_wrong_is_shown_in_the_file() {
    let wrong = |from, text: &str| {
        let source = SourceText::new("peer.yml", text);
        let problems = convert(from, &source, &luthier_stages::registry()).expect_err("a problem");
        luthier_engine::spec::Diagnostics::new(source.into(), problems).render(false, 100)
    };
    insta::assert_snapshot!(
        "wrong_axolotl",
        wrong(ImportFrom::Axolotl, "lora_r: many\nsequence_len: 2.5\ndatasets: x.jsonl\n")
    );
    insta::assert_snapshot!(
        "wrong_llama_factory",
        wrong(ImportFrom::LlamaFactory, "learning_rate: [1]\ndataset: {a: 1}\n")
    );
    insta::assert_snapshot!("wrong_list", wrong(ImportFrom::Axolotl, "- a\n"));
}

/// No key of either trainer is passed over without a word.
#[test]
fn every_key_is_accounted_for() {
    for (from, text) in [(ImportFrom::Axolotl, AXOLOTL), (ImportFrom::LlamaFactory, LLAMA_FACTORY)] {
        let source = SourceText::new("peer.yml", text);
        let imported = convert(from, &source, &luthier_stages::registry()).expect("a pipeline");
        let keys = text.lines().filter(|line| !line.starts_with([' ', '#']) && !line.ends_with(':')).count()
            + usize::from(text.contains("\ndatasets:\n"));
        let said =
            imported.notes.iter().map(|note| &note.key).filter(|key| text.contains(&format!("\n{key}:"))).count();
        assert!(imported.carried + said >= keys, "{keys} keys, {} carried, {:?}", imported.carried, imported.notes);
    }
}
