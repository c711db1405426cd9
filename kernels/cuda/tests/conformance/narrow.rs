//! Operations on activations in sixteen bits, against the CPU's on the same numbers in `f32`: in bf16, and, where the
//! emulated device is one of compute capability 7.5, in f16 (`turing.rs`).
//!
//! Inputs are numbers that the type has, so all that differs is the rounding of what is written: to nearest in 8 bits of
//! bf16 or 11 of f16, a relative error of at most 2⁻⁸ or 2⁻¹¹, and so a squared error over squared size of at most 2⁻¹⁶ or
//! 2⁻²² for each rounding that a result has gone through. Sums in `f32` add less than a thousandth of that.

use std::sync::OnceLock;

use half::{bf16, f16};
use luthier_cuda::{CudaDevice, Precision};
use luthier_kernels::device::{
    AdapterBackward, AttentionSaved, AttentionShape, Buffer, Component, CpuDevice, Device, DeviceExt, Dropout,
    FloatType, Head, KeyValues, Linear, LinearBackward, LinearScratch, LowRank, Matrix, NO_ROW, Segments, Storage,
    Values, ValuesMut,
};
use luthier_kernels::random::Stream;
use luthier_kernels::rope::{Scaling, Table};

use crate::support::{ORDERS, bits, emulated, in_order, nmse, random, upload};

/// What the device under test keeps activations in.
fn kind() -> FloatType {
    static KIND: OnceLock<FloatType> = OnceLock::new();
    *KIND.get_or_init(|| emulated(Precision::Bf16).map_or(FloatType::Bf16, |device| device.activation_type()))
}

/// Of one rounding.
fn rounding() -> f64 {
    if kind() == FloatType::F16 { 2f64.powi(-22) } else { 2f64.powi(-16) }
}

/// Where a matrix is stored as activations are.
fn storage() -> Storage {
    if kind() == FloatType::F16 { Storage::F16 } else { Storage::Bf16 }
}

fn drawn(name: &str, len: usize) -> Vec<f32> {
    let round = |value: f32| match kind() {
        FloatType::F16 => f16::from_f32(value).to_f32(),
        _ => bf16::from_f32(value).to_f32(),
    };
    random(name, len).into_iter().map(round).collect()
}

/// Activations of a device, between guards.
struct Activations {
    buffer: Buffer<u8>,
    kind: FloatType,
    len: usize,
}

const GUARD: usize = 64;
/// A number that all types have.
const SENTINEL: f32 = -24_576.0;

impl Activations {
    fn of(device: &dyn Device, values: &[f32]) -> Self {
        let kind = device.activation_type();
        let guard = vec![SENTINEL; GUARD];
        let all = [&guard, values, &guard].concat();
        let buffer = match kind {
            FloatType::F32 => upload(device, bytemuck::cast_slice::<f32, u8>(&all)),
            FloatType::Bf16 => {
                let narrow: Vec<bf16> = all.iter().map(|value| bf16::from_f32(*value)).collect();
                upload(device, bytemuck::cast_slice::<bf16, u8>(&narrow))
            }
            FloatType::F16 => {
                let narrow: Vec<f16> = all.iter().map(|value| f16::from_f32(*value)).collect();
                upload(device, bytemuck::cast_slice::<f16, u8>(&narrow))
            }
        };
        Self { buffer, kind, len: values.len() }
    }

    fn filled(device: &dyn Device, len: usize, value: f32) -> Self {
        Self::of(device, &vec![value; len])
    }

