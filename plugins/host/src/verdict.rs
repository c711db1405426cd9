//! What a filter said about a batch, after every number in it was checked.

use crate::fault::{Fault, tame};

/// Verdicts for the rows of one batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Verdicts {
    /// Per row: 0 to keep, else 1 + an index into the manifest's reasons.
    pub drop: Vec<u8>,
    /// Column-major: all rows of the first score, then all of the second, ….
    pub scores: Vec<f32>,
    /// New texts, ascending by row.
    pub edits: Vec<(usize, String)>,
    /// Rows that the filter failed on, ascending, with why; they are neither kept nor judged.
    pub faults: Vec<(usize, String)>,
}

impl Verdicts {
    /// Everything kept, all scores 0.
    #[must_use]
    pub fn keep_all(rows: usize, scores: usize) -> Self {
        Self { drop: vec![0; rows], scores: vec![0.0; rows * scores], edits: Vec::new(), faults: Vec::new() }
    }

    /// Copies the verdicts of a part of the batch, which starts at row `start`, into this one.
    pub(crate) fn put(&mut self, start: usize, part: Self) {
        let (rows, part_rows) = (self.drop.len(), part.drop.len());
        self.drop[start..start + part_rows].copy_from_slice(&part.drop);
        if part_rows > 0 {
            for (score, values) in part.scores.chunks_exact(part_rows).enumerate() {
                let at = score * rows + start;
                self.scores[at..at + part_rows].copy_from_slice(values);
            }
        }
        self.edits.extend(part.edits.into_iter().map(|(row, text)| (row + start, text)));
        self.faults.extend(part.faults.into_iter().map(|(row, why)| (row + start, why)));
    }
}

/// Verdicts as a guest returned them.
pub(crate) struct RawVerdicts {
    pub drop: Vec<u8>,
    pub scores: Vec<f32>,
    /// Rows, offsets, data.
    pub edits: Option<(Vec<u32>, Vec<u32>, Vec<u8>)>,
    /// Rows and why.
    pub refusals: Vec<(u32, String)>,
}

/// Verdicts that may be believed, and the rows that have none.
pub(crate) struct Checked {
    pub verdicts: Verdicts,
    /// Ascending.
    pub refusals: Vec<(usize, Fault)>,
}

/// How many bytes of edits a batch of `input` bytes may return.
fn most_edit_bytes(input: usize) -> usize {
    2 * input + (64 << 10)
}

impl RawVerdicts {
    /// Checks everything against what was asked and declared.
    pub(crate) fn check(
        self,
        rows: usize,
        scores: usize,
        reasons: usize,
        edits_text: bool,
        input_bytes: usize,
    ) -> Result<Checked, String> {
        let mut drop = match self.drop.len() {
            0 => vec![0; rows],
            n if n == rows => self.drop,
            n => return Err(format!("it returned {n} verdicts for {rows} rows")),
        };
        if let Some(wrong) = drop.iter().find(|reason| usize::from(**reason) > reasons) {
            return Err(format!("it gave reason number {wrong}, but declares {reasons}"));
        }
        if self.scores.len() != rows * scores {
            return Err(format!("it returned {} scores for {rows} rows of {scores}", self.scores.len()));
        }
        if self.scores.iter().any(|score| !score.is_finite()) {
            return Err("it returned a score that is not a finite number".to_owned());
        }
        let mut edits = match self.edits {
            None => Vec::new(),
            Some(_) if !edits_text => {
                return Err("it edits the text, but does not declare that it does".to_owned());
            }
            Some((at, offsets, data)) => check_edits(rows, &at, &offsets, data, input_bytes)?,
        };
        let refused = |row: usize| self.refusals.binary_search_by_key(&row, |(row, _)| *row as usize).is_ok();
        let ascending = self.refusals.windows(2).all(|pair| pair[0].0 < pair[1].0);
        if !ascending || self.refusals.last().is_some_and(|(row, _)| *row as usize >= rows) {
            return Err("the rows that it refuses are not ascending or not in the batch".to_owned());
        }
        edits.retain(|(row, _)| !refused(*row));
        let mut scores = self.scores;
        for row in self.refusals.iter().map(|(row, _)| *row as usize) {
            drop[row] = 0;
            scores.iter_mut().skip(row).step_by(rows).for_each(|score| *score = 0.0);
        }
        let faults = self.refusals.into_iter().map(|(row, why)| (row as usize, Fault::Refused(tame(&why)))).collect();
        Ok(Checked { verdicts: Verdicts { drop, scores, edits, faults: Vec::new() }, refusals: faults })
    }
}

