//! The device interface: memory with explicit lifetimes, and the kernels over views of it.
//!
//! The training engine is written against [`Device`] alone and holds no tensor of its own. Shapes are arguments,
//! activations are of the device's type ([`Values`]), all other floats `f32`, all matrices row-major. [`CpuDevice`] runs
//! the kernels of this crate on host memory.
//!
//! What changes from step to step (learning rates, positions of random numbers, the scale of the loss, norms) is read from
//! the device's memory when an operation runs, so that a step can be queued without waiting for another.
//!
//! Operations are queued in order and cannot fail one by one: a device that can fail remembers its first failure and
//! answers it from [`Device::synchronize`], which the engine calls once per step. Lengths that do not fit are defects of
//! the caller and panic.

mod buffer;
mod costs;
mod cpu;
mod error;
mod host_bytes;
mod ledger;
pub mod linear;
mod recording;
mod timed;
mod transfers;
mod values;
mod weight;

use std::sync::Arc;

use bytemuck::Pod;

pub use buffer::{Allocation, Buffer, Slice, SliceMut, Space};
pub use costs::{Costs, HostCosts, Operation};
pub use cpu::CpuDevice;
pub use error::{DeviceError, DeviceResult};
pub use host_bytes::HostBytes;
pub use ledger::{Component, Held, HeldHost, HostComponent, Ledger};
pub use linear::{AdapterBackward, Linear, LinearBackward, LinearScratch, LowRank};
pub use recording::{Recording, Recordings};
pub use timed::{OperationTime, TimedDevice};
pub use transfers::{Mark, Pinned, Queue, Transfers};
pub use values::{FloatType, Values, ValuesMut};
pub use weight::{Matrix, Nf4Parts, Operand, Storage};

pub use crate::attention::AttentionShape;
pub use crate::optimizer::{AdamW, Factors};
use crate::random::Stream;
use crate::rope;
pub use crate::sampling::Sampling;

/// Sequences of one packed micro-batch.
#[derive(Clone, Copy)]
pub struct Segments<'a> {
    /// Cumulative starts, one more than there are sequences.
    pub starts: Slice<'a, u32>,
    /// Tokens of the longest sequence.
    pub longest: usize,
}

/// Keys and values of `batch` sequences, each `[capacity, kv_heads · head_dim]`.
#[derive(Clone, Copy)]
pub struct KeyValues<'a> {
    pub keys: Values<'a>,
    pub values: Values<'a>,
    pub capacity: usize,
    /// Rows in use per sequence, the newest token's included.
    pub lengths: Slice<'a, u32>,
}

/// Cosines and sines of all positions, where the device wants them.
#[derive(Debug)]
pub enum Rotary {
    Host(rope::Table),
    /// `[positions, head_dim / 2]` each.
    Device {
        cos: Buffer<f32>,
        sin: Buffer<f32>,
        head_dim: usize,
    },
}

/// The frozen output head as the loss sees it.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// `[vocabulary, hidden]`.
    pub weight: Operand<'a>,
    pub vocabulary: usize,
    pub hidden: usize,
    /// Rows whose logits exist at once.
    pub chunk_rows: usize,
}

/// Which elements a dropout keeps: drawn from a stream at the element's own position, so that forward and backward agree
/// without a stored mask.
#[derive(Clone, Copy)]
pub struct Dropout<'a> {
    pub probability: f32,
    /// Named after the site.
    pub stream: Stream,
    /// Position of the first element, a multiple of 4, where the operation reads it; advances with the steps.
    pub offset: Slice<'a, u64>,
}

/// Uniform noise of NEFTune (Jain et al. 2023), drawn from a stream at each element's position.
#[derive(Clone, Copy)]
pub struct Noise<'a> {
    /// Each value of a sequence is in `±strength / √elements`.
    pub strength: f64,
    pub stream: Stream,
    /// Position of the first element, where the operation reads it.
    pub offset: Slice<'a, u64>,
}

