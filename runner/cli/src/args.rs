//! The command line. One doc comment per option makes the help, the completions and the reference.

mod model;
mod remote;

use camino::Utf8PathBuf;
use clap::{Args, Parser, Subcommand, ValueEnum};

pub use model::{BenchArgs, BenchCommand, BenchTrainArgs, ChatArgs, LogitsArgs, ModelArgs, SampleArgs, SamplingArgs};
pub use remote::{ImportLockArgs, PullArgs, PushArgs, RemoteArgs, RemoteCheckArgs};

/// Run language-model fine-tunes the way a build system runs compiles.
#[derive(Debug, Parser)]
#[command(name = "luthier", version, propagate_version = true, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Where artifacts, records and runs live.
    #[arg(long, global = true, env = "LUTHIER_STORE", value_name = "DIR", default_value = ".luthier")]
    pub store: Utf8PathBuf,
    /// Print machine-readable JSON on standard output.
    #[arg(long, global = true)]
    pub json: bool,
    /// Only errors and results.
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Also print what stages log.
    #[arg(long, short, global = true)]
    pub verbose: bool,
    /// Write a log of what happens to FILE: as JSON lines if its name ends in `.jsonl` or `.json`, as text otherwise.
    /// `LUTHIER_LOG` sets the level, as in `LUTHIER_LOG=trace` or `LUTHIER_LOG=luthier_engine=debug`.
    #[arg(long, global = true, value_name = "FILE")]
    pub log: Option<Utf8PathBuf>,
    /// When to use colour.
    #[arg(long, global = true, value_enum, default_value = "auto", value_name = "WHEN")]
    pub color: ColorWhen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ColorWhen {
    Auto,
    Always,
    Never,
}

/// The pipeline file and its parameters.
#[derive(Debug, Clone, Args)]
pub struct PipelineArgs {
    /// The pipeline file; may be left out where there is only one.
    #[arg(value_name = "PIPELINE")]
    pub pipeline: Option<Utf8PathBuf>,
    /// Override a parameter of the pipeline; the value is read as YAML.
    #[arg(short = 'p', long = "param", value_name = "NAME=VALUE", value_parser = parse_assignment)]
    pub params: Vec<(String, String)>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a small working pipeline to start from.
    Init(InitArgs),
    /// Execute what changed and nothing else.
    Run(RunArgs),
    /// Say what `run` would do, why, and how long it should take.
    Plan(PlanArgs),
    /// Say for every stage whether it is up to date.
    Status(PipelineArgs),
    /// Draw the graph of stages.
    Graph(GraphArgs),
    /// Say why a stage runs again, down to the field that changed, and what that costs.
    Explain(ExplainArgs),
    /// Compare two locks, or the lock with a git revision of it.
    Diff(DiffArgs),
    /// List the runs.
    Log(LogArgs),
    /// Show a stage's last result: key, outputs, metrics.
    Show(ShowArgs),
    /// Write the HTML report of a run.
    Report(ReportArgs),
    /// Re-hash the store, or execute a stage again and compare.
    Verify(VerifyArgs),
    /// Remove what no lock and no recent run names.
    Gc(GcArgs),
    /// Send results to the remote, so that others need not make them.
    Push(PushArgs),
    /// Bring what the lock names from the remote.
    Pull(PullArgs),
    /// Make the lock's results known to the store after a clone, from the remote if there is one.
    ImportLock(ImportLockArgs),
    /// Say what the remote holds, and whether it can be reached and written.
    Remote(RemoteCheckArgs),
    /// Print the JSON Schema of pipeline files, or of the events that `run --json` prints.
    Schema(SchemaArgs),
    /// List the stage kinds, or one kind's parameters, inputs and outputs.
    Stages(StagesArgs),
    /// Look into a dataset or token artifact.
    Data(DataArgs),
    /// Turn another trainer's configuration into a pipeline.
    Import(ImportArgs),
    /// Make, build, test and inspect filter plugins.
    Plugin(PluginArgs),
    /// Talk to a model.
    Chat(ChatArgs),
    /// Complete prompts with a model, one per line.
    Sample(SampleArgs),
    /// Print a model's logits after a prompt, for comparison with other programs.
    Logits(LogitsArgs),
    /// Measure this machine on your own model.
    Bench(BenchArgs),
    /// Check this machine for what the stages may need.
    Doctor,
    /// Print a completion script for a shell.
    Completions(CompletionsArgs),
    /// Print the manual page, or write one per command into a directory.
    Man(ManArgs),
    /// Execute one serialised stage request; how executors run stages elsewhere.
    #[command(hide = true)]
    ExecStage(ExecStageArgs),
}