fn check_edits(
    rows: usize,
    at: &[u32],
    offsets: &[u32],
    data: Vec<u8>,
    input_bytes: usize,
) -> Result<Vec<(usize, String)>, String> {
    if at.len() > rows || offsets.len() != at.len() + 1 {
        return Err(format!("it returned {} edits with {} offsets for {rows} rows", at.len(), offsets.len()));
    }
    if data.len() > most_edit_bytes(input_bytes) {
        return Err(format!("it returned {} bytes of edits for {input_bytes} bytes of text", data.len()));
    }
    if !at.windows(2).all(|pair| pair[0] < pair[1]) || at.last().is_some_and(|row| *row as usize >= rows) {
        return Err("the rows of its edits are not ascending or not in the batch".to_owned());
    }
    let ascending = offsets.windows(2).all(|pair| pair[0] <= pair[1]);
    if offsets[0] != 0 || !ascending || offsets.last().map(|end| *end as usize) != Some(data.len()) {
        return Err("the offsets of its edits do not ascend from 0 to their length".to_owned());
    }
    let wrong = "an edited text is not UTF-8";
    let texts = std::str::from_utf8(&data).map_err(|_| wrong)?;
    at.iter()
        .zip(offsets.windows(2))
        .map(|(row, range)| {
            let text = texts.get(range[0] as usize..range[1] as usize).ok_or(wrong)?;
            Ok((*row as usize, text.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(drop: &[u8], scores: &[f32], edits: Option<(&[u32], &[u32], &[u8])>) -> Result<Verdicts, String> {
        let edits = edits.map(|(at, offsets, data)| (at.to_vec(), offsets.to_vec(), data.to_vec()));
        let raw = RawVerdicts { drop: drop.to_vec(), scores: scores.to_vec(), edits, refusals: Vec::new() };
        raw.check(3, 1, 2, true, 10).map(|checked| checked.verdicts)
    }

    #[test]
    fn accepts_what_is_right() {
        let verdicts = raw(&[], &[0.0, 1.0, 2.0], Some((&[0, 2], &[0, 1, 3], b"abc"))).unwrap();
        assert_eq!(verdicts.drop, [0, 0, 0]);
        assert_eq!(verdicts.edits, [(0, "a".to_owned()), (2, "bc".to_owned())]);
    }

    #[test]
    fn refuses_every_lie() {
        let fine = [0.0; 3];
        for (lie, verdicts) in [
            ("verdicts for", raw(&[0, 1], &fine, None)),
            ("reason number 3", raw(&[0, 1, 3], &fine, None)),
            ("scores for", raw(&[], &[0.0; 4], None)),
            ("finite", raw(&[], &[0.0, f32::NAN, 0.0], None)),
            ("edits with", raw(&[], &fine, Some((&[0], &[0], b"")))),
            ("edits with", raw(&[], &fine, Some((&[0, 1, 2, 3], &[0, 0, 0, 0, 0], b"")))),
            ("ascending", raw(&[], &fine, Some((&[1, 1], &[0, 0, 0], b"")))),
            ("ascending", raw(&[], &fine, Some((&[3], &[0, 0], b"")))),
            ("offsets", raw(&[], &fine, Some((&[0, 1], &[0, 5, 3], b"abc")))),
            ("offsets", raw(&[], &fine, Some((&[0], &[0, 9], b"abc")))),
            ("UTF-8", raw(&[], &fine, Some((&[0], &[0, 1], b"\xff")))),
            ("UTF-8", raw(&[], &fine, Some((&[0, 1], &[0, 1, 2], "é".as_bytes())))),
            ("bytes of edits", raw(&[], &fine, Some((&[0], &[0, 70_000], &[b'a'; 70_000])))),
        ] {
            let message = verdicts.expect_err(lie);
            assert!(message.contains(lie), "{message} should say {lie}");
        }
        let edits = Some((vec![0], vec![0, 0], vec![]));
        let undeclared = RawVerdicts { drop: vec![], scores: vec![], edits, refusals: vec![] };
        assert!(undeclared.check(3, 0, 2, false, 10).err().expect("undeclared").contains("does not declare"));
    }

    #[test]
    fn refused_rows_have_no_other_verdict() {
        let raw = |refusals: &[u32]| RawVerdicts {
            drop: vec![1, 1, 1],
            scores: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            edits: Some((vec![0, 1], vec![0, 1, 2], b"ab".to_vec())),
            refusals: refusals.iter().map(|row| (*row, "no".to_owned())).collect(),
        };
        let Ok(checked) = raw(&[1]).check(3, 2, 1, true, 10) else { panic!("nothing is wrong") };
        assert_eq!(checked.verdicts.drop, [1, 0, 1]);
        assert_eq!(checked.verdicts.scores, [1.0, 0.0, 3.0, 4.0, 0.0, 6.0]);
        assert_eq!(checked.verdicts.edits, [(0, "a".to_owned())]);
        assert_eq!(checked.refusals, [(1, Fault::Refused("no".to_owned()))]);
        for wrong in [[0, 0].as_slice(), &[2, 1], &[3]] {
            assert!(raw(wrong).check(3, 2, 1, true, 10).err().expect("wrong").contains("refuses"));
        }
    }

    #[test]
    fn parts_are_put_in_their_place() {
        let mut whole = Verdicts::keep_all(3, 2);
        let part = Verdicts { drop: vec![1, 0], scores: vec![1.0, 2.0, 3.0, 4.0], ..Verdicts::default() };
        whole.put(1, part);
        assert_eq!(whole.drop, [0, 1, 0]);
        assert_eq!(whole.scores, [0.0, 1.0, 2.0, 0.0, 3.0, 4.0]);
    }
}
