//! Rows that a first pass found to be copies, told in row order in a second one.

use luthier_core::StageResult;

use super::clusters::Copies;
use super::sorter::Distinct;

/// Which of the rows that reach a step are copies.
#[derive(Default)]
pub(in crate::filter) struct KnownCopies {
    copies: Option<Copies>,
    reader: Option<Distinct<(u64, u64)>>,
    next_copy: Option<u64>,
    row: u64,
}

impl KnownCopies {
    pub fn new(copies: Copies) -> Self {
        Self { copies: Some(copies), ..Self::default() }
    }

    /// Starts over with the first row.
    pub fn rewind(&mut self) {
        (self.reader, self.next_copy, self.row) = (None, None, 0);
    }

    /// Whether each of the next rows is a copy.
    pub fn take(&mut self, rows: usize) -> StageResult<Vec<bool>> {
        let Some(copies) = &self.copies else { return Ok(vec![false; rows]) };
        let advance = |reader: &mut Distinct<(u64, u64)>| -> StageResult<Option<u64>> {
            Ok(reader.next().transpose()?.map(|(row, _)| row))
        };
        if self.reader.is_none() {
            let mut reader = copies.distinct()?;
            self.next_copy = advance(&mut reader)?;
            self.reader = Some(reader);
        }
        let Some(reader) = &mut self.reader else { return Ok(vec![false; rows]) };
        let mut found = Vec::with_capacity(rows);
        for _ in 0..rows {
            let copy = self.next_copy == Some(self.row);
            if copy {
                self.next_copy = advance(reader)?;
            }
            found.push(copy);
            self.row += 1;
        }
        Ok(found)
    }
}
