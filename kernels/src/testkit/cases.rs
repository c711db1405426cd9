//! The table. Shapes: one, primes, empty, one off a tile, not a multiple of a block, several blocks.

use half::{bf16, f16};

use super::{INITIAL, OpCase};
use crate::attention::{self, AttentionShape};
use crate::optimizer::{AdamW, adamw};
use crate::random::Stream;
use crate::rope::{Scaling, Table};
use crate::{Weight, cross_entropy, elementwise, embedding, geglu, matmul, nf4, rms_norm, rope, swiglu};

/// Sums of a few hundred products in `f32`: half an ulp each, random signs.
const PRODUCTS: f64 = 1e-12;
/// A polynomial exponential (1.5 ulp) and a division or two.
const ELEMENTARY: f64 = 1e-13;

/// Every case.
#[must_use]
pub fn cases() -> Vec<OpCase> {
    let mut all = Vec::new();
    for (m, n, k) in [(1, 1, 1), (2, 3, 0), (7, 13, 17), (3, 48, 64), (13, 49, 31), (33, 65, 400), (4, 128, 800)] {
        all.extend([matmul_nt(m, n, k), matmul_nn(m, n, k), matmul_tn(m, n, k)]);
    }
    for (m, n, k) in [(1, 5, 3), (9, 33, 50), (5, 48, 64), (17, 64, 192)] {
        all.extend(stored_weights(m, n, k));
    }
    for (rows, d) in [(1, 1), (3, 5), (2, 16), (5, 33), (3, 576)] {
        all.push(rms_norm_case(rows, d));
    }
    for (rows, heads, d) in [(1, 1, 2), (3, 2, 10), (4, 3, 32), (2, 1, 64)] {
        all.push(rope_case(rows, heads, d));
    }
    for len in [0, 1, 15, 16, 17, 100] {
        all.extend([swiglu_case(len), geglu_case(len)]);
    }
    let shape = |heads, kv_heads, head_dim, window| AttentionShape {
        heads,
        kv_heads,
        head_dim,
        scale: 0.4,
        window,
        soft_cap: None,
    };
    all.push(attention_case(&[0, 1], shape(1, 1, 1, None)));
    all.push(attention_case(&[0, 3, 3, 10], shape(2, 1, 5, None)));
    all.push(attention_case(&[0, 20], shape(4, 2, 16, Some(3))));
    all.push(attention_case(&[0, 67, 70], shape(1, 1, 3, None)));
    all.push(attention_case(&[0, 20], AttentionShape { soft_cap: Some(0.7), ..shape(4, 2, 16, None) }));
    for (rows, d, vocabulary, chunk) in [(1, 1, 2, 1), (3, 5, 17, 2), (4, 16, 300, 100), (5, 7, 33, 5)] {
        all.push(cross_entropy_case(rows, d, vocabulary, chunk));
    }
    for (count, d) in [(0, 4), (3, 1), (5, 17)] {
        all.push(gather_case(count, d));
    }
    for len in [0, 1, 31, 70] {
        all.extend([add_scaled_case(len), adamw_case(len)]);
    }
    all
}

fn random(name: &str, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    Stream::new(17, name).fill_normal(0, 0.0, 1.0, &mut values);
    values
}

/// `scale · a · b + INITIAL` with elements given by index.
fn product(
    (m, n, k): (usize, usize, usize),
    scale: f64,
    a: impl Fn(usize, usize) -> f64,
    b: impl Fn(usize, usize) -> f64,
) -> Vec<f64> {
    let element = |i: usize, j: usize| (0..k).map(|s| a(i, s) * b(s, j)).sum::<f64>();
    (0..m * n).map(|index| scale.mul_add(element(index / n, index % n), f64::from(INITIAL))).collect()
}

