//! What to say of a stage whose process ended without a result.

use std::process::ExitStatus;

use luthier_core::ErrorClass;

use super::{StageFailure, machine};
use crate::format::bytes;

/// What is known about the end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Death {
    pub status: ExitStatus,
    /// Highest resident bytes of the process; 0 if unknown.
    pub peak: u64,
    /// Bytes that the stage declared; 0 for none.
    pub declared: u64,
    /// The system killed some process for memory meanwhile.
    pub oom_kill: bool,
}

impl Death {
    /// The failure; `log` is what the process said last.
    pub fn failure(&self, log: Vec<String>) -> StageFailure {
        let signal = signal(self.status);
        let resident =
            if self.peak > 0 { format!(", with {} resident at most", bytes(self.peak)) } else { String::new() };
        // What Rust's allocator says before it aborts: `memory allocation of 8589934592 bytes failed`.
        let allocation = log
            .iter()
            .rev()
            .find_map(|line| line.split_once("memory allocation of ")?.1.split(' ').next()?.parse::<u64>().ok());
        let memory =
            (signal == Some(libc::SIGKILL) && self.oom_kill) || (signal == Some(libc::SIGABRT) && allocation.is_some());
        let (code, message) = match (signal, self.status.code()) {
            (Some(libc::SIGKILL), _) if memory => (
                "run::out_of_memory",
                format!("the system killed the stage's process because memory ran out{resident}"),
            ),
            (Some(_), _) if memory => (
                "run::out_of_memory",
                format!(
                    "the stage's process could not get the {} it asked for{resident}",
                    bytes(allocation.unwrap_or(0))
                ),
            ),
            (Some(signal), _) => (
                "run::stage_died",
                format!("the stage's process was killed by signal {signal}{}{resident}", named(signal)),
            ),
            (None, Some(code)) => {
                ("run::stage_died", format!("the stage's process ended with status {code} and without a result"))
            }
            (None, None) => ("run::stage_died", "the stage's process ended without a result".to_owned()),
        };
        let mut failure = StageFailure::new(ErrorClass::Stage, code, message);
        failure.log = log;
        match signal {
            Some(libc::SIGKILL | libc::SIGABRT) if memory => failure.hint(self.memory_hint(allocation)),
            Some(libc::SIGKILL) => failure
                .hint(format!("if nobody killed it, memory ran out (`dmesg` says so): {}", self.memory_hint(None))),
            Some(libc::SIGABRT | libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE) => failure.hint(
                "this is a defect of luthier or of a library it uses; please report it with the pipeline file and the lines above",
            ),
            Some(libc::SIGXCPU) => failure.hint("a limit on CPU time ended it: raise it with `ulimit -t`"),
            _ => failure,
        }
    }

    fn memory_hint(&self, allocation: Option<u64>) -> String {
        let machine =
            machine::memory_total().map_or_else(String::new, |total| format!("this machine has {}, ", bytes(total)));
        let declared = match self.declared {
            0 => "the stage declares none".to_owned(),
            declared => format!("the stage declares {}", bytes(declared)),
        };
        // A little more than it had when it died, which is the least that it needs.
        let wanted = (self.peak + allocation.unwrap_or(0)).max(self.declared) / 4 * 5;
        let example = if wanted > 0 { bytes(wanted).replace(' ', "") } else { "8GB".to_owned() };
        format!(
            "{machine}{declared}; write `resources: {{memory: {example}}}` so that less runs beside it, or run with `--jobs 1`; `luthier plan --memory` shows what a training needs"
        )
    }
}

#[cfg(unix)]
fn signal(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn signal(_status: ExitStatus) -> Option<i32> {
    None
}

fn named(signal: i32) -> &'static str {
    match signal {
        libc::SIGABRT => " (SIGABRT: it aborted)",
        libc::SIGBUS => " (SIGBUS)",
        libc::SIGFPE => " (SIGFPE)",
        libc::SIGHUP => " (SIGHUP)",
        libc::SIGILL => " (SIGILL: an instruction this CPU does not know)",
        libc::SIGKILL => " (SIGKILL)",
        libc::SIGSEGV => " (SIGSEGV: it crashed)",
        libc::SIGTERM => " (SIGTERM)",
        libc::SIGXCPU => " (SIGXCPU)",
        _ => "",
    }
}
