//! A device that measures another: seconds, calls and floating-point operations per operation.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::*;

/// What an operation took so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct OperationTime {
    pub calls: u64,
    pub time: Duration,
    /// Of the matrix products in it; 0 for other operations.
    pub flops: u64,
}

/// Delegates to another device and keeps a clock per operation. Meant for devices that finish an operation before they
/// return, as the CPU does.
pub struct TimedDevice {
    inner: Arc<dyn Device>,
    times: Mutex<BTreeMap<&'static str, OperationTime>>,
}

impl TimedDevice {
    #[must_use]
    pub fn new(inner: Arc<dyn Device>) -> Self {
        Self { inner, times: Mutex::default() }
    }

    /// Per operation, since the last call; the clocks start again from zero.
    #[must_use]
    pub fn take(&self) -> BTreeMap<&'static str, OperationTime> {
        std::mem::take(&mut *self.times.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn timed<T>(&self, operation: &'static str, flops: u64, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = times.entry(operation).or_default();
        entry.calls += 1;
        entry.time += start.elapsed();
        entry.flops += flops;
        result
    }
}

impl Device for TimedDevice {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn numeric_class(&self) -> String {
        self.inner.numeric_class()
    }

    fn ledger(&self) -> &Arc<Ledger> {
        self.inner.ledger()
    }

    fn activation_type(&self) -> FloatType {
        self.inner.activation_type()
    }

    fn costs(&self) -> &dyn Costs {
        self.inner.costs()
    }

    fn reserve(&self, operations: &[Operation]) -> DeviceResult<()> {
        self.inner.reserve(operations)
    }

    fn free_memory(&self) -> Option<usize> {
        self.inner.free_memory()
    }

    fn allocate(&self, component: Component, bytes: usize) -> DeviceResult<Allocation> {
        self.timed("allocate", 0, || self.inner.allocate(component, bytes))
    }

    fn adopt(&self, component: Component, memory: HostBytes) -> Option<Allocation> {
        self.inner.adopt(component, memory)
    }

    fn transfers(&self) -> Option<&dyn Transfers> {
        self.inner.transfers()
    }

    fn write_bytes(&self, source: &[u8], target: SliceMut<'_, u8>) {
        self.timed("write_bytes", 0, || self.inner.write_bytes(source, target))
    }

    fn read_bytes(&self, source: Slice<'_, u8>, target: &mut [u8]) {
        self.timed("read_bytes", 0, || self.inner.read_bytes(source, target))
    }

    fn synchronize(&self) -> DeviceResult<()> {
        self.timed("synchronize", 0, || self.inner.synchronize())
    }

    fn run(&self, work: &mut (dyn FnMut() + Send)) {
        self.inner.run(work)
    }

    fn zero(&self, out: SliceMut<'_, f32>) {
        self.timed("zero", 0, || self.inner.zero(out))
    }

    fn copy(&self, source: Values<'_>, out: ValuesMut<'_>) {
        self.timed("copy", 0, || self.inner.copy(source, out))
    }

    fn add(&self, source: Values<'_>, out: ValuesMut<'_>) {
        self.timed("add", 0, || self.inner.add(source, out))
    }

    fn scale(&self, factor: f32, out: ValuesMut<'_>) {
        self.timed("scale", 0, || self.inner.scale(factor, out))
    }

    fn add_bias(&self, bias: Slice<'_, f32>, out: ValuesMut<'_>) {
        self.timed("add_bias", 0, || self.inner.add_bias(bias, out))
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
        self.timed("matmul_nt", 2 * (shape[0] * shape[1] * shape[2]) as u64, || {
            self.inner.matmul_nt(x, w, shape, scale, accumulate, out)
        })
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
        self.timed("matmul_nn", 2 * (shape[0] * shape[1] * shape[2]) as u64, || {
            self.inner.matmul_nn(dy, w, shape, scale, accumulate, out)
        })
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
        self.timed("matmul_tn", 2 * (shape[0] * shape[1] * shape[2]) as u64, || {
            self.inner.matmul_tn(a, b, shape, scale, accumulate, out)
        })
    }

    fn rms_norm(
        &self,
        x: Values<'_>,
        weight: Slice<'_, f32>,
        eps: f32,
        out: ValuesMut<'_>,
        inverse: SliceMut<'_, f32>,
    ) {
        self.timed("rms_norm", 0, || self.inner.rms_norm(x, weight, eps, out, inverse))
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
        self.timed("rms_norm_backward", 0, || self.inner.rms_norm_backward(x, weight, inverse, dy, accumulate, dx))
    }

    fn rotary(&self, table: rope::Table) -> DeviceResult<Rotary> {
        self.timed("rotary", 0, || self.inner.rotary(table))
    }

    fn rope(&self, positions: Slice<'_, u32>, heads: usize, rotary: &Rotary, inverse: bool, x: ValuesMut<'_>) {
        self.timed("rope", 0, || self.inner.rope(positions, heads, rotary, inverse, x))
    }

    fn swiglu(&self, gate: Values<'_>, up: Values<'_>, out: ValuesMut<'_>) {
        self.timed("swiglu", 0, || self.inner.swiglu(gate, up, out))
    }

    fn swiglu_backward(&self, gate: ValuesMut<'_>, up: Values<'_>, dout: ValuesMut<'_>) {
        self.timed("swiglu_backward", 0, || self.inner.swiglu_backward(gate, up, dout))
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
        self.timed("attention", 0, || self.inner.attention(q, k, v, segments, shape, out, lse))
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
        self.timed("attention_backward", 0, || {
            self.inner.attention_backward(forward, dout, segments, shape, dq, dk, dv)
        })
    }