fn matmul_nt(m: usize, n: usize, k: usize) -> OpCase {
    OpCase {
        name: format!("matmul nt m={m} n={n} k={k} scale=0.5 accumulate"),
        inputs: vec![random("a", m * k), random("b", n * k)],
        outputs: vec![m * n],
        nmse: PRODUCTS,
        flops: (2 * m * n * k) as f64,
        run: Box::new(move |i, o| matmul::nt(i[0], m, k, &Weight::F32(i[1]), n, o[0], 0.5, true)),
        exact: Box::new(move |i| vec![product((m, n, k), 0.5, |r, s| i[0][r * k + s], |s, c| i[1][c * k + s])]),
        backward: (m * n * k < 4000).then(|| -> super::Backward {
            Box::new(move |i, g| {
                let (mut da, mut db) = (vec![0.0; m * k], vec![0.0; n * k]);
                matmul::nn(&g[0], m, n, &Weight::F32(i[1]), k, &mut da, 0.5, false);
                matmul::tn(&g[0], i[0], m, n, k, &mut db, 0.5, false);
                vec![da, db]
            })
        }),
    }
}

fn matmul_nn(m: usize, n: usize, k: usize) -> OpCase {
    OpCase {
        name: format!("matmul nn m={m} n={k} k={n} scale=2 accumulate"),
        inputs: vec![random("a", m * k), random("b", n * k)],
        outputs: vec![m * n],
        nmse: PRODUCTS,
        flops: (2 * m * n * k) as f64,
        run: Box::new(move |i, o| matmul::nn(i[0], m, k, &Weight::F32(i[1]), n, o[0], 2.0, true)),
        exact: Box::new(move |i| vec![product((m, n, k), 2.0, |r, s| i[0][r * k + s], |s, c| i[1][s * n + c])]),
        backward: None,
    }
}

fn matmul_tn(m: usize, n: usize, k: usize) -> OpCase {
    OpCase {
        name: format!("matmul tn m={k} p={m} q={n} scale=-1 accumulate"),
        inputs: vec![random("a", m * k), random("b", n * k)],
        outputs: vec![m * n],
        nmse: PRODUCTS,
        flops: (2 * m * n * k) as f64,
        run: Box::new(move |i, o| matmul::tn(i[0], i[1], k, m, n, o[0], -1.0, true)),
        exact: Box::new(move |i| vec![product((m, n, k), -1.0, |r, s| i[0][s * m + r], |s, c| i[1][s * n + c])]),
        backward: None,
    }
}

/// Products with weights in every storage type; the definition reads the converted weight.
fn stored_weights(m: usize, n: usize, k: usize) -> Vec<OpCase> {
    let dense = random("w", n * k);
    let half: Vec<f16> = dense.iter().map(|x| f16::from_f32(*x)).collect();
    let brain: Vec<bf16> = dense.iter().map(|x| bf16::from_f32(*x)).collect();
    let plain = nf4::quantize(&dense, n, k, false);
    let nested = nf4::quantize(&dense, n, k, true);
    type Stored = Box<dyn for<'a> Fn(&mut (dyn FnMut(&Weight<'_>) + 'a)) + Send + Sync>;
    let stored: Vec<(&str, Stored)> = vec![
        ("f16", Box::new(move |with| with(&Weight::F16(&half)))),
        ("bf16", Box::new(move |with| with(&Weight::Bf16(&brain)))),
        ("nf4", Box::new(move |with| with(&Weight::Nf4(plain.view())))),
        ("nf4 nested", Box::new(move |with| with(&Weight::Nf4(nested.view())))),
    ];
    stored
        .into_iter()
        .map(|(name, weight)| {
            let mut copy = vec![0.0; n * k];
            weight(&mut |weight| weight.read_f32(0, &mut copy));
            OpCase {
                name: format!("matmul nt and nn {name} m={m} n={n} k={k}"),
                inputs: vec![random("x", m * k), random("dy", m * n)],
                outputs: vec![m * n, m * k],
                nmse: PRODUCTS,
                flops: (4 * m * n * k) as f64,
                run: Box::new(move |i, o| {
                    weight(&mut |weight| {
                        matmul::nt(i[0], m, k, weight, n, o[0], 1.0, true);
                        matmul::nn(i[1], m, n, weight, k, o[1], 1.0, true);
                    });
                }),
                exact: Box::new(move |i| {
                    let w = |index: usize| f64::from(copy[index]);
                    vec![
                        product((m, n, k), 1.0, |r, s| i[0][r * k + s], |s, c| w(c * k + s)),
                        product((m, k, n), 1.0, |r, s| i[1][r * n + s], |s, c| w(s * k + c)),
                    ]
                }),
                backward: None,
            }
        })
        .collect()
}

