//! A batch of rows as the boundary wants it: per column one text and offsets.

use std::borrow::Cow;
use std::ops::Range;

/// One column: row `i` is `data[offsets[i]..offsets[i + 1]]`.
#[derive(Debug, Clone)]
pub struct TextColumn<'a> {
    offsets: Cow<'a, [u32]>,
    data: Cow<'a, str>,
}

impl<'a> TextColumn<'a> {
    /// A column over a text and offsets into it: ascending, at character boundaries, the first 0 and the last its
    /// length. `None` if they are not.
    #[must_use]
    pub fn new(data: &'a str, offsets: Vec<u32>) -> Option<Self> {
        let ends = offsets.first() == Some(&0) && offsets.last().map(|end| *end as usize) == Some(data.len());
        let ascending = offsets.windows(2).all(|pair| pair[0] <= pair[1]);
        let boundaries = offsets.iter().all(|at| data.is_char_boundary(*at as usize));
        (ends && ascending && boundaries).then_some(Self { offsets: offsets.into(), data: data.into() })
    }

    /// A column of these texts; `None` if they are longer than 4 GiB together.
    #[must_use]
    pub fn from_texts<'t>(texts: impl IntoIterator<Item = &'t str>) -> Option<TextColumn<'static>> {
        let mut data = String::new();
        let mut offsets = vec![0u32];
        for text in texts {
            data.push_str(text);
            offsets.push(u32::try_from(data.len()).ok()?);
        }
        Some(TextColumn { offsets: offsets.into(), data: data.into() })
    }

    #[must_use]
    pub fn rows(&self) -> usize {
        self.offsets.len() - 1
    }

    #[must_use]
    pub fn get(&self, row: usize) -> &str {
        &self.data[self.offsets[row] as usize..self.offsets[row + 1] as usize]
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.rows()).map(|row| self.get(row))
    }

    #[must_use]
    pub fn offsets(&self) -> &[u32] {
        &self.offsets
    }

    #[must_use]
    pub fn data(&self) -> &str {
        &self.data
    }

    /// Some of the rows, without copying text.
    #[must_use]
    pub fn slice(&self, rows: Range<usize>) -> TextColumn<'_> {
        let base = self.offsets[rows.start];
        let end = self.offsets[rows.end];
        let offsets: Vec<u32> = self.offsets[rows.start..=rows.end].iter().map(|at| at - base).collect();
        TextColumn { offsets: offsets.into(), data: Cow::Borrowed(&self.data[base as usize..end as usize]) }
    }
}

/// The judged column and the further ones that a plugin reads, of equal length.
#[derive(Debug, Clone)]
pub struct TextBatch<'a> {
    pub texts: TextColumn<'a>,
    pub reads: Vec<TextColumn<'a>>,
}

impl TextBatch<'_> {
    #[must_use]
    pub fn rows(&self) -> usize {
        self.texts.rows()
    }

    #[must_use]
    pub fn slice(&self, rows: Range<usize>) -> TextBatch<'_> {
        TextBatch {
            texts: self.texts.slice(rows.clone()),
            reads: self.reads.iter().map(|column| column.slice(rows.clone())).collect(),
        }
    }

    /// Bytes of text in one row, over all columns.
    fn row_bytes(&self, row: usize) -> usize {
        let bytes = |column: &TextColumn<'_>| (column.offsets[row + 1] - column.offsets[row]) as usize;
        self.reads.iter().fold(bytes(&self.texts), |all, column| all + bytes(column))
    }

    /// Cuts the batch into calls of at most `rows` rows and `bytes` bytes, each of at least one row.
    #[must_use]
    pub fn calls(&self, rows: usize, bytes: usize) -> Vec<Range<usize>> {
        let mut calls = Vec::new();
        let (mut start, mut size) = (0, 0);
        for row in 0..self.rows() {
            let next = self.row_bytes(row);
            if row > start && (row - start >= rows || size + next > bytes) {
                calls.push(start..row);
                (start, size) = (row, 0);
            }
            size += next;
        }
        if start < self.rows() {
            calls.push(start..self.rows());
        }
        calls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_and_refuses_bad_offsets() {
        let column = TextColumn::from_texts(["a", "", "éé", "d"]).unwrap();
        let slice = column.slice(1..3);
        assert_eq!(slice.iter().collect::<Vec<_>>(), ["", "éé"]);
        assert_eq!(slice.offsets(), [0, 0, 4]);
        assert!(TextColumn::new("é", vec![0, 1, 2]).is_none());
        assert!(TextColumn::new("ab", vec![0, 2, 1]).is_none());
        assert!(TextColumn::new("ab", vec![]).is_none());
        assert!(TextColumn::new("ab", vec![0, 1]).is_none());
    }

    #[test]
    fn cuts_into_calls() {
        let texts = TextColumn::from_texts(["aaaa", "b", "c", "dddddddd", "e"]).unwrap();
        let batch = TextBatch { texts, reads: vec![] };
        assert_eq!(batch.calls(2, 100), [0..2, 2..4, 4..5]);
        assert_eq!(batch.calls(100, 5), [0..2, 2..3, 3..4, 4..5]);
    }
}