#[derive(Debug, Args)]
pub struct InitArgs {
    /// Which template.
    #[arg(value_name = "TEMPLATE")]
    pub template: Option<String>,
    /// Where to write it.
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<Utf8PathBuf>,
    /// List the templates.
    #[arg(long)]
    pub list: bool,
    /// Replace an existing file.
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Clone, Args)]
pub struct SelectArgs {
    /// Only these stages; what they need must be there already.
    #[arg(long, value_name = "STAGE")]
    pub only: Vec<String>,
    /// These stages and all that depend on them.
    #[arg(long, value_name = "STAGE")]
    pub from: Vec<String>,
    /// These stages and all that they need.
    #[arg(long, value_name = "STAGE")]
    pub until: Vec<String>,
    /// Run these stages even if they are up to date.
    #[arg(long, value_name = "STAGE")]
    pub force: Vec<String>,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    #[command(flatten)]
    pub select: SelectArgs,
    /// Only say what would run.
    #[arg(long, short = 'n')]
    pub dry_run: bool,
    /// Fail if any key, output or metric differs from the lock file.
    #[arg(long)]
    pub locked: bool,
    /// Threads for all stages together; never changes a result.
    #[arg(long, short = 't', value_name = "N", env = "LUTHIER_THREADS")]
    pub threads: Option<usize>,
    /// How many stages may run at once.
    #[arg(long, short = 'j', value_name = "N")]
    pub jobs: Option<usize>,
    /// Memory for all stages together, such as `8GB`; most of what the machine has if left out.
    #[arg(long, value_name = "SIZE", env = "LUTHIER_MEMORY", value_parser = parse_size)]
    pub memory: Option<u64>,
    /// GPUs for all stages together; those the driver shows if left out.
    #[arg(long, value_name = "N", env = "LUTHIER_GPUS")]
    pub gpus: Option<usize>,
    /// Where stages execute: `child` (a process each), `local` (this process), `slurm`, `slurm:SBATCH-ARGUMENTS` or
    /// `external:COMMAND`; with `STAGE=` before it, for that stage, group or pattern, whatever the pipeline says of it.
    #[arg(long, value_name = "[STAGE=]EXECUTOR", env = "LUTHIER_EXECUTOR", value_delimiter = None)]
    pub executor: Vec<String>,
    /// After a failure go on with the stages that do not depend on it.
    #[arg(long, short = 'k')]
    pub keep_going: bool,
    /// Run a failed stage again up to N times.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub retries: u32,
    /// Never use the network; what was fetched before still works.
    #[arg(long, env = "LUTHIER_OFFLINE")]
    pub offline: bool,
    #[command(flatten)]
    pub remote: RemoteArgs,
    /// Bring results from the remote, but send none.
    #[arg(long)]
    pub no_push: bool,
    /// Write the run as a trace for `chrome://tracing` or ui.perfetto.dev.
    #[arg(long, value_name = "FILE")]
    pub trace: Option<Utf8PathBuf>,
    /// Where floats are computed unless a stage says otherwise: `auto` or `cpu`.
    #[arg(long, value_name = "DEVICE", default_value = "auto", env = "LUTHIER_DEVICE")]
    pub device: String,
}

