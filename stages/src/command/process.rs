//! Runs the program: own process group, its lines to the log, killed on cancellation and time-out.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use luthier_core::{StageContext, StageError, StageResult};

/// Lines of output that an error repeats.
const TAIL: usize = 20;
/// A longer line of output is cut here.
const LINE: u64 = 64 * 1024;

pub fn run(
    context: &StageContext<'_>,
    words: &[String],
    environment: &BTreeMap<String, String>,
    timeout: Option<u64>,
) -> StageResult<()> {
    let (program, arguments) = words
        .split_first()
        .ok_or_else(|| StageError::input("command::empty", "there is nothing to run").hint("write a `run:` line"))?;
    let temporary = context.temporary();
    let mut command = Command::new(program);
    command.args(arguments).current_dir(&context.request().directory).env_clear();
    for name in ["PATH", "HOME"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.env("TMPDIR", &temporary).env("LC_ALL", "C.UTF-8").env("TZ", "UTC").envs(environment);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    // If the process that runs the stage is killed, nobody is left to end the program.
    #[cfg(target_os = "linux")]
    // SAFETY: the closure makes one async-signal-safe call and touches no memory.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    let mut child = command.spawn().map_err(|error| {
        StageError::new("command::start", format!("`{program}` cannot be started"))
            .hint(format!("check that `{program}` is installed: `command -v {program}`"))
            .caused_by(error)
    })?;
    let began = Instant::now();
    let (sender, lines) = mpsc::channel::<String>();
    let readers: Vec<_> = [child.stdout.take().map(boxed), child.stderr.take().map(boxed)]
        .into_iter()
        .flatten()
        .map(|stream| {
            let sender = sender.clone();
            thread::spawn(move || forward(stream, &sender))
        })
        .collect();
    drop(sender);
    let mut tail: VecDeque<String> = VecDeque::new();
    let mut take = |line: String| {
        context.log(line.clone());
        if tail.len() == TAIL {
            tail.pop_front();
        }
        tail.push_back(line);
    };
    let status = loop {
        while let Ok(line) = lines.recv_timeout(Duration::from_millis(50)) {
            take(line);
        }
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if context.cancel().is_cancelled() {
            kill(&mut child);
            return Err(StageError::interrupted());
        }
        if let Some(limit) = timeout.filter(|limit| began.elapsed() > Duration::from_secs(*limit)) {
            kill(&mut child);
            return Err(StageError::new("command::timeout", format!("the command ran longer than {limit} s"))
                .hint("raise `timeout`, or run it by hand to see where it hangs"));
        }
    };
    // A grandchild that keeps the pipe open must not keep the stage.
    kill_group(child.id());
    for reader in readers {
        // A reader that panicked has nothing more to say.
        let _ = reader.join();
    }
    lines.try_iter().for_each(&mut take);
    if status.success() {
        return Ok(());
    }
    Err(failed(program, status, &tail))
}

fn failed(program: &str, status: ExitStatus, tail: &VecDeque<String>) -> StageError {
    use std::os::unix::process::ExitStatusExt;
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "did not end well".to_owned(),
    };
    let error = StageError::new("command::failed", format!("the command {how}"));
    if tail.is_empty() {
        return error.hint(format!("it printed nothing; run `{program}` by hand with the same arguments"));
    }
    let said: Vec<&str> = tail.iter().map(String::as_str).collect();
    error
        .caused_by(std::io::Error::other(said.join("\n")))
        .hint("its last lines are above; `--verbose` prints all of them")
}

fn boxed(stream: impl Read + Send + 'static) -> Box<dyn Read + Send> {
    Box::new(stream)
}

fn forward(stream: Box<dyn Read + Send>, sender: &mpsc::Sender<String>) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.by_ref().take(LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line);
                if sender.send(text.trim_end_matches(['\r', '\n']).to_owned()).is_err() {
                    return;
                }
            }
        }
    }
}

fn kill(child: &mut Child) {
    kill_group(child.id());
    // It is dead or unkillable; either way there is nothing left to wait for.
    let _ = child.wait();
}

fn kill_group(id: u32) {
    if let Ok(id) = libc::pid_t::try_from(id) {
        // SAFETY: `killpg` takes no pointers; the group is the child's own, made by `process_group(0)`.
        unsafe {
            libc::killpg(id, libc::SIGKILL);
        }
    }
}
