//! A stage in a process of its own: `PROGRAM exec-stage REQUEST`.
//!
//! The request is a file; the child writes one JSON line per event and a last one with the result to its standard
//! output, and anything else to standard error. Its standard input is the leash ([`super::exec_stage`]). It leads a
//! session, and when it ends, however it does, the rest of the session is killed. So no process of a stage outlives its
//! stage or its runner, and a child that crashes or is killed for memory takes no one with it.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use camino::Utf8Path;
use luthier_core::{CancelToken, ErrorClass, EventSink, StageEvent, StageOutcome, StageRequest};

use super::death::Death;
use super::wire::{LEASH, Message};
use super::{StageFailure, machine, processes};

/// Lines of a child that are kept for its failure.
const LOG_LINES: usize = 40;

/// How long what a dead child has written may take to arrive.
const DRAIN: Duration = Duration::from_secs(2);

/// How a child is run and stopped.
pub(crate) struct Leash<'a> {
    pub sink: &'a dyn EventSink,
    /// Checkpoint and stop.
    pub stop: &'a CancelToken,
    /// End at once.
    pub kill: &'a CancelToken,
    /// Bytes that the stage declares, for its obituary.
    pub memory: u64,
    /// Accelerators that it has to itself, as CUDA_VISIBLE_DEVICES names them; empty for no say.
    pub gpus: &'a [String],
}

/// What the reading threads tell the waiting one.
enum Heard {
    Message(Message),
    Line(String),
}

pub(crate) fn system(what: &str, error: &std::io::Error) -> StageFailure {
    let mut failure = StageFailure::new(ErrorClass::Stage, "run::child", what);
    failure.causes.push(error.to_string());
    failure
}

/// Runs the request in a child process; the outcome and the child's peak resident bytes.
pub(crate) fn run(
    program: &Utf8Path,
    request: &StageRequest,
    leash: &Leash<'_>,
) -> Result<(StageOutcome, u64), StageFailure> {
    let file = request.scratch.join("request.json");
    let bytes = serde_json::to_vec(request).map_err(|error| system("the request cannot be written", &error.into()))?;
    fs_err::write(&file, bytes).map_err(|error| system("the request cannot be written", &error))?;
    let mut command = Command::new(program);
    command
        .arg("exec-stage")
        .arg(&file)
        .env(LEASH, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if !leash.gpus.is_empty() {
        command.env("CUDA_VISIBLE_DEVICES", leash.gpus.join(","));
    }
    // Ctrl-C of the terminal goes to the runner alone, which passes it on in its own way.
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        // SAFETY: the closure makes one async-signal-safe call and touches no memory.
        unsafe { command.pre_exec(processes::lead_session) };
    }
    let kills = machine::oom_kills();
    let mut child = command.spawn().map_err(|error| {
        system(&format!("`{program}` cannot be started"), &error)
            .hint("`--executor local` runs stages inside the runner's process")
    })?;
    let registered = processes::register(child.id());
    let result = attend(&mut child, leash, kills);
    drop(registered);
    let _ = fs_err::remove_file(&file);
    result
}

fn listen(child: &mut Child) -> mpsc::Receiver<Heard> {
    let (send, heard) = mpsc::channel();
    if let Some(out) = child.stdout.take() {
        let send = send.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let message = match serde_json::from_str(&line) {
                    Ok(message) => Heard::Message(message),
                    Err(_) => Heard::Line(line),
                };
                if send.send(message).is_err() {
                    return;
                }
            }
        });
    }
    if let Some(err) = child.stderr.take() {
        std::thread::spawn(move || {
            for line in BufReader::new(err).split(b'\n').map_while(Result::ok) {
                if send.send(Heard::Line(String::from_utf8_lossy(&line).into_owned())).is_err() {
                    return;
                }
            }
        });
    }
    heard
}

/// What was heard so far.
#[derive(Default)]
struct Ledger {
    /// Everything said, for one that dies.
    said: VecDeque<String>,
    /// What did not come as an event, for one that fails.
    stray: VecDeque<String>,
    result: Option<Result<(StageOutcome, u64), StageFailure>>,
}

