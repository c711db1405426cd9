//! Benches. Each prints what it ran on; times mean something beside others of the same run only.

mod filter_stage;
mod filters;
mod kernels;
mod plan;
mod runner;
mod stream;
mod tokenizer;
mod train;

use std::io::{self, Write};

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Benches of Luthier's parts")]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Matrix products beside the gemm crate, then every other kernel.
    Kernels(kernels::Arguments),
    /// Runs that have nothing to do, beside DVC, Snakemake and make.
    Runner(runner::Arguments),
    /// Text to token ids.
    Tokenizer(tokenizer::Arguments),
    /// Training steps of a model: time by operation, share of the gemm crate's rate, memory.
    Train(train::Arguments),
    /// Built-in filters, beside datatrove where a Python has it.
    Filters(filters::Arguments),
    /// One step of a 7B-shaped random model whose blocks stay on disk, with predicted and measured memory.
    #[command(name = "stream-7b")]
    Stream(stream::Arguments),
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let mut out = io::stdout();
    // On standard error, so that a measurement can be read as JSON.
    writeln!(io::stderr(), "processor: {}", processor())?;
    match arguments.bench {
        Bench::Kernels(arguments) => kernels::run(&arguments, &mut out),
        Bench::Runner(arguments) => runner::run(&arguments, &mut out),
        Bench::Tokenizer(arguments) => tokenizer::run(&arguments, &mut out),
        Bench::Train(arguments) => train::run(&arguments, &mut out),
        Bench::Filters(arguments) => filters::run(&arguments, &mut out),
        Bench::Stream(arguments) => stream::run(&arguments, &mut out),
    }
}

fn processor() -> String {
    let text = fs_err::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    let name = field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    match (field("cpu family"), field("model\t")) {
        (Some(family), Some(model)) => format!("{name} (family {family}, model {model})"),
        _ => name,
    }
}
