//! Running the user's own package client: cancellable, with its words kept for the error.

use std::fs::File;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use camino::Utf8Path;
use luthier_core::{StageContext, StageResult};

/// What a finished client said.
pub struct Finished {
    pub status: ExitStatus,
    pub stderr: String,
}

impl Finished {
    /// The last lines of what it wrote to stderr, without empty ones.
    pub fn last_words(&self) -> String {
        let lines: Vec<&str> = self.stderr.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(6)..].join("\n")
    }
}

/// Runs `command` to its end, polling for cancellation; what it writes goes to files in `work`, so no pipe can fill.
///
/// # Errors
/// It cannot be started (`NotFound` if there is no such program), or the run was cancelled; it is then killed.
pub fn run(context: &StageContext<'_>, command: &mut Command, work: &Utf8Path, note: &str) -> StageResult<Finished> {
    let (out, err) = (work.join("stdout.txt"), work.join("stderr.txt"));
    let create = |path: &Utf8Path| -> std::io::Result<File> { Ok(fs_err::File::create(path)?.into_parts().0) };
    command.stdin(Stdio::null()).stdout(create(&out)?).stderr(create(&err)?);
    let mut child = command.spawn()?;
    let mut reported = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if let Err(interrupted) = context.check_cancelled() {
            child.kill()?;
            child.wait()?;
            return Err(interrupted);
        }
        if reported.elapsed() > Duration::from_millis(900) {
            reported = Instant::now();
            context.progress(0, 0, "bytes", note);
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let read =
        |path: &Utf8Path| -> std::io::Result<String> { Ok(String::from_utf8_lossy(&fs_err::read(path)?).into_owned()) };
    let finished = Finished { status, stderr: read(&err)? };
    fs_err::remove_file(out)?;
    fs_err::remove_file(err)?;
    Ok(finished)
}
