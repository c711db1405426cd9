//! The processes of stages: each child leads a session of its own, so that whatever it starts, in whatever process group,
//! is found and ended with it. Only a program that calls setsid(2) itself escapes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Ended at once when the runner is told to end at once.
pub(crate) trait Endable: Send + Sync {
    fn end(&self);
}

static SESSIONS: Mutex<BTreeMap<u32, ()>> = Mutex::new(BTreeMap::new());
static OTHERS: Mutex<Vec<Weak<dyn Endable>>> = Mutex::new(Vec::new());

/// A session known to [`end_all`] until dropped.
pub(crate) struct Registered(u32);

pub(crate) fn register(leader: u32) -> Registered {
    SESSIONS.lock().unwrap_or_else(PoisonError::into_inner).insert(leader, ());
    Registered(leader)
}

impl Drop for Registered {
    fn drop(&mut self) {
        SESSIONS.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

pub(crate) fn register_other(other: &Arc<impl Endable + 'static>) {
    let other: Weak<dyn Endable> = Arc::downgrade(other) as Weak<dyn Endable>;
    OTHERS.lock().unwrap_or_else(PoisonError::into_inner).push(other);
}

/// Ends every stage outside this process, for a second Ctrl-C.
pub(crate) fn end_all() {
    let sessions: Vec<u32> = SESSIONS.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect();
    for leader in sessions {
        kill_session(leader, None);
    }
    let others: Vec<_> = OTHERS.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect();
    for other in others.iter().filter_map(Weak::upgrade) {
        other.end();
    }
    #[cfg(target_os = "linux")]
    kill_descendants(std::process::id());
}

/// Kills what this process has started, what that has, and the process groups these made: stages inside the runner's own
/// process start programs too.
#[cfg(target_os = "linux")]
fn kill_descendants(ancestor: u32) {
    let all = processes();
    let own = all.iter().find(|process| process.id == ancestor).map(|process| process.group);
    let mut known = vec![ancestor];
    let mut at = 0;
    while at < known.len() {
        let parent = known[at];
        known.extend(all.iter().filter(|process| process.parent == parent).map(|process| process.id));
        at += 1;
    }
    let ours = |process: &&Process| known[1..].contains(&process.id);
    let groups: Vec<u32> =
        all.iter().filter(ours).map(|process| process.group).filter(|group| Some(*group) != own).collect();
    all.iter().filter(|process| ours(process) || groups.contains(&process.group)).for_each(|process| kill(process.id));
}

/// Makes the calling process the leader of a new session; for `pre_exec`.
#[cfg(unix)]
pub(crate) fn lead_session() -> std::io::Result<()> {
    // SAFETY: setsid takes no pointers and is async-signal-safe.
    if unsafe { libc::setsid() } < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(target_os = "linux")]
struct Process {
    id: u32,
    parent: u32,
    group: u32,
    session: u32,
}

/// The live processes of this machine, from `/proc`; zombies are dead.
#[cfg(target_os = "linux")]
fn processes() -> Vec<Process> {
    let Ok(entries) = fs_err::read_dir("/proc") else { return Vec::new() };
    let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter_map(|id| {
        let text = fs_err::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // pid (command) state ppid pgrp session: the command may contain anything, so count from its last parenthesis.
        let mut fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
        let alive = !matches!(fields.next()?, "Z" | "X");
        let mut number = || fields.next()?.parse::<u32>().ok();
        let (parent, group, session) = (number()?, number()?, number()?);
        alive.then_some(Process { id, parent, group, session })
    })
    .collect()
}

#[cfg(target_os = "linux")]
fn members(leader: u32) -> Vec<u32> {
    processes().into_iter().filter(|process| process.session == leader).map(|process| process.id).collect()
}

/// Kills every process of a session but `except`, until none is left: one may fork while it is looked for.
pub(crate) fn kill_session(leader: u32, except: Option<u32>) {
    #[cfg(target_os = "linux")]
    for _ in 0..50 {
        let members: Vec<u32> = members(leader).into_iter().filter(|id| Some(*id) != except).collect();
        if members.is_empty() {
            return;
        }
        for id in members {
            kill(id);
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    #[cfg(all(unix, not(target_os = "linux")))]
    if except.is_none()
        && let Ok(leader) = libc::pid_t::try_from(leader)
    {
        // SAFETY: killpg takes no pointers.
        unsafe { libc::killpg(leader, libc::SIGKILL) };
    }
}

#[cfg(target_os = "linux")]
fn kill(id: u32) {
    if let Ok(id) = libc::pid_t::try_from(id) {
        // SAFETY: kill takes no pointers; the process was a stage's a moment ago.
        unsafe { libc::kill(id, libc::SIGKILL) };
    }
}
