//! Matrices as the kernels take them.

use luthier_kernels::blocks::BLOCK_ELEMENTS;
use luthier_kernels::device::{Operand, Slice, SliceMut};

use crate::Arguments;
use crate::arguments::Address;

/// Where a view starts.
pub fn start<T>(view: Slice<'_, T>) -> u64 {
    view.address().word()
}

/// Where a view that is written to starts.
pub fn start_mut<T>(view: &SliceMut<'_, T>) -> u64 {
    view.address().word()
}

/// An operand's memory: four arguments of every kernel that reads one.
#[derive(Debug, Clone, Copy)]
pub struct MatrixArguments {
    /// Ends the names of the kernels that read it.
    pub kind: &'static str,
    pub data: u64,
    /// NF4's 8-bit block scales, their scales and their offset; zero for other kinds.
    pub codes: u64,
    pub scales: u64,
    pub offset: f32,
    /// Elements.
    pub len: usize,
}

impl MatrixArguments {
    /// Addresses of `operand`.
    pub fn of(operand: Operand<'_>) -> Self {
        let plain = |kind, data, len| Self { kind, data, codes: 0, scales: 0, offset: 0.0, len };
        match operand {
            Operand::F32(data) => plain("f32", start(data), data.len()),
            Operand::F16(data) => plain("f16", start(data), data.len()),
            Operand::Bf16(data) => plain("bf16", start(data), data.len()),
            Operand::Blocks { bytes, kind } => {
                let len = bytes.len() / kind.bytes() * BLOCK_ELEMENTS;
                plain(kind.name(), start(bytes), len)
            }
            Operand::Nf4 { packed, codes, scales, offset, rows, cols } => Self {
                kind: "nf4",
                data: start(packed),
                codes: start(codes),
                scales: start(scales),
                offset,
                len: rows * cols,
            },
        }
    }

    /// Appends the arguments in the order of the kernels.
    pub fn push(&self, arguments: &mut Arguments) {
        arguments.address(self.data).address(self.codes).address(self.scales).float(self.offset);
    }
}
