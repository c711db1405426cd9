//! A packed micro-batch on the host: sequences end to end, without padding, and what they share only once.

use luthier_core::{StageError, StageResult};
use luthier_kernels::device::NO_ROW;

/// A shared prefix shorter than this is not worth the copies.
const SHORTEST_PREFIX: usize = 4;

/// Sequences end to end. Row `rows[i]` of the hidden states predicts token `targets[i]`.
///
/// Sequences that begin with the same tokens (a system prompt, an instruction) have the same hidden states there, since
/// attention is causal. [`Batch::share_prefix`] keeps one copy of those rows; only attention sees each sequence whole,
/// through `sharing`. Every row's values are the same bits as without it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    pub ids: Vec<u32>,
    /// Restart at 0 in each sequence.
    pub positions: Vec<u32>,
    /// Cumulative starts of the whole sequences, one more than there are.
    pub starts: Vec<u32>,
    pub rows: Vec<u32>,
    pub targets: Vec<u32>,
    pub sharing: Option<Sharing>,
}

/// How the rows that exist ("kept") relate to the rows of the whole sequences, end to end ("whole").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sharing {
    /// Tokens of the shared prefix.
    pub prefix: usize,
    /// For each whole row, the kept row that it is.
    pub kept_of_whole: Vec<u32>,
    /// The same, but [`NO_ROW`] for each repetition after the first.
    pub kept_once: Vec<u32>,
    /// For each kept row, the first whole row that it is.
    pub whole_of_kept: Vec<u32>,
    /// For each kept row, where its whole rows are listed in `repeats`; one more than there are kept rows.
    pub offsets: Vec<u32>,
    /// Whole rows, grouped by kept row.
    pub repeats: Vec<u32>,
}

impl Batch {
    #[must_use]
    pub fn new() -> Self {
        Self { starts: vec![0], ..Self::default() }
    }

    /// Forgets the sequences, keeps the memory.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.positions.clear();
        self.starts.clear();
        self.starts.push(0);
        self.rows.clear();
        self.targets.clear();
        self.sharing = None;
    }

    /// Appends a sequence; `mask[i]` says that token `i` is to be predicted. The first token never is.
    ///
    /// # Panics
    /// If the mask has another length than the tokens, or prefixes are shared already.
    pub fn push(&mut self, ids: &[u32], mask: &[bool]) {
        assert_eq!(ids.len(), mask.len(), "a mask of another length");
        assert!(self.sharing.is_none(), "prefixes are shared already");
        let base = self.ids.len() as u32;
        self.ids.extend_from_slice(ids);
        self.positions.extend(0..ids.len() as u32);
        self.starts.push(self.ids.len() as u32);
        for index in 1..ids.len() {
            if mask[index] {
                self.rows.push(base + index as u32 - 1);
                self.targets.push(ids[index]);
            }
        }
    }

    /// Keeps the tokens that all sequences begin with once, if there are enough of them to be worth it.
    pub fn share_prefix(&mut self) {
        let prefix = self.common_prefix();
        if prefix == 0 || self.sharing.is_some() {
            return;
        }
        let whole = self.ids.len();
        let kept = whole - prefix * (self.sequences() - 1);
        let mut sharing = Sharing {
            prefix,
            kept_of_whole: Vec::with_capacity(whole),
            kept_once: Vec::with_capacity(whole),
            whole_of_kept: Vec::with_capacity(kept),
            offsets: Vec::with_capacity(kept + 1),
            repeats: Vec::with_capacity(whole),
        };
        let (mut ids, mut positions) = (Vec::with_capacity(kept), Vec::with_capacity(kept));
        for (sequence, bounds) in self.starts.windows(2).enumerate() {
            for row in bounds[0]..bounds[1] {
                let place = (row - bounds[0]) as usize;
                let repeated = sequence > 0 && place < prefix;
                let index = if place < prefix { place as u32 } else { ids.len() as u32 };
                sharing.kept_of_whole.push(index);
                sharing.kept_once.push(if repeated { NO_ROW } else { index });
                if !repeated {
                    sharing.whole_of_kept.push(row);
                    ids.push(self.ids[row as usize]);
                    positions.push(self.positions[row as usize]);
                }
            }
        }
        let starts = &self.starts[..self.sequences()];
        for (index, row) in sharing.whole_of_kept.iter().enumerate() {
            sharing.offsets.push(sharing.repeats.len() as u32);
            if index < prefix {
                sharing.repeats.extend(starts.iter().map(|start| start + index as u32));
            } else {
                sharing.repeats.push(*row);
            }
        }
        sharing.offsets.push(sharing.repeats.len() as u32);
        for row in &mut self.rows {
            *row = sharing.kept_of_whole[*row as usize];
        }
        (self.ids, self.positions) = (ids, positions);
        self.sharing = Some(sharing);
    }

    fn common_prefix(&self) -> usize {
        let sequence = |bounds: &[u32]| &self.ids[bounds[0] as usize..bounds[1] as usize];
        let first_trained = self.rows.iter().map(|row| self.positions[*row as usize] as usize).min();
        common_prefix(self.starts.windows(2).map(sequence), first_trained)
    }

    /// The kept rows of a sequence: those of the shared prefix, and those of its own.
    #[must_use]
    pub fn kept_rows(&self, sequence: usize) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let (start, end) = (self.starts[sequence] as usize, self.starts[sequence + 1] as usize);
        match &self.sharing {
            None => (start..start, start..end),
            Some(sharing) => {
                let first = sharing.kept_of_whole[start + sharing.prefix] as usize;
                (0..sharing.prefix, first..first + end - start - sharing.prefix)
            }
        }
    }

    /// Rows that exist.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Tokens of the whole sequences.
    #[must_use]
    pub fn whole_tokens(&self) -> usize {
        self.starts.last().map_or(0, |end| *end as usize)
    }

    #[must_use]
    pub fn sequences(&self) -> usize {
        self.starts.len() - 1
    }

    #[must_use]
    pub fn longest(&self) -> usize {
        self.starts.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max().unwrap_or(0)
    }

    /// Checks ids against the vocabulary and lengths against the positions.
    ///
    /// # Errors
    /// The first token id or sequence that the model cannot take.
    pub fn check(&self, vocabulary: usize, positions: usize) -> StageResult<()> {
        if let Some(id) = self.ids.iter().chain(&self.targets).find(|id| **id as usize >= vocabulary) {
            return Err(StageError::input(
                "model::token_out_of_vocabulary",
                format!("token id {id} is outside the model's vocabulary of {vocabulary}"),
            )
            .hint("the tokens were made with another model's tokenizer; tokenize with this `model` as input"));
        }
        let longest = self.longest();
        if longest > positions {
            return Err(StageError::input(
                "model::sequence_too_long",
                format!("a sequence has {longest} tokens, but the model has {positions} positions"),
            )
            .hint("lower `max_length` of the tokenize stage"));
        }
        Ok(())
    }
}