    fn view(&self) -> Values<'_> {
        Values::new(self.buffer.all(), self.kind).slice(GUARD..GUARD + self.len)
    }

    fn target(&mut self) -> ValuesMut<'_> {
        ValuesMut::new(self.buffer.all_mut(), self.kind).slice(GUARD..GUARD + self.len)
    }

    fn read(&self, device: &dyn Device) -> Vec<f32> {
        let mut bytes = vec![0; self.buffer.len()];
        device.read(self.buffer.all(), &mut bytes);
        device.synchronize().unwrap();
        let all: Vec<f32> = match self.kind {
            FloatType::F32 => bytes.chunks_exact(4).map(|word| f32::from_ne_bytes(word.try_into().unwrap())).collect(),
            FloatType::Bf16 => bytes
                .chunks_exact(2)
                .map(|word| bf16::from_bits(u16::from_ne_bytes(word.try_into().unwrap())).to_f32())
                .collect(),
            FloatType::F16 => bytes
                .chunks_exact(2)
                .map(|word| f16::from_bits(u16::from_ne_bytes(word.try_into().unwrap())).to_f32())
                .collect(),
        };
        let guards = all[..GUARD].iter().chain(&all[GUARD + self.len..]);
        assert!(guards.into_iter().all(|value| *value == SENTINEL), "wrote outside the output");
        all[GUARD..GUARD + self.len].to_vec()
    }
}

fn download(device: &dyn Device, buffer: &Buffer<f32>) -> Vec<f32> {
    let mut values = vec![0.0; buffer.len()];
    device.read(buffer.all(), &mut values);
    device.synchronize().unwrap();
    values
}

fn device() -> Option<CudaDevice> {
    let device = emulated(Precision::Bf16)?;
    assert_ne!(device.activation_type(), FloatType::F32);
    Some(device)
}

