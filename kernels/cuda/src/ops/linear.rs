//! Projections with their adapters, where activations have sixteen bits: what reads one input reduces it through all ranks in one
//! launch, updates are added inside the products that they belong to, and all gradients of a group's adapters are one
//! launch. Adapters with dropout, of more than 64 ranks or of odd widths go one product after another.

use luthier_kernels::device::linear;
use luthier_kernels::device::{
    AdapterBackward, Device, FloatType, Linear, LinearBackward, LinearScratch, LowRank, Slice, Values, ValuesMut,
};

use super::elementwise::add_bias;
use super::matmul::{Layout, Target, Update, updated};
use super::matrix::{start, start_mut};
use crate::arguments::Address;
use crate::{Arguments, CudaDevice};

/// Projections of a group, at most.
const GROUP: usize = 3;
/// The widest adapter.
const MOST_RANKS: usize = 64;
/// Threads of the kernels that reduce, and rows of a block of theirs.
const REDUCE_THREADS: usize = 256;
const REDUCE_ROWS: usize = 16;
/// Threads of the kernel of gradients, and columns of a block of its.
const GRADIENT_THREADS: usize = 128;
const GRADIENT_WIDE: usize = 64;

fn address(view: Values<'_>) -> u64 {
    view.address().word()
}

/// Whether rows of `width` elements are read sixteen bytes at a time.
fn has_wide_rows(view: Values<'_>, width: usize) -> bool {
    view.kind() != FloatType::F32 && address(view).is_multiple_of(16) && width.is_multiple_of(8)
}

fn is_plain(factors: &LowRank<'_>) -> bool {
    factors.dropout.is_none() && (1..=MOST_RANKS).contains(&factors.rank)
}

/// See [`linear::reduce`].
pub fn reduce(
    device: &CudaDevice,
    x: Values<'_>,
    shape: [usize; 2],
    adapters: &mut [(LowRank<'_>, ValuesMut<'_>)],
    masked: &mut ValuesMut<'_>,
) {
    let fused = has_wide_rows(x, shape[1]) && adapters.len() <= GROUP && adapters.iter().all(|(one, _)| is_plain(one));
    if fused {
        let adapters = adapters.iter().map(|(factors, low)| (*factors, address(low.freeze())));
        down(device, x, shape, adapters);
    } else {
        linear::reduce(device, x, shape, adapters, masked);
    }
}

/// `low = x · Aᵀ` for adapters with where it goes.
fn down<'a>(
    device: &CudaDevice,
    x: Values<'_>,
    [tokens, inputs]: [usize; 2],
    adapters: impl Iterator<Item = (LowRank<'a>, u64)>,
) {
    let mut jobs = [(0, 0, 0); GROUP];
    let mut tiles = 0;
    for (job, (factors, low)) in jobs.iter_mut().zip(adapters) {
        assert_eq!(factors.a.len(), factors.rank * inputs, "A must be [{}, {inputs}]", factors.rank);
        tiles += factors.rank.div_ceil(8);
        *job = (start(factors.a), factors.rank, low);
    }
    if tiles == 0 {
        return;
    }
    let mut arguments = Arguments::new();
    arguments.address(address(x)).int(tokens).int(inputs);
    jobs.iter().for_each(|job| _ = arguments.address(job.0));
    jobs.iter().for_each(|job| _ = arguments.int(job.1));
    jobs.iter().for_each(|job| _ = arguments.address(job.2));
    let name = format!("adapter_down_{}_{}", if tiles <= 8 { 8 } else { 24 }, x.kind().name());
    device.launch(&name, [tokens.div_ceil(REDUCE_ROWS), 1, 1], REDUCE_THREADS, arguments);
}

