//! What the runner asks of the machine: its name, its memory and accelerators, and how much of it a stage took.

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

/// Bytes of memory that this process and its children can have: what the machine has, or the control group if less.
#[must_use]
pub fn memory_total() -> Option<u64> {
    let machine = kilobytes("/proc/meminfo", "MemTotal");
    // cgroups v2 and v1 as containers see them; `max` and absurdly large numbers mean no limit.
    let group = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .filter_map(|path| fs_err::read_to_string(path).ok()?.trim().parse::<u64>().ok())
        .min();
    match (machine, group) {
        (Some(machine), Some(group)) => Some(machine.min(group)),
        (machine, group) => machine.or(group),
    }
}

/// Bytes of memory that stages may use together: nine tenths of what there is; `None` where the system does not say.
#[must_use]
pub fn memory_limit() -> Option<u64> {
    memory_total().map(|total| total / 10 * 9)
}

/// The accelerators by the names that CUDA_VISIBLE_DEVICES knows: what that variable says, else all of the driver's.
#[must_use]
pub fn gpus() -> Vec<String> {
    if let Ok(list) = std::env::var("CUDA_VISIBLE_DEVICES") {
        return list
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty() && *name != "-1")
            .map(str::to_owned)
            .collect();
    }
    let count = fs_err::read_dir("/proc/driver/nvidia/gpus").map_or(0, |entries| entries.flatten().count());
    (0..count).map(|at| at.to_string()).collect()
}

/// How often the system has killed a process for memory since it started; 0 where it does not say.
#[must_use]
pub fn oom_kills() -> u64 {
    let Ok(text) = fs_err::read_to_string("/proc/vmstat") else { return 0 };
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
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
