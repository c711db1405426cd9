//! What the runner asks of the machine: its name, its memory, and how much of it a stage took.

/// The host's name, for records; never in a key.
#[must_use]
pub fn host() -> String {
    for path in ["/proc/sys/kernel/hostname", "/etc/hostname"] {
        if let Ok(name) = fs_err::read_to_string(path) {
            return name.trim().to_owned();
        }
    }
    std::env::var("HOSTNAME").or_else(|_| std::env::var("COMPUTERNAME")).unwrap_or_default()
}

/// Bytes in a line such as `VmHWM:   1234 kB` of a file of `/proc`.
fn kilobytes(path: &str, field: &str) -> Option<u64> {
    let text = fs_err::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.trim_start_matches(':').split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// Bytes of memory that stages may use together: nine tenths of what the machine has; `None` where it does not say.
#[must_use]
pub fn memory_limit() -> Option<u64> {
    kilobytes("/proc/meminfo", "MemTotal").map(|total| total / 10 * 9)
}

/// Highest resident bytes of this process since [`reset_peak`] or its start; 0 where it is not known.
#[must_use]
pub fn peak_memory() -> u64 {
    kilobytes("/proc/self/status", "VmHWM").unwrap_or(0)
}

/// Starts the measurement of [`peak_memory`] anew, where the system can.
pub fn reset_peak() {
    // 5 resets the peak resident set size, proc_pid_clear_refs(5); without it the peak is of the whole process.
    let _ = fs_err::write("/proc/self/clear_refs", "5");
}

/// Bytes that may still be written to the file system of `path`; `None` if unknown.
pub fn free_bytes(path: &camino::Utf8Path) -> Option<u64> {
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    {
        let path = std::ffi::CString::new(path.as_str()).ok()?;
        let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
        // SAFETY: the path ends in a zero byte and `stat` has room for the structure that the call fills.
        let done = unsafe { libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) };
        // SAFETY: a return value of 0 says that the structure is filled.
        let stat = (done == 0).then(|| unsafe { stat.assume_init() })?;
        stat.f_bavail.checked_mul(stat.f_frsize)
    }
    #[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
    {
        let _ = path;
        None
    }
}