/// Both moments of one tensor in 8 bits; see [`crate::optimizer_8bit`].
pub struct Moments8<'a> {
    pub codes: [SliceMut<'a, u8>; 2],
    pub scales: [SliceMut<'a, f32>; 2],
}

/// The adapter of a projection as [`Device::dora_gains`] sees it.
#[derive(Clone, Copy)]
pub struct DoraRows<'a> {
    pub squares: Slice<'a, f32>,
    pub cross: Slice<'a, f32>,
    pub gram: Slice<'a, f32>,
    pub b: Slice<'a, f32>,
    pub scale: f32,
}

/// How [`Device::choose_tokens`] draws.
#[derive(Clone, Copy)]
pub struct Draw<'a> {
    pub sampling: Sampling,
    /// A number for each row, uniform over 64 bits.
    pub random: Slice<'a, u64>,
}

/// A row that [`Device::gather_rows`] fills with zeros.
pub const NO_ROW: u32 = u32::MAX;

/// A device of the engine.
#[expect(clippy::too_many_arguments, reason = "the operands of an operation are its arguments")]
pub trait Device: Send + Sync {
    /// `cpu`, `cuda:0`.
    fn name(&self) -> String;

    /// Enters the keys of stages whose bytes depend on the device.
    fn numeric_class(&self) -> String;

    fn ledger(&self) -> &Arc<Ledger>;

    /// What activations are kept in.
    fn activation_type(&self) -> FloatType {
        FloatType::F32
    }

    /// What it takes beside the buffers that it is asked for.
    fn costs(&self) -> &dyn Costs {
        &HostCosts
    }

    /// Takes the scratch memory that any of `operations` borrows, or the same on fewer rows; from then on an operation that
    /// borrows more than was ever reserved fails.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`].
    fn reserve(&self, _operations: &[Operation]) -> DeviceResult<()> {
        Ok(())
    }

    /// Bytes that are free now; `None` where the system lends more than it has.
    fn free_memory(&self) -> Option<usize> {
        None
    }

    /// Zeroed memory, aligned to 64 bytes.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`].
    fn allocate(&self, component: Component, bytes: usize) -> DeviceResult<Allocation>;

    /// Host memory as this device's own, to be read in place and not counted; `None` if it computes elsewhere.
    fn adopt(&self, _component: Component, _memory: HostBytes) -> Option<Allocation> {
        None
    }

    /// Copies beside the operations; `None` where operations read host memory in place, so that nothing need be moved.
    fn transfers(&self) -> Option<&dyn Transfers> {
        None
    }

