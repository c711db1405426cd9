//! How each tool is set up and started.

use std::io;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};

use super::graph::Graph;

#[derive(Debug, Clone)]
pub enum Tool {
    Luthier(Utf8PathBuf),
    Dvc,
    Snakemake,
    Make,
}

/// Runs to the end in `root`, without a network and with its output kept for errors.
fn finish(mut command: Command, root: &Utf8Path) -> io::Result<String> {
    command.current_dir(root).env("DVC_NO_ANALYTICS", "1").env("LUTHIER_OFFLINE", "true").stdin(Stdio::null());
    let shown = format!("{command:?}");
    let output = command.output().map_err(|error| io::Error::new(error.kind(), format!("{shown}: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(io::Error::other(format!("{shown} failed:\n{}", String::from_utf8_lossy(&output.stderr))))
}

fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

impl Tool {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Luthier(_) => "luthier",
            Self::Dvc => "dvc",
            Self::Snakemake => "snakemake",
            Self::Make => "make",
        }
    }

    pub fn version(&self) -> io::Result<String> {
        let program = match self {
            Self::Luthier(path) => path.as_str(),
            other => other.name(),
        };
        let text = finish(command(program, &["--version"]), Utf8Path::new("."))?;
        Ok(format!("{}: {}", self.name(), text.lines().next().unwrap_or_default()))
    }

    /// Writes the graph and makes every output.
    pub fn prepare(&self, graph: &Graph, root: &Utf8Path) -> io::Result<()> {
        let write = |name: &str, text: &str| fs_err::write(root.join(name), text);
        // What DVC and Snakemake would take long to make, the same commands make, and the tool takes note.
        let make_outputs = || {
            write("outputs.mk", &graph.make())?;
            fs_err::create_dir_all(root.join("out"))?;
            finish(command("make", &["-s", "-f", "outputs.mk"]), root)
        };
        match self {
            Self::Luthier(program) => {
                write("luthier.yaml", &graph.luthier())?;
                // Without a process per stage, which is no part of what is measured: executors are in no key.
                finish(command(program.as_str(), &["run", "-q", "--executor", "local"]), root)?;
            }
            Self::Dvc => {
                finish(command("dvc", &["init", "--no-scm", "-q"]), root)?;
                write("dvc.yaml", &graph.dvc())?;
                make_outputs()?;
                finish(command("dvc", &["commit", "-f", "-q"]), root)?;
            }
            Self::Snakemake => {
                write("Snakefile", &graph.snakemake())?;
                make_outputs()?;
                finish(command("snakemake", &["--touch", "-c1", "-q", "all"]), root)?;
            }
            Self::Make => {
                write("Makefile", &graph.make())?;
                fs_err::create_dir_all(root.join("out"))?;
                self.start(root)?;
            }
        }
        Ok(())
    }

    /// One whole run, timed.
    pub fn start(&self, root: &Utf8Path) -> io::Result<Duration> {
        let command = match self {
            Self::Luthier(path) => command(path.as_str(), &["run", "-q"]),
            Self::Dvc => command("dvc", &["repro", "-q"]),
            Self::Snakemake => command("snakemake", &["-c1", "-q", "all"]),
            Self::Make => command("make", &["-s"]),
        };
        let began = Instant::now();
        finish(command, root)?;
        Ok(began.elapsed())
    }
}