fn rms_norm_case(rows: usize, d: usize) -> OpCase {
    let eps = 1e-5f32;
    OpCase {
        name: format!("rms_norm rows={rows} d={d}"),
        inputs: vec![random("x", rows * d), random("w", d)],
        outputs: vec![rows * d],
        nmse: PRODUCTS,
        flops: (4 * rows * d) as f64,
        run: Box::new(move |i, o| rms_norm::forward(i[0], i[1], eps, d, o[0], &mut vec![0.0; rows])),
        exact: Box::new(move |i| {
            let mut out = Vec::new();
            for row in i[0].chunks(d) {
                let mean = row.iter().map(|x| x * x).sum::<f64>() / d as f64;
                let factor = 1.0 / (mean + f64::from(eps)).sqrt();
                out.extend(row.iter().zip(&i[1]).map(|(x, w)| x * factor * w));
            }
            vec![out]
        }),
        backward: Some(Box::new(move |i, g| {
            let (mut scratch, mut inverse) = (vec![0.0; rows * d], vec![0.0; rows]);
            rms_norm::forward(i[0], i[1], eps, d, &mut scratch, &mut inverse);
            let (mut dx, mut dw) = (vec![0.0; rows * d], vec![0.0; d]);
            rms_norm::backward(i[0], i[1], &inverse, &g[0], d, &mut dx, false);
            rms_norm::backward_weight(i[0], &inverse, &g[0], d, &mut dw);
            // For rows of one element the gradient is a difference of equals, of the size of eps.
            if d == 1 { vec![vec![], dw] } else { vec![dx, dw] }
        })),
    }
}

fn rope_case(rows: usize, heads: usize, d: usize) -> OpCase {
    let positions: Vec<u32> = (0..rows as u32).map(|row| row * 37).collect();
    let table = Table::new(d, 10_000.0, Scaling::None, 200);
    let (angles, at, again) = (positions.clone(), positions.clone(), positions);
    let second = table.clone();
    OpCase {
        name: format!("rope rows={rows} heads={heads} head_dim={d}"),
        inputs: vec![random("x", rows * heads * d)],
        outputs: vec![rows * heads * d],
        // Cosine and sine are of an angle rounded to f32, as PyTorch's are: 37 radians to a part in 2^24.
        nmse: 1e-10,
        flops: (3 * rows * heads * d) as f64,
        run: Box::new(move |i, o| {
            o[0].copy_from_slice(i[0]);
            rope::forward(o[0], &at, heads, &table);
        }),
        exact: Box::new(move |i| {
            let mut out = i[0].clone();
            let half = d / 2;
            for (row, position) in out.chunks_mut(heads * d).zip(&angles) {
                for head in row.chunks_mut(d) {
                    for pair in 0..half {
                        let angle = f64::from(*position) * 10_000f64.powf(-2.0 * pair as f64 / d as f64);
                        let (a, b) = (head[pair], head[pair + half]);
                        head[pair] = a * angle.cos() - b * angle.sin();
                        head[pair + half] = b * angle.cos() + a * angle.sin();
                    }
                }
            }
            vec![out]
        }),
        backward: Some(Box::new(move |_, g| {
            let mut dx = g[0].clone();
            rope::backward(&mut dx, &again, heads, &second);
            vec![dx]
        })),
    }
}

fn swiglu_case(len: usize) -> OpCase {
    let silu = |x: f64| x / (1.0 + (-x).exp());
    gated_case("swiglu", len, 6, silu, swiglu::forward, swiglu::backward)
}

fn geglu_case(len: usize) -> OpCase {
    let gelu = |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh());
    gated_case("geglu", len, 12, gelu, geglu::forward, geglu::backward)
}

/// `activation(gate) · up`, with the operations per element.
fn gated_case(
    name: &str,
    len: usize,
    operations: usize,
    activation: fn(f64) -> f64,
    forward: fn(&[f32], &[f32], &mut [f32]),
    backward: fn(&[f32], &[f32], &[f32], &mut [f32], &mut [f32]),
) -> OpCase {
    OpCase {
        name: format!("{name} len={len}"),
        inputs: vec![random("gate", len), random("up", len)],
        outputs: vec![len],
        nmse: ELEMENTARY,
        flops: (operations * len) as f64,
        run: Box::new(move |i, o| forward(i[0], i[1], o[0])),
        exact: Box::new(move |i| vec![i[0].iter().zip(&i[1]).map(|(gate, up)| activation(*gate) * up).collect()]),
        backward: Some(Box::new(move |i, g| {
            let (mut dgate, mut dup) = (vec![0.0; len], vec![0.0; len]);
            backward(i[0], i[1], &g[0], &mut dgate, &mut dup);
            vec![dgate, dup]
        })),
    }
}

