//! Reading the whole store again and comparing every byte with the digest it is filed under.

use camino::Utf8PathBuf;
use luthier_core::Digest;
use serde::Serialize;

use super::{Store, StoreError};

/// Something that is not what its name says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The digest it is filed under.
    pub digest: Digest,
    pub path: Utf8PathBuf,
    /// Lowercase fragment, such as `its bytes hash to 3fa9…`.
    pub problem: String,
}

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    pub objects: usize,
    pub trees: usize,
    pub records: usize,
    pub bytes: u64,
    /// Rotten objects and trees. What the next run needs of them it makes anew.
    pub damaged: Vec<Damage>,
    /// Outputs that a record names and that are not there, as `stage.output digest`.
    pub missing: Vec<String>,
}

/// Two hex digits and the rest, as objects, trees and records are filed; `.x` and `.json` taken off.
pub(super) fn filed_digest(relative: &str) -> Option<Digest> {
    let (prefix, rest) = relative.split_once('/')?;
    let rest = rest.strip_suffix(".x").or_else(|| rest.strip_suffix(".json")).unwrap_or(rest);
    let hex = if rest.len() == 64 { rest.to_owned() } else { format!("{prefix}{rest}") };
    hex.parse().ok()
}

impl Store {
    /// Files below one of the store's directories, relative to it, sorted.
    pub(super) fn files(&self, name: &str) -> Result<Vec<String>, StoreError> {
        let root = self.root().join(name);
        if !root.exists() {
            return Ok(Vec::new());
        }
        luthier_core::fs::walk_files(&root).map_err(|error| self.error("the store cannot be listed", error))
    }

    /// Manifests of all trees: the digest each is filed under.
    pub(super) fn tree_digests(&self) -> Result<Vec<Digest>, StoreError> {
        let root = self.root().join("trees");
        let fail = |error| self.error("the store cannot be listed", error);
        let mut found = Vec::new();
        if !root.exists() {
            return Ok(found);
        }
        for shard in fs_err::read_dir(&root).map_err(fail)? {
            let shard = shard.map_err(fail)?;
            let prefix = shard.file_name().to_string_lossy().into_owned();
            for entry in fs_err::read_dir(shard.path()).map_err(fail)? {
                let name = entry.map_err(fail)?.file_name().to_string_lossy().into_owned();
                found.extend(filed_digest(&format!("{prefix}/{name}")));
            }
        }
        found.sort();
        found.dedup();
        Ok(found)
    }

    /// Hashes everything again. `progress` is told the bytes done and the bytes there are.
    ///
    /// Damage is noted, so that the next run treats it as such even where size and time are those of the stored file;
    /// nothing is removed.
    ///
    /// # Errors
    /// The store cannot be listed or read.
    pub fn verify(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<VerifyReport, StoreError> {
        let fail = |error| self.error("the store cannot be read", error);
        let mut report = VerifyReport::default();
        let objects = self.files("objects")?;
        let root = self.root().join("objects");
        let sizes: Vec<u64> =
            objects.iter().map(|name| fs_err::metadata(root.join(name)).map_or(0, |meta| meta.len())).collect();
        let total: u64 = sizes.iter().sum();
        for (name, size) in objects.iter().zip(sizes) {
            let path = root.join(name);
            let Some(digest) = filed_digest(name) else {
                continue;
            };
            let found = luthier_core::digest_file(&path).map_err(fail)?;
            let meta = fs_err::metadata(&path).map_err(fail)?;
            self.memo().remember_owned(&path, &meta, found);
            if found != digest {
                report.damaged.push(Damage { digest, path, problem: format!("its bytes hash to {}", found.short()) });
            }
            report.objects += 1;
            report.bytes += size;
            progress(report.bytes, total);
        }
        for digest in self.tree_digests()? {
            // A directory without a manifest is a tree that a crash left unfinished; it does not count as stored.
            if !self.manifest_path(&digest).exists() {
                continue;
            }
            report.trees += 1;
            if let Some(problem) = self.verify_tree(&digest)? {
                let path = self.tree_path(&digest);
                self.memo().forget(&path);
                report.damaged.push(Damage { digest, path, problem });
            }
        }
        for name in self.files("records")? {
            let Some(key) = filed_digest(&name) else { continue };
            report.records += 1;
            let Some(record) = self.record(&key)? else {
                let path = self.root().join("records").join(&name);
                report.damaged.push(Damage { digest: key, path, problem: "the record does not parse".to_owned() });
                continue;
            };
            for (output, artifact) in &record.outputs {
                let path =
                    if artifact.tree { self.manifest_path(&artifact.digest) } else { self.artifact_path(artifact) };
                if !path.exists() {
                    report.missing.push(format!("{}.{output} {}", record.stage, artifact.digest));
                }
            }
        }
        report.missing.sort();
        report.missing.dedup();
        self.memo().save();
        Ok(report)
    }

    fn verify_tree(&self, digest: &Digest) -> Result<Option<String>, StoreError> {
        let fail = |error| self.error("the store cannot be read", error);
        let Some(entries) = self.tree_entries(digest)? else {
            return Ok(Some("its manifest is damaged".to_owned()));
        };
        let root = self.tree_path(digest);
        let found = if root.exists() { luthier_core::fs::walk_files(&root).map_err(fail)? } else { Vec::new() };
        if let Some(extra) = found.iter().find(|path| !entries.iter().any(|entry| entry.path == **path)) {
            return Ok(Some(format!("`{extra}` does not belong to it")));
        }
        for entry in &entries {
            let path = root.join(&entry.path);
            if !path.exists() {
                return Ok(Some(format!("`{}` is missing", entry.path)));
            }
            let found = luthier_core::digest_file(&path).map_err(fail)?;
            let meta = fs_err::metadata(&path).map_err(fail)?;
            self.memo().remember_owned(&path, &meta, found);
            if found != entry.digest {
                return Ok(Some(format!("`{}` is damaged: its bytes hash to {}", entry.path, found.short())));
            }
        }
        Ok(None)
    }
}
