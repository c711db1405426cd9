//! The `luthier` program: parses the command line, wires the stage kinds to the runner, renders what happened.

mod args;
mod command;
mod exit;
mod failure;
mod live;
mod printer;
mod target;
mod tensor;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    let printer = printer::Printer::new(&cli.global);
    match command::dispatch(&cli, printer) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.print(printer);
            exit::exit(failure.class())
        }
    }
}
