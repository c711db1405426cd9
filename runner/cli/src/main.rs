//! The `luthier` program: parses the command line, wires the stage kinds to the runner, renders what happened.

mod args;
mod command;
mod eta;
mod exit;
mod failure;
mod histogram;
mod import;
mod live;
mod logging;
mod printer;
mod screen;
mod target;
mod tensor;
mod wrap;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    let printer = printer::Printer::new(&cli.global);
    if let Some(file) = &cli.global.log
        && let Err(failure) = logging::to_file(file)
    {
        failure.print(printer);
        return exit::exit(failure.class());
    }
    match command::dispatch(&cli, printer) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.print(printer);
            exit::exit(failure.class())
        }
    }
}
