//! A packed micro-batch on the host: sequences end to end, without padding.

use luthier_core::{StageError, StageResult};

/// Sequences end to end. Row `rows[i]` of the hidden states predicts token `targets[i]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    pub ids: Vec<u32>,
    /// Restart at 0 in each sequence.
    pub positions: Vec<u32>,
    /// Cumulative starts, one more than there are sequences.
    pub starts: Vec<u32>,
    pub rows: Vec<u32>,
    pub targets: Vec<u32>,
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
    }

    /// Appends a sequence; `mask[i]` says that token `i` is to be predicted. The first token never is.
    ///
    /// # Panics
    /// If the mask has another length than the tokens.
    pub fn push(&mut self, ids: &[u32], mask: &[bool]) {
        assert_eq!(ids.len(), mask.len(), "a mask of another length");
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

    #[must_use]
    pub fn tokens(&self) -> usize {
        self.ids.len()
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

#[cfg(test)]
mod tests {
    use super::Batch;

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
}
