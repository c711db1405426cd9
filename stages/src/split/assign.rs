//! Which part a group of rows belongs to.
//!
//! A group is hashed with the seed. Parts given in rows take groups in the order of their hashes: the largest such part from
//! the upper end, the others from the lower, so that rows added later push a row out of use rather than from one part into
//! another. What they leave is dealt out by fractions through a second, independent part of the hash: there, added rows move
//! nothing at all.

use std::collections::BTreeMap;

use luthier_core::{Digest, StageError, StageResult};

use super::config::Size;

/// Fractions that add up to 1 within this take everything.
const SLACK: f64 = 1e-9;

/// The hash of a group: its place in the order, and its draw between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupHash {
    order: u128,
    draw: u64,
}

impl GroupHash {
    /// Of the values that hold a group together; `None` is null.
    pub fn of<'a>(seed: u64, values: impl IntoIterator<Item = Option<&'a str>>) -> Self {
        let mut bytes = b"luthier split v1".to_vec();
        bytes.extend_from_slice(&seed.to_le_bytes());
        for value in values {
            let length = value.map_or(u64::MAX, |value| value.len() as u64);
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(value.unwrap_or_default().as_bytes());
        }
        let digest = Digest::of(&bytes);
        let (mut order, mut draw) = ([0; 16], [0; 8]);
        order.copy_from_slice(&digest.as_bytes()[..16]);
        draw.copy_from_slice(&digest.as_bytes()[16..24]);
        Self { order: u128::from_be_bytes(order), draw: u64::from_be_bytes(draw) }
    }

    fn fraction(self) -> f64 {
        (self.draw >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The decision for every group.
pub struct Assignment {
    /// Groups taken by parts given in rows, ascending by hash.
    taken: Vec<(GroupHash, usize)>,
    /// Upper bound of the draw and part, ascending.
    bounds: Vec<(f64, usize)>,
}

impl Assignment {
    /// Whether the hashes of all rows are needed to decide.
    pub fn needs_hashes(parts: &BTreeMap<String, Size>) -> bool {
        parts.values().any(|size| matches!(size, Size::Rows(_)))
    }

    /// Decides; `hashes` holds one entry for each row, or nothing if they are not needed.
    ///
    /// # Errors
    /// Fewer rows than the parts ask for.
    pub fn new(parts: &BTreeMap<String, Size>, mut hashes: Vec<GroupHash>) -> StageResult<Self> {
        let rows = hashes.len() as u64;
        hashes.sort_unstable();
        let mut groups: Vec<(GroupHash, u64)> = Vec::new();
        for hash in hashes {
            match groups.last_mut() {
                Some((last, count)) if *last == hash => *count += 1,
                _ => groups.push((hash, 1)),
            }
        }
        let mut sized: Vec<(u64, &str, usize)> = parts
            .iter()
            .enumerate()
            .filter_map(|(part, (name, size))| match size {
                Size::Rows(rows) => Some((*rows, name.as_str(), part)),
                _ => None,
            })
            .collect();
        sized.sort_unstable();
        let wanted: u64 = sized.iter().fold(0, |sum, (rows, ..)| sum.saturating_add(*rows));
        if wanted > rows {
            return Err(too_small(&sized, wanted, rows));
        }
        let mut owner: Vec<Option<usize>> = vec![None; groups.len()];
        let largest = sized.pop();
        for (rows, name, part) in sized {
            take(0..groups.len(), &groups, &mut owner, (rows, name, part))?;
        }
        if let Some(largest) = largest {
            take((0..groups.len()).rev(), &groups, &mut owner, largest)?;
        }
        let taken = groups.iter().zip(&owner).filter_map(|((hash, _), owner)| Some((*hash, (*owner)?))).collect();
        Ok(Self { taken, bounds: bounds(parts) })
    }

    /// The part of a group, by position among the names in order; `None` if no part wants it.
    pub fn part(&self, hash: GroupHash) -> Option<usize> {
        if let Ok(at) = self.taken.binary_search_by_key(&hash, |(hash, _)| *hash) {
            return Some(self.taken[at].1);
        }
        let draw = hash.fraction();
        self.bounds.iter().find(|(bound, _)| draw < *bound).map(|(_, part)| *part)
    }
}

/// Takes free groups in the order given while they fit, until `rows` rows are taken.
fn take(
    order: impl Iterator<Item = usize>,
    groups: &[(GroupHash, u64)],
    owner: &mut [Option<usize>],
    (rows, name, part): (u64, &str, usize),
) -> StageResult<()> {
    let mut left = rows;
    for at in order {
        if left == 0 {
            return Ok(());
        }
        let size = groups[at].1;
        if owner[at].is_none() && size <= left {
            owner[at] = Some(part);
            left -= size;
        }
    }
    if left == 0 {
        return Ok(());
    }
    Err(StageError::input(
        "split::groups_too_large",
        format!(
            "part `{name}` is to have {rows} rows, but no combination in hash order fills it; {left} are left over"
        ),
    )
    .hint("groups stay whole: ask for another number of rows, or for a fraction"))
}

fn bounds(parts: &BTreeMap<String, Size>) -> Vec<(f64, usize)> {
    let (mut bounds, mut sum) = (Vec::new(), 0.0);
    for (part, size) in parts.values().enumerate() {
        if let Size::Fraction(fraction) = size {
            sum += fraction;
            bounds.push((if sum > 1.0 - SLACK { 2.0 } else { sum }, part));
        }
    }
    let rest = parts.values().position(|size| *size == Size::Rest);
    bounds.extend(rest.map(|part| (2.0, part)));
    bounds
}

/// Sum of the fractions, if it is more than 1.
pub fn excess(parts: &BTreeMap<String, Size>) -> Option<f64> {
    let sum: f64 = parts.values().map(|size| if let Size::Fraction(fraction) = size { *fraction } else { 0.0 }).sum();
    (sum > 1.0 + SLACK).then_some(sum)
}

fn too_small(sized: &[(u64, &str, usize)], wanted: u64, rows: u64) -> StageError {
    let parts: Vec<String> = sized.iter().map(|(rows, name, _)| format!("`{name}`: {rows}")).collect();
    StageError::input(
        "split::too_small",
        format!("the parts ask for {wanted} rows ({}), the dataset has {rows}", parts.join(", ")),
    )
    .hint("ask for fewer rows, use fractions such as 0.9, or keep more rows in the stages before")
}