fn push(lines: &mut VecDeque<String>, line: &str) {
    if lines.len() == LOG_LINES {
        lines.pop_front();
    }
    lines.push_back(line.to_owned());
}

impl Ledger {
    fn hear(&mut self, heard: Heard, sink: &dyn EventSink) {
        match heard {
            Heard::Message(Message::Event(event)) => {
                if let StageEvent::Log(line) = &event {
                    push(&mut self.said, line);
                }
                sink.emit(event);
            }
            Heard::Message(Message::Done { outcome, peak_memory }) => self.result = Some(Ok((outcome, peak_memory))),
            Heard::Message(Message::Failed(failure)) => self.result = Some(Err(failure)),
            Heard::Line(line) => {
                push(&mut self.said, &line);
                push(&mut self.stray, &line);
                sink.emit(StageEvent::Log(line));
            }
        }
    }
}

fn attend(child: &mut Child, leash: &Leash<'_>, kills: u64) -> Result<(StageOutcome, u64), StageFailure> {
    let id = child.id();
    let mut line = child.stdin.take();
    let heard = listen(child);
    let mut ledger = Ledger::default();
    let (mut told, mut killed) = (false, false);
    loop {
        if leash.stop.is_cancelled() && !told {
            told = true;
            if let Some(line) = line.as_mut() {
                let _ = line.write_all(b"cancel\n").and_then(|()| line.flush());
            }
        }
        if leash.kill.is_cancelled() && !killed {
            killed = true;
            processes::kill_session(id, None);
        }
        match heard.recv_timeout(Duration::from_millis(50)) {
            Ok(word) => ledger.hear(word, leash.sink),
            Err(error) => {
                if error == mpsc::RecvTimeoutError::Disconnected {
                    std::thread::sleep(Duration::from_millis(5));
                }
                if has_ended(child) {
                    break;
                }
            }
        }
    }
    // While the dead child is not waited for, its number and with it the session's cannot be given to another process.
    processes::kill_session(id, None);
    let (status, peak) = reap(child).map_err(|error| system("the stage's process cannot be waited for", &error))?;
    let since = Instant::now();
    while let Ok(word) = heard.recv_timeout(DRAIN.saturating_sub(since.elapsed())) {
        ledger.hear(word, leash.sink);
    }
    drop(line);
    match ledger.result {
        Some(Ok(done)) if status.success() => Ok(done),
        Some(Err(mut failure)) => {
            failure.log = ledger.stray.into();
            Err(failure)
        }
        _ => {
            let death = Death { status, peak, declared: leash.memory, oom_kill: machine::oom_kills() > kills };
            Err(death.failure(ledger.said.into()))
        }
    }
}

/// Whether the child has ended; it stays a zombie.
#[cfg(target_os = "linux")]
fn has_ended(child: &mut Child) -> bool {
    // SAFETY: all-zero is a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is valid for writes; the child is ours and has not been waited for.
    let answer = unsafe { libc::waitid(libc::P_PID, child.id(), &raw mut info, flags) };
    // SAFETY: waitid filled `info`, or left it zero while the child runs.
    answer != 0 || unsafe { info.si_pid() } != 0
}

#[cfg(not(target_os = "linux"))]
fn has_ended(child: &mut Child) -> bool {
    !matches!(child.try_wait(), Ok(None))
}

/// Waits for the child; its status and highest resident bytes.
#[cfg(target_os = "linux")]
fn reap(child: &mut Child) -> std::io::Result<(ExitStatus, u64)> {
    use std::os::unix::process::ExitStatusExt;
    let id = libc::pid_t::try_from(child.id()).map_err(std::io::Error::other)?;
    let mut status = 0;
    // SAFETY: all-zero is a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for writes; the child is ours and has not been waited for.
    while unsafe { libc::wait4(id, &raw mut status, 0, &raw mut usage) } < 0 {
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // In units of 1024 bytes on Linux, getrusage(2).
    Ok((ExitStatus::from_raw(status), u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024))
}

#[cfg(not(target_os = "linux"))]
fn reap(child: &mut Child) -> std::io::Result<(ExitStatus, u64)> {
    Ok((child.wait()?, 0))
}
