//! What a micro-batch is on the device: one buffer that one copy fills, so that a pass reads nothing else that changes from
//! step to step.
//!
//! ```text
//! position of random numbers (u64) · scale of the loss (f32) · – · ids · positions · starts · sharing · rows · targets
//! ```

use luthier_core::StageResult;
use luthier_kernels::device::{Buffer, Component, Device, DeviceExt, Segments, Slice};

use super::Batch;
use super::block::Shared;
use super::sizes::Capacity;
use crate::error::device_error;

/// Words before the indices.
const HEADER: usize = 4;

/// Numbers of a step that operations read from the device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct StepNumbers {
    /// Where the streams of dropout and noise are read from, a multiple of 4.
    pub offset: u64,
    /// Of the gradient of the losses.
    pub scale: f32,
}

impl StepNumbers {
    /// Without randomness, of the sum of all losses.
    pub const PLAIN: Self = Self { offset: 0, scale: 1.0 };
}

/// What the uploaded micro-batch looks like: with it, everything is known but the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Uploaded {
    pub tokens: usize,
    pub sequences: usize,
    pub longest: usize,
    /// Tokens of the whole sequences, if a prefix is shared.
    pub whole: Option<usize>,
    /// Rows of the loss.
    pub rows: usize,
}

/// Views of a micro-batch.
#[derive(Clone, Copy)]
pub(crate) struct Views<'a> {
    pub offset: Slice<'a, u64>,
    pub scale: Slice<'a, f32>,
    pub ids: Slice<'a, u32>,
    pub positions: Slice<'a, u32>,
    pub segments: Segments<'a>,
    pub shared: Option<Shared<'a>>,
    pub rows: Slice<'a, u32>,
    pub targets: Slice<'a, u32>,
}

/// The buffer, and what is about to go there.
pub(crate) struct Indices {
    words: Buffer<u32>,
    staged: Vec<u32>,
}

impl Indices {
    /// # Errors
    /// Out of memory.
    pub fn new(device: &dyn Device, capacity: Capacity) -> StageResult<Self> {
        let count = words(capacity);
        Ok(Self {
            words: device.buffer(Component::Scratch, count).map_err(device_error)?,
            staged: Vec::with_capacity(count),
        })
    }

    /// Puts a micro-batch on the device, with the rows of its loss if `trains`.
    pub fn upload(&mut self, device: &dyn Device, batch: &Batch, numbers: StepNumbers, trains: bool) -> Uploaded {
        let (rows, targets) = if trains { (&batch.rows[..], &batch.targets[..]) } else { (&[][..], &[][..]) };
        self.start(numbers);
        for part in [&batch.ids, &batch.positions, &batch.starts] {
            self.staged.extend_from_slice(part);
        }
        if let Some(sharing) = &batch.sharing {
            let whole = [&sharing.kept_of_whole, &sharing.kept_once, &sharing.repeats];
            for part in whole.into_iter().chain([&sharing.whole_of_kept, &sharing.offsets]) {
                self.staged.extend_from_slice(part);
            }
        }
        self.staged.extend_from_slice(rows);
        self.staged.extend_from_slice(targets);
        device.write(&self.staged, self.words.slice_mut(..self.staged.len()));
        Uploaded {
            tokens: batch.tokens(),
            sequences: batch.sequences(),
            longest: batch.longest(),
            whole: batch.sharing.as_ref().map(|sharing| sharing.kept_of_whole.len()),
            rows: rows.len(),
        }
    }

    /// Puts one token for each of some sequences on the device.
    pub fn upload_step(&mut self, device: &dyn Device, ids: &[u32], positions: &[u32]) -> Uploaded {
        self.start(StepNumbers::PLAIN);
        self.staged.extend_from_slice(ids);
        self.staged.extend_from_slice(positions);
        self.staged.push(0);
        device.write(&self.staged, self.words.slice_mut(..self.staged.len()));
        Uploaded { tokens: ids.len(), sequences: 0, longest: 1, whole: None, rows: 0 }
    }

    /// Replaces the rows of the loss.
    pub fn upload_rows(&mut self, device: &dyn Device, uploaded: &mut Uploaded, rows: &[u32], targets: &[u32]) {
        let start = uploaded.words() - 2 * uploaded.rows;
        uploaded.rows = rows.len();
        let middle = start + rows.len();
        device.write(rows, self.words.slice_mut(start..middle));
        device.write(targets, self.words.slice_mut(middle..middle + targets.len()));
    }

    fn start(&mut self, numbers: StepNumbers) {
        let [a, b, c, d, e, f, g, h] = numbers.offset.to_ne_bytes();
        self.staged.clear();
        self.staged.extend([u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]);
        self.staged.extend([numbers.scale.to_bits(), 0]);
    }

    pub fn views(&self, uploaded: Uploaded) -> Views<'_> {
        let Uploaded { tokens, sequences, longest, whole, rows } = uploaded;
        let mut rest = self.words.slice(HEADER..);
        let mut take = |count: usize| {
            let part = rest.slice(..count);
            rest = rest.slice(count..);
            part
        };
        Views {
            offset: self.words.slice(..2).cast(),
            scale: self.words.slice(2..3).cast(),
            ids: take(tokens),
            positions: take(tokens),
            segments: Segments { starts: take(sequences + 1), longest },
            shared: whole.map(|whole| Shared {
                kept_of_whole: take(whole),
                kept_once: take(whole),
                repeats: take(whole),
                whole_of_kept: take(tokens),
                offsets: take(tokens + 1),
            }),
            rows: take(rows),
            targets: take(rows),
        }
    }
}

impl Uploaded {
    /// What tells one pass from another.
    pub fn key(&self, accumulate: bool) -> [usize; 7] {
        let Self { tokens, sequences, longest, whole, rows } = *self;
        [tokens, sequences, longest, whole.unwrap_or(0), usize::from(whole.is_some()), rows, usize::from(accumulate)]
    }

    fn words(&self) -> usize {
        words(Capacity {
            tokens: self.tokens,
            trained: self.rows,
            sequences: self.sequences,
            whole: self.whole.unwrap_or(0),
        })
    }
}

/// Words of a micro-batch of this size.
pub(super) fn words(size: Capacity) -> usize {
    let sharing = if size.whole > 0 { 3 * size.whole + size.tokens + size.tokens + 1 } else { 0 };
    HEADER + 2 * size.tokens + size.sequences + 1 + sharing + 2 * size.trained
}
