//! Frozen matrices in device memory.

use std::ops::Range;

use bytemuck::Pod;
use half::{bf16, f16};

use super::buffer::{Allocation, Buffer, Slice};
use super::error::{DeviceError, DeviceResult};
use super::host_bytes::HostBytes;
use super::ledger::Component;
use super::{Device, DeviceExt};
use crate::blocks::{BLOCK_ELEMENTS, BlockKind};
use crate::nf4;

/// Reads a range of rows as `f32` into a slice of that many rows.
pub type ReadRows<'a, E> = dyn FnMut(Range<usize>, &mut [f32]) -> Result<(), E> + 'a;

/// A frozen matrix `[rows, cols]`, row-major, in the type it is stored in.
#[derive(Debug)]
pub struct Matrix {
    pub rows: usize,
    pub cols: usize,
    data: MatrixData,
}

#[derive(Debug)]
enum MatrixData {
    F32(Buffer<f32>),
    F16(Buffer<f16>),
    Bf16(Buffer<bf16>),
    /// NF4 with double quantisation: codes of 4 bits, 8-bit block scales, scales of the scales.
    Nf4 {
        packed: Buffer<u8>,
        codes: Buffer<u8>,
        scales: Buffer<f32>,
        offset: f32,
    },
    Blocks {
        bytes: Buffer<u8>,
        kind: BlockKind,
    },
}