    fn attention_decode(&self, q: Values<'_>, cache: KeyValues<'_>, shape: AttentionShape, out: ValuesMut<'_>) {
        self.timed("attention_decode", 0, || self.inner.attention_decode(q, cache, shape, out))
    }

    fn embedding(&self, table: Operand<'_>, ids: Slice<'_, u32>, width: usize, out: SliceMut<'_, f32>) {
        self.timed("embedding", 0, || self.inner.embedding(table, ids, width, out))
    }

    fn gather_rows(&self, x: Values<'_>, rows: Slice<'_, u32>, width: usize, out: ValuesMut<'_>) {
        self.timed("gather_rows", 0, || self.inner.gather_rows(x, rows, width, out))
    }

    fn sum_rows(&self, x: Values<'_>, offsets: Slice<'_, u32>, rows: Slice<'_, u32>, width: usize, out: ValuesMut<'_>) {
        self.timed("sum_rows", 0, || self.inner.sum_rows(x, offsets, rows, width, out))
    }

    fn scatter_rows(&self, x: Slice<'_, f32>, rows: Slice<'_, u32>, width: usize, out: SliceMut<'_, f32>) {
        self.timed("scatter_rows", 0, || self.inner.scatter_rows(x, rows, width, out))
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
        self.timed(
            "cross_entropy",
            (2 + 2 * u64::from(dhidden.is_some())) * (targets.len() * head.vocabulary * head.hidden) as u64,
            || self.inner.cross_entropy(hidden, targets, head, scale, dhidden, scratch, losses),
        )
    }

    fn dropout(&self, x: Values<'_>, dropout: Dropout<'_>, accumulate: bool, out: ValuesMut<'_>) {
        self.timed("dropout", 0, || self.inner.dropout(x, dropout, accumulate, out))
    }

    fn adamw(
        &self,
        grads: Slice<'_, f32>,
        factors: Slice<'_, f32>,
        params: SliceMut<'_, f32>,
        m: SliceMut<'_, f32>,
        v: SliceMut<'_, f32>,
    ) {
        self.timed("adamw", 0, || self.inner.adamw(grads, factors, params, m, v))
    }

    fn adamw_8bit(
        &self,
        grads: Slice<'_, f32>,
        factors: Slice<'_, f32>,
        params: SliceMut<'_, f32>,
        moments: Moments8<'_>,
    ) {
        self.timed("adamw_8bit", 0, || self.inner.adamw_8bit(grads, factors, params, moments))
    }

    fn add_noise(&self, noise: Noise<'_>, segments: Segments<'_>, width: usize, out: SliceMut<'_, f32>) {
        self.timed("add_noise", 0, || self.inner.add_noise(noise, segments, width, out))
    }

    fn row_squares(&self, w: Operand<'_>, shape: [usize; 2], out: SliceMut<'_, f32>) {
        self.timed("row_squares", 0, || self.inner.row_squares(w, shape, out))
    }

    fn dora_gains(
        &self,
        rows: DoraRows<'_>,
        magnitude: Option<Slice<'_, f32>>,
        gains: SliceMut<'_, f32>,
        inverse: SliceMut<'_, f32>,
    ) {
        self.timed("dora_gains", 0, || self.inner.dora_gains(rows, magnitude, gains, inverse))
    }

    fn scale_columns(&self, x: Values<'_>, factors: Slice<'_, f32>, accumulate: bool, out: ValuesMut<'_>) {
        self.timed("scale_columns", 0, || self.inner.scale_columns(x, factors, accumulate, out))
    }

    fn column_dots(
        &self,
        dy: Values<'_>,
        x: Values<'_>,
        factors: Slice<'_, f32>,
        accumulate: bool,
        out: SliceMut<'_, f32>,
    ) {
        self.timed("column_dots", 0, || self.inner.column_dots(dy, x, factors, accumulate, out))
    }

    fn sum(&self, x: Slice<'_, f32>, accumulate: bool, out: SliceMut<'_, f64>) {
        self.timed("sum", 0, || self.inner.sum(x, accumulate, out))
    }

    fn norm(&self, x: Slice<'_, f32>, out: SliceMut<'_, f64>) {
        self.timed("norm", 0, || self.inner.norm(x, out))
    }

    fn clip(&self, norm: Slice<'_, f64>, limit: f64, out: SliceMut<'_, f32>) {
        self.timed("clip", 0, || self.inner.clip(norm, limit, out))
    }

    fn geglu(&self, gate: Slice<'_, f32>, up: Slice<'_, f32>, out: SliceMut<'_, f32>) {
        self.timed("geglu", 0, || self.inner.geglu(gate, up, out));
    }

    fn geglu_backward(
        &self,
        gate: Slice<'_, f32>,
        up: Slice<'_, f32>,
        dout: Slice<'_, f32>,
        dgate: SliceMut<'_, f32>,
        dup: SliceMut<'_, f32>,
    ) {
        self.timed("geglu_backward", 0, || self.inner.geglu_backward(gate, up, dout, dgate, dup));
    }

    fn choose_tokens(&self, logits: Slice<'_, f32>, vocabulary: usize, draw: Option<Draw<'_>>, ids: SliceMut<'_, u32>) {
        self.timed("choose_tokens", 0, || self.inner.choose_tokens(logits, vocabulary, draw, ids));
    }
}
