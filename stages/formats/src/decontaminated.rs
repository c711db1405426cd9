//! Which evaluation sets the training data behind an artifact was freed of.
//!
//! A file beside the content of a dataset, of tokens, of an adapter or of a merged model: `filter` writes it when it
//! decontaminates, whatever is made of the rows carries it on, and `eval` asks it. Artifacts without it look as they always
//! did.

use std::collections::BTreeSet;

use camino::Utf8Path;
use luthier_core::fs::write_atomic;
use luthier_core::{Digest, StageError, StageResult};
use serde::{Deserialize, Serialize};

const FILE: &str = "decontaminated.json";
const VERSION: u32 = 1;

/// Digests of the dataset artifacts that no row overlaps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decontaminated(BTreeSet<Digest>);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u32,
    /// BLAKE3 of the artifacts.
    against: BTreeSet<Digest>,
}

impl Decontaminated {
    /// What `artifact` says of itself: nothing, if it is a file or has no such record.
    ///
    /// # Errors
    /// The record is damaged or of another version.
    pub fn read(artifact: &Utf8Path) -> StageResult<Self> {
        Ok(Self::recorded(artifact)?.unwrap_or_default())
    }

    /// The record of `artifact`, which may be one of nothing: then it was made of several, not all of which were freed of
    /// anything in common. `None` if it has no record.
    ///
    /// # Errors
    /// The record is damaged or of another version.
    pub fn recorded(artifact: &Utf8Path) -> StageResult<Option<Self>> {
        let path = artifact.join(FILE);
        let bytes = match fs_err::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let damaged = |what: String| {
            StageError::input("dataset::decontaminated", format!("`{path}` {what}"))
                .hint("run the stage that wrote it again")
        };
        let record: Record =
            serde_json::from_slice(&bytes).map_err(|error| damaged(format!("is not what it should be: {error}")))?;
        if record.version != VERSION {
            return Err(damaged(format!("has version {}, expected {VERSION}", record.version)));
        }
        Ok(Some(Self(record.against)))
    }

    /// What a model is freed of when adapters are merged into it: what each of them is, and the base too if it says
    /// anything. `None` if none of them has a record.
    ///
    /// # Errors
    /// A record is damaged or of another version.
    pub fn merged<'a>(base: &Utf8Path, adapters: impl IntoIterator<Item = &'a Utf8Path>) -> StageResult<Option<Self>> {
        let mut common = Self::recorded(base)?;
        let mut known = common.is_some();
        for adapter in adapters {
            let record = Self::recorded(adapter)?;
            known |= record.is_some();
            let record = record.unwrap_or_default().0;
            common = Some(Self(match common {
                Some(common) => common.0.intersection(&record).copied().collect(),
                None => record,
            }));
        }
        Ok(common.filter(|_| known))
    }

    /// Writes the record into `artifact`, a directory; nothing if there is nothing to say.
    ///
    /// # Errors
    /// The disk.
    pub fn write(&self, artifact: &Utf8Path) -> StageResult<()> {
        if self.0.is_empty() { Ok(()) } else { self.record(artifact) }
    }

    /// Writes the record into `artifact`, a directory, even if it is of nothing.
    ///
    /// # Errors
    /// The disk.
    pub fn record(&self, artifact: &Utf8Path) -> StageResult<()> {
        let record = Record { version: VERSION, against: self.0.clone() };
        let mut json = serde_json::to_vec_pretty(&record)
            .map_err(|error| StageError::new("dataset::decontaminated", "the record is not JSON").caused_by(error))?;
        json.push(b'\n');
        write_atomic(&artifact.join(FILE), &json)?;
        Ok(())
    }

    pub fn insert(&mut self, against: Digest) {
        self.0.insert(against);
    }

    #[must_use]
    pub fn contains(&self, against: &Digest) -> bool {
        self.0.contains(against)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_is_freed_of_what_all_its_parts_are() {
        let directory = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(directory.path()).unwrap();
        let part = |name: &str, against: Option<&[&str]>| {
            let path = root.join(name);
            fs_err::create_dir_all(&path).unwrap();
            if let Some(against) = against {
                Decontaminated(against.iter().map(|set| Digest::of(set.as_bytes())).collect()).record(&path).unwrap();
            }
            path
        };
        let (plain, nothing) = (part("plain", None), part("nothing", Some(&[])));
        let (a, ab, b) = (part("a", Some(&["a"])), part("ab", Some(&["a", "b"])), part("b", Some(&["b"])));
        let merged = |base: &Utf8Path, adapters: &[&Utf8Path]| {
            Decontaminated::merged(base, adapters.iter().copied())
                .unwrap()
                .map(|record| ["a", "b"].map(|set| record.contains(&Digest::of(set.as_bytes()))))
        };
        assert_eq!(merged(&plain, &[&plain]), None, "nothing is known");
        assert_eq!(merged(&plain, &[&ab]), Some([true, true]), "a plain base takes nothing away");
        assert_eq!(merged(&plain, &[&ab, &a]), Some([true, false]));
        assert_eq!(merged(&plain, &[&a, &plain]), Some([false, false]), "one of them was freed of nothing");
        assert_eq!(merged(&b, &[&ab]), Some([false, true]), "the base was trained on rows of a");
        assert_eq!(merged(&b, &[&plain]), Some([false, false]));
        assert_eq!(merged(&nothing, &[&ab]), Some([false, false]));
        assert_eq!(Decontaminated::recorded(&nothing).unwrap(), Some(Decontaminated::default()));
    }

    #[test]
    fn a_record_survives_and_its_absence_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(directory.path()).unwrap();
        assert_eq!(Decontaminated::read(root).unwrap(), Decontaminated::default());
        Decontaminated::default().write(root).unwrap();
        assert!(luthier_core::fs::walk_files(root).unwrap().is_empty());
        let mut record = Decontaminated::default();
        record.insert(Digest::of(b"test set"));
        record.write(root).unwrap();
        let read = Decontaminated::read(root).unwrap();
        assert!(read.contains(&Digest::of(b"test set")) && !read.contains(&Digest::of(b"another")));
        assert_eq!(Decontaminated::read(&root.join(FILE)).unwrap(), Decontaminated::default());
        for damaged in ["{", "{\"version\": 2, \"against\": []}", "{\"version\": 1, \"against\": [\"xyz\"]}"] {
            fs_err::write(root.join(FILE), damaged).unwrap();
            let error = Decontaminated::read(root).unwrap_err();
            assert!(error.message.contains(FILE) && !error.hints.is_empty(), "{error}");
        }
    }
}
