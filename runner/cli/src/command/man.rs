//! `luthier man`: the manual, made from the same comments as the help.

use camino::Utf8Path;
use clap::CommandFactory;
use clap_mangen::Man;

use crate::args::{Cli, ManArgs};
use crate::exit;
use crate::failure::Failure;
use crate::printer::Printer;

pub fn run(args: &ManArgs, printer: Printer) -> Result<u8, Failure> {
    let mut command = Cli::command();
    command.build();
    match &args.directory {
        None => printer.result(&String::from_utf8_lossy(&page(&command)?)),
        Some(directory) => {
            fs_err::create_dir_all(directory)?;
            let count = write_all(&command, directory)?;
            printer.note(&format!("wrote {count} pages; read one with `man {directory}/luthier.1`"));
        }
    }
    Ok(exit::DONE)
}

fn page(command: &clap::Command) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    Man::new(command.clone()).render(&mut text)?;
    Ok(text)
}

/// A page of the command and of each one below it, named as man looks them up: `luthier-plugin-new.1`.
fn write_all(command: &clap::Command, directory: &Utf8Path) -> Result<usize, Failure> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    luthier_core::fs::write_atomic(&directory.join(format!("{name}.1")), &page(command)?)?;
    let mut count = 1;
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        count += write_all(below, directory)?;
    }
    Ok(count)
}
