//! A stage in a process of its own: `PROGRAM exec-stage REQUEST`.
//!
//! The request is a file; the child writes one JSON line per event and a last one with the result to its standard
//! output, and anything else to standard error. Its standard input is the leash: the line `cancel` asks it to checkpoint
//! and stop, and the end of input, which the death of the runner causes too, ends it. So a child never outlives its
//! runner, and a child that crashes or is killed for memory takes no one with it.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use camino::Utf8Path;
use luthier_core::{CancelToken, ErrorClass, EventSink, Registry, StageEvent, StageOutcome, StageRequest};
use serde::{Deserialize, Serialize};

use super::execute::REQUEST_FORMAT;
use super::{StageFailure, guard, machine};

/// Lines of a child's standard error that are kept for its failure.
const LOG_LINES: usize = 40;

/// One line of a child's standard output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    Event(StageEvent),
    Done { outcome: StageOutcome, peak_memory: u64 },
    Failed(StageFailure),
}

/// What the reading threads tell the waiting one.
enum Heard {
    Message(Message),
    Line(String),
    Closed,
}

fn system(what: &str, error: &std::io::Error) -> StageFailure {
    let mut failure = StageFailure::new(ErrorClass::Stage, "run::child", what);
    failure.causes.push(error.to_string());
    failure
}

/// Runs the request in a child process; the outcome and the child's peak resident bytes.
pub(crate) fn run(
    program: &Utf8Path,
    request: &StageRequest,
    sink: &dyn EventSink,
    cancel: &CancelToken,
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
    // Ctrl-C of the terminal goes to the runner alone, which passes it on in its own way.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn().map_err(|error| system(&format!("`{program}` cannot be started"), &error))?;
    let result = attend(&mut child, sink, cancel);
    let _ = fs_err::remove_file(&file);
    result
}

fn attend(child: &mut Child, sink: &dyn EventSink, cancel: &CancelToken) -> Result<(StageOutcome, u64), StageFailure> {
    let mut leash = child.stdin.take();
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
            let _ = send.send(Heard::Closed);
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
    let mut log: VecDeque<String> = VecDeque::new();
    let mut told = false;
    let mut result = None;
    loop {
        if cancel.is_cancelled() && !told {
            told = true;
            if let Some(leash) = leash.as_mut() {
                let _ = leash.write_all(b"cancel\n").and_then(|()| leash.flush());
            }
        }
        match heard.recv_timeout(Duration::from_millis(100)) {
            Ok(Heard::Message(Message::Event(event))) => sink.emit(event),
            Ok(Heard::Message(Message::Done { outcome, peak_memory })) => result = Some(Ok((outcome, peak_memory))),
            Ok(Heard::Message(Message::Failed(failure))) => result = Some(Err(failure)),
            Ok(Heard::Line(line)) => {
                if log.len() == LOG_LINES {
                    log.pop_front();
                }
                log.push_back(line.clone());
                sink.emit(StageEvent::Log(line));
            }
            // A grandchild may hold the pipe open after the child has ended.
            Err(mpsc::RecvTimeoutError::Timeout) if child.try_wait().is_ok_and(|status| status.is_some()) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Ok(Heard::Closed) | Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    let status = child.wait().map_err(|error| system("the stage's process cannot be waited for", &error))?;
    while let Ok(Heard::Line(line)) = heard.recv_timeout(Duration::from_millis(200)) {
        log.push_back(line);
    }
    drop(leash);
    while log.len() > LOG_LINES {
        log.pop_front();
    }
    match result {
        Some(Ok(done)) if status.success() => Ok(done),
        Some(Err(mut failure)) => {
            failure.log = log.into();
            Err(failure)
        }
        _ => Err(died(status, log.into())),
    }
}

fn died(status: ExitStatus, log: Vec<String>) -> StageFailure {
    #[cfg(unix)]
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    #[cfg(not(unix))]
    let signal: Option<i32> = None;
    let message = match (signal, status.code()) {
        (Some(signal), _) => format!("the stage's process was killed by signal {signal}"),
        (None, Some(code)) => format!("the stage's process ended with status {code} and without a result"),
        (None, None) => "the stage's process ended without a result".to_owned(),
    };
    let mut failure = StageFailure::new(ErrorClass::Stage, "run::stage_died", message);
    failure.log = log;
    if signal == Some(libc::SIGKILL) {
        failure = failure.hint(
            "the system most likely ran out of memory: `dmesg` says so; `luthier plan --memory` shows what training needs",
        );
    }
    failure
}

/// Writes events as lines.
struct LineSink<'a>(std::sync::Mutex<&'a mut (dyn Write + Send)>);

impl LineSink<'_> {
    fn send(&self, message: &Message) {
        let Ok(mut line) = serde_json::to_vec(message) else { return };
        line.push(b'\n');
        let mut out = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // A runner that is gone closes the leash too, which ends this process.
        let _ = out.write_all(&line).and_then(|()| out.flush());
    }
}

impl EventSink for LineSink<'_> {
    fn emit(&self, event: StageEvent) {
        self.send(&Message::Event(event));
    }
}

/// Set for children, whose standard input is the leash; other callers, such as a batch system, leave it alone.
const LEASH: &str = "LUTHIER_LEASH";

/// The other end: executes one request in this process, events and result as JSON lines on `out`. Returns the class of
/// the failure, if it failed. If the environment has `LUTHIER_LEASH`, standard input is watched as described above.
pub fn exec_stage(request: &StageRequest, registry: &Registry, out: &mut (dyn Write + Send)) -> Option<ErrorClass> {
    let cancel = CancelToken::new();
    if std::env::var_os(LEASH).is_some() {
        let token = cancel.clone();
        std::thread::spawn(move || {
            for line in std::io::stdin().lines().map_while(Result::ok) {
                if line.trim() == "cancel" {
                    token.cancel();
                }
            }
            // The runner is gone; nobody will read the result.
            std::process::exit(130);
        });
    }
    let sink = LineSink(std::sync::Mutex::new(out));
    let result = find(request, registry).and_then(|stage| guard::run(stage.as_ref(), request.clone(), &sink, cancel));
    match result {
        Ok(outcome) => {
            sink.send(&Message::Done { outcome, peak_memory: machine::peak_memory() });
            None
        }
        Err(failure) => {
            let class = failure.class;
            sink.send(&Message::Failed(failure));
            Some(class)
        }
    }
}

fn find(request: &StageRequest, registry: &Registry) -> Result<std::sync::Arc<dyn luthier_core::Stage>, StageFailure> {
    if request.version != REQUEST_FORMAT {
        return Err(StageFailure::new(
            ErrorClass::Input,
            "run::request_version",
            format!("the request has version {}, but this luthier knows version {REQUEST_FORMAT}", request.version),
        )
        .hint("use the same luthier on both sides"));
    }
    registry.get(&request.kind).cloned().ok_or_else(|| {
        StageFailure::new(
            ErrorClass::Input,
            "run::unknown_kind",
            format!("this luthier has no stage kind `{}`", request.kind),
        )
        .hint("use the same luthier on both sides")
    })
}