/// A matrix operand of a product: a [`Matrix`], or trainable `f32` parameters.
#[derive(Clone, Copy)]
pub enum Operand<'a> {
    F32(Slice<'a, f32>),
    F16(Slice<'a, f16>),
    Bf16(Slice<'a, bf16>),
    Nf4 { packed: Slice<'a, u8>, codes: Slice<'a, u8>, scales: Slice<'a, f32>, offset: f32, rows: usize, cols: usize },
    Blocks { bytes: Slice<'a, u8>, kind: BlockKind },
}

impl<'a> From<Slice<'a, f32>> for Operand<'a> {
    fn from(slice: Slice<'a, f32>) -> Self {
        Self::F32(slice)
    }
}

/// The type a matrix is kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    F32,
    F16,
    Bf16,
    /// Blocks of 64 with double quantisation, as bitsandbytes makes them.
    Nf4,
    /// As a GGUF file holds them.
    Blocks(BlockKind),
}

impl Storage {
    /// Bytes of a matrix of `elements`, scales included.
    #[must_use]
    pub fn bytes(self, elements: usize) -> usize {
        match self {
            Self::F32 => 4 * elements,
            Self::F16 | Self::Bf16 => 2 * elements,
            Self::Nf4 => Self::nf4_parts(elements).iter().sum(),
            Self::Blocks(kind) => elements.div_ceil(BLOCK_ELEMENTS) * kind.bytes(),
        }
    }

    /// Bytes of the parts of a matrix in NF4: codes, block scales, scales of these.
    #[must_use]
    pub fn nf4_parts(elements: usize) -> [usize; 3] {
        let blocks = elements.div_ceil(nf4::BLOCK);
        [elements.div_ceil(2), blocks, 4 * blocks.div_ceil(nf4::NESTED_BLOCK)]
    }
}

/// The parts of a matrix in NF4 with double quantisation, in memory that is read in place.
#[derive(Clone)]
pub struct Nf4Parts {
    /// Two codes a byte, high nibble first.
    pub packed: HostBytes,
    /// A block scale of 8 bits per 64 elements.
    pub codes: HostBytes,
    /// An `f32` per 256 block scales.
    pub scales: HostBytes,
    pub offset: f32,
}

/// Elements converted at a time while a matrix is loaded.
const LOAD_CHUNK: usize = 1 << 20;

fn upload<T: Pod>(device: &dyn Device, component: Component, data: &[T]) -> DeviceResult<Buffer<T>> {
    let mut buffer = device.buffer(component, data.len())?;
    device.write(data, buffer.all_mut());
    Ok(buffer)
}

impl Matrix {
    /// Reads a matrix through `read`, which fills a buffer with whole rows, and keeps it as `storage`: exact for `f16`
    /// and `bf16` if the values are such, quantised for NF4.
    ///
    /// # Errors
    /// Those of `read`; a device failure, through `fail`.
    pub fn load<E>(
        device: &dyn Device,
        component: Component,
        [rows, cols]: [usize; 2],
        storage: Storage,
        read: &mut ReadRows<'_, E>,
        fail: fn(DeviceError) -> E,
    ) -> Result<Self, E> {
        let data = match storage {
            Storage::F32 => {
                let convert = |value: f32| value;
                MatrixData::F32(load_chunks(device, component, [rows, cols], read, fail, convert)?)
            }
            Storage::F16 => MatrixData::F16(load_chunks(device, component, [rows, cols], read, fail, f16::from_f32)?),
            Storage::Bf16 => {
                MatrixData::Bf16(load_chunks(device, component, [rows, cols], read, fail, bf16::from_f32)?)
            }
            Storage::Blocks(_) => unreachable!("blocks are taken as they are stored"),
            Storage::Nf4 => {
                let mut values = vec![0f32; rows * cols];
                read(0..rows, &mut values)?;
                let quantized = nf4::quantize(&values, rows, cols, true);
                drop(values);
                return Self::of_nf4(device, component, &quantized.view()).map_err(fail);
            }
        };
        Ok(Self { rows, cols, data })
    }

    /// Keeps a matrix that is quantised already: NF4 with double quantisation.
    ///
    /// # Errors
    /// Out of memory.
    ///
    /// # Panics
    /// If a part has another length than the shape asks for.
    pub fn of_nf4(device: &dyn Device, component: Component, view: &nf4::Nf4View<'_>) -> DeviceResult<Self> {
        assert!(view.is_consistent(), "the NF4 buffers must have the lengths of their shape");
        let nf4::AbsMax::Nested { codes, scales, offset } = view.absmax else {
            unreachable!("the caller quantised twice")
        };
        let data = MatrixData::Nf4 {
            packed: upload(device, component, view.packed)?,
            codes: upload(device, component, codes)?,
            scales: upload(device, component, scales)?,
            offset,
        };
        Ok(Self { rows: view.rows, cols: view.cols, data })
    }

    /// A matrix on memory that its keeper counts; `None` if the device computes elsewhere, or the parts do not have the
    /// lengths and the alignment of the shape.
    #[must_use]
    pub fn adopt_nf4(
        device: &dyn Device,
        component: Component,
        [rows, cols]: [usize; 2],
        parts: Nf4Parts,
    ) -> Option<Self> {
        let blocks = rows.checked_mul(cols)?.div_ceil(nf4::BLOCK);
        let scales = blocks.div_ceil(nf4::NESTED_BLOCK);
        let fits = parts.packed.len() == (rows * cols).div_ceil(2)
            && parts.codes.len() == blocks
            && parts.scales.len() == 4 * scales
            && parts.scales.is_aligned_for::<f32>();
        if !fits {
            return None;
        }
        let data = MatrixData::Nf4 {
            packed: Buffer::new(device.adopt(component, parts.packed)?, (rows * cols).div_ceil(2)),
            codes: Buffer::new(device.adopt(component, parts.codes)?, blocks),
            scales: Buffer::new(device.adopt(component, parts.scales)?, scales),
            offset: parts.offset,
        };
        Some(Self { rows, cols, data })
    }

    /// A matrix on parts of a device's memory: codes, block scales, scales of these.
    ///
    /// # Panics
    /// If a part is shorter than the shape asks for.
    #[must_use]
    pub fn of_nf4_parts([rows, cols]: [usize; 2], [packed, codes, scales]: [Allocation; 3], offset: f32) -> Self {
        let [packed_bytes, code_bytes, scale_bytes] = Storage::nf4_parts(rows * cols);
        let data = MatrixData::Nf4 {
            packed: Buffer::new(packed, packed_bytes),
            codes: Buffer::new(codes, code_bytes),
            scales: Buffer::new(scales, scale_bytes / 4),
            offset,
        };
        Self { rows, cols, data }
    }

    /// A copy of `memory` as it is, for devices that do not read the host's; `None` if it is not as long as the shape asks
    /// for, or the type has parts.
    ///
    /// # Errors
    /// Out of memory.
    pub fn copied(
        device: &dyn Device,
        component: Component,
        [rows, cols]: [usize; 2],
        storage: Storage,
        memory: &HostBytes,
    ) -> DeviceResult<Option<Self>> {
        fn copy<T: Pod>(device: &dyn Device, component: Component, memory: &HostBytes) -> DeviceResult<Buffer<T>> {
            let mut buffer = device.buffer::<T>(component, memory.len() / size_of::<T>())?;
            device.write_bytes(memory.as_slice(), buffer.all_mut().into_bytes());
            Ok(buffer)
        }
        let len = rows.checked_mul(cols).filter(|len| storage.bytes(*len) == memory.len());
        if len.is_none() {
            return Ok(None);
        }
        let data = match storage {
            Storage::F32 => MatrixData::F32(copy(device, component, memory)?),
            Storage::F16 => MatrixData::F16(copy(device, component, memory)?),
            Storage::Bf16 => MatrixData::Bf16(copy(device, component, memory)?),
            Storage::Blocks(kind) => MatrixData::Blocks { bytes: copy(device, component, memory)?, kind },
            Storage::Nf4 => return Ok(None),
        };
        Ok(Some(Self { rows, cols, data }))
    }

    /// A matrix of `f32`, `f16` or `bf16` on memory that its keeper counts; `None` as for [`Matrix::adopt_nf4`].
    #[must_use]
    pub fn adopt(
        device: &dyn Device,
        component: Component,
        [rows, cols]: [usize; 2],
        storage: Storage,
        memory: HostBytes,
    ) -> Option<Self> {
        let len = rows.checked_mul(cols)?;
        if memory.len() != storage.bytes(len) {
            return None;
        }
        let data = match storage {
            Storage::F32 if memory.is_aligned_for::<f32>() => {
                MatrixData::F32(Buffer::new(device.adopt(component, memory)?, len))
            }
            Storage::F16 if memory.is_aligned_for::<f16>() => {
                MatrixData::F16(Buffer::new(device.adopt(component, memory)?, len))
            }
            Storage::Bf16 if memory.is_aligned_for::<bf16>() => {
                MatrixData::Bf16(Buffer::new(device.adopt(component, memory)?, len))
            }
            Storage::Blocks(kind) => {
                let len = memory.len();
                MatrixData::Blocks { bytes: Buffer::new(device.adopt(component, memory)?, len), kind }
            }
            _ => return None,
        };
        Some(Self { rows, cols, data })
    }

    /// A matrix whose rows are copied, block by block as they are.
    ///
    /// # Errors
    /// Out of memory.
    ///
    /// # Panics
    /// If a row has another length than the shape asks for.
    pub fn of_blocks<'a>(
        device: &dyn Device,
        component: Component,
        [rows, cols]: [usize; 2],
        kind: BlockKind,
        row: impl Fn(usize) -> &'a [u8],
    ) -> DeviceResult<Self> {
        let width = cols / BLOCK_ELEMENTS * kind.bytes();
        let mut bytes = device.buffer::<u8>(component, rows * width)?;
        for index in 0..rows {
            device.write(row(index), bytes.slice_mut(index * width..(index + 1) * width));
        }
        Ok(Self { rows, cols, data: MatrixData::Blocks { bytes, kind } })
    }

    #[must_use]
    pub fn operand(&self) -> Operand<'_> {
        match &self.data {
            MatrixData::F32(data) => Operand::F32(data.all()),
            MatrixData::F16(data) => Operand::F16(data.all()),
            MatrixData::Bf16(data) => Operand::Bf16(data.all()),
            MatrixData::Nf4 { packed, codes, scales, offset } => Operand::Nf4 {
                packed: packed.all(),
                codes: codes.all(),
                scales: scales.all(),
                offset: *offset,
                rows: self.rows,
                cols: self.cols,
            },
            MatrixData::Blocks { bytes, kind } => Operand::Blocks { bytes: bytes.all(), kind: *kind },
        }
    }

    /// Bytes held, scales included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.data {
            MatrixData::F32(data) => data.bytes(),
            MatrixData::F16(data) => data.bytes(),
            MatrixData::Bf16(data) => data.bytes(),
            MatrixData::Nf4 { packed, codes, scales, .. } => packed.bytes() + codes.bytes() + scales.bytes(),
            MatrixData::Blocks { bytes, .. } => bytes.bytes(),
        }
    }
}

fn load_chunks<T: Pod, E>(
    device: &dyn Device,
    component: Component,
    [rows, cols]: [usize; 2],
    read: &mut ReadRows<'_, E>,
    fail: fn(DeviceError) -> E,
    convert: impl Fn(f32) -> T,
) -> Result<Buffer<T>, E> {
    let mut buffer: Buffer<T> = device.buffer(component, rows * cols).map_err(fail)?;
    let step = (LOAD_CHUNK / cols.max(1)).max(1);
    let mut values = vec![0f32; step.min(rows) * cols];
    let mut narrow: Vec<T> = Vec::with_capacity(values.len());
    for start in (0..rows).step_by(step) {
        let end = (start + step).min(rows);
        let values = &mut values[..(end - start) * cols];
        read(start..end, values)?;
        narrow.clear();
        narrow.extend(values.iter().map(|value| convert(*value)));
        device.write(&narrow, buffer.slice_mut(start * cols..end * cols));
    }
    Ok(buffer)
}
