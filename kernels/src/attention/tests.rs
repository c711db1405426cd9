use super::*;
use crate::Backend;
use crate::random::Stream;

fn random(name: &str, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    Stream::new(3, name).fill_normal(0, 0.0, 1.0, &mut values);
    values
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

struct Case {
    shape: AttentionShape,
    segments: Vec<u32>,
}

fn shape(heads: usize, kv_heads: usize, head_dim: usize, window: Option<usize>) -> AttentionShape {
    AttentionShape { heads, kv_heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt(), window, soft_cap: None }
}

fn cases() -> Vec<Case> {
    vec![
        Case { shape: shape(1, 1, 1, None), segments: vec![0, 1] },
        Case { shape: shape(2, 1, 5, None), segments: vec![0, 1, 1, 3, 10] },
        Case { shape: shape(9, 3, 64, None), segments: vec![0, 20, 57, 58, 90] },
        Case { shape: shape(4, 2, 16, None), segments: vec![0, 131, 260] },
        Case { shape: shape(3, 3, 20, Some(7)), segments: vec![0, 40, 110] },
        Case { shape: shape(2, 1, 33, Some(64)), segments: vec![0, 300] },
        Case { shape: shape(2, 2, 64, Some(1)), segments: vec![0, 70] },
        Case { shape: shape(2, 1, 8, None), segments: vec![0] },
        Case { shape: AttentionShape { soft_cap: Some(1.5), ..shape(4, 2, 16, Some(40)) }, segments: vec![0, 9, 140] },
    ]
}

struct Tensors {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    dout: Vec<f32>,
}

impl Case {
    fn tokens(&self) -> usize {
        *self.segments.last().unwrap() as usize
    }

    fn tensors(&self) -> Tensors {
        let (q, k) = (self.tokens() * self.shape.query_width(), self.tokens() * self.shape.key_width());
        Tensors { q: random("q", q), k: random("k", k), v: random("v", k), dout: random("dout", q) }
    }

    fn forward(&self, t: &Tensors) -> (Vec<f32>, Vec<f32>) {
        let mut out = vec![f32::NAN; t.q.len()];
        let mut lse = vec![f32::NAN; self.tokens() * self.shape.heads];
        forward(&t.q, &t.k, &t.v, &self.segments, &self.shape, &mut out, &mut lse);
        (out, lse)
    }

    fn backward(&self, t: &Tensors, out: &[f32], lse: &[f32]) -> [Vec<f32>; 3] {
        let mut dq = vec![f32::NAN; t.q.len()];
        let mut dk = vec![f32::NAN; t.k.len()];
        let mut dv = vec![f32::NAN; t.v.len()];
        backward(&t.q, &t.k, &t.v, out, lse, &t.dout, &self.segments, &self.shape, &mut dq, &mut dk, &mut dv);
        [dq, dk, dv]
    }

    /// Output, log-sum-exp and gradients in `f64`, by the textbook.
    fn exact(&self, t: &Tensors) -> [Vec<f64>; 5] {
        let s = &self.shape;
        let (d, group, width) = (s.head_dim, s.heads / s.kv_heads, s.key_width());
        let at = |x: &[f32], i: usize| f64::from(x[i]);
        let mut out = vec![0.0; t.q.len()];
        let mut lse = vec![0.0; self.tokens() * s.heads];
        let (mut dq, mut dk, mut dv) = (vec![0.0; t.q.len()], vec![0.0; t.k.len()], vec![0.0; t.v.len()]);
        for pair in self.segments.windows(2) {
            let (start, end) = (pair[0] as usize, pair[1] as usize);
            for row in start..end {
                let first = s.window.map_or(start, |w| start.max((row + 1).saturating_sub(w)));
                for head in 0..s.heads {
                    let qi = (row * s.heads + head) * d;
                    let kv = |j: usize| j * width + head / group * d;
                    let (scores, bends): (Vec<f64>, Vec<f64>) = (first..=row)
                        .map(|j| {
                            let dot: f64 = (0..d).map(|i| at(&t.q, qi + i) * at(&t.k, kv(j) + i)).sum();
                            let score = f64::from(s.scale) * dot;
                            s.soft_cap.map_or((score, 1.0), |cap| {
                                let bent = (score / f64::from(cap)).tanh();
                                (f64::from(cap) * bent, 1.0 - bent * bent)
                            })
                        })
                        .unzip();
                    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let total: f64 = scores.iter().map(|x| (x - top).exp()).sum();
                    lse[row * s.heads + head] = top + total.ln();
                    let p: Vec<f64> = scores.iter().map(|x| (x - top).exp() / total).collect();
                    for (p, j) in p.iter().zip(first..) {
                        for i in 0..d {
                            out[qi + i] += p * at(&t.v, kv(j) + i);
                        }
                    }
                    let delta: f64 = (0..d).map(|i| at(&t.dout, qi + i) * out[qi + i]).sum();
                    for ((p, bend), j) in p.iter().zip(&bends).zip(first..) {
                        let dp: f64 = (0..d).map(|i| at(&t.dout, qi + i) * at(&t.v, kv(j) + i)).sum();
                        let ds = p * (dp - delta) * bend * f64::from(s.scale);
                        for i in 0..d {
                            dq[qi + i] += ds * at(&t.k, kv(j) + i);
                            dk[kv(j) + i] += ds * at(&t.q, qi + i);
                            dv[kv(j) + i] += p * at(&t.dout, qi + i);
                        }
                    }
                }
            }
        }
        [out, lse, dq, dk, dv]
    }
}

/// Squared error over squared size of the exact values.
fn nmse(found: &[f32], exact: &[f64]) -> f64 {
    let error: f64 = found.iter().zip(exact).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
    error / exact.iter().map(|x| x * x).sum::<f64>().max(1e-30)
}

#[test]
fn forward_and_backward_are_the_textbook_s() {
    for case in cases() {
        let t = case.tensors();
        let (out, lse) = case.forward(&t);
        let [dq, dk, dv] = case.backward(&t, &out, &lse);
        let exact = case.exact(&t);
        for (name, found, exact) in [("out", &out, 0), ("lse", &lse, 1), ("dq", &dq, 2), ("dk", &dk, 3), ("dv", &dv, 4)]
            .map(|(name, found, index)| (name, found, &exact[index]))
        {
            let error = nmse(found, exact);
            // Alone or behind a window of one, a row's score gradients are exactly zero in theory.
            let bound = if case.shape.window == Some(1) || case.tokens() == 1 { 1e-9 } else { 1e-11 };
            let tiny = exact.iter().all(|x| x.abs() < 1e-12);
            assert!(error < bound || tiny, "{name} {:?} {:?}: {error}", case.shape, case.segments);
        }
    }
}

#[test]
fn backends_and_threads_agree_bit_for_bit() {
    for case in cases() {
        let t = case.tensors();
        let all = || {
            let (out, lse) = case.forward(&t);
            let gradients = case.backward(&t, &out, &lse);
            [bits(&out), bits(&lse), bits(&gradients[0]), bits(&gradients[1]), bits(&gradients[2])]
        };
        let expected = Backend::Reference.with(all);
        for backend in Backend::supported() {
            assert!(backend.with(all) == expected, "{backend} {:?}", case.shape);
        }
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert!(pool.install(all) == expected, "{threads} threads {:?}", case.shape);
        }
    }
}

