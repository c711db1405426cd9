//! Attention on the emulated CUDA device, against the CPU's.
//!
//! Tolerances are squared errors over squared sizes. `f32`: two sums of a few hundred products in different orders and two
//! exponentials stay under 1e-11 in outputs and gradients. `bf16`: queries, keys, values, probabilities and the gradients
//! of scores are each rounded to 8 bits, with a relative error of variance 2⁻¹⁸/3 at most; five such roundings on random
//! numbers come to 2e-5 in a gradient, and 1e-4 is allowed.

use crate::support::{ORDERS, Output, bits, emulated, in_order, nmse, random, upload};
use luthier_cuda::Precision;
use luthier_kernels::device::{AttentionSaved, AttentionShape, CpuDevice, Device, KeyValues, Segments};

const F32: f64 = 1e-11;
const BF16: f64 = 1e-4;

struct Case {
    shape: AttentionShape,
    segments: Vec<u32>,
}

fn case(heads: usize, kv_heads: usize, head_dim: usize, window: Option<usize>, segments: &[u32]) -> Case {
    let scale = 1.0 / (head_dim as f32).sqrt();
    Case {
        shape: AttentionShape { heads, kv_heads, head_dim, scale, window, soft_cap: None },
        segments: segments.to_vec(),
    }
}

fn capped(cap: f32, mut case: Case) -> Case {
    case.shape.soft_cap = Some(cap);
    case
}

/// One row, empty segments, primes, one more than a tile, several tiles, more segments than a warp has lanes; heads that
/// are odd, not a whole chunk, several chunks, several rounds of a group.
fn plain_cases() -> Vec<Case> {
    let many: Vec<u32> = (0..=40).map(|index| index * 2).collect();
    vec![
        case(1, 1, 1, None, &[0, 1]),
        case(2, 1, 5, None, &[0, 1, 1, 3, 10]),
        case(1, 1, 3, None, &many),
        case(9, 3, 64, None, &[0, 20, 57, 58, 90]),
        case(4, 2, 16, None, &[0, 65, 131, 260]),
        case(3, 3, 20, Some(7), &[0, 40, 110]),
        case(2, 1, 33, Some(64), &[0, 300]),
        case(2, 2, 64, Some(1), &[0, 70]),
        capped(3.0, case(2, 1, 128, None, &[0, 3, 130])),
        case(10, 1, 80, Some(100), &[0, 129]),
        case(1, 1, 256, None, &[0, 67]),
        capped(2.0, case(2, 1, 300, None, &[0, 40])),
    ]
}

fn tensor_cases() -> Vec<Case> {
    vec![
        case(2, 1, 64, None, &[0, 1, 1, 3, 70]),
        case(4, 2, 64, None, &[0, 131, 196]),
        case(2, 1, 64, Some(50), &[0, 40, 230]),
        case(1, 1, 80, None, &[0, 129]),
        case(1, 1, 96, Some(33), &[0, 97]),
        capped(5.0, case(2, 1, 128, None, &[0, 161])),
        case(3, 1, 128, Some(64), &[0, 7, 140]),
    ]
}

struct Inputs {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    dout: Vec<f32>,
}

/// Output, logs of denominators, gradients of q, k and v.
type Outputs = [Vec<f32>; 5];
const NAMES: [&str; 5] = ["out", "lse", "dq", "dk", "dv"];

impl Case {
    fn tokens(&self) -> usize {
        self.segments.last().map_or(0, |tokens| *tokens as usize)
    }

    fn inputs(&self) -> Inputs {
        let (wide, narrow) = (self.tokens() * self.shape.query_width(), self.tokens() * self.shape.key_width());
        Inputs { q: random("q", wide), k: random("k", narrow), v: random("v", narrow), dout: random("dout", wide) }
    }

