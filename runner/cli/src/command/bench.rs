//! `luthier bench train`.

use luthier_stages::measure::{TrainBench, sections};
use serde_json::{Value, json};

use super::{section, show};
use crate::args::{BenchArgs, BenchCommand, BenchTrainArgs, Global};
use crate::exit;
use crate::failure::Failure;
use crate::printer::Printer;

pub fn run(args: &BenchArgs, global: &Global, printer: Printer) -> Result<u8, Failure> {
    match &args.command {
        BenchCommand::Train(args) => train(args, global, printer),
    }
}

fn train(args: &BenchTrainArgs, global: &Global, printer: Printer) -> Result<u8, Failure> {
    let file = args.pipeline.as_deref();
    let mut with = json!({
        "method": args.method, "rank": args.rank, "batch": args.batch, "checkpointing": args.checkpointing,
        "share_prefix": args.share_prefix,
    });
    for (name, value) in &args.with {
        // What is not JSON is a plain string, as in a shell one writes it.
        with[name] = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.clone()));
    }
    let bench = TrainBench {
        model: show::resolve(&args.model, file, global, printer)?,
        data: args.data.as_ref().map(|word| show::resolve(word, file, global, printer)).transpose()?,
        length: args.length,
        prompt: args.prompt,
        steps: args.steps,
        threads: args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get)),
        with,
    };
    let profile = bench.run()?;
    if printer.json {
        printer.json(&profile);
    } else {
        for section in sections(&profile) {
            printer.result(&section::text(&section, printer.result_width()));
        }
    }
    Ok(exit::DONE)
}
