//! Token sets: what training reads.
//!
//! A directory with `tokens.parquet`, one row per sample (`id`, `input_ids`, `loss_mask`, `bin`), and `tokens.json`, which
//! says what made it. The samples of a bin are trained in one pass, one after the other, each with its own positions and
//! its own attention: bins are lists of sample numbers, no padding and no joined text is stored.
//!
//! Invariants, checked on reading: a sample has at least one id, as many mask entries as ids, a mask that starts with
//! `false` (the first token has nothing to be predicted from), ids below the vocabulary size, and is in exactly one bin.

mod io;
mod set;

pub use set::{TokenSample, TokenSet, TokensMeta};

#[cfg(test)]
mod tests;