    fn run(&self, device: &dyn Device, inputs: &Inputs) -> Outputs {
        let starts = upload(device, &self.segments);
        let longest = self.segments.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max().unwrap_or(0);
        let segments = Segments { starts: starts.all(), longest };
        let [q, k, v, dout] = [&inputs.q, &inputs.k, &inputs.v, &inputs.dout].map(|values| upload(device, values));
        let [mut out, mut dq] = [(); 2].map(|()| Output::new(device, inputs.q.len(), f32::NAN));
        let [mut dk, mut dv] = [(); 2].map(|()| Output::new(device, inputs.k.len(), f32::NAN));
        let mut lse = Output::new(device, self.tokens() * self.shape.heads, f32::NAN);
        device.attention(
            q.all().into(),
            k.all().into(),
            v.all().into(),
            segments,
            self.shape,
            out.view().into(),
            lse.view(),
        );
        let saved = AttentionSaved {
            q: q.all().into(),
            k: k.all().into(),
            v: v.all().into(),
            out: out.shared().into(),
            lse: lse.shared(),
        };
        device.attention_backward(
            saved,
            dout.all().into(),
            segments,
            self.shape,
            dq.view().into(),
            dk.view().into(),
            dv.view().into(),
        );
        [out.read(device), lse.read(device), dq.read(device), dk.read(device), dv.read(device)]
    }

    /// One segment on its own.
    fn part(&self, inputs: &Inputs, rows: std::ops::Range<usize>) -> (Case, Inputs) {
        let (wide, narrow) = (self.shape.query_width(), self.shape.key_width());
        let cut = |values: &[f32], width: usize| values[rows.start * width..rows.end * width].to_vec();
        let inputs = Inputs {
            q: cut(&inputs.q, wide),
            k: cut(&inputs.k, narrow),
            v: cut(&inputs.v, narrow),
            dout: cut(&inputs.dout, wide),
        };
        (Case { shape: self.shape, segments: vec![0, rows.len() as u32] }, inputs)
    }

    /// The last row of each segment against the rows of that segment, in caches of `capacity` rows; what a cache does not
    /// use is NaN.
    fn decode(&self, device: &dyn Device, inputs: &Inputs, capacity: usize, which: &[usize]) -> Vec<f32> {
        let (wide, narrow) = (self.shape.query_width(), self.shape.key_width());
        let mut keys = vec![f32::NAN; which.len() * capacity * narrow];
        let mut values = keys.clone();
        let (mut queries, mut lengths) = (Vec::new(), Vec::new());
        for (at, segment) in which.iter().enumerate() {
            let rows = self.segments[*segment] as usize..self.segments[segment + 1] as usize;
            let to = at * capacity * narrow..at * capacity * narrow + rows.len() * narrow;
            keys[to.clone()].copy_from_slice(&inputs.k[rows.start * narrow..rows.end * narrow]);
            values[to].copy_from_slice(&inputs.v[rows.start * narrow..rows.end * narrow]);
            queries.extend_from_slice(&inputs.q[(rows.end - 1) * wide..rows.end * wide]);
            lengths.push(rows.len() as u32);
        }
        let (keys, values, lengths) = (upload(device, &keys), upload(device, &values), upload(device, &lengths));
        let queries = upload(device, &queries);
        let mut out = Output::new(device, queries.len(), f32::NAN);
        let cache =
            KeyValues { keys: keys.all().into(), values: values.all().into(), capacity, lengths: lengths.all() };
        device.attention_decode(queries.all().into(), cache, self.shape, out.view().into());
        out.read(device)
    }

    fn filled(&self) -> Vec<usize> {
        (0..self.segments.len() - 1).filter(|at| self.segments[*at] < self.segments[at + 1]).collect()
    }
}

/// A gradient that is zero in theory is rounding on both sides: behind a window of one, scores have no slope.
fn close(found: &[f32], expected: &[f32], bound: f64) -> bool {
    let tiny = |values: &[f32]| values.iter().all(|x| x.abs() < 1e-5);
    nmse(found, expected) < bound || (tiny(expected) && tiny(found))
}

fn check(precision: Precision, cases: &[Case], bound: f64) {
    let Some(cuda) = emulated(precision) else { return };
    let cpu = CpuDevice::new(2).unwrap();
    for case in cases {
        let inputs = case.inputs();
        let (found, expected) = (case.run(&cuda, &inputs), case.run(&cpu, &inputs));
        for (name, (found, expected)) in NAMES.iter().zip(found.iter().zip(&expected)) {
            assert!(
                close(found, expected, bound),
                "{name} of {:?} {:?}: {}",
                case.shape,
                case.segments,
                nmse(found, expected)
            );
        }
    }
}