    /// Copies host bytes to the device; returns when `source` may be reused.
    fn write_bytes(&self, source: &[u8], target: SliceMut<'_, u8>);

    /// Copies device bytes to the host, after all operations queued before.
    fn read_bytes(&self, source: Slice<'_, u8>, target: &mut [u8]);

    /// Waits for all queued operations.
    ///
    /// # Errors
    /// The first failure since the last call.
    fn synchronize(&self) -> DeviceResult<()>;

    /// Runs `work` where the device's operations are cheapest to call (on the CPU: inside its thread pool).
    fn run(&self, work: &mut (dyn FnMut() + Send));

    /// Keeps what `work` queues instead of running it; `None` if this device does not do so, or something in `work` cannot
    /// be kept: nothing is queued then either. See [`Recordings`].
    fn record(&self, _work: &mut dyn FnMut()) -> Option<Recording> {
        None
    }

    /// Queues what was recorded; `false` if that is of no use any more.
    ///
    /// # Safety
    /// All memory that the recorded operations were given is still there.
    unsafe fn replay(&self, _recording: &Recording) -> bool {
        false
    }

    fn zero(&self, out: SliceMut<'_, f32>);

    /// Rounds where `out` is narrower.
    fn copy(&self, source: Values<'_>, out: ValuesMut<'_>);

    /// `out += source`.
    fn add(&self, source: Values<'_>, out: ValuesMut<'_>);

    /// `out *= factor`.
    fn scale(&self, factor: f32, out: ValuesMut<'_>);

    /// Adds `bias` to each row of `out`.
    fn add_bias(&self, bias: Slice<'_, f32>, out: ValuesMut<'_>);

    /// `out[m,n] = scale · x[m,k] · wᵀ (+ out)`, `w[n,k]`.
    fn matmul_nt(
        &self,
        x: Values<'_>,
        w: Operand<'_>,
        shape: [usize; 3],
        scale: f32,
        accumulate: bool,
        out: ValuesMut<'_>,
    );

    /// `out[m,k] = scale · dy[m,n] · w (+ out)`, `w[n,k]`; `shape` is `[m, n, k]` as for [`Device::matmul_nt`].
    fn matmul_nn(
        &self,
        dy: Values<'_>,
        w: Operand<'_>,
        shape: [usize; 3],
        scale: f32,
        accumulate: bool,
        out: ValuesMut<'_>,
    );

    /// `out[p,q] = scale · aᵀ · b (+ out)`, `a[m,p]`, `b[m,q]`; `shape` is `[m, p, q]`.
    fn matmul_tn(
        &self,
        a: Values<'_>,
        b: Values<'_>,
        shape: [usize; 3],
        scale: f32,
        accumulate: bool,
        out: SliceMut<'_, f32>,
    );

    /// Projections of `x[tokens, inputs]` with their adapters; see [`linear::forward`]. `shape` is `[tokens, inputs]`.
    fn linear(
        &self,
        x: Values<'_>,
        shape: [usize; 2],
        linears: &mut [Linear<'_>],
        residual: Option<Slice<'_, f32>>,
        masked: &mut ValuesMut<'_>,
    ) {
        linear::forward(self, x, shape, linears, residual, masked);
    }

    /// What the adapters of [`Device::linear`] keep, alone; see [`linear::reduce`].
    fn linear_reduce(
        &self,
        x: Values<'_>,
        shape: [usize; 2],
        adapters: &mut [(LowRank<'_>, ValuesMut<'_>)],
        masked: &mut ValuesMut<'_>,
    ) {
        linear::reduce(self, x, shape, adapters, masked);
    }

    /// Backward of [`Device::linear`]; see [`linear::backward`].
    fn linear_backward(
        &self,
        x: Values<'_>,
        shape: [usize; 2],
        linears: &mut [LinearBackward<'_>],
        accumulate: bool,
        scratch: &mut LinearScratch<'_>,
        dx: Option<(ValuesMut<'_>, bool)>,
    ) {
        linear::backward(self, x, shape, linears, accumulate, scratch, dx);
    }

    /// `out = x / rms(x) · weight` per row of `weight.len()`; keeps `1 / rms(x)` per row.
    fn rms_norm(&self, x: Values<'_>, weight: Slice<'_, f32>, eps: f32, out: ValuesMut<'_>, inverse: SliceMut<'_, f32>);

    /// Adds to `dx` if `accumulate`.
    fn rms_norm_backward(
        &self,
        x: Values<'_>,
        weight: Slice<'_, f32>,
        inverse: Slice<'_, f32>,
        dy: Values<'_>,
        accumulate: bool,
        dx: ValuesMut<'_>,
    );

    /// Makes a table usable by [`Device::rope`].
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`].
    fn rotary(&self, table: rope::Table) -> DeviceResult<Rotary>;

    /// Rotates `x[tokens, heads · head_dim]` in place, halves paired (the convention of transformers); `inverse` is the
    /// backward.
    fn rope(&self, positions: Slice<'_, u32>, heads: usize, rotary: &Rotary, inverse: bool, x: ValuesMut<'_>);

    /// `out = silu(gate) · up`.
    fn swiglu(&self, gate: Values<'_>, up: Values<'_>, out: ValuesMut<'_>);

    /// `gate` becomes its gradient, and `dout` that of `up`.
    fn swiglu_backward(&self, gate: ValuesMut<'_>, up: Values<'_>, dout: ValuesMut<'_>);

    /// Causal attention inside each segment; `lse[tokens, heads]` keeps the log of the softmax's denominator.
    fn attention(
        &self,
        q: Values<'_>,
        k: Values<'_>,
        v: Values<'_>,
        segments: Segments<'_>,
        shape: AttentionShape,
        out: ValuesMut<'_>,
        lse: SliceMut<'_, f32>,
    );

    fn attention_backward(
        &self,
        forward: AttentionSaved<'_>,
        dout: Values<'_>,
        segments: Segments<'_>,
        shape: AttentionShape,
        dq: ValuesMut<'_>,
        dk: ValuesMut<'_>,
        dv: ValuesMut<'_>,
    );

    /// One query `[batch, heads · head_dim]` per sequence against its cache.
    fn attention_decode(&self, q: Values<'_>, cache: KeyValues<'_>, shape: AttentionShape, out: ValuesMut<'_>);

    /// `out[i] = table[ids[i]]`, `table[rows, width]`.
    fn embedding(&self, table: Operand<'_>, ids: Slice<'_, u32>, width: usize, out: SliceMut<'_, f32>);

    /// `out[i] = x[rows[i]]`; zeros where `rows[i]` is [`NO_ROW`].
    fn gather_rows(&self, x: Values<'_>, rows: Slice<'_, u32>, width: usize, out: ValuesMut<'_>);

    /// `out[i] = Σ x[rows[j]]` for `j` in `offsets[i]..offsets[i + 1]`, in that order.
    fn sum_rows(&self, x: Values<'_>, offsets: Slice<'_, u32>, rows: Slice<'_, u32>, width: usize, out: ValuesMut<'_>);

    /// `out[rows[i]] = x[i]`; the rows are distinct.
    fn scatter_rows(&self, x: Slice<'_, f32>, rows: Slice<'_, u32>, width: usize, out: SliceMut<'_, f32>);

    /// Negative log likelihood of `targets` per row of `hidden`; with `dhidden`, also the gradient of
    /// `scale[0] · Σ losses`. `scratch` holds `chunk_rows · vocabulary` floats.
    fn cross_entropy(
        &self,
        hidden: Values<'_>,
        targets: Slice<'_, u32>,
        head: Head<'_>,
        scale: Slice<'_, f32>,
        dhidden: Option<SliceMut<'_, f32>>,
        scratch: SliceMut<'_, f32>,
        losses: SliceMut<'_, f32>,
    );

    /// Zeroes each element of `x` with the dropout's probability and scales the others by `1 / (1 - p)`, into `out`
    /// (added if `accumulate`).
    fn dropout(&self, x: Values<'_>, dropout: Dropout<'_>, accumulate: bool, out: ValuesMut<'_>);

    /// One step of AdamW with decoupled weight decay; `factors` are a [`Factors::to_array`].
    fn adamw(
        &self,
        grads: Slice<'_, f32>,
        factors: Slice<'_, f32>,
        params: SliceMut<'_, f32>,
        m: SliceMut<'_, f32>,
        v: SliceMut<'_, f32>,
    );

    /// [`Device::adamw`] on one tensor whose moments are kept in 8 bits.
    fn adamw_8bit(
        &self,
        grads: Slice<'_, f32>,
        factors: Slice<'_, f32>,
        params: SliceMut<'_, f32>,
        moments: Moments8<'_>,
    );

    /// `out[tokens, width] += noise`, each sequence with its own magnitude.
    fn add_noise(&self, noise: Noise<'_>, segments: Segments<'_>, width: usize, out: SliceMut<'_, f32>);

    /// `out[i] = Σ w[i, ·]²`; `shape` is `[rows, cols]`.
    fn row_squares(&self, w: Operand<'_>, shape: [usize; 2], out: SliceMut<'_, f32>);

    /// The gains of [`crate::dora::gains`] and the inverse norms they hold.
    fn dora_gains(
        &self,
        rows: DoraRows<'_>,
        magnitude: Option<Slice<'_, f32>>,
        gains: SliceMut<'_, f32>,
        inverse: SliceMut<'_, f32>,
    );

    /// `out[t, j] = x[t, j] · factors[j] (+ out)`.
    fn scale_columns(&self, x: Values<'_>, factors: Slice<'_, f32>, accumulate: bool, out: ValuesMut<'_>);

    /// `out[j] = factors[j] · Σ_t dy[t, j] · x[t, j] (+ out)`.
    fn column_dots(
        &self,
        dy: Values<'_>,
        x: Values<'_>,
        factors: Slice<'_, f32>,
        accumulate: bool,
        out: SliceMut<'_, f32>,
    );

    /// `out[0] = Σ x (+ out[0])`, accumulated in `f64`.
    fn sum(&self, x: Slice<'_, f32>, accumulate: bool, out: SliceMut<'_, f64>);

    /// `out[0] = √Σ x²`, accumulated in `f64`.
    fn norm(&self, x: Slice<'_, f32>, out: SliceMut<'_, f64>);

    /// `out *= limit / (norm[0] + 1e-6)` if `norm[0]` is above `limit`.
    fn clip(&self, norm: Slice<'_, f64>, limit: f64, out: SliceMut<'_, f32>);

    /// `out = gelu(gate) · up`, with the tanh form of GELU.
    fn geglu(&self, gate: Slice<'_, f32>, up: Slice<'_, f32>, out: SliceMut<'_, f32>);

    fn geglu_backward(
        &self,
        gate: Slice<'_, f32>,
        up: Slice<'_, f32>,
        dout: Slice<'_, f32>,
        dgate: SliceMut<'_, f32>,
        dup: SliceMut<'_, f32>,
    );

    /// The likeliest token of each row of `logits[ids, vocabulary]`, the lowest of equals, or a drawn one; see
    /// [`crate::sampling`].
    fn choose_tokens(&self, logits: Slice<'_, f32>, vocabulary: usize, draw: Option<Draw<'_>>, ids: SliceMut<'_, u32>);
}

/// What attention's forward leaves for its backward.
#[derive(Clone, Copy)]
pub struct AttentionSaved<'a> {
    pub q: Values<'a>,
    pub k: Values<'a>,
    pub v: Values<'a>,
    pub out: Values<'a>,
    pub lse: Slice<'a, f32>,
}

/// Typed conveniences over [`Device`].
pub trait DeviceExt {
    /// `len` zeroed elements.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`].
    fn buffer<T: Pod>(&self, component: Component, len: usize) -> DeviceResult<Buffer<T>>;

    /// Host elements to the device.
    ///
    /// # Panics
    /// If the lengths differ.
    fn write<T: Pod>(&self, source: &[T], target: SliceMut<'_, T>);

    /// Device elements to the host.
    ///
    /// # Panics
    /// If the lengths differ.
    fn read<T: Pod>(&self, source: Slice<'_, T>, target: &mut [T]);
}

impl DeviceExt for dyn Device + '_ {
    fn buffer<T: Pod>(&self, component: Component, len: usize) -> DeviceResult<Buffer<T>> {
        Ok(Buffer::new(self.allocate(component, len * size_of::<T>())?, len))
    }

    fn write<T: Pod>(&self, source: &[T], target: SliceMut<'_, T>) {
        assert_eq!(source.len(), target.len(), "a write of another length");
        self.write_bytes(bytemuck::cast_slice(source), target.into_bytes());
    }

    fn read<T: Pod>(&self, source: Slice<'_, T>, target: &mut [T]) {
        assert_eq!(source.len(), target.len(), "a read of another length");
        self.read_bytes(source.as_bytes(), bytemuck::cast_slice_mut(target));
    }
}