/// Runs `work` on both devices; each result, named, must be within so many roundings.
fn check(what: &str, work: impl Fn(&dyn Device) -> Vec<(&'static str, Vec<f32>, f64)>) {
    let Some(cuda) = device() else { return };
    let cpu = CpuDevice::new(2).unwrap();
    for ((name, found, roundings), (_, expected, _)) in work(&cuda).into_iter().zip(work(&cpu)) {
        let error = nmse(&found, &expected);
        assert!(error <= roundings * rounding() + 1e-11, "{name} of {what}: {error:e}");
    }
}

#[test]
fn buffers_and_rows() {
    for (rows, width) in [(1, 1), (3, 5), (7, 256), (2, 260)] {
        let len = rows * width;
        check(&format!("{rows}x{width}"), |device| {
            let x = Activations::of(device, &drawn("x", len));
            let factors = upload(device, &random("factors", width));
            let full = upload(device, &random("full", len));
            let picks: Vec<u32> =
                (0..rows as u32 + 2).map(|at| if at == 1 { NO_ROW } else { at % rows as u32 }).collect();
            let spread: Vec<u32> = (0..rows as u32).rev().collect();
            let (picks, spread) = (upload(device, &picks), upload(device, &spread));
            let offsets = upload(device, &[0, 0, 1, rows as u32]);
            let [mut copied, mut narrowed, mut biased, mut columns, mut added, mut scaled] =
                [(); 6].map(|()| Activations::filled(device, len, 0.5));
            let mut gathered = Activations::filled(device, picks.len() * width, f32::NAN);
            let mut summed = Activations::filled(device, 3 * width, f32::NAN);
            let mut wide = upload(device, &vec![0.5f32; len]);
            device.copy(x.view(), copied.target());
            device.copy(full.all().into(), narrowed.target());
            device.add_bias(factors.all(), biased.target());
            device.scale_columns(x.view(), factors.all(), true, columns.target());
            device.scale_columns(x.view(), factors.all(), true, wide.all_mut().into());
            device.add(x.view(), added.target());
            device.scale(0.3, scaled.target());
            device.gather_rows(x.view(), picks.all(), width, gathered.target());
            device.sum_rows(x.view(), offsets.all(), spread.all(), width, summed.target());
            let mut dots = upload(device, &vec![0.5f32; width]);
            device.column_dots(x.view(), columns.view(), factors.all(), true, dots.all_mut());
            vec![
                ("copy", copied.read(device), 0.0),
                ("narrowing copy", narrowed.read(device), 1.0),
                ("add_bias", biased.read(device), 1.0),
                ("scale_columns", columns.read(device), 1.0),
                ("scale_columns to f32", download(device, &wide), 0.0),
                ("add", added.read(device), 1.0),
                ("scale", scaled.read(device), 1.0),
                ("gather_rows", gathered.read(device), 0.0),
                ("sum_rows", summed.read(device), 1.0),
                ("column_dots", download(device, &dots), 2.0),
            ]
        });
    }
}

#[test]
fn dropout() {
    for len in [1, 1026, 4099] {
        check(&format!("{len}"), |device| {
            let x = Activations::of(device, &drawn("x", len));
            let offset = upload(device, &[8u64]);
            let drop = Dropout { probability: 0.3, stream: Stream::new(11, "site"), offset: offset.all() };
            let [mut dropped, mut added] = [(); 2].map(|()| Activations::filled(device, len, 0.25));
            let mut wide = upload(device, &vec![0.25f32; len]);
            device.dropout(x.view(), drop, false, dropped.target());
            device.dropout(x.view(), drop, true, added.target());
            device.dropout(x.view(), drop, true, wide.all_mut().into());
            vec![
                ("dropout", dropped.read(device), 1.0),
                ("dropout added", added.read(device), 1.0),
                ("dropout to f32", download(device, &wide), 0.0),
            ]
        });
    }
}

#[test]
fn norms_rotations_and_gates() {
    for (rows, d) in [(1, 2), (3, 6), (2, 64), (3, 576), (2, 8196)] {
        let len = rows * d;
        check(&format!("{rows}x{d}"), |device| {
            let full = upload(device, &random("full", len));
            let [x, dy, up] = ["x", "dy", "up"].map(|name| Activations::of(device, &drawn(name, len)));
            let weight = upload(device, &random("weight", d));
            let mut inverse = upload(device, &vec![f32::NAN; rows]);
            let [mut from_full, mut out, mut dx, mut active] = [(); 4].map(|()| Activations::filled(device, len, 0.25));
            device.rms_norm(full.all().into(), weight.all(), 1e-5, from_full.target(), inverse.all_mut());
            device.rms_norm(x.view(), weight.all(), 1e-5, out.target(), inverse.all_mut());
            device.rms_norm_backward(x.view(), weight.all(), inverse.all(), dy.view(), false, dx.target());
            let rotary = device.rotary(Table::new(d, 10_000.0, Scaling::None, 40)).unwrap();
            let positions = upload(device, &(0..rows as u32).map(|at| at * 13 % 40).collect::<Vec<u32>>());
            let mut turned = Activations::of(device, &drawn("x", len));
            device.rope(positions.all(), 1, &rotary, false, turned.target());
            device.swiglu(x.view(), up.view(), active.target());
            let mut gate = Activations::of(device, &drawn("x", len));
            let mut dout = Activations::of(device, &drawn("dy", len));
            device.swiglu_backward(gate.target(), up.view(), dout.target());
            vec![
                ("rms_norm of f32", from_full.read(device), 1.0),
                ("rms_norm", out.read(device), 1.0),
                ("inverse", download(device, &inverse), 0.0),
                ("rms_norm_backward", dx.read(device), 1.0),
                ("rope", turned.read(device), 1.0),
                ("swiglu", active.read(device), 1.0),
                ("dgate", gate.read(device), 1.0),
                ("dup", dout.read(device), 1.0),
            ]
        });
    }
}

/// `(heads, key-value heads, size, window, segments)`: heads that run in `f32` and on the tensor cores, with rows beyond a
/// tile, an empty segment and a window.
type Attention = (usize, usize, usize, Option<usize>, &'static [u32]);

const ATTENTION: [Attention; 6] = [
    (2, 1, 6, None, &[0, 1, 1, 3, 10]),
    (4, 2, 16, Some(7), &[0, 65, 131]),
    (1, 1, 256, None, &[0, 67]),
    (4, 2, 64, None, &[0, 131, 196]),
    (2, 1, 80, Some(33), &[0, 97]),
    (3, 1, 128, None, &[0, 7, 140]),
];

fn attend(
    device: &dyn Device,
    (heads, kv_heads, head_dim, window, segments): Attention,
) -> Vec<(&'static str, Vec<f32>, f64)> {
    let tokens = segments.last().map_or(0, |end| *end as usize);
    let scale = 1.0 / (head_dim as f32).sqrt();
    let shape = AttentionShape { heads, kv_heads, head_dim, scale, window, soft_cap: None };
    let (wide, narrow) = (tokens * shape.query_width(), tokens * shape.key_width());
    let [q, dout] = ["q", "dout"].map(|name| Activations::of(device, &drawn(name, wide)));
    let [k, v] = ["k", "v"].map(|name| Activations::of(device, &drawn(name, narrow)));
    let starts = upload(device, segments);
    let views = Segments { starts: starts.all(), longest: tokens };
    let [mut out, mut dq] = [(); 2].map(|()| Activations::filled(device, wide, f32::NAN));
    let [mut dk, mut dv] = [(); 2].map(|()| Activations::filled(device, narrow, f32::NAN));
    let mut lse = upload(device, &vec![f32::NAN; tokens * heads]);
    device.attention(q.view(), k.view(), v.view(), views, shape, out.target(), lse.all_mut());
    let saved = AttentionSaved { q: q.view(), k: k.view(), v: v.view(), out: out.view(), lse: lse.all() };
    device.attention_backward(saved, dout.view(), views, shape, dq.target(), dk.target(), dv.target());
    let mut decoded = Activations::filled(device, shape.query_width(), f32::NAN);
    let lengths = upload(device, &[tokens as u32]);
    let cache = KeyValues { keys: k.view(), values: v.view(), capacity: tokens, lengths: lengths.all() };
    device.attention_decode(q.view().slice(..shape.query_width()), cache, shape, decoded.target());
    // A result's own rounding and that of the probabilities; in gradients also those of the scores' gradients, of `out` in
    // the dots, and of both factors of these.
    vec![
        ("out", out.read(device), 2.0),
        ("lse", download(device, &lse), 2.0),
        ("dq", dq.read(device), 6.0),
        ("dk", dk.read(device), 6.0),
        ("dv", dv.read(device), 6.0),
        ("decoded", decoded.read(device), 1.0),
    ]
}

#[test]
fn attention() {
    for case in ATTENTION {
        check(&format!("{case:?}"), |device| attend(device, case));
    }
}

fn matrix(device: &dyn Device, [rows, cols]: [usize; 2], storage: Storage) -> Matrix {
    let dense = drawn("w", rows * cols);
    let mut read = |range: std::ops::Range<usize>, out: &mut [f32]| -> Result<(), String> {
        out.copy_from_slice(&dense[range.start * cols..range.end * cols]);
        Ok(())
    };
    Matrix::load(device, Component::Weights, [rows, cols], storage, &mut read, |error| error.to_string()).unwrap()
}

/// Ranks of three projections of one input; 0 for none.
type Ranks = [usize; 3];

/// Tokens, inputs, ranks: rows that fill no tile, several tiles, few rows; ranks of one step of products and more, odd
/// ones, none, and one that goes one product after another.
const GROUPS: [(usize, usize, Ranks); 7] = [
    (5, 64, [4, 4, 4]),
    (150, 128, [16, 16, 16]),
    (33, 192, [16, 0, 3]),
    (70, 64, [64, 40, 8]),
    (20, 136, [8, 8, 8]),
    (130, 64, [0, 0, 0]),
    (40, 64, [80, 16, 8]),
];
const OUTPUTS: [usize; 3] = [192, 64, 72];

fn group(device: &dyn Device, (tokens, inputs, ranks): (usize, usize, Ranks)) -> Vec<(&'static str, Vec<f32>, f64)> {
    let x = Activations::of(device, &drawn("x", tokens * inputs));
    let storages = [Storage::Nf4, storage(), Storage::Nf4];
    let matrices: Vec<Matrix> =
        OUTPUTS.iter().zip(storages).map(|(outputs, storage)| matrix(device, [*outputs, inputs], storage)).collect();
    let names = ["a0", "a1", "a2", "b0", "b1", "b2", "dy0", "dy1", "dy2"];
    let factors: Vec<[Buffer<f32>; 2]> = (0..3)
        .map(|at| {
            let a: Vec<f32> = drawn(names[at], ranks[at] * inputs);
            [upload(device, &a), upload(device, &drawn(names[3 + at], OUTPUTS[at] * ranks[at]))]
        })
        .collect();
    let low_rank = |at: usize| LowRank {
        a: factors[at][0].all(),
        b: factors[at][1].all(),
        rank: ranks[at],
        scale: 0.5,
        dropout: None,
    };
    let bias = upload(device, &random("bias", OUTPUTS[1]));
    let mut lows: Vec<Activations> =
        ranks.iter().map(|rank| Activations::filled(device, tokens * rank, f32::NAN)).collect();
    let mut outs: Vec<Activations> =
        OUTPUTS.iter().map(|outputs| Activations::filled(device, tokens * outputs, f32::NAN)).collect();
    let mut masked = Activations::filled(device, tokens * inputs, f32::NAN);
    let mut linears: Vec<Linear<'_>> = outs
        .iter_mut()
        .zip(&mut lows)
        .enumerate()
        .map(|(at, (out, low))| Linear {
            weight: matrices[at].operand(),
            outputs: OUTPUTS[at],
            bias: (at == 1).then(|| bias.all()),
            adapter: (ranks[at] > 0).then(|| (low_rank(at), low.target())),
            out: out.target(),
        })
        .collect();
    device.linear(x.view(), [tokens, inputs], &mut linears, None, &mut masked.target());
    drop(linears);

    // One with a residual, into f32.
    let residual = upload(device, &random("residual", tokens * OUTPUTS[0]));
    let mut wide = upload(device, &vec![f32::NAN; tokens * OUTPUTS[0]]);
    let mut again = Activations::filled(device, tokens * ranks[0], f32::NAN);
    let adapter = (ranks[0] > 0).then(|| (low_rank(0), again.target()));
    let out = wide.all_mut().into();
    let linear = Linear { weight: matrices[0].operand(), outputs: OUTPUTS[0], bias: None, adapter, out };
    device.linear(x.view(), [tokens, inputs], &mut [linear], Some(residual.all()), &mut masked.target());

    let dys: Vec<Activations> =
        (0..3).map(|at| Activations::of(device, &drawn(names[6 + at], tokens * OUTPUTS[at]))).collect();
    let mut grads: Vec<[Buffer<f32>; 2]> = (0..3)
        .map(|at| [ranks[at] * inputs, OUTPUTS[at] * ranks[at]].map(|len| upload(device, &vec![0.25f32; len])))
        .collect();
    let mut backward: Vec<LinearBackward<'_>> = grads
        .iter_mut()
        .enumerate()
        .map(|(at, [grad_a, grad_b])| LinearBackward {
            weight: matrices[at].operand(),
            outputs: OUTPUTS[at],
            dy: dys[at].view(),
            adapter: (ranks[at] > 0).then(|| AdapterBackward {
                factors: low_rank(at),
                low: lows[at].view(),
                grad_a: grad_a.all_mut(),
                grad_b: grad_b.all_mut(),
            }),
        })
        .collect();
    let mut through = Activations::filled(device, tokens * ranks.iter().sum::<usize>().max(1), f32::NAN);
    let mut dx = upload(device, &vec![f32::NAN; tokens * inputs]);
    let mut scratch = LinearScratch { through: through.target(), masked: masked.target() };
    let target = Some((dx.all_mut().into(), false));
    device.linear_backward(x.view(), [tokens, inputs], &mut backward, true, &mut scratch, target);
    drop((backward, scratch));

    // A result has its own rounding; those of the factors and of what is between the products average out in sums of
    // products, a third each.
    let mut results = vec![("residual", download(device, &wide), 2.0), ("dx", download(device, &dx), 2.0)];
    results.extend(outs.iter().map(|out| ("out", out.read(device), 2.0)));
    results.extend(lows.iter().map(|low| ("low", low.read(device), 1.0)));
    for [a, b] in &grads {
        results.push(("dA", download(device, a), 2.0));
        results.push(("dB", download(device, b), 2.0));
    }
    results
}

#[test]
fn adapted_projections() {
    for case in GROUPS {
        check(&format!("{case:?}"), |device| group(device, case));
    }
}

#[test]
fn a_row_of_a_projection_has_the_same_bits_alone() {
    let Some(cuda) = device() else { return };
    let (tokens, inputs, ranks) = GROUPS[1];
    let all = group(&cuda, (tokens, inputs, ranks));
    for few in [1, 20, 40] {
        let alone = group(&cuda, (few, inputs, ranks));
        for ((name, all, _), (_, alone, _)) in all.iter().zip(&alone).filter(|((name, ..), _)| !name.starts_with('d')) {
            assert_eq!(bits(&all[..alone.len()]), bits(alone), "{name} of {few} rows");
        }
    }
}

#[test]
fn the_loss_keeps_its_logits_in_f32() {
    for (rows, vocabulary, width) in [(1, 5, 8), (3, 2100, 16), (20, 1030, 64)] {
        check(&format!("{rows}x{vocabulary}"), |device| {
            let hidden = Activations::of(device, &drawn("hidden", rows * width));
            let weight = matrix(device, [vocabulary, width], storage());
            let targets: Vec<u32> = (0..rows as u32).map(|row| row * 7 % vocabulary as u32).collect();
            let (targets, scale) = (upload(device, &targets), upload(device, &[0.125f32]));
            let head = Head { weight: weight.operand(), vocabulary, hidden: width, chunk_rows: 16 };
            let mut dhidden = upload(device, &vec![f32::NAN; rows * width]);
            let mut losses = upload(device, &vec![f32::NAN; rows]);
            let mut scratch = upload(device, &vec![f32::NAN; 16 * vocabulary]);
            let gradient = Some(dhidden.all_mut());
            let (out, room) = (losses.all_mut(), scratch.all_mut());
            device.cross_entropy(hidden.view(), targets.all(), head, scale.all(), gradient, room, out);
            vec![("losses", download(device, &losses), 0.0), ("dhidden", download(device, &dhidden), 1.0)]
        });
    }
}

/// Also what finds a missing barrier.
#[test]
fn orders_of_threads_change_no_bit() {
    let Some(cuda) = device() else { return };
    let run = || {
        let mut all = group(&cuda, GROUPS[2]);
        all.extend(attend(&cuda, ATTENTION[3]));
        all.into_iter().map(|(name, values, _)| (name, bits(&values))).collect::<Vec<_>>()
    };
    let expected = run();
    for order in ORDERS {
        in_order(order);
        assert_eq!(run(), expected, "{order}");
    }
}

/// A view that starts in the middle of sixteen bytes takes other paths to the same numbers.
#[test]
fn views_may_start_anywhere() {
    check("an odd start", |device| {
        let (tokens, inputs, outputs) = (9, 40, 24);
        let all = Activations::of(device, &drawn("x", tokens * inputs + 1));
        let weight = matrix(device, [outputs, inputs], storage());
        let mut out = Activations::filled(device, tokens * outputs + 1, 0.5);
        let target = out.target().slice(1..);
        let x = all.view().slice(1..);
        device.matmul_nt(x, weight.operand(), [tokens, outputs, inputs], 1.0, true, target);
        vec![("out", out.read(device), 1.0)]
    });
}
