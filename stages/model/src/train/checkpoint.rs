//! The state of a run between two steps, in one file that is written whole or not at all.
//!
//! ```text
//! "LTRCHK02" · length of header (u64 LE) · header (JSON) · parameters · extra · optimiser states · BLAKE3
//! ```
//! Parameters are `f32` LE, the states are as the optimiser keeps them. The digest at the end covers everything before it, so a damaged file is found out.

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{Digest, StageError, StageResult};
use serde::{Deserialize, Serialize};

use super::loss_scale::LossScale;

const MAGIC: &[u8; 8] = b"LTRCHK02";
const FILE: &str = "state.checkpoint";

/// What one applied step did.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    pub loss: f64,
    pub grad_norm: f64,
    pub learning_rate: f64,
    pub tokens: u64,
    pub trained: u64,
    /// Its gradients overflowed and were not applied; `grad_norm` is 0 then.
    #[serde(default, skip_serializing_if = "is_false")]
    pub skipped: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Everything that the rest of the run depends on. Order and dropout are functions of the step, so they need no state.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Steps done.
    pub step: u64,
    pub params: Vec<f32>,
    /// States of the optimiser, in its own layout.
    pub states: Vec<u8>,
    pub history: Vec<StepRecord>,
    /// Where activations are f16.
    pub loss_scale: Option<LossScale>,
    /// Parameters that the caller keeps beside, such as the best ones so far; empty or as long as `params`.
    pub extra: Vec<f32>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    /// Digest of everything that makes the run what it is.
    run: Digest,
    step: u64,
    params: usize,
    extra: usize,
    states: usize,
    history: Vec<StepRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    loss_scale: Option<LossScale>,
    /// What the caller keeps beside.
    note: serde_json::Value,
}

impl Checkpoint {
    #[must_use]
    pub fn path(directory: &Utf8Path) -> Utf8PathBuf {
        directory.join(FILE)
    }

    /// Replaces the checkpoint in `directory`: a kill at any moment leaves the old one or the new one.
    ///
    /// # Errors
    /// `train::checkpoint_write`, as on a full disk; the old checkpoint is then untouched.
    pub fn save(&self, directory: &Utf8Path, run: Digest, note: &serde_json::Value) -> StageResult<()> {
        let header = Header {
            run,
            step: self.step,
            params: self.params.len(),
            extra: self.extra.len(),
            states: self.states.len(),
            history: self.history.clone(),
            loss_scale: self.loss_scale,
            note: note.clone(),
        };
        let header = serde_json::to_vec(&header).map_err(|error| {
            StageError::new("train::checkpoint", "the checkpoint's header could not be written").caused_by(error)
        })?;
        let floats = self.params.len() + self.extra.len();
        let mut bytes = Vec::with_capacity(16 + header.len() + 4 * floats + self.states.len() + 32);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&(header.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&header);
        for value in self.params.iter().chain(&self.extra) {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        bytes.extend_from_slice(&self.states);
        let digest = Digest::of(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        let path = Self::path(directory);
        luthier_core::fs::write_atomic(&path, &bytes).map_err(|error| {
            let kept = if path.is_file() { "the one before it is kept" } else { "none was written before it" };
            StageError::new(
                "train::checkpoint_write",
                format!("the checkpoint of step {} ({} bytes) could not be written; {kept}", self.step, bytes.len()),
            )
            .hint(format!(
                "free space for twice as many bytes where `{directory}` is (`luthier gc` removes what no lock names), then \
                 run again: it goes on from the last checkpoint"
            ))
            .caused_by(error)
        })
    }

    /// The checkpoint in `directory` and the note kept with it; `None` if there is none.
    ///
    /// # Errors
    /// `train::damaged_checkpoint`, or `train::foreign_checkpoint` if it is another run's.
    pub fn load(directory: &Utf8Path, run: Digest) -> StageResult<Option<(Self, serde_json::Value)>> {
        let path = Self::path(directory);
        if !path.is_file() {
            return Ok(None);
        }
        let bytes = fs_err::read(&path)?;
        let damaged = || {
            StageError::new("train::damaged_checkpoint", format!("`{path}` is not a whole checkpoint"))
                .hint(format!("remove it to train from the start: rm '{path}'"))
        };
        let (body, digest) = bytes.split_last_chunk::<32>().ok_or_else(damaged)?;
        if Digest::of(body) != Digest::from_bytes(*digest) {
            return Err(damaged());
        }
        let rest = body.strip_prefix(MAGIC).ok_or_else(damaged)?;
        let (length, rest) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| damaged())?;
        let (header, floats) = rest.split_at_checked(length).ok_or_else(damaged)?;
        let header: Header = serde_json::from_slice(header).map_err(|_| damaged())?;
        if header.run != run {
            return Err(StageError::new(
                "train::foreign_checkpoint",
                format!(
                    "`{path}` is the checkpoint of another run ({}, this one is {})",
                    header.run.short(),
                    run.short()
                ),
            )
            .hint(format!("remove it to train from the start: rm '{path}'")));
        }
        let wanted = header.params.checked_add(header.extra).and_then(|count| count.checked_mul(4));
        let (floats, states) = wanted.and_then(|wanted| floats.split_at_checked(wanted)).ok_or_else(damaged)?;
        if states.len() != header.states {
            return Err(damaged());
        }
        let values: Vec<f32> =
            floats.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect();
        let (params, extra) = values.split_at(header.params);
        let checkpoint = Self {
            step: header.step,
            params: params.to_vec(),
            states: states.to_vec(),
            history: header.history,
            loss_scale: header.loss_scale,
            extra: extra.to_vec(),
        };
        Ok(Some((checkpoint, header.note)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Checkpoint {
        let record =
            StepRecord { loss: 0.1 + 0.2, grad_norm: 1e-9, learning_rate: 2e-4, tokens: 7, trained: 3, skipped: false };
        Checkpoint {
            step: 4,
            params: vec![1.0, -0.0, f32::MIN_POSITIVE],
            states: vec![1, 2, 3, 4, 5],
            history: vec![record; 4],
            loss_scale: Some(LossScale { exponent: -3, good: 7, skipped: 19 }),
            extra: vec![9.0; 3],
        }
    }

    #[test]
    fn survives_the_disk_and_finds_damage() {
        let dir = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(dir.path()).unwrap();
        let run = Digest::of(b"run");
        assert!(Checkpoint::load(root, run).unwrap().is_none());
        let note = serde_json::json!({"best": 1.5});
        sample().save(root, run, &note).unwrap();
        assert_eq!(Checkpoint::load(root, run).unwrap(), Some((sample(), note)));
        assert_eq!(Checkpoint::load(root, Digest::of(b"other")).unwrap_err().code, "train::foreign_checkpoint");
        let path = Checkpoint::path(root);
        let mut bytes = fs_err::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        luthier_core::fs::write_atomic(&path, &bytes).unwrap();
        assert_eq!(Checkpoint::load(root, run).unwrap_err().code, "train::damaged_checkpoint");
        luthier_core::fs::write_atomic(&path, &bytes[..9]).unwrap();
        assert_eq!(Checkpoint::load(root, run).unwrap_err().code, "train::damaged_checkpoint");
    }
}