#[test]
fn packed_equals_alone_and_decoded() {
    for case in cases() {
        let t = case.tensors();
        let (out, lse) = case.forward(&t);
        let gradients = case.backward(&t, &out, &lse);
        let (wide, narrow, heads) = (case.shape.query_width(), case.shape.key_width(), case.shape.heads);
        for pair in case.segments.windows(2) {
            let (start, end) = (pair[0] as usize, pair[1] as usize);
            let alone = Case { shape: case.shape, segments: vec![0, (end - start) as u32] };
            let part = Tensors {
                q: t.q[start * wide..end * wide].to_vec(),
                k: t.k[start * narrow..end * narrow].to_vec(),
                v: t.v[start * narrow..end * narrow].to_vec(),
                dout: t.dout[start * wide..end * wide].to_vec(),
            };
            let (part_out, part_lse) = alone.forward(&part);
            assert_eq!(bits(&part_out), bits(&out[start * wide..end * wide]));
            assert_eq!(bits(&part_lse), bits(&lse[start * heads..end * heads]));
            let [dq, dk, dv] = alone.backward(&part, &part_out, &part_lse);
            assert_eq!(bits(&dq), bits(&gradients[0][start * wide..end * wide]));
            assert_eq!(bits(&dk), bits(&gradients[1][start * narrow..end * narrow]));
            assert_eq!(bits(&dv), bits(&gradients[2][start * narrow..end * narrow]));

            let lengths: Vec<usize> = (1..=end - start).collect();
            let caches: Vec<CacheView<'_>> =
                lengths.iter().map(|&length| CacheView { keys: &part.k, values: &part.v, length }).collect();
            let mut decoded = vec![f32::NAN; part.q.len()];
            decode(&part.q, &caches, &case.shape, &mut decoded);
            assert_eq!(bits(&decoded), bits(&part_out), "{:?}", case.shape);
        }
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let case = Case { shape: AttentionShape { scale: 1.0, ..shape(1, 1, 4, None) }, segments: vec![0, 130] };
    let mut t = case.tensors();
    t.q.iter_mut().for_each(|x| *x *= 100.0);
    t.k.iter_mut().for_each(|x| *x *= 100.0);
    let (out, lse) = case.forward(&t);
    assert!(out.iter().chain(&lse).all(|x| x.is_finite()));
    assert!(case.backward(&t, &out, &lse).iter().flatten().all(|x| x.is_finite()));
}
