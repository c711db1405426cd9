//! Digests of source files and trees of the working directory.

use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{Digest, SourceKind, TreeEntry, digest_tree, fs::NEVER_SOURCES, fs::is_executable};

use crate::store::StatMemo;

/// The content digest of a source.
///
/// # Errors
/// It does not exist, is of the wrong kind, cannot be read, or links into itself.
pub fn digest_source(path: &Utf8Path, kind: SourceKind, memo: &StatMemo) -> io::Result<Digest> {
    let meta = fs_err::metadata(path)?;
    match kind {
        SourceKind::File if meta.is_file() => Ok(memo.digest(path)?.0),
        SourceKind::Tree if meta.is_dir() => digest_tree_source(path, memo),
        SourceKind::File => Err(io::Error::new(io::ErrorKind::IsADirectory, format!("`{path}` is not a file"))),
        SourceKind::Tree => Err(io::Error::new(io::ErrorKind::NotADirectory, format!("`{path}` is not a directory"))),
    }
}

/// The digest of a directory: names, content and executable bits of all files below it, in sorted order;
/// [`NEVER_SOURCES`] are left out.
///
/// # Errors
/// Anything below cannot be read, or a symbolic link leads back to a directory above it.
pub fn digest_tree_source(root: &Utf8Path, memo: &StatMemo) -> io::Result<Digest> {
    let mut entries = Vec::new();
    let mut above = vec![fs_err::canonicalize(root)?];
    walk(root, "", memo, &mut above, &mut entries)?;
    Ok(digest_tree(&entries))
}

fn walk(
    directory: &Utf8Path,
    prefix: &str,
    memo: &StatMemo,
    above: &mut Vec<std::path::PathBuf>,
    entries: &mut Vec<TreeEntry>,
) -> io::Result<()> {
    for entry in fs_err::read_dir(directory)? {
        let entry = entry?;
        let path = Utf8PathBuf::from_path_buf(entry.path()).map_err(|path| {
            io::Error::new(io::ErrorKind::InvalidData, format!("`{}` is not a UTF-8 path", path.display()))
        })?;
        let Some(name) = path.file_name() else { continue };
        let kind = entry.file_type()?;
        let is_dir = if kind.is_symlink() {
            match fs_err::metadata(&path) {
                Ok(meta) => meta.is_dir(),
                // A dangling link, such as an editor's lock, holds nothing that a stage could read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            }
        } else {
            kind.is_dir()
        };
        let relative = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
        if is_dir {
            if NEVER_SOURCES.contains(&name) {
                continue;
            }
            if kind.is_symlink() {
                let real = fs_err::canonicalize(&path)?;
                if above.contains(&real) {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidInput,
                        format!("the link `{path}` leads back to `{}` above it", real.display()),
                    ));
                }
                above.push(real);
                walk(&path, &relative, memo, above, entries)?;
                above.pop();
            } else {
                walk(&path, &relative, memo, above, entries)?;
            }
            continue;
        }
        let meta = fs_err::metadata(&path)?;
        let (digest, size) = match memo.recall(&path, &meta) {
            Some(digest) => (digest, meta.len()),
            None => memo.digest(&path)?,
        };
        entries.push(TreeEntry { path: relative, digest, size, executable: is_executable(&meta) });
    }
    Ok(())
}