#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// Of what.
    #[arg(value_enum, default_value = "pipeline")]
    pub of: SchemaOf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SchemaOf {
    /// Pipeline files.
    Pipeline,
    /// One event of `luthier run --json` or of a run's journal.
    Events,
}

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Whose configuration it is.
    #[arg(value_enum)]
    pub from: ImportFrom,
    /// The configuration file.
    #[arg(value_name = "FILE")]
    pub file: Utf8PathBuf,
    /// Where to write the pipeline; standard output if left out.
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<Utf8PathBuf>,
    /// Replace an existing file.
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ImportFrom {
    Axolotl,
    LlamaFactory,
}

#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write `luthier.1`, `luthier-run.1`, … here.
    #[arg(value_name = "DIR")]
    pub directory: Option<Utf8PathBuf>,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    #[command(flatten)]
    pub select: SelectArgs,
    /// Show the memory plan of every `plan` stage from the model's configuration alone; or, with a GGUF file or a
    /// directory that holds a config.json in place of the pipeline, of that model, with `-p` for the stage's parameters.
    #[arg(long)]
    pub memory: bool,
}

#[derive(Debug, Args)]
pub struct GraphArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// How to draw it.
    #[arg(long, value_enum, default_value = "text")]
    pub format: GraphFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GraphFormat {
    Text,
    Dot,
    Mermaid,
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The stage, and the pipeline file where there are several.
    #[arg(value_name = "[PIPELINE] STAGE", num_args = 1..=2, required = true)]
    pub names: Vec<String>,
    /// Override a parameter of the pipeline.
    #[arg(short = 'p', long = "param", value_name = "NAME=VALUE", value_parser = parse_assignment)]
    pub params: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub struct DiffArgs {
    /// A lock file, a pipeline file, or a git revision.
    #[arg(value_name = "A")]
    pub a: String,
    /// The same; left out, the lock of A as it is now.
    #[arg(value_name = "B")]
    pub b: Option<String>,
    /// Pipeline whose lock is meant where A or B is a git revision.
    #[arg(long, short = 'f', value_name = "PIPELINE")]
    pub pipeline: Option<Utf8PathBuf>,
    /// Print Markdown for a pull request.
    #[arg(long, conflicts_with = "json")]
    pub markdown: bool,
}

#[derive(Debug, Args)]
pub struct LogArgs {
    /// At most this many, newest first.
    #[arg(short = 'n', long, default_value_t = 20)]
    pub count: usize,
    /// Print one run's stages, or its events with `--json`; `last` is the newest.
    #[arg(value_name = "RUN")]
    pub run: Option<String>,
    /// Print the run as a trace for `chrome://tracing` or ui.perfetto.dev; of the last run if none is named.
    #[arg(long, conflicts_with = "json")]
    pub chrome_trace: bool,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The stage, and the pipeline file where there are several.
    #[arg(value_name = "[PIPELINE] STAGE", num_args = 1..=2, required = true)]
    pub names: Vec<String>,
    /// Print only the path of an output.
    #[arg(long, value_name = "OUTPUT", num_args = 0..=1, default_missing_value = "")]
    pub path: Option<String>,
}

#[derive(Debug, Args)]
pub struct ReportArgs {
    /// A run; the last one if left out.
    #[arg(value_name = "RUN")]
    pub run: Option<String>,
    /// Where to write it.
    #[arg(long, short, value_name = "FILE", default_value = "report.html")]
    pub output: Utf8PathBuf,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// A stage to execute again and compare with the lock; without one, the store is re-hashed.
    #[arg(value_name = "[PIPELINE] STAGE", num_args = 0..=2)]
    pub names: Vec<String>,
    /// Threads for the execution.
    #[arg(long, short = 't', value_name = "N")]
    pub threads: Option<usize>,
    /// Execute only the first K steps of a training and compare its curves with the stored ones.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: Option<u64>,
    /// Remove what is damaged and bring it from the remote.
    #[arg(long, conflicts_with = "steps")]
    pub repair: bool,
    #[command(flatten)]
    pub remote: RemoteArgs,
}

#[derive(Debug, Args)]
pub struct GcArgs {
    /// Say what would be removed and how much it frees.
    #[arg(long, short = 'n')]
    pub dry_run: bool,
    /// Keep what the last N runs name.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub keep_runs: usize,
    /// Keep what the locks name at this git revision, or in this range of revisions; may be repeated.
    #[arg(long, value_name = "REV")]
    pub rev: Vec<String>,
    /// Keep what the locks name at the tips of all branches, remote branches and tags.
    #[arg(long)]
    pub all_branches: bool,
    /// Keep also what the locks named in all commits before those, or before HEAD.
    #[arg(long)]
    pub history: bool,
    /// Keep results that are younger, such as `30d`.
    #[arg(long, value_name = "TIME")]
    pub keep_for: Option<String>,
    /// Keep the youngest results as long as all that is kept fits this size, such as `20GB`.
    #[arg(long, value_name = "SIZE")]
    pub keep_size: Option<String>,
}

#[derive(Debug, Args)]
pub struct StagesArgs {
    /// A stage kind.
    #[arg(value_name = "KIND")]
    pub kind: Option<String>,
}

#[derive(Debug, Args)]
pub struct DataArgs {
    #[command(subcommand)]
    pub command: DataCommand,
}

#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Print rows of a dataset, or samples of a token artifact with trained tokens marked.
    Show(DataShowArgs),
    /// Look for what usually goes wrong: masks, templates, duplicates, lengths.
    Doctor(DataShowArgs),
}