fn attention_case(segments: &[u32], shape: AttentionShape) -> OpCase {
    let tokens = segments.last().copied().unwrap_or(0) as usize;
    let (wide, narrow, heads) = (tokens * shape.query_width(), tokens * shape.key_width(), tokens * shape.heads);
    let (first, second, third) = (segments.to_vec(), segments.to_vec(), segments.to_vec());
    OpCase {
        name: format!("attention segments={segments:?} {shape:?}"),
        inputs: vec![random("q", wide), random("k", narrow), random("v", narrow)],
        outputs: vec![wide],
        nmse: PRODUCTS,
        flops: segments.windows(2).map(|pair| f64::from(pair[1] - pair[0]).powi(2)).sum::<f64>()
            * 2.0
            * shape.query_width() as f64,
        run: Box::new(move |i, o| {
            attention::forward(i[0], i[1], i[2], &first, &shape, o[0], &mut vec![0.0; heads]);
        }),
        exact: Box::new(move |i| vec![exact_attention(&i[0], &i[1], &i[2], &second, &shape)]),
        backward: Some(Box::new(move |i, g| {
            let (mut out, mut lse) = (vec![0.0; wide], vec![0.0; heads]);
            attention::forward(i[0], i[1], i[2], &third, &shape, &mut out, &mut lse);
            let mut d = [vec![0.0; wide], vec![0.0; narrow], vec![0.0; narrow]];
            let [dq, dk, dv] = &mut d;
            attention::backward(i[0], i[1], i[2], &out, &lse, &g[0], &third, &shape, dq, dk, dv);
            let [dq, dk, dv] = d;
            // A row that sees only itself has no gradient of scores: what is left is rounding.
            if tokens == 1 { vec![vec![], vec![], dv] } else { vec![dq, dk, dv] }
        })),
    }
}

fn exact_attention(q: &[f64], k: &[f64], v: &[f64], segments: &[u32], shape: &AttentionShape) -> Vec<f64> {
    let (d, group, width) = (shape.head_dim, shape.heads / shape.kv_heads, shape.key_width());
    let mut out = vec![0.0; q.len()];
    for pair in segments.windows(2) {
        for row in pair[0] as usize..pair[1] as usize {
            let reach = shape.window.map_or(0, |window| (row + 1).saturating_sub(window));
            let first = reach.max(pair[0] as usize);
            for head in 0..shape.heads {
                let at = (row * shape.heads + head) * d;
                let key = |j: usize| j * width + head / group * d;
                let scores: Vec<f64> = (first..=row)
                    .map(|j| f64::from(shape.scale) * (0..d).map(|c| q[at + c] * k[key(j) + c]).sum::<f64>())
                    .map(|score| shape.soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh()))
                    .collect();
                let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = scores.iter().map(|score| (score - top).exp()).sum();
                for (score, j) in scores.iter().zip(first..) {
                    let p = (score - top).exp() / total;
                    for c in 0..d {
                        out[at + c] += p * v[key(j) + c];
                    }
                }
            }
        }
    }
    out
}

