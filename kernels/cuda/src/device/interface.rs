//! The operations of the engine's interface.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use luthier_kernels::device::{
    Allocation, AttentionSaved, AttentionShape, Component, Costs, Device, DeviceError, DeviceExt, DeviceResult,
    DoraRows, Draw, Dropout, FloatType, Head, KeyValues, Ledger, Linear, LinearBackward, LinearScratch, LowRank,
    Moments8, Noise, Operand, Operation, Recording, Rotary, Segments, Slice, SliceMut, Space, Transfers, Values,
    ValuesMut,
};
use luthier_kernels::rope::Table;

use super::{CudaDevice, Nothing, class};
use crate::arguments::Address;
use crate::memory::DeviceMemory;
use crate::{cublas, ops};

impl Device for CudaDevice {
    fn name(&self) -> String {
        format!("cuda:{}", self.options.ordinal)
    }

    fn numeric_class(&self) -> String {
        let library = if self.products.is_some() { cublas::class() } else { None };
        class(self.capability(), self.options.precision) + &library.unwrap_or_default()
    }

    fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    fn activation_type(&self) -> FloatType {
        self.costs.activations()
    }

    fn free_memory(&self) -> Option<usize> {
        self.memory().ok().map(|(free, _)| free)
    }

    fn allocate(&self, component: Component, bytes: usize) -> DeviceResult<Allocation> {
        let failed = || DeviceError::OutOfMemory { device: self.name(), bytes, component };
        if self.capture.spoil() {
            return Err(failed());
        }
        let space = Space::Cuda(self.options.ordinal);
        if bytes == 0 {
            let ledger = Arc::clone(&self.ledger);
            // SAFETY: nothing is read or written through an address of no bytes.
            return Ok(unsafe {
                Allocation::new(NonNull::<Nothing>::dangling().cast(), 0, space, component, ledger, Box::new(()))
            });
        }
        let memory = DeviceMemory::new(&self.driver, bytes).map_err(|_| failed())?;
        let address =
            NonNull::new(std::ptr::with_exposed_provenance_mut(memory.address as usize)).ok_or_else(failed)?;
        // SAFETY: the driver gave `bytes` bytes, aligned to 256 and zeroed, that `memory` alone frees.
        Ok(unsafe { Allocation::new(address, bytes, space, component, Arc::clone(&self.ledger), Box::new(memory)) })
    }

    fn transfers(&self) -> Option<&dyn Transfers> {
        Some(self)
    }

    fn write_bytes(&self, source: &[u8], target: SliceMut<'_, u8>) {
        assert_eq!(source.len(), target.len(), "a write of another length");
        if !source.is_empty() && !self.capture.spoil() && !self.has_failed() {
            self.note(self.staging().write(target.address().word(), source));
            self.mark_queued();
        }
    }

    fn read_bytes(&self, source: Slice<'_, u8>, target: &mut [u8]) {
        assert_eq!(source.len(), target.len(), "a read of another length");
        if !target.is_empty() && !self.capture.spoil() && !self.has_failed() {
            self.queued.store(false, Ordering::Release);
            self.note(self.staging().read(source.address().word(), target));
        }
    }

    fn synchronize(&self) -> DeviceResult<()> {
        if self.capture.spoil() {
            return Ok(());
        }
        let queued = self.queued.swap(false, Ordering::AcqRel) || self.driver.is_copying();
        if queued && !self.has_failed() {
            self.note(self.staging().wait());
        }
        self.check()
    }

    fn run(&self, work: &mut (dyn FnMut() + Send)) {
        work();
    }

    fn costs(&self) -> &dyn Costs {
        &self.costs
    }

    fn reserve(&self, operations: &[Operation]) -> DeviceResult<()> {
        for (region, bytes) in [&self.scratch, &self.row_scratch].into_iter().zip(self.costs.borrowed(operations)) {
            let component = Component::Scratch;
            self.grow(region, bytes, true).map_err(|_| DeviceError::OutOfMemory {
                device: self.name(),
                bytes,
                component,
            })?;
        }
        Ok(())
    }

    fn record(&self, work: &mut dyn FnMut()) -> Option<Recording> {
        self.capture_work(work)
    }

    unsafe fn replay(&self, recording: &Recording) -> bool {
        // SAFETY: as the caller says.
        unsafe { self.replay_graph(recording) }
    }

    fn zero(&self, out: SliceMut<'_, f32>) {
        ops::elementwise::zero(self, out);
    }

    fn copy(&self, source: Values<'_>, out: ValuesMut<'_>) {
        ops::elementwise::copy(self, source, out);
    }

    fn add(&self, source: Values<'_>, out: ValuesMut<'_>) {
        ops::elementwise::add(self, source, out);
    }

    fn scale(&self, factor: f32, out: ValuesMut<'_>) {
        ops::elementwise::scale(self, factor, out);
    }

