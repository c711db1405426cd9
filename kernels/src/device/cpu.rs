//! The CPU device: host memory and the kernels of this crate, on a thread pool of its own.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::Arc;

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::buffer::{Allocation, Slice, SliceMut, Space};
use super::error::{DeviceError, DeviceResult};
use super::host_bytes::HostBytes;
use super::ledger::{Component, Ledger};
use super::values::{Values, ValuesMut};
use super::weight::Operand;
use super::{
    AttentionSaved, Device, DoraRows, Draw, Dropout, Factors, Head, KeyValues, Moments8, NO_ROW, Noise, Rotary,
    Segments,
};
use crate::attention::{AttentionShape, CacheView};
use crate::blocks::BlockView;
use crate::nf4::{AbsMax, Nf4View};
use crate::optimizer_8bit::{Moment8, adamw_8bit};
use crate::{NUMERIC_CLASS, Weight, attention, cross_entropy, dora, elementwise, embedding, geglu, matmul, optimizer};
use crate::{rms_norm, rope, sampling, swiglu};

const ALIGNMENT: usize = 64;
/// Elements per task of the element-wise loops of this file.
const GRAIN: usize = 1 << 14;

/// Zeroed host memory aligned for the widest registers.
struct HostMemory {
    address: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it only owns memory; nothing is read through it.
unsafe impl Send for HostMemory {}
// SAFETY: as above.
unsafe impl Sync for HostMemory {}

impl Drop for HostMemory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `allocate`.
        unsafe { dealloc(self.address.as_ptr(), self.layout) };
    }
}

/// Runs the kernels of this crate. The bits do not depend on the number of threads.
pub struct CpuDevice {
    pool: ThreadPool,
    ledger: Arc<Ledger>,
}

impl CpuDevice {
    /// A device with a pool of `threads` threads, at least one.
    ///
    /// # Errors
    /// The threads could not be started.
    pub fn new(threads: usize) -> DeviceResult<Self> {
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|index| format!("luthier-cpu-{index}"))
            .build()
            .map_err(|error| DeviceError::Unavailable { device: "cpu".to_owned(), why: error.to_string() })?;
        Ok(Self { pool, ledger: Arc::default() })
    }

    #[must_use]
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }
}

