//! Memory that a file backs: the system writes it out when memory is short and reads it back when it is touched.

use std::ptr::NonNull;
use std::sync::Arc;

use camino::Utf8Path;
use luthier_core::{StageError, StageResult};
use luthier_kernels::device::{Allocation, Component, Device};
use memmap2::MmapOptions;

/// Zeroed memory of `bytes` bytes, backed by a file without a name in `directory`.
///
/// # Errors
/// `train::pages` if the file cannot be made that long.
pub(super) fn allocate(
    device: &dyn Device,
    component: Component,
    bytes: usize,
    directory: &Utf8Path,
) -> StageResult<Allocation> {
    let failed = |error: std::io::Error| {
        StageError::new(
            "train::pages",
            format!("a file of {bytes} bytes for the optimiser's states could not be made in `{directory}`"),
        )
        .hint("free space there, or use `optimizer: adamw_8bit`, which keeps a quarter of the bytes in memory")
        .caused_by(error)
    };
    fs_err::create_dir_all(directory).map_err(failed)?;
    let file = tempfile::tempfile_in(directory).map_err(failed)?;
    let length = bytes.max(1);
    file.set_len(length as u64).map_err(failed)?;
    reserve(&file, length).map_err(failed)?;
    // SAFETY: the file has no name, so nothing else can map or shorten it.
    let mut map = unsafe { MmapOptions::new().len(length).map_mut(&file) }.map_err(failed)?;
    let address = NonNull::new(map.as_mut_ptr()).ok_or_else(|| failed(std::io::ErrorKind::OutOfMemory.into()))?;
    let ledger = Arc::clone(device.ledger());
    let owner = Box::new(map);
    // SAFETY: the map is fresh, zeroed, aligned to a page, and lives in `owner` alone.
    Ok(unsafe { Allocation::paged(address, bytes, component, ledger, owner) })
}

/// Takes the file's blocks from the disk now: a full disk met later, on a write to the map, would be a signal.
#[cfg(unix)]
fn reserve(file: &std::fs::File, length: usize) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    let length = libc::off_t::try_from(length).map_err(|_| std::io::Error::from(std::io::ErrorKind::FileTooLarge))?;
    // SAFETY: the descriptor is open for as long as `file` is borrowed.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, length) } {
        0 => Ok(()),
        code => Err(std::io::Error::from_raw_os_error(code)),
    }
}

#[cfg(not(unix))]
fn reserve(_file: &std::fs::File, _length: usize) -> std::io::Result<()> {
    Ok(())
}
