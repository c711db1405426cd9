//! File operations that keep the two promises of the store: a path in every error, and old or new but never half.

use std::io::{self, Write};

use camino::{Utf8Path, Utf8PathBuf};

/// Writes `bytes` to `path` by temporary file, fsync and rename: a reader sees the old content or the new.
///
/// # Errors
/// Any I/O error, with its path; the old file is then untouched.
pub fn write_atomic(path: &Utf8Path, bytes: &[u8]) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_str().is_empty() => parent,
        _ => Utf8Path::new("."),
    };
    fs_err::create_dir_all(parent)?;
    let context = |error: io::Error| io::Error::new(error.kind(), format!("failed to write `{path}`: {error}"));
    let mut temporary = temporary_file(parent, ".tmp-").map_err(context)?;
    temporary.write_all(bytes).map_err(context)?;
    temporary.as_file().sync_all().map_err(context)?;
    temporary.persist(path).map_err(|error| context(error.error))?;
    Ok(())
}

/// A file in `parent` that is removed unless it gets a name; who may read it is what the user's mask says of new files.
///
/// # Errors
/// It cannot be made.
pub fn temporary_file(parent: &Utf8Path, prefix: &str) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(parent)
}

/// Every file below `root`, as sorted `/`-separated relative paths. Symbolic links are followed.
///
/// # Errors
/// Unreadable directories and names that are not UTF-8, with the path.
pub fn walk_files(root: &Utf8Path) -> io::Result<Vec<String>> {
    walk(root, &[])
}

/// Directories that hold what programs make or fetch, never sources.
pub const NEVER_SOURCES: [&str; 7] =
    ["target", ".git", ".luthier", "node_modules", ".venv", "__pycache__", ".zig-cache"];

/// As [`walk_files`], without what lies in [`NEVER_SOURCES`].
///
/// # Errors
/// A directory that cannot be read, or a name that is not UTF-8.
pub fn walk_sources(root: &Utf8Path) -> io::Result<Vec<String>> {
    walk(root, &NEVER_SOURCES)
}

fn walk(root: &Utf8Path, skipped: &[&str]) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut pending: Vec<Utf8PathBuf> = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs_err::read_dir(&directory)? {
            let entry = entry?;
            let path = Utf8PathBuf::from_path_buf(entry.path()).map_err(|path| {
                io::Error::new(io::ErrorKind::InvalidData, format!("`{}` is not a UTF-8 path", path.display()))
            })?;
            if fs_err::metadata(&path)?.is_dir() {
                if !path.file_name().is_some_and(|name| skipped.contains(&name)) {
                    pending.push(path);
                }
            } else if let Ok(relative) = path.strip_prefix(root) {
                found.push(relative.as_str().to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Whether the owner may execute the file.
#[must_use]
pub fn is_executable(meta: &std::fs::Metadata) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        meta.permissions().mode() & 0o100 != 0
    }
    #[cfg(not(unix))]
    {
        let _ = meta;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_atomic_replaces_and_leaves_no_temporary() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = Utf8Path::from_path(dir.path()).expect("UTF-8");
        let path = root.join("sub/file");
        write_atomic(&path, b"one").expect("first");
        write_atomic(&path, b"two").expect("second");
        assert_eq!(fs_err::read(&path).expect("read"), b"two");
        assert_eq!(walk_files(root).expect("walk"), ["sub/file"]);
        // Like any other new file, so that others of a project or a shared store can read it.
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |path: &Utf8Path| fs_err::metadata(path).expect("a file").permissions().mode() & 0o777;
            fs_err::write(root.join("plain"), b"one").expect("written");
            assert_eq!(mode(&path), mode(&root.join("plain")));
        }
    }
}