    fn add_bias(&self, bias: Slice<'_, f32>, out: ValuesMut<'_>) {
        ops::elementwise::add_bias(self, bias, out);
    }

    fn matmul_nt(
        &self,
        x: Values<'_>,
        w: Operand<'_>,
        shape: [usize; 3],
        scale: f32,
        accumulate: bool,
        out: ValuesMut<'_>,
    ) {
        ops::matmul::nt(self, x, w, shape, scale, accumulate, out);
    }

    fn matmul_nn(
        &self,
        dy: Values<'_>,
        w: Operand<'_>,
        shape: [usize; 3],
        scale: f32,
        accumulate: bool,
        out: ValuesMut<'_>,
    ) {
        ops::matmul::nn(self, dy, w, shape, scale, accumulate, out);
    }

    fn matmul_tn(
        &self,
        a: Values<'_>,
        b: Values<'_>,
        shape: [usize; 3],
        scale: f32,
        accumulate: bool,
        out: SliceMut<'_, f32>,
    ) {
        ops::matmul::tn(self, a, b, shape, scale, accumulate, out);
    }

    fn linear(
        &self,
        x: Values<'_>,
        shape: [usize; 2],
        linears: &mut [Linear<'_>],
        residual: Option<Slice<'_, f32>>,
        masked: &mut ValuesMut<'_>,
    ) {
        ops::linear::forward(self, x, shape, linears, residual, masked);
    }

    fn linear_reduce(
        &self,
        x: Values<'_>,
        shape: [usize; 2],
        adapters: &mut [(LowRank<'_>, ValuesMut<'_>)],
        masked: &mut ValuesMut<'_>,
    ) {
        ops::linear::reduce(self, x, shape, adapters, masked);
    }

    fn linear_backward(
        &self,
        x: Values<'_>,
        shape: [usize; 2],
        linears: &mut [LinearBackward<'_>],
        accumulate: bool,
        scratch: &mut LinearScratch<'_>,
        dx: Option<(ValuesMut<'_>, bool)>,
    ) {
        ops::linear::backward(self, x, shape, linears, accumulate, scratch, dx);
    }

    fn rms_norm(
        &self,
        x: Values<'_>,
        weight: Slice<'_, f32>,
        eps: f32,
        out: ValuesMut<'_>,
        inverse: SliceMut<'_, f32>,
    ) {
        ops::rms_norm::forward(self, x, weight, eps, out, inverse);
    }

    fn rms_norm_backward(
        &self,
        x: Values<'_>,
        weight: Slice<'_, f32>,
        inverse: Slice<'_, f32>,
        dy: Values<'_>,
        accumulate: bool,
        dx: ValuesMut<'_>,
    ) {
        ops::rms_norm::backward(self, x, weight, inverse, dy, accumulate, dx);
    }

    fn rotary(&self, table: Table) -> DeviceResult<Rotary> {
        let upload = |values: &[f32]| {
            let device: &dyn Device = self;
            let mut buffer = device.buffer(Component::Scratch, values.len())?;
            device.write(values, buffer.all_mut());
            Ok(buffer)
        };
        let (cos, sin) = (upload(table.cosines())?, upload(table.sines())?);
        Ok(Rotary::Device { cos, sin, head_dim: table.head_dim() })
    }

    fn rope(&self, positions: Slice<'_, u32>, heads: usize, rotary: &Rotary, inverse: bool, x: ValuesMut<'_>) {
        ops::rope::rotate(self, positions, heads, rotary, inverse, x);
    }

    fn swiglu(&self, gate: Values<'_>, up: Values<'_>, out: ValuesMut<'_>) {
        ops::swiglu::forward(self, gate, up, out);
    }

    fn swiglu_backward(&self, gate: ValuesMut<'_>, up: Values<'_>, dout: ValuesMut<'_>) {
        ops::swiglu::backward(self, gate, up, dout);
    }

    fn attention(
        &self,
        q: Values<'_>,
        k: Values<'_>,
        v: Values<'_>,
        segments: Segments<'_>,
        shape: AttentionShape,
        out: ValuesMut<'_>,
        lse: SliceMut<'_, f32>,
    ) {
        ops::attention::forward(self, q, k, v, segments, shape, out, lse);
    }

    fn attention_backward(
        &self,
        forward: AttentionSaved<'_>,
        dout: Values<'_>,
        segments: Segments<'_>,
        shape: AttentionShape,
        dq: ValuesMut<'_>,
        dk: ValuesMut<'_>,
        dv: ValuesMut<'_>,
    ) {
        ops::attention::backward(self, forward, dout, segments, shape, dq, dk, dv);
    }

    fn attention_decode(&self, q: Values<'_>, cache: KeyValues<'_>, shape: AttentionShape, out: ValuesMut<'_>) {
        ops::attention::decode(self, q, cache, shape, out);
    }

    fn embedding(&self, table: Operand<'_>, ids: Slice<'_, u32>, width: usize, out: SliceMut<'_, f32>) {
        ops::embedding::gather(self, table, ids, width, out);
    }

    fn gather_rows(&self, x: Values<'_>, rows: Slice<'_, u32>, width: usize, out: ValuesMut<'_>) {
        ops::elementwise::gather_rows(self, x, rows, width, out);
    }

    fn sum_rows(&self, x: Values<'_>, offsets: Slice<'_, u32>, rows: Slice<'_, u32>, width: usize, out: ValuesMut<'_>) {
        ops::elementwise::sum_rows(self, x, offsets, rows, width, out);
    }

    fn scatter_rows(&self, x: Slice<'_, f32>, rows: Slice<'_, u32>, width: usize, out: SliceMut<'_, f32>) {
        ops::elementwise::scatter_rows(self, x, rows, width, out);
    }

    fn cross_entropy(
        &self,
        hidden: Values<'_>,
        targets: Slice<'_, u32>,
        head: Head<'_>,
        scale: Slice<'_, f32>,
        dhidden: Option<SliceMut<'_, f32>>,
        scratch: SliceMut<'_, f32>,
        losses: SliceMut<'_, f32>,
    ) {
        ops::cross_entropy::forward_backward(self, hidden, targets, head, scale, dhidden, scratch, losses);
    }

    fn dropout(&self, x: Values<'_>, dropout: Dropout<'_>, accumulate: bool, out: ValuesMut<'_>) {
        ops::random::dropout(self, x, dropout, accumulate, out);
    }

    fn adamw(
        &self,
        grads: Slice<'_, f32>,
        factors: Slice<'_, f32>,
        params: SliceMut<'_, f32>,
        m: SliceMut<'_, f32>,
        v: SliceMut<'_, f32>,
    ) {
        ops::optimizer::adamw(self, grads, factors, params, m, v);
    }

    fn adamw_8bit(
        &self,
        grads: Slice<'_, f32>,
        factors: Slice<'_, f32>,
        params: SliceMut<'_, f32>,
        moments: Moments8<'_>,
    ) {
        ops::optimizer::adamw_8bit(self, grads, factors, params, moments);
    }

    fn add_noise(&self, noise: Noise<'_>, segments: Segments<'_>, width: usize, out: SliceMut<'_, f32>) {
        ops::random::add_noise(self, noise, segments, width, out);
    }

    fn row_squares(&self, w: Operand<'_>, shape: [usize; 2], out: SliceMut<'_, f32>) {
        ops::dora::row_squares(self, w, shape, out);
    }

    fn dora_gains(
        &self,
        rows: DoraRows<'_>,
        magnitude: Option<Slice<'_, f32>>,
        gains: SliceMut<'_, f32>,
        inverse: SliceMut<'_, f32>,
    ) {
        ops::dora::gains(self, rows, magnitude, gains, inverse);
    }

    fn scale_columns(&self, x: Values<'_>, factors: Slice<'_, f32>, accumulate: bool, out: ValuesMut<'_>) {
        ops::elementwise::scale_columns(self, x, factors, accumulate, out);
    }

    fn column_dots(
        &self,
        dy: Values<'_>,
        x: Values<'_>,
        factors: Slice<'_, f32>,
        accumulate: bool,
        out: SliceMut<'_, f32>,
    ) {
        ops::dora::column_dots(self, dy, x, factors, accumulate, out);
    }

    fn sum(&self, x: Slice<'_, f32>, accumulate: bool, out: SliceMut<'_, f64>) {
        ops::optimizer::sum(self, x, accumulate, out);
    }

    fn norm(&self, x: Slice<'_, f32>, out: SliceMut<'_, f64>) {
        ops::optimizer::norm(self, x, out);
    }

    fn clip(&self, norm: Slice<'_, f64>, limit: f64, out: SliceMut<'_, f32>) {
        ops::optimizer::clip(self, norm, limit, out);
    }

    fn geglu(&self, gate: Slice<'_, f32>, up: Slice<'_, f32>, out: SliceMut<'_, f32>) {
        ops::geglu::forward(self, gate, up, out);
    }

    fn geglu_backward(
        &self,
        gate: Slice<'_, f32>,
        up: Slice<'_, f32>,
        dout: Slice<'_, f32>,
        dgate: SliceMut<'_, f32>,
        dup: SliceMut<'_, f32>,
    ) {
        ops::geglu::backward(self, [gate, up, dout], dgate, dup);
    }

    fn choose_tokens(&self, logits: Slice<'_, f32>, vocabulary: usize, draw: Option<Draw<'_>>, ids: SliceMut<'_, u32>) {
        ops::sampling::choose(self, logits, vocabulary, draw, ids);
    }
}