fn weight(operand: Operand<'_>) -> Weight<'_> {
    match operand {
        Operand::F32(data) => Weight::F32(data.host()),
        Operand::F16(data) => Weight::F16(data.host()),
        Operand::Bf16(data) => Weight::Bf16(data.host()),
        Operand::Blocks { bytes, kind } => Weight::Blocks(BlockView { kind, bytes: bytes.host() }),
        Operand::Nf4 { packed, codes, scales, offset, rows, cols } => Weight::Nf4(Nf4View {
            packed: packed.host(),
            absmax: AbsMax::Nested { codes: codes.host(), scales: scales.host(), offset },
            rows,
            cols,
        }),
    }
}

fn factors(values: Slice<'_, f32>) -> Factors {
    let Ok(values) = values.host().try_into() else { panic!("a step has {} factors", Factors::COUNT) };
    Factors::from_array(values)
}

impl Device for CpuDevice {
    fn name(&self) -> String {
        "cpu".to_owned()
    }

    fn numeric_class(&self) -> String {
        NUMERIC_CLASS.to_owned()
    }

    fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    fn allocate(&self, component: Component, bytes: usize) -> DeviceResult<Allocation> {
        let failed = || DeviceError::OutOfMemory { device: self.name(), bytes, component };
        let layout = Layout::from_size_align(bytes.max(ALIGNMENT), ALIGNMENT).map_err(|_| failed())?;
        // SAFETY: the layout has a size above zero.
        let address = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(failed)?;
        let owner = Box::new(HostMemory { address, layout });
        let ledger = Arc::clone(&self.ledger);
        // SAFETY: `address` is fresh, zeroed, aligned memory of at least `bytes` bytes that `owner` alone frees.
        Ok(unsafe { Allocation::new(address, bytes, Space::Host, component, ledger, owner) })
    }

    fn adopt(&self, component: Component, memory: HostBytes) -> Option<Allocation> {
        Some(Allocation::adopt(memory, component, Arc::clone(&self.ledger)))
    }

    fn write_bytes(&self, source: &[u8], target: SliceMut<'_, u8>) {
        target.host().copy_from_slice(source);
    }

    fn read_bytes(&self, source: Slice<'_, u8>, target: &mut [u8]) {
        target.copy_from_slice(source.host());
    }

    fn synchronize(&self) -> DeviceResult<()> {
        Ok(())
    }

    fn run(&self, work: &mut (dyn FnMut() + Send)) {
        self.pool.install(work);
    }

    fn zero(&self, out: SliceMut<'_, f32>) {
        out.host().par_chunks_mut(GRAIN).for_each(|out| out.fill(0.0));
    }

    fn copy(&self, source: Values<'_>, out: ValuesMut<'_>) {
        let (source, out) = (source.host(), out.host());
        assert_eq!(source.len(), out.len(), "a copy between different lengths");
        out.par_chunks_mut(GRAIN).zip(source.par_chunks(GRAIN)).for_each(|(out, source)| out.copy_from_slice(source));
    }

    fn add(&self, source: Values<'_>, out: ValuesMut<'_>) {
        elementwise::add(out.host(), source.host());
    }

    fn scale(&self, factor: f32, out: ValuesMut<'_>) {
        optimizer::scale(out.host(), factor);
    }

    fn add_bias(&self, bias: Slice<'_, f32>, out: ValuesMut<'_>) {
        let bias = bias.host();
        out.host().par_chunks_mut(bias.len()).for_each(|row| {
            for (out, bias) in row.iter_mut().zip(bias) {
                *out += bias;
            }
        });
    }

    fn matmul_nt(
        &self,
        x: Values<'_>,
        w: Operand<'_>,
        [m, n, k]: [usize; 3],
        scale: f32,
        accumulate: bool,
        out: ValuesMut<'_>,
    ) {
        matmul::nt(x.host(), m, k, &weight(w), n, out.host(), scale, accumulate);
    }

    fn matmul_nn(
        &self,
        dy: Values<'_>,
        w: Operand<'_>,
        [m, n, k]: [usize; 3],
        scale: f32,
        accumulate: bool,
        out: ValuesMut<'_>,
    ) {
        matmul::nn(dy.host(), m, n, &weight(w), k, out.host(), scale, accumulate);
    }

    fn matmul_tn(
        &self,
        a: Values<'_>,
        b: Values<'_>,
        [m, p, q]: [usize; 3],
        scale: f32,
        accumulate: bool,
        out: SliceMut<'_, f32>,
    ) {
        matmul::tn(a.host(), b.host(), m, p, q, out.host(), scale, accumulate);
    }

    fn rms_norm(
        &self,
        x: Values<'_>,
        weight: Slice<'_, f32>,
        eps: f32,
        out: ValuesMut<'_>,
        inverse: SliceMut<'_, f32>,
    ) {
        rms_norm::forward(x.host(), weight.host(), eps, weight.len(), out.host(), inverse.host());
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
        let width = weight.len();
        rms_norm::backward(x.host(), weight.host(), inverse.host(), dy.host(), width, dx.host(), accumulate);
    }

    fn rotary(&self, table: rope::Table) -> DeviceResult<Rotary> {
        Ok(Rotary::Host(table))
    }

    fn rope(&self, positions: Slice<'_, u32>, heads: usize, rotary: &Rotary, inverse: bool, x: ValuesMut<'_>) {
        let Rotary::Host(table) = rotary else { unreachable!("the table was made by another device") };
        if inverse {
            rope::backward(x.host(), positions.host(), heads, table);
        } else {
            rope::forward(x.host(), positions.host(), heads, table);
        }
    }

    fn swiglu(&self, gate: Values<'_>, up: Values<'_>, out: ValuesMut<'_>) {
        swiglu::forward(gate.host(), up.host(), out.host());
    }

    fn swiglu_backward(&self, gate: ValuesMut<'_>, up: Values<'_>, dout: ValuesMut<'_>) {
        swiglu::backward_in_place(gate.host(), up.host(), dout.host());
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
        attention::forward(q.host(), k.host(), v.host(), segments.starts.host(), &shape, out.host(), lse.host());
    }

    fn attention_backward(
        &self,
        saved: AttentionSaved<'_>,
        dout: Values<'_>,
        segments: Segments<'_>,
        shape: AttentionShape,
        dq: ValuesMut<'_>,
        dk: ValuesMut<'_>,
        dv: ValuesMut<'_>,
    ) {
        attention::backward(
            saved.q.host(),
            saved.k.host(),
            saved.v.host(),
            saved.out.host(),
            saved.lse.host(),
            dout.host(),
            segments.starts.host(),
            &shape,
            dq.host(),
            dk.host(),
            dv.host(),
        );
    }

    fn attention_decode(&self, q: Values<'_>, cache: KeyValues<'_>, shape: AttentionShape, out: ValuesMut<'_>) {
        let stride = cache.capacity * shape.key_width();
        let (keys, values, lengths) = (cache.keys.host(), cache.values.host(), cache.lengths.host());
        let views: Vec<CacheView<'_>> = lengths
            .iter()
            .enumerate()
            .map(|(index, length)| CacheView {
                keys: &keys[index * stride..(index + 1) * stride],
                values: &values[index * stride..(index + 1) * stride],
                length: *length as usize,
            })
            .collect();
        attention::decode(q.host(), &views, &shape, out.host());
    }

    fn embedding(&self, table: Operand<'_>, ids: Slice<'_, u32>, width: usize, out: SliceMut<'_, f32>) {
        embedding::gather(&weight(table), ids.host(), width, out.host());
    }

    fn gather_rows(&self, x: Values<'_>, rows: Slice<'_, u32>, width: usize, out: ValuesMut<'_>) {
        let (x, rows, out) = (x.host(), rows.host(), out.host());
        assert_eq!(out.len(), rows.len() * width, "gathered rows");
        out.par_chunks_exact_mut(width).zip(rows).with_min_len(GRAIN / width.max(1)).for_each(|(out, row)| {
            if *row == NO_ROW {
                out.fill(0.0);
            } else {
                let start = *row as usize * width;
                out.copy_from_slice(&x[start..start + width]);
            }
        });
    }

    fn sum_rows(&self, x: Values<'_>, offsets: Slice<'_, u32>, rows: Slice<'_, u32>, width: usize, out: ValuesMut<'_>) {
        let (x, offsets, rows, out) = (x.host(), offsets.host(), rows.host(), out.host());
        assert_eq!(out.len() + width, offsets.len() * width, "summed rows");
        out.par_chunks_exact_mut(width).zip(offsets.par_windows(2)).for_each(|(out, bounds)| {
            let rows = &rows[bounds[0] as usize..bounds[1] as usize];
            let row = |index: u32| &x[index as usize * width..(index as usize + 1) * width];
            match rows.split_first() {
                None => out.fill(0.0),
                Some((first, others)) => {
                    out.copy_from_slice(row(*first));
                    for other in others {
                        for (out, x) in out.iter_mut().zip(row(*other)) {
                            *out += x;
                        }
                    }
                }
            }
        });
    }

    fn scatter_rows(&self, x: Slice<'_, f32>, rows: Slice<'_, u32>, width: usize, out: SliceMut<'_, f32>) {
        let (x, rows, out) = (x.host(), rows.host(), out.host());
        assert_eq!(x.len(), rows.len() * width, "scattered rows");
        for (x, row) in x.chunks_exact(width).zip(rows) {
            let start = *row as usize * width;
            out[start..start + width].copy_from_slice(x);
        }
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
        let values = cross_entropy::forward_backward(
            hidden.host(),
            targets.host(),
            head.hidden,
            &weight(head.weight),
            head.chunk_rows,
            scale.host()[0],
            dhidden.map(SliceMut::host),
            scratch.host(),
        );
        losses.host().copy_from_slice(&values);
    }

    fn dropout(&self, x: Values<'_>, dropout: Dropout<'_>, accumulate: bool, out: ValuesMut<'_>) {
        let (x, out) = (x.host(), out.host());
        assert_eq!(x.len(), out.len(), "dropout of another length");
        let (offset, keep) = (dropout.offset.host()[0], 1.0 / (1.0 - dropout.probability));
        out.par_chunks_mut(GRAIN).zip(x.par_chunks(GRAIN)).enumerate().for_each(|(chunk, (out, x))| {
            let start = offset + (chunk * GRAIN) as u64;
            for (block, (out, x)) in out.chunks_mut(4).zip(x.chunks(4)).enumerate() {
                let words = dropout.stream.block(start / 4 + block as u64);
                for ((out, x), word) in out.iter_mut().zip(x).zip(words) {
                    let uniform = (word >> 8) as f32 / 16_777_216.0;
                    let value = if uniform < dropout.probability { 0.0 } else { x * keep };
                    *out = if accumulate { *out + value } else { value };
                }
            }
        });
    }

    fn adamw(
        &self,
        grads: Slice<'_, f32>,
        values: Slice<'_, f32>,
        params: SliceMut<'_, f32>,
        m: SliceMut<'_, f32>,
        v: SliceMut<'_, f32>,
    ) {
        optimizer::adamw(params.host(), grads.host(), m.host(), v.host(), &factors(values));
    }

    fn adamw_8bit(
        &self,
        grads: Slice<'_, f32>,
        values: Slice<'_, f32>,
        params: SliceMut<'_, f32>,
        moments: Moments8<'_>,
    ) {
        let ([first, second], [first_scales, second_scales]) = (moments.codes, moments.scales);
        let first = Moment8 { codes: first.host(), scales: first_scales.host() };
        let second = Moment8 { codes: second.host(), scales: second_scales.host() };
        adamw_8bit(params.host(), grads.host(), first, second, &factors(values));
    }

    fn add_noise(&self, noise: Noise<'_>, segments: Segments<'_>, width: usize, out: SliceMut<'_, f32>) {
        let (offset, out) = (noise.offset.host()[0], out.host());
        for bounds in segments.starts.host().windows(2) {
            let range = bounds[0] as usize * width..bounds[1] as usize * width;
            let magnitude = (noise.strength / (range.len() as f64).sqrt()) as f32;
            let first = offset + range.start as u64;
            out[range].par_chunks_mut(GRAIN).enumerate().for_each(|(chunk, out)| {
                let start = first + (chunk * GRAIN) as u64;
                for (index, out) in out.iter_mut().enumerate() {
                    *out += magnitude * (2.0 * noise.stream.uniform(start + index as u64) - 1.0);
                }
            });
        }
    }

    fn row_squares(&self, w: Operand<'_>, [rows, cols]: [usize; 2], out: SliceMut<'_, f32>) {
        dora::row_squares(&weight(w), rows, cols, out.host());
    }

    fn dora_gains(
        &self,
        rows: DoraRows<'_>,
        magnitude: Option<Slice<'_, f32>>,
        gains: SliceMut<'_, f32>,
        inverse: SliceMut<'_, f32>,
    ) {
        let changed = dora::ChangedRows {
            squares: rows.squares.host(),
            cross: rows.cross.host(),
            gram: rows.gram.host(),
            b: rows.b.host(),
            scale: rows.scale,
        };
        dora::gains(&changed, magnitude.map(Slice::host), gains.host(), inverse.host());
    }

    fn scale_columns(&self, x: Values<'_>, factors: Slice<'_, f32>, accumulate: bool, out: ValuesMut<'_>) {
        dora::scale_columns(x.host(), factors.host(), accumulate, out.host());
    }

    fn column_dots(
        &self,
        dy: Values<'_>,
        x: Values<'_>,
        factors: Slice<'_, f32>,
        accumulate: bool,
        out: SliceMut<'_, f32>,
    ) {
        dora::column_dots(dy.host(), x.host(), factors.host(), accumulate, out.host());
    }

    fn sum(&self, x: Slice<'_, f32>, accumulate: bool, out: SliceMut<'_, f64>) {
        let out = &mut out.host()[0];
        let sum: f64 = x.host().iter().map(|x| f64::from(*x)).sum();
        *out = if accumulate { *out } else { 0.0 } + sum;
    }

    fn norm(&self, x: Slice<'_, f32>, out: SliceMut<'_, f64>) {
        out.host()[0] = optimizer::global_norm(x.host());
    }

    fn clip(&self, norm: Slice<'_, f64>, limit: f64, out: SliceMut<'_, f32>) {
        optimizer::clip(out.host(), norm.host()[0], limit);
    }

    fn geglu(&self, gate: Slice<'_, f32>, up: Slice<'_, f32>, out: SliceMut<'_, f32>) {
        geglu::forward(gate.host(), up.host(), out.host());
    }

    fn geglu_backward(
        &self,
        gate: Slice<'_, f32>,
        up: Slice<'_, f32>,
        dout: Slice<'_, f32>,
        dgate: SliceMut<'_, f32>,
        dup: SliceMut<'_, f32>,
    ) {
        geglu::backward(gate.host(), up.host(), dout.host(), dgate.host(), dup.host());
    }

    fn choose_tokens(&self, logits: Slice<'_, f32>, vocabulary: usize, draw: Option<Draw<'_>>, ids: SliceMut<'_, u32>) {
        let (logits, ids) = (logits.host(), ids.host());
        let count = ids.len();
        assert_eq!(logits.len(), count * vocabulary, "logits must be [{count}, {vocabulary}]");
        if logits.is_empty() {
            return;
        }
        let rows = logits.par_chunks_exact(vocabulary).zip(ids.par_iter_mut());
        match draw {
            None => rows.for_each(|(row, id)| *id = sampling::likeliest(row)),
            Some(draw) => {
                let random = draw.random.host();
                assert_eq!(random.len(), count, "a random number for each row");
                rows.zip(random).for_each(|((row, id), random)| *id = sampling::draw(row, draw.sampling, *random));
            }
        }
    }
}
