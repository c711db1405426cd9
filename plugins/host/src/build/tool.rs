//! Finding and running a toolchain's program.

use std::io::ErrorKind;
use std::process::Command;

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{StageError, StageResult};

use super::tail;

/// A program with the arguments that come before all others.
pub(super) struct Tool {
    program: Utf8PathBuf,
    first: Vec<&'static str>,
}

impl Tool {
    /// A program on the `PATH`.
    pub(super) fn named(program: impl Into<Utf8PathBuf>, first: &[&'static str]) -> Self {
        Self { program: program.into(), first: first.to_vec() }
    }

    /// The first of these that is installed: `path` in the plugin's directory, else `program` on the `PATH`.
    pub(super) fn local_or(directory: &Utf8Path, path: &str, program: &str) -> Self {
        let local = directory.join(path);
        Self::named(if local.is_file() { local } else { program.into() }, &[])
    }

    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.first).env("NO_COLOR", "1");
        command
    }

    /// Whether it starts and `arguments` makes it say `words`; any words if empty.
    pub(super) fn answers(&self, arguments: &[&str], words: &str) -> bool {
        self.command()
            .args(arguments)
            .output()
            .is_ok_and(|output| output.status.success() && String::from_utf8_lossy(&output.stdout).contains(words))
    }
}

/// What is said when a tool is missing or fails.
pub(super) struct Words<'a> {
    /// Of the plugin.
    pub name: &'a str,
    pub language: &'static str,
    /// A command that installs the tool.
    pub install: String,
}

impl Words<'_> {
    pub(super) fn missing(&self, program: &str) -> StageError {
        StageError::input(
            "plugin::no_tool",
            format!("plugin `{}` is written in {}, and `{program}` is not installed", self.name, self.language),
        )
        .hint(&self.install)
    }

    /// Runs the command and reads the file that it was told to write.
    pub(super) fn run(&self, mut command: Command, output: &Utf8Path) -> StageResult<Vec<u8>> {
        let program = command.get_program().to_string_lossy().into_owned();
        let done = match command.output() {
            Ok(done) => done,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(self.missing(&program)),
            Err(error) => {
                return Err(StageError::new("plugin::tool", format!("cannot start `{program}`")).caused_by(error));
            }
        };
        if done.status.success() && output.is_file() {
            return Ok(fs_err::read(output)?);
        }
        let said = format!("{}\n{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        let arguments: Vec<String> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect();
        Err(StageError::input("plugin::build", format!("plugin `{}` does not compile", self.name))
            .hint(format!("to see it alone: {}", arguments.join(" ")))
            .caused_by(tail(&said)))
    }
}

/// A directory for what a build leaves behind, gone with the value.
pub(super) fn scratch(cache: &Utf8Path) -> StageResult<(tempfile::TempDir, Utf8PathBuf)> {
    let parent = cache.join("plugins");
    fs_err::create_dir_all(&parent)?;
    let directory = tempfile::Builder::new().prefix("build-").tempdir_in(&parent)?;
    let path = Utf8PathBuf::from_path_buf(directory.path().to_owned()).unwrap_or(parent);
    Ok((directory, path))
}
