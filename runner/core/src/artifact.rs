//! Artifacts: immutable outputs, a file or a tree, addressed by content.
//!
//! A file's digest is BLAKE3 of its bytes. A tree's digest is BLAKE3, in derive-key mode, of its sorted list of
//! `(relative path, digest, executable bit)`: names count, times and owners do not. The two can never collide, because
//! they hash in different domains.

use std::io::Read;

use camino::{Utf8Path, Utf8PathBuf};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// What an artifact is, so that an adapter cannot be handed where a model is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ArtifactKind {
    /// A directory of Parquet shards (`luthier_formats::dataset`).
    Dataset,
    /// Packed token sequences with loss masks (`luthier_formats::tokens`).
    Tokens,
    /// A Hugging Face model directory, or one GGUF file used as a model.
    Model,
    /// A PEFT adapter directory.
    Adapter,
    /// A GGUF file made for inference.
    Gguf,
    /// Evaluation results, one JSON file.
    Scores,
    /// Anything meant to be read: a plan, a table, HTML.
    Report,
    /// Any other file or directory.
    File,
}

impl ArtifactKind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dataset => "dataset",
            Self::Tokens => "tokens",
            Self::Model => "model",
            Self::Adapter => "adapter",
            Self::Gguf => "gguf",
            Self::Scores => "scores",
            Self::Report => "report",
            Self::File => "file",
        }
    }
}

impl std::fmt::Display for ArtifactKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An artifact as records and locks name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Artifact {
    pub kind: ArtifactKind,
    pub digest: Digest,
    /// Total bytes of content.
    pub size: u64,
    /// A directory rather than a file.
    pub tree: bool,
}

/// One file of a tree artifact.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TreeEntry {
    /// Relative, `/`-separated.
    pub path: String,
    pub digest: Digest,
    pub size: u64,
    pub executable: bool,
}

/// The digest of a tree, from its entries in any order.
#[must_use]
pub fn digest_tree(entries: &[TreeEntry]) -> Digest {
    let mut sorted: Vec<&TreeEntry> = entries.iter().collect();
    sorted.sort();
    let mut hasher = blake3::Hasher::new_derive_key("luthier 2026-11 artifact tree v1");
    for entry in sorted {
        hasher.update(&(entry.path.len() as u64).to_le_bytes());
        hasher.update(entry.path.as_bytes());
        hasher.update(entry.digest.as_bytes());
        hasher.update(&[u8::from(entry.executable)]);
    }
    Digest::from_bytes(*hasher.finalize().as_bytes())
}

/// Hashes a file, or a directory as a tree; returns the digest, the entries (one with an empty path for a file) and
/// the total size in bytes. Symbolic links are followed; anything that is neither file nor directory is an error.
///
/// # Errors
/// Any read error, with its path.
pub fn digest_path(path: &Utf8Path) -> std::io::Result<(Digest, Vec<TreeEntry>, u64)> {
    let meta = fs_err::metadata(path)?;
    if meta.is_file() {
        let digest = digest_file(path)?;
        let size = meta.len();
        let entry = TreeEntry { path: String::new(), digest, size, executable: crate::fs::is_executable(&meta) };
        return Ok((digest, vec![entry], size));
    }
    let mut entries = Vec::new();
    for relative in crate::fs::walk_files(path)? {
        let full: Utf8PathBuf = path.join(&relative);
        let meta = fs_err::metadata(&full)?;
        entries.push(TreeEntry {
            path: relative,
            digest: digest_file(&full)?,
            size: meta.len(),
            executable: crate::fs::is_executable(&meta),
        });
    }
    let size = entries.iter().map(|entry| entry.size).sum();
    Ok((digest_tree(&entries), entries, size))
}

/// Bytes of a file hashed at once, on all threads.
const HASHED: u64 = 16 << 20;

/// BLAKE3 of a file's bytes.
///
/// The file is read, not mapped: a mapping counts as memory of the process, as much as the file is long, and one of a file
/// that somebody shortens meanwhile ends the process.
///
/// # Errors
/// The file cannot be read.
pub fn digest_file(path: &Utf8Path) -> std::io::Result<Digest> {
    let mut file = fs_err::File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut bytes = Vec::with_capacity(usize::try_from(file.metadata()?.len().min(HASHED)).unwrap_or(0));
    while file.by_ref().take(HASHED).read_to_end(&mut bytes)? > 0 {
        hasher.update_rayon(&bytes);
        bytes.clear();
    }
    Ok(Digest::from_bytes(*hasher.finalize().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_hashed_piece_by_piece() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = Utf8Path::from_path(directory.path()).expect("UTF-8").join("file");
        for length in [0, 1, HASHED - 1, HASHED, 2 * HASHED + 3] {
            let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            fs_err::write(&path, &bytes).expect("write");
            assert_eq!(digest_file(&path).expect("hashed"), Digest::of(&bytes), "{length}");
        }
    }

    #[test]
    fn tree_digest_ignores_order_and_sees_names() {
        let entry = |path: &str, text: &[u8]| TreeEntry {
            path: path.to_owned(),
            digest: Digest::of(text),
            size: text.len() as u64,
            executable: false,
        };
        let (a, b) = (entry("a", b"1"), entry("b", b"2"));
        assert_eq!(digest_tree(&[a.clone(), b.clone()]), digest_tree(&[b.clone(), a.clone()]));
        assert_ne!(digest_tree(&[a, b]), digest_tree(&[entry("b", b"1"), entry("a", b"2")]));
    }
}