fn cross_entropy_case(rows: usize, d: usize, vocabulary: usize, chunk: usize) -> OpCase {
    let targets: Vec<u32> = (0..rows).map(|row| (row * 7 % vocabulary) as u32).collect();
    let (first, second, third) = (targets.clone(), targets.clone(), targets);
    let w = random("head", vocabulary * d);
    let (head, exact_head, gradient_head) = (w.clone(), w.clone(), w);
    OpCase {
        name: format!("cross_entropy rows={rows} d={d} vocabulary={vocabulary} chunk={chunk}"),
        inputs: vec![random("hidden", rows * d)],
        outputs: vec![rows],
        nmse: PRODUCTS,
        flops: (2 * rows * d * vocabulary) as f64,
        run: Box::new(move |i, o| {
            let mut scratch = vec![0.0; chunk * vocabulary];
            let w = Weight::F32(&head);
            let losses = cross_entropy::forward_backward(i[0], &first, d, &w, chunk, 1.0, None, &mut scratch);
            o[0].copy_from_slice(&losses);
        }),
        exact: Box::new(move |i| {
            let losses = i[0].chunks(d).zip(&second).map(|(hidden, target)| {
                let logits: Vec<f64> = exact_head
                    .chunks(d)
                    .map(|row| row.iter().zip(hidden).map(|(w, x)| f64::from(*w) * x).sum())
                    .collect();
                let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                top + logits.iter().map(|x| (x - top).exp()).sum::<f64>().ln() - logits[*target as usize]
            });
            vec![losses.collect()]
        }),
        backward: Some(Box::new(move |i, g| {
            // One scale serves all rows, so rows are weighted one by one.
            let mut dhidden = vec![0.0; rows * d];
            let w = Weight::F32(&gradient_head);
            for row in 0..rows {
                let (hidden, target) = (&i[0][row * d..(row + 1) * d], &third[row..=row]);
                let to = &mut dhidden[row * d..(row + 1) * d];
                let mut scratch = vec![0.0; vocabulary];
                let _ = cross_entropy::forward_backward(hidden, target, d, &w, 1, g[0][row], Some(to), &mut scratch);
            }
            vec![dhidden]
        })),
    }
}

fn gather_case(count: usize, d: usize) -> OpCase {
    let ids: Vec<u32> = (0..count as u32).map(|index| index * 3 % 7).collect();
    let (first, second, third) = (ids.clone(), ids.clone(), ids);
    OpCase {
        name: format!("gather ids={count} d={d}"),
        inputs: vec![random("table", 7 * d)],
        outputs: vec![count * d],
        nmse: 0.0,
        flops: 0.0,
        run: Box::new(move |i, o| embedding::gather(&Weight::F32(i[0]), &first, d, o[0])),
        exact: Box::new(move |i| {
            vec![second.iter().flat_map(|id| i[0][*id as usize * d..(*id as usize + 1) * d].to_vec()).collect()]
        }),
        backward: Some(Box::new(move |_, g| {
            let mut dw = vec![0.0; 7 * d];
            embedding::scatter_add(&g[0], &third, d, &mut dw);
            vec![dw]
        })),
    }
}

fn add_scaled_case(len: usize) -> OpCase {
    OpCase {
        name: format!("add_scaled len={len}"),
        inputs: vec![random("from", len)],
        outputs: vec![len],
        nmse: ELEMENTARY,
        flops: (2 * len) as f64,
        run: Box::new(|i, o| elementwise::add_scaled(o[0], i[0], -0.75)),
        exact: Box::new(|i| vec![i[0].iter().map(|x| f64::from(INITIAL) - 0.75 * x).collect()]),
        backward: None,
    }
}

fn adamw_case(len: usize) -> OpCase {
    let config = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, step: 3 };
    OpCase {
        name: format!("adamw len={len}"),
        inputs: vec![random("gradient", len)],
        outputs: vec![len, len, len],
        nmse: PRODUCTS,
        flops: (12 * len) as f64,
        run: Box::new(move |i, o| {
            let [p, m, v] = o else { panic!("three outputs") };
            adamw(p, i[0], m, v, &config.factors());
        }),
        exact: Box::new(move |i| {
            let start = f64::from(INITIAL);
            let [b1, b2] = [config.beta1, config.beta2].map(f64::from);
            let m: Vec<f64> = i[0].iter().map(|g| b1 * start + (1.0 - b1) * g).collect();
            let v: Vec<f64> = i[0].iter().map(|g| b2 * start + (1.0 - b2) * g * g).collect();
            let lr = f64::from(config.lr);
            let p = m.iter().zip(&v).map(|(m, v)| {
                let (m, v) = (m / (1.0 - b1.powi(3)), v / (1.0 - b2.powi(3)));
                start * (1.0 - lr * f64::from(config.weight_decay)) - lr * m / (v.sqrt() + f64::from(config.eps))
            });
            vec![p.collect(), m, v]
        }),
        backward: None,
    }
}