/// See [`linear::forward`].
pub fn forward(
    device: &CudaDevice,
    x: Values<'_>,
    [tokens, inputs]: [usize; 2],
    linears: &mut [Linear<'_>],
    residual: Option<Slice<'_, f32>>,
    masked: &mut ValuesMut<'_>,
) {
    let fused = has_wide_rows(x, inputs)
        && linears.len() <= GROUP
        && linears.iter().all(|one| one.adapter.as_ref().is_none_or(|(factors, _)| is_plain(factors)))
        && (residual.is_none() || linears.iter().all(|one| one.out.kind() == FloatType::F32));
    if !fused {
        return linear::forward(device, x, [tokens, inputs], linears, residual, masked);
    }
    let adapters = linears.iter().filter_map(|one| one.adapter.as_ref());
    down(device, x, [tokens, inputs], adapters.map(|(factors, low)| (*factors, address(low.freeze()))));
    for Linear { weight, outputs, bias, adapter, out } in linears {
        let update = adapter.as_ref().map(|(factors, low)| {
            assert_eq!(low.len(), tokens * factors.rank, "low must be [{tokens}, {}]", factors.rank);
            assert_eq!(factors.b.len(), *outputs * factors.rank, "B must be [{outputs}, {}]", factors.rank);
            let (low, factor) = (address(low.freeze()), start(factors.b));
            Update { low, factor, rank: factors.rank, by: factors.scale }
        });
        let old = residual.map(|residual| {
            assert_eq!(residual.len(), out.len(), "the residual must have the length of out");
            start(residual)
        });
        let target = Target { out: out.borrow(), old };
        updated(device, Layout::Nt, x, *weight, [tokens, *outputs, inputs], 1.0, update, target);
        if let Some(bias) = bias {
            add_bias(device, *bias, out.borrow());
        }
    }
}

/// See [`linear::backward`].
pub fn backward(
    device: &CudaDevice,
    x: Values<'_>,
    [tokens, inputs]: [usize; 2],
    linears: &mut [LinearBackward<'_>],
    accumulate: bool,
    scratch: &mut LinearScratch<'_>,
    dx: Option<(ValuesMut<'_>, bool)>,
) {
    let ranks: usize = linears.iter().filter_map(|one| one.adapter.as_ref()).map(|one| one.factors.rank).sum();
    let fused = has_wide_rows(x, inputs)
        && linears.len() <= GROUP
        && scratch.through.len() >= ranks * tokens
        && linears.iter().all(|one| {
            has_wide_rows(one.dy, one.outputs) && one.adapter.as_ref().is_none_or(|one| is_plain(&one.factors))
        });
    if !fused {
        return linear::backward(device, x, [tokens, inputs], linears, accumulate, scratch, dx);
    }
    let mut at = address(scratch.through.freeze());
    let throughs: Vec<u64> = linears
        .iter()
        .map(|one| {
            let here = at;
            at += (2 * tokens * one.adapter.as_ref().map_or(0, |adapter| adapter.factors.rank)) as u64;
            here
        })
        .collect();
    let jobs: Vec<Job<'_, '_>> = linears
        .iter()
        .zip(&throughs)
        .filter_map(|(one, through)| Some(Job { linear: one, adapter: one.adapter.as_ref()?, through: *through }))
        .collect();
    through(device, tokens, &jobs);
    if let Some((mut dx, added)) = dx {
        let out = dx.address().word();
        for (index, (one, through)) in linears.iter().zip(&throughs).enumerate() {
            let update = one.adapter.as_ref().map(|AdapterBackward { factors, .. }| Update {
                low: *through,
                factor: start(factors.a),
                rank: factors.rank,
                by: factors.scale,
            });
            let target = Target { out: dx.borrow(), old: (added || index > 0).then_some(out) };
            updated(device, Layout::Nn, one.dy, one.weight, [tokens, one.outputs, inputs], 1.0, update, target);
        }
    }
    factor_gradients(device, x, [tokens, inputs], &jobs, accumulate);
}

/// An adapter of a group, and where `dy · B` of it is.
struct Job<'a, 'b> {
    linear: &'a LinearBackward<'b>,
    adapter: &'a AdapterBackward<'b>,
    through: u64,
}

/// Pushes a value of each of three projections, zeros for those that are not there.
fn push(arguments: &mut Arguments, jobs: &[Job<'_, '_>], mut value: impl FnMut(&mut Arguments, Option<&Job<'_, '_>>)) {
    (0..GROUP).for_each(|index| value(arguments, jobs.get(index)));
}

fn push_address(arguments: &mut Arguments, jobs: &[Job<'_, '_>], value: impl Fn(&Job<'_, '_>) -> u64) {
    push(arguments, jobs, |arguments, job| _ = arguments.address(job.map_or(0, &value)));
}

fn push_int(arguments: &mut Arguments, jobs: &[Job<'_, '_>], value: impl Fn(&Job<'_, '_>) -> usize) {
    push(arguments, jobs, |arguments, job| _ = arguments.int(job.map_or(0, &value)));
}

/// `dy · B` of each adapter.
fn through(device: &CudaDevice, tokens: usize, jobs: &[Job<'_, '_>]) {
    let Some(widest) = jobs.iter().map(|job| job.adapter.factors.rank).max() else { return };
    let mut arguments = Arguments::new();
    arguments.int(tokens);
    push_address(&mut arguments, jobs, |job| address(job.linear.dy));
    push_int(&mut arguments, jobs, |job| job.linear.outputs);
    push_address(&mut arguments, jobs, |job| start(job.adapter.factors.b));
    push_int(&mut arguments, jobs, |job| job.adapter.factors.rank);
    push_address(&mut arguments, jobs, |job| job.through);
    let kind = device.activation_type().name();
    let name = format!("adapter_through_{}_{kind}", if widest <= 16 { 2 } else { 8 });
    device.launch(&name, [tokens.div_ceil(REDUCE_ROWS), jobs.len(), 1], REDUCE_THREADS, arguments);
}

/// `dA` and `dB` of each adapter.
fn factor_gradients(
    device: &CudaDevice,
    x: Values<'_>,
    [tokens, inputs]: [usize; 2],
    jobs: &[Job<'_, '_>],
    accumulate: bool,
) {
    let Some(widest) = jobs.iter().map(|job| job.adapter.factors.rank).max() else { return };
    for Job { linear, adapter, .. } in jobs {
        let rank = adapter.factors.rank;
        let lengths = [adapter.low.len(), adapter.grad_a.len(), adapter.grad_b.len()];
        assert_eq!(lengths, [tokens * rank, rank * inputs, linear.outputs * rank], "an adapter of another shape");
    }
    let mut arguments = Arguments::new();
    arguments.address(address(x)).int(tokens).int(inputs).flag(accumulate);
    push_address(&mut arguments, jobs, |job| address(job.linear.dy));
    push_int(&mut arguments, jobs, |job| job.linear.outputs);
    push_int(&mut arguments, jobs, |job| job.adapter.factors.rank);
    push(&mut arguments, jobs, |arguments, job| _ = arguments.float(job.map_or(0.0, |job| job.adapter.factors.scale)));
    push_address(&mut arguments, jobs, |job| address(job.adapter.low));
    push_address(&mut arguments, jobs, |job| job.through);
    push_address(&mut arguments, jobs, |job| start_mut(&job.adapter.grad_a));
    push_address(&mut arguments, jobs, |job| start_mut(&job.adapter.grad_b));
    let widths = jobs.iter().map(|job| job.linear.outputs).chain([inputs]);
    let blocks = widths.max().unwrap_or(0).div_ceil(GRADIENT_WIDE);
    let name = format!("adapter_gradients_{}_{}", if widest <= 16 { 16 } else { 64 }, x.kind().name());
    device.launch(&name, [blocks, 2 * jobs.len(), 1], GRADIENT_THREADS, arguments);
}
