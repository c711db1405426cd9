//! Times the training of a user's own model on this machine, for `luthier bench train`.

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{Section, StageError, StageResult, parse_config};
use luthier_formats::model_files::ModelFiles;
use luthier_formats::tokens::TokenSet;
pub use luthier_model::profile::TrainProfile;
use luthier_model::profile::{ProfileRequest, profile, synthetic_tokens};
use serde_json::Value;

use crate::device;
use crate::train::{TrainConfig, bytes_text};

/// What to time.
#[derive(Debug, Clone)]
pub struct TrainBench {
    /// A GGUF file or a Hugging Face directory.
    pub model: Utf8PathBuf,
    /// A tokens artifact; without it, random tokens.
    pub data: Option<Utf8PathBuf>,
    /// Tokens of each random sequence.
    pub length: usize,
    /// Tokens at the start of each random sequence that have no loss.
    pub prompt: usize,
    pub steps: u64,
    pub threads: usize,
    /// As of a `train` stage.
    pub with: Value,
}

fn refused(issues: Vec<luthier_core::ConfigIssue>) -> StageError {
    let text: Vec<String> = issues.iter().map(|issue| format!("{}: {}", issue.path, issue.message)).collect();
    StageError::input("bench::config", text.join("; ")).hint("see `luthier stages train` for the parameters")
}

/// Where files without a name may be.
fn temporary() -> StageResult<Utf8PathBuf> {
    Utf8PathBuf::from_path_buf(std::env::temp_dir()).map_err(|path| {
        StageError::input("bench::temporary", format!("the path `{}` is not valid UTF-8", path.display()))
            .hint("set TMPDIR to another directory")
    })
}

impl TrainBench {
    fn config(&self) -> StageResult<TrainConfig> {
        let config: TrainConfig = parse_config(&self.with).map_err(refused)?;
        let issues = config.check();
        if issues.is_empty() { Ok(config) } else { Err(refused(issues)) }
    }

    /// The tokens that the steps see.
    ///
    /// # Errors
    /// A token set that cannot be read; a length of no use.
    pub fn tokens(&self, files: &ModelFiles, batch: usize) -> StageResult<TokenSet> {
        if let Some(data) = &self.data {
            return TokenSet::open(data);
        }
        let limit = files.config().max_positions;
        if self.length < 2 || self.length > limit || self.prompt >= self.length {
            return Err(StageError::input(
                "bench::length",
                format!(
                    "sequences of {} tokens of which {} are prompt: expected 2 to {limit}, and a prompt that is shorter",
                    self.length, self.prompt
                ),
            )
            .hint("pass `--length 512 --prompt 0`"));
        }
        let samples = batch.max(1) * usize::try_from(self.steps + 1).unwrap_or(1).min(64);
        Ok(synthetic_tokens(files.config().vocab_size, samples, self.length, self.prompt, 0))
    }

    /// Runs it.
    ///
    /// # Errors
    /// Those of loading and training.
    pub fn run(&self) -> StageResult<TrainProfile> {
        let config = self.config()?;
        let files = ModelFiles::open(&self.model)?;
        let mut spec = config.spec();
        if config.optimizer.is_paged() {
            spec.pages = Some(temporary()?);
        }
        let data = self.tokens(&files, spec.batch * spec.accumulate)?;
        let request =
            ProfileRequest { spec, base: config.method.base(), threads: self.threads.max(1), steps: self.steps };
        let (choice, _) = device::prepared(&config.device, config.compute()).map_err(|issue| refused(vec![issue]))?;
        let opened = choice.open(config.compute(), self.threads)?;
        opened.check_real()?;
        profile(&opened.device, files, &data, &request)
    }
}

/// Writes random tokens for a model, so that another program can be timed on the same ones.
///
/// # Errors
/// A model that cannot be read, or the disk.
pub fn write_tokens(bench: &TrainBench, batch: usize, directory: &Utf8Path) -> StageResult<()> {
    let files = ModelFiles::open(&bench.model)?;
    bench.tokens(&files, batch)?.write(directory)
}

/// A profile as tables.
#[must_use]
pub fn sections(profile: &TrainProfile) -> Vec<Section> {
    let table = |title: &str, columns: &[&str], rows: Vec<Vec<String>>| Section::Table {
        title: title.to_owned(),
        columns: columns.iter().map(|column| (*column).to_owned()).collect(),
        rows,
    };
    let giga = |rate: f64| format!("{:.1} GFLOP/s", rate / 1e9);
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let step = vec![
        row("backend", format!("{}, {} threads", profile.backend, profile.threads)),
        row("step, median", format!("{:.3} s", profile.median_seconds)),
        row(&format!("step, best of {}", profile.seconds.len()), format!("{:.3} s", profile.best_seconds)),
        row("tokens a second, median", format!("{:.1}", profile.tokens_per_second)),
        row("tokens a second, best", format!("{:.1}", profile.tokens_per_second_best)),
        row("trained tokens a second", format!("{:.1}", profile.trained_per_second)),
        row("peak rate of a product of 2048", giga(profile.peak_flops_per_second)),
        row("rate of a step by model FLOPs", giga(profile.flops_per_second)),
        row("share of the peak", format!("{:.1} %", 100.0 * profile.share_of_peak)),
    ];
    let operations = profile
        .operations
        .iter()
        .map(|operation| {
            vec![
                operation.operation.to_owned(),
                format!("{:.1}", operation.calls_per_step),
                format!("{:.2} ms", 1e3 * operation.seconds_per_step),
                format!("{:.1} %", 100.0 * operation.share),
                operation.flops_per_second.map(giga).unwrap_or_default(),
            ]
        })
        .collect();
    let mut memory: Vec<Vec<String>> = profile
        .memory
        .iter()
        .map(|bytes| vec![bytes.component.to_owned(), bytes_text(bytes.planned), bytes_text(bytes.measured)])
        .collect();
    memory.push(vec!["total".to_owned(), bytes_text(profile.planned_bytes), bytes_text(profile.measured_bytes)]);
    if let Some(resident) = profile.resident_peak {
        memory.push(vec!["process, resident peak".to_owned(), "—".to_owned(), bytes_text(resident)]);
    }
    vec![
        table("A training step", &["", ""], step),
        table("By operation", &["operation", "calls", "time", "share", "rate"], operations),
        table("Memory", &["component", "planned", "measured"], memory),
    ]
}