#[derive(Debug, Args)]
pub struct DataShowArgs {
    /// A path, or a stage or stage.output of the pipeline.
    #[arg(value_name = "ARTIFACT")]
    pub artifact: String,
    /// The pipeline, where ARTIFACT is a stage.
    #[arg(long, short = 'f', value_name = "PIPELINE")]
    pub pipeline: Option<Utf8PathBuf>,
    /// The model whose tokenizer made the tokens, to show them as text: a path or a stage.
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// How many rows.
    #[arg(short = 'n', long, default_value_t = 10)]
    pub count: usize,
}

#[derive(Debug, Args)]
pub struct PluginArgs {
    #[command(subcommand)]
    pub command: PluginCommand,
}

#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Scaffold a plugin with tests.
    New {
        /// Directory to make.
        path: Utf8PathBuf,
        /// The language: `rust`, `python`, `javascript` or `c`.
        #[arg(long, default_value = "rust")]
        lang: String,
    },
    /// Build a plugin to a WebAssembly component, `target/NAME.wasm` in its directory.
    Build { path: Utf8PathBuf },
    /// Run a plugin on its cases, or on sample rows: a file of text lines or JSONL.
    Test {
        /// A directory, a `.wasm` file, or, with `--rows`, `builtin:NAME`.
        path: Utf8PathBuf,
        /// Sample rows.
        #[arg(long, value_name = "FILE")]
        rows: Option<Utf8PathBuf>,
        /// The plugin's configuration for those rows, as JSON; the cases have their own.
        #[arg(long, default_value = "{}", requires = "rows")]
        config: String,
    },
    /// Measure a plugin's throughput on one thread; `builtin:NAME` or `builtin:*` beside its native build.
    Bench {
        path: Utf8PathBuf,
        /// The plugin's configuration, as JSON.
        #[arg(long, default_value = "{}")]
        config: String,
        /// Rows to measure with, a file of text lines or JSONL with `text`, instead of sentences of common words.
        #[arg(long, value_name = "FILE")]
        rows: Option<Utf8PathBuf>,
    },
    /// Show world version, size, imports and manifest; of `builtin:NAME` the configuration, of `builtin:*` all names.
    Inspect { path: Utf8PathBuf },
}

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub struct ExecStageArgs {
    /// A file with the request, or `-` for standard input.
    #[arg(value_name = "REQUEST")]
    pub request: Utf8PathBuf,
}

fn parse_size(text: &str) -> Result<u64, String> {
    luthier_engine::format::parse_bytes(text).ok_or_else(|| format!("`{text}` is not a size such as `8GB` or `512MiB`"))
}

fn parse_assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not NAME=VALUE")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
