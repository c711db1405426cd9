//! Frozen matrices in device memory.

use bytemuck::Pod;
use half::{bf16, f16};

use super::buffer::{Buffer, Slice};
use super::error::DeviceResult;
use super::ledger::Component;
use super::{Device, DeviceExt};
use crate::nf4;

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
}

/// A matrix operand of a product: a [`Matrix`], or trainable `f32` parameters.
#[derive(Clone, Copy)]
pub enum Operand<'a> {
    F32(Slice<'a, f32>),
    F16(Slice<'a, f16>),
    Bf16(Slice<'a, bf16>),
    Nf4 { packed: Slice<'a, u8>, codes: Slice<'a, u8>, scales: Slice<'a, f32>, offset: f32, rows: usize, cols: usize },
}

impl<'a> From<Slice<'a, f32>> for Operand<'a> {
    fn from(slice: Slice<'a, f32>) -> Self {
        Self::F32(slice)
    }
}

fn upload<T: Pod>(device: &dyn Device, component: Component, data: &[T]) -> DeviceResult<Buffer<T>> {
    let mut buffer = device.buffer(component, data.len())?;
    device.write(data, buffer.all_mut());
    Ok(buffer)
}

impl Matrix {
    /// # Errors
    /// Out of memory.
    ///
    /// # Panics
    /// If `data` is not `rows · cols` long.
    pub fn f32(
        device: &dyn Device,
        component: Component,
        rows: usize,
        cols: usize,
        data: &[f32],
    ) -> DeviceResult<Self> {
        assert_eq!(data.len(), rows * cols, "a matrix of {rows} × {cols}");
        Ok(Self { rows, cols, data: MatrixData::F32(upload(device, component, data)?) })
    }

    /// Rounds to the nearest `bf16`; exact for weights that are stored so.
    ///
    /// # Errors
    /// Out of memory.
    ///
    /// # Panics
    /// If `data` is not `rows · cols` long.
    pub fn bf16(
        device: &dyn Device,
        component: Component,
        rows: usize,
        cols: usize,
        data: &[f32],
    ) -> DeviceResult<Self> {
        assert_eq!(data.len(), rows * cols, "a matrix of {rows} × {cols}");
        let narrow: Vec<bf16> = data.iter().map(|value| bf16::from_f32(*value)).collect();
        Ok(Self { rows, cols, data: MatrixData::Bf16(upload(device, component, &narrow)?) })
    }

    /// Rounds to the nearest `f16`; exact for weights that are stored so.
    ///
    /// # Errors
    /// Out of memory.
    ///
    /// # Panics
    /// If `data` is not `rows · cols` long.
    pub fn f16(
        device: &dyn Device,
        component: Component,
        rows: usize,
        cols: usize,
        data: &[f32],
    ) -> DeviceResult<Self> {
        assert_eq!(data.len(), rows * cols, "a matrix of {rows} × {cols}");
        let narrow: Vec<f16> = data.iter().map(|value| f16::from_f32(*value)).collect();
        Ok(Self { rows, cols, data: MatrixData::F16(upload(device, component, &narrow)?) })
    }

    /// Quantises to NF4, blocks of 64, with double quantisation, as bitsandbytes does.
    ///
    /// # Errors
    /// Out of memory.
    ///
    /// # Panics
    /// If `data` is not `rows · cols` long.
    pub fn nf4(
        device: &dyn Device,
        component: Component,
        rows: usize,
        cols: usize,
        data: &[f32],
    ) -> DeviceResult<Self> {
        assert_eq!(data.len(), rows * cols, "a matrix of {rows} × {cols}");
        let quantized = nf4::quantize(data, rows, cols, true);
        let view = quantized.view();
        let nf4::AbsMax::Nested { codes, scales, offset } = view.absmax else {
            unreachable!("double quantisation was asked for")
        };
        Ok(Self {
            rows,
            cols,
            data: MatrixData::Nf4 {
                packed: upload(device, component, view.packed)?,
                codes: upload(device, component, codes)?,
                scales: upload(device, component, scales)?,
                offset,
            },
        })
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
        }
    }
}