/// How many tokens all of `sequences` begin with, before the first row that is trained and the last token of any; 0 if
/// that is not worth sharing.
pub(crate) fn common_prefix<'a>(mut sequences: impl Iterator<Item = &'a [u32]>, first_trained: Option<usize>) -> usize {
    let Some(first) = sequences.next() else { return 0 };
    let mut common = first.len().saturating_sub(1).min(first_trained.unwrap_or(usize::MAX));
    let mut count = 1;
    for sequence in sequences {
        count += 1;
        common = common.min(sequence.len().saturating_sub(1));
        common = first[..common].iter().zip(sequence).take_while(|(a, b)| a == b).count();
        if common < SHORTEST_PREFIX {
            return 0;
        }
    }
    if count < 2 || common < SHORTEST_PREFIX { 0 } else { common }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_precede_their_targets() {
        let mut batch = Batch::new();
        batch.push(&[5, 6, 7], &[false, false, true]);
        batch.push(&[8, 9], &[true, true]);
        assert_eq!(batch.starts, [0, 3, 5]);
        assert_eq!(batch.positions, [0, 1, 2, 0, 1]);
        assert_eq!((batch.rows.as_slice(), batch.targets.as_slice()), (&[1, 3][..], &[7, 9][..]));
        assert_eq!(batch.longest(), 3);
        assert!(batch.check(10, 3).is_ok());
        assert_eq!(batch.check(9, 3).unwrap_err().code, "model::token_out_of_vocabulary");
        assert_eq!(batch.check(10, 2).unwrap_err().code, "model::sequence_too_long");
    }

    #[test]
    fn a_common_prefix_is_kept_once() {
        let mut batch = Batch::new();
        let last = |count: usize| (0..count).map(|index| index + 1 == count).collect::<Vec<_>>();
        batch.push(&[1, 2, 3, 4, 5, 6], &last(6));
        batch.push(&[1, 2, 3, 4, 7], &last(5));
        batch.push(&[1, 2, 3, 4, 5, 9, 9], &last(7));
        batch.share_prefix();
        // The row before the second sequence's last token is trained, so only three tokens are shared: too few.
        assert_eq!(batch.sharing, None);
        batch.clear();
        batch.push(&[1, 2, 3, 4, 5, 6], &last(6));
        batch.push(&[1, 2, 3, 4, 8, 7], &last(6));
        batch.share_prefix();
        let sharing = batch.sharing.as_ref().expect("shared");
        assert_eq!(sharing.prefix, 4);
        assert_eq!(batch.ids, [1, 2, 3, 4, 5, 6, 8, 7]);
        assert_eq!(batch.positions, [0, 1, 2, 3, 4, 5, 4, 5]);
        assert_eq!(batch.starts, [0, 6, 12]);
        assert_eq!((batch.rows.as_slice(), batch.targets.as_slice()), (&[4, 6][..], &[6, 7][..]));
        assert_eq!((batch.kept_rows(0), batch.kept_rows(1)), ((0..4, 4..6), (0..4, 6..8)));
        assert_eq!(sharing.kept_of_whole, [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 6, 7]);
        assert_eq!(sharing.kept_once[6..10], [NO_ROW; 4]);
        assert_eq!(sharing.whole_of_kept, [0, 1, 2, 3, 4, 5, 10, 11]);
        assert_eq!(sharing.offsets, [0, 2, 4, 6, 8, 9, 10, 11, 12]);
        assert_eq!(sharing.repeats, [0, 6, 1, 7, 2, 8, 3, 9, 4, 5, 10, 11]);
    }
}
