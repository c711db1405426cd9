//! What a stage in another process says to the runner: JSON lines on its standard output.

use std::io::Write;
use std::sync::{Mutex, PoisonError};

use camino::Utf8Path;
use luthier_core::{CancelToken, ErrorClass, EventSink, Registry, Stage, StageEvent, StageOutcome, StageRequest};
use serde::{Deserialize, Serialize};

use super::execute::REQUEST_FORMAT;
use super::{StageFailure, guard, interrupt, machine, processes};

/// Set for children, whose standard input is the leash; other callers, such as a batch system, leave it alone.
pub(crate) const LEASH: &str = "LUTHIER_LEASH";

const PROCESS_LOCK: &str = "process.lock";

/// One line of the stage's process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Message {
    Event(StageEvent),
    Done { outcome: StageOutcome, peak_memory: u64 },
    Failed(StageFailure),
}

/// Writes events as lines.
struct LineSink<'a>(Mutex<&'a mut (dyn Write + Send)>);

impl LineSink<'_> {
    fn send(&self, message: &Message) {
        let Ok(mut line) = serde_json::to_vec(message) else { return };
        line.push(b'\n');
        let mut out = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A runner that is gone closes the leash too, which ends this process.
        let _ = out.write_all(&line).and_then(|()| out.flush());
    }
}

impl EventSink for LineSink<'_> {
    fn emit(&self, event: StageEvent) {
        self.send(&Message::Event(event));
    }
}

/// Executes one request in this process, events and result as JSON lines on `out`. Returns the class of the failure, if
/// it failed.
///
/// If the environment has `LUTHIER_LEASH`, standard input is the leash: the line `cancel` asks the stage to checkpoint
/// and stop, and the end of input, which the death of the runner causes too, ends this process and all of its session.
/// Otherwise a first SIGTERM or SIGINT asks the stage to checkpoint and stop, and a second one ends it.
pub fn exec_stage(request: &StageRequest, registry: &Registry, out: &mut (dyn Write + Send)) -> Option<ErrorClass> {
    let cancel = CancelToken::new();
    let mut watched = Ok(());
    if std::env::var_os(LEASH).is_some() {
        hold_leash(cancel.clone());
    } else {
        watched = interrupt::interrupt_on_ctrl_c(&cancel);
    }
    let _lock = lock(&request.scratch);
    let sink = LineSink(Mutex::new(out));
    if let Err(error) = watched {
        sink.emit(StageEvent::Warning { message: format!("the stage cannot be told to stop: {error}"), hint: None });
    }
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

/// Held while a process works in a scratch directory, so that the next run does not begin before the last process of a
/// killed one has ended. `None` on file systems without locks.
fn lock(scratch: &Utf8Path) -> Option<std::fs::File> {
    let file = fs_err::File::create(scratch.join(PROCESS_LOCK)).ok()?.into_parts().0;
    file.lock().ok()?;
    Some(file)
}

/// Waits until no process works in the scratch directory; false if it was told to stop first.
pub(crate) fn wait_until_free(scratch: &Utf8Path, stop: &CancelToken) -> bool {
    let Ok(file) = fs_err::File::open(scratch.join(PROCESS_LOCK)) else { return true };
    while let Err(std::fs::TryLockError::WouldBlock) = file.file().try_lock_shared() {
        if stop.is_cancelled() {
            return false;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    true
}

fn hold_leash(cancel: CancelToken) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if line.trim() == "cancel" {
                cancel.cancel();
            }
        }
        // The runner is gone; nobody will read the result, and nothing that this process started may stay.
        let own = std::process::id();
        processes::kill_session(own, Some(own));
        std::process::exit(130);
    });
}

fn find(request: &StageRequest, registry: &Registry) -> Result<std::sync::Arc<dyn Stage>, StageFailure> {
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
