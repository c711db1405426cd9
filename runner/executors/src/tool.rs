//! Running a command-line tool to its end, within a time.

use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a tool printed and how it ended.
pub struct Answer {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

fn gather(stream: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What arrived before an error is all there is.
            let _ = stream.read_to_end(&mut bytes);
        }
        bytes
    })
}

/// Runs a tool; one that takes longer than `limit` is killed.
///
/// # Errors
/// It cannot be started, or takes too long (`TimedOut`).
pub fn run(program: &str, arguments: &[String], input: &str, limit: Duration) -> io::Result<Answer> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A Ctrl-C is the runner's to answer; the tool finishes what it was asked.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn()?;
    let (stdout, stderr) = (gather(child.stdout.take()), gather(child.stderr.take()));
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that ends without reading says why itself.
        let _ = stdin.write_all(input.as_bytes());
    }
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if began.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("`{program}` did not end within {} s", limit.as_secs()),
            ));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let text = |bytes: std::thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&bytes.join().unwrap_or_default()).into_owned()
    };
    Ok(Answer { success: status.success(), stdout: text(stdout), stderr: text(stderr) })
}
