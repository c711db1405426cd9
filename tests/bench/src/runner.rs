//! What a run costs that has nothing to do: one graph of small commands, generated for Luthier, DVC, Snakemake and make.
//!
//! Every tool gets the same stages in a directory of its own, makes their outputs once, and is then started anew, with
//! nothing changed, several times. Only those later starts are measured, whole processes included.

mod graph;
mod tool;
mod tree;

use std::io::{self, Write};
use std::time::Duration;

use camino::Utf8PathBuf;
use clap::{Args, ValueEnum};

use graph::{Graph, Shape};
use tool::Tool;

#[derive(Args)]
pub struct Arguments {
    /// Stages of the graph; several sizes may be given.
    #[arg(long, value_delimiter = ',', default_value = "1000")]
    stages: Vec<usize>,
    /// Whether each stage reads the one before it, or all read the first.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "chain,fanout")]
    shape: Vec<Shape>,
    /// Others to measure, found on `PATH`.
    #[arg(long = "with", value_enum, value_delimiter = ',', default_value = "make")]
    others: Vec<Other>,
    /// Stages up to which DVC is measured: it takes minutes for thousands.
    #[arg(long, default_value_t = 1000)]
    dvc_most: usize,
    /// The same for Snakemake.
    #[arg(long, default_value_t = 1000)]
    snakemake_most: usize,
    /// Starts that are measured, of which the median counts; of DVC and Snakemake a third.
    #[arg(long, default_value_t = 9)]
    repeat: usize,
    /// Measure also one stage over an unchanged directory of so many files; 0 for none.
    #[arg(long, default_value_t = 0)]
    files: usize,
    /// The program to measure; by default the one beside this.
    #[arg(long)]
    luthier: Option<Utf8PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Other {
    Dvc,
    Snakemake,
    Make,
}

pub fn run(arguments: &Arguments, out: &mut impl Write) -> io::Result<()> {
    let luthier = match &arguments.luthier {
        Some(path) => path.canonicalize_utf8()?,
        None => beside()?,
    };
    let repeat = arguments.repeat.max(1);
    for name in [Tool::Luthier(luthier.clone())].iter().chain(others(&arguments.others).iter()) {
        writeln!(out, "{}", name.version()?)?;
    }
    writeln!(
        out,
        "\n{:<8} {:>6}  {:<10} {:>10} {:>10}  {:>9}",
        "shape", "stages", "tool", "median", "fastest", "ratio"
    )?;
    for stages in &arguments.stages {
        for shape in &arguments.shape {
            let graph = Graph { shape: *shape, stages: (*stages).max(1) };
            let mut ours = None;
            for tool in [Tool::Luthier(luthier.clone())].into_iter().chain(others(&arguments.others)) {
                let (most, times) = match tool {
                    Tool::Dvc => (arguments.dvc_most, repeat.div_ceil(3)),
                    Tool::Snakemake => (arguments.snakemake_most, repeat.div_ceil(3)),
                    Tool::Luthier(_) | Tool::Make => (usize::MAX, repeat),
                };
                if graph.stages > most {
                    continue;
                }
                let found = measure(&tool, &graph, times)?;
                let ours = *ours.get_or_insert(found.median);
                let ratio = found.median.as_secs_f64() / ours.as_secs_f64();
                row(out, shape.name(), graph.stages, tool.name(), &found, ratio)?;
            }
        }
    }
    if arguments.files > 0 {
        let found = tree::measure(&luthier, arguments.files, repeat)?;
        writeln!(out, "\none stage over an unchanged directory of {} files", arguments.files)?;
        row(out, "tree", arguments.files, "luthier", &found, 1.0)?;
    }
    Ok(())
}

fn others(named: &[Other]) -> Vec<Tool> {
    let tool = |other: &Other| match other {
        Other::Dvc => Tool::Dvc,
        Other::Snakemake => Tool::Snakemake,
        Other::Make => Tool::Make,
    };
    named.iter().map(tool).collect()
}

fn beside() -> io::Result<Utf8PathBuf> {
    let here = std::env::current_exe()?;
    let path = here.with_file_name("luthier");
    let missing = || {
        let hint = "build it with `cargo build --release -p luthier`, or name it with `--luthier`";
        io::Error::new(io::ErrorKind::NotFound, format!("there is no `{}`: {hint}", path.display()))
    };
    Utf8PathBuf::from_path_buf(path.clone()).ok().filter(|path| path.exists()).ok_or_else(missing)
}

/// Wall times of whole processes.
pub struct Times {
    pub median: Duration,
    pub fastest: Duration,
}

impl Times {
    /// Of at least one start.
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        Self { median: times[times.len() / 2], fastest: times[0] }
    }
}

fn measure(tool: &Tool, graph: &Graph, repeat: usize) -> io::Result<Times> {
    let directory = tempfile::tempdir()?;
    let root = Utf8PathBuf::from_path_buf(directory.path().to_owned()).map_err(|_| io::Error::other("not UTF-8"))?;
    tool.prepare(graph, &root)?;
    // A first start that finds nothing to do may still write what later ones read.
    tool.start(&root)?;
    (0..repeat).map(|_| tool.start(&root)).collect::<io::Result<Vec<_>>>().map(Times::of)
}

fn row(out: &mut impl Write, shape: &str, size: usize, tool: &str, times: &Times, ratio: f64) -> io::Result<()> {
    let seconds = |time: Duration| format!("{:.3} s", time.as_secs_f64());
    writeln!(
        out,
        "{shape:<8} {size:>6}  {tool:<10} {:>10} {:>10}  {ratio:>8.1}x",
        seconds(times.median),
        seconds(times.fastest)
    )
}
