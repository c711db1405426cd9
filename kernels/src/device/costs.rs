//! What a device takes for itself, beside the buffers that it is asked for: known before there is a device, so that a plan
//! can count it.

use super::weight::Storage;
use crate::attention::AttentionShape;

/// An operation, as far as the memory that it borrows follows from it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Operation {
    /// [`super::Device::matmul_nt`], `[m, n, k]`, of a matrix kept as this.
    MatmulNt([usize; 3], Storage),
    /// [`super::Device::matmul_nn`], `[m, n, k]`.
    MatmulNn([usize; 3], Storage),
    /// A product whose left operand is so many elements of `f32`, which a device whose activations are narrower converts.
    Narrow(usize),
    /// [`super::Device::matmul_tn`], `[m, p, q]`.
    MatmulTn([usize; 3]),
    /// [`super::Device::norm`] of so many elements.
    Norm(usize),
    /// [`super::Device::attention_decode`] of so many sequences, in caches of a capacity.
    AttentionDecode(AttentionShape, usize, usize),
}

/// Bytes that a kind of device takes for itself.
pub trait Costs: Sync {
    /// From the start until the end.
    fn fixed(&self) -> usize {
        0
    }

    /// Page-locked host memory that small copies go through, from the start until the end; `None` where operations compute in
    /// host memory.
    fn staging(&self) -> Option<usize> {
        None
    }

    /// Scratch memory that any of `operations` borrows while it runs, or the same on fewer rows.
    fn scratch(&self, _operations: &[Operation]) -> usize {
        0
    }

    /// Tables of rotary positions.
    fn rotary(&self, _positions: usize, _head_dim: usize) -> usize {
        0
    }
}

/// A device that computes in the host's memory, with what its threads have.
#[derive(Debug, Clone, Copy)]
pub struct HostCosts;

impl Costs for HostCosts {}