#[test]
fn f32_is_the_cpu_s() {
    check(Precision::F32, &plain_cases(), F32);
}

#[test]
fn bf16_is_near_the_cpu_s() {
    check(Precision::Bf16, &tensor_cases(), BF16);
}

/// Heads that the tensor cores' kernels do not take run in `f32`.
#[test]
fn other_heads_are_exact_with_bf16() {
    check(Precision::Bf16, &[case(2, 1, 20, None, &[0, 70])], F32);
}

#[test]
fn packed_equals_alone_bit_for_bit() {
    for (precision, cases) in [(Precision::F32, plain_cases()), (Precision::Bf16, tensor_cases())] {
        let Some(cuda) = emulated(precision) else { return };
        for case in cases.iter().filter(|case| case.filled().len() > 1 && case.segments.len() < 10) {
            let inputs = case.inputs();
            let packed = case.run(&cuda, &inputs);
            for at in case.filled() {
                let rows = case.segments[at] as usize..case.segments[at + 1] as usize;
                let (alone, part) = case.part(&inputs, rows.clone());
                for ((name, packed), alone) in NAMES.iter().zip(&packed).zip(&alone.run(&cuda, &part)) {
                    let width = packed.len() / case.tokens();
                    let expected = &packed[rows.start * width..rows.end * width];
                    assert_eq!(bits(alone), bits(expected), "{name} of segment {at} of {:?}", case.shape);
                }
            }
        }
    }
}

#[test]
fn decoding_is_the_cpu_s() {
    let Some(cuda) = emulated(Precision::F32) else { return };
    let cpu = CpuDevice::new(2).unwrap();
    let mut cases = plain_cases();
    cases.push(case(2, 1, 8, None, &[0, 256, 513, 1100]));
    cases.push(case(9, 1, 12, Some(300), &[0, 700]));
    for case in cases {
        let (inputs, which) = (case.inputs(), case.filled());
        let capacity = which.iter().map(|at| (case.segments[at + 1] - case.segments[*at]) as usize).max().unwrap_or(1);
        let found = case.decode(&cuda, &inputs, capacity + 3, &which);
        let expected = case.decode(&cpu, &inputs, capacity + 3, &which);
        assert!(close(&found, &expected, F32), "{:?} {:?}: {}", case.shape, case.segments, nmse(&found, &expected));
        // Neither the other sequences nor the room in the caches change a bit.
        for (index, at) in which.iter().enumerate().take(4) {
            let alone = case.decode(&cuda, &inputs, capacity + 300, &[*at]);
            let width = case.shape.query_width();
            assert_eq!(bits(&alone), bits(&found[index * width..(index + 1) * width]), "{:?}", case.shape);
        }
    }
}

#[test]
fn large_scores_do_not_overflow() {
    for precision in [Precision::F32, Precision::Bf16] {
        let Some(cuda) = emulated(precision) else { return };
        let mut case = case(1, 1, 64, None, &[0, 70]);
        case.shape.scale = 1.0;
        let mut inputs = case.inputs();
        inputs.q.iter_mut().chain(&mut inputs.k).for_each(|x| *x *= 100.0);
        assert!(case.run(&cuda, &inputs).iter().flatten().all(|x| x.is_finite()), "{precision:?}");
    }
}

/// Also what finds a missing barrier: threads that run ahead of others then read what is not there yet.
#[test]
fn orders_of_threads_change_no_bit() {
    let few = [case(2, 1, 20, None, &[0, 3, 131]), case(1, 1, 130, Some(40), &[0, 70])];
    let tensor = [case(2, 1, 64, None, &[0, 3, 200]), case(2, 1, 80, Some(50), &[0, 140])];
    for (precision, cases) in [(Precision::F32, few), (Precision::Bf16, tensor)] {
        let Some(cuda) = emulated(precision) else { return };
        for case in &cases {
            let inputs = case.inputs();
            let expected = case.run(&cuda, &inputs).map(|values| bits(&values));
            for order in ORDERS {
                in_order(order);
                let found = case.run(&cuda, &inputs).map(|values| bits(&values));
                for (name, (found, expected)) in NAMES.iter().zip(found.iter().zip(&expected)) {
                    assert_eq!(found, expected, "{name} of {:?} in order {order}", case.shape);
                }
            }
        }
    }
}
