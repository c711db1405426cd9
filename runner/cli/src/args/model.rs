//! Arguments of what runs or measures a model.

use camino::Utf8PathBuf;
use clap::{Args, Subcommand};

use super::parse_assignment;

/// A model and, if wanted, an adapter.
#[derive(Debug, Clone, Args)]
pub struct ModelArgs {
    /// A GGUF file, a Hugging Face model directory, or a stage of the pipeline.
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// A PEFT adapter directory, or a stage of the pipeline.
    #[arg(long, value_name = "ADAPTER")]
    pub adapter: Option<String>,
    /// The pipeline, where MODEL or ADAPTER is a stage.
    #[arg(long, short = 'f', value_name = "PIPELINE")]
    pub pipeline: Option<Utf8PathBuf>,
    /// Threads.
    #[arg(long, short = 't', value_name = "N")]
    pub threads: Option<usize>,
    /// Where floats are computed: `cpu`, `cuda`, `cuda:1`, or `auto` for the first that is there.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: String,
}

/// How the next token is taken.
#[derive(Debug, Clone, Args)]
pub struct SamplingArgs {
    /// Draw tokens, after dividing logits by it; 0 takes the likeliest token.
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    pub temperature: f32,
    /// Draw among so many of the likeliest tokens; 0 for all.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub top_k: u32,
    /// Draw among the fewest of the likeliest tokens that have this share.
    #[arg(long, value_name = "SHARE", default_value_t = 1.0)]
    pub top_p: f32,
    /// What is drawn depends on it and the text alone.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

#[derive(Debug, Args)]
pub struct ChatArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Say one thing, print the answer, and end.
    #[arg(long, value_name = "TEXT")]
    pub once: Option<String>,
    /// A system message.
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// At most this many tokens an answer.
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_new_tokens: usize,
}

#[derive(Debug, Args)]
pub struct SampleArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Prompts, one a line; standard input if left out.
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<Utf8PathBuf>,
    /// Give the prompts as they are, without the chat template.
    #[arg(long)]
    pub raw: bool,
    /// A system message.
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// At most this many tokens an answer.
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub max_new_tokens: usize,
}

#[derive(Debug, Args)]
pub struct LogitsArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// The prompt, as plain text.
    #[arg(long, value_name = "TEXT")]
    pub prompt: String,
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub command: BenchCommand,
}

#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Time a training step: by operation, against the machine's peak, with its memory beside the plan.
    Train(BenchTrainArgs),
}

#[derive(Debug, Args)]
pub struct BenchTrainArgs {
    /// A GGUF file, a Hugging Face model directory, or a stage of the pipeline.
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// The pipeline, where MODEL or the data is a stage.
    #[arg(long, short = 'f', value_name = "PIPELINE")]
    pub pipeline: Option<Utf8PathBuf>,
    /// `qlora` keeps the base in NF4, `lora` as stored.
    #[arg(long, default_value = "qlora")]
    pub method: String,
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub rank: usize,
    /// Sequences that go through the model together.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub batch: usize,
    /// Tokens of each random sequence.
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub length: usize,
    /// Tokens at the start of each random sequence that have no loss.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub prompt: usize,
    /// Train on these tokens instead: a tokens artifact or a stage.
    #[arg(long, value_name = "TOKENS")]
    pub data: Option<String>,
    /// Keep only block inputs and recompute the rest.
    #[arg(long)]
    pub checkpointing: bool,
    /// Compute the tokens that all sequences of a batch begin with once.
    #[arg(long)]
    pub share_prefix: bool,
    /// Any other parameter of a `train` stage; the value is read as JSON.
    #[arg(short = 'w', long = "with", value_name = "NAME=VALUE", value_parser = parse_assignment)]
    pub with: Vec<(String, String)>,
    /// Steps under the clock.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub steps: u64,
    /// Threads.
    #[arg(long, short = 't', value_name = "N")]
    pub threads: Option<usize>,
}
