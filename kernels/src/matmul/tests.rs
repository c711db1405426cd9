use half::{bf16, f16};

use super::*;
use crate::nf4;
use crate::random::Stream;
use crate::{Backend, Weight};

/// `(m, n, k)`: ones, primes, tile multiples, one off a tile, several blocks of `k`, short and long sides.
const SHAPES: [(usize, usize, usize); 16] = [
    (1, 1, 1),
    (1, 64, 576),
    (2, 3, 5),
    (7, 13, 17),
    (8, 48, 384),
    (12, 32, 64),
    (16, 16, 16),
    (17, 49, 385),
    (31, 97, 101),
    (33, 50, 769),
    (64, 192, 128),
    (65, 193, 129),
    (5, 576, 1536),
    (100, 16, 576),
    (16, 576, 100),
    (130, 67, 400),
];

fn random(name: &str, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    Stream::new(1, name).fill_normal(0, 0.0, 1.0, &mut values);
    values
}

/// The law, spelled out: chains over the blocks of `k`, folded in order.
fn law(m: usize, n: usize, k: usize, a: impl Fn(usize, usize) -> f32, b: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    let block = product::block_length(k);
    let mut out = Vec::with_capacity(m * n);
    for i in 0..m {
        for j in 0..n {
            let mut total = 0.0f32;
            for start in (0..k).step_by(block) {
                let chain = (start..k.min(start + block)).fold(0.0f32, |sum, step| a(i, step).mul_add(b(step, j), sum));
                total = 1.0f32.mul_add(chain, total);
            }
            out.push(total);
        }
    }
    out
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

#[test]
fn every_backend_follows_the_law() {
    for (m, n, k) in SHAPES {
        let (a, b) = (random("a", m * k), random("b", n * k));
        let expected_nt = law(m, n, k, |i, s| a[i * k + s], |s, j| b[j * k + s]);
        let expected_nn = law(m, n, k, |i, s| a[i * k + s], |s, j| b[s * n + j]);
        let expected_tn = law(m, n, k, |i, s| a[s * m + i], |s, j| b[s * n + j]);
        for backend in Backend::supported() {
            backend.with(|| {
                let mut out = vec![f32::NAN; m * n];
                nt(&a, m, k, &Weight::F32(&b), n, &mut out, 1.0, false);
                assert_eq!(bits(&out), bits(&expected_nt), "nt {backend} {m} {n} {k}");
                nn(&a, m, k, &Weight::F32(&b), n, &mut out, 1.0, false);
                assert_eq!(bits(&out), bits(&expected_nn), "nn {backend} {m} {n} {k}");
                tn(&a, &b, k, m, n, &mut out, 1.0, false);
                assert_eq!(bits(&out), bits(&expected_tn), "tn {backend} {m} {n} {k}");
            });
        }
    }
}

#[test]
fn close_to_f64() {
    let (m, n, k) = (33, 50, 769);
    let (a, b) = (random("a", m * k), random("b", n * k));
    let mut out = vec![0.0; m * n];
    nt(&a, m, k, &Weight::F32(&b), n, &mut out, 0.5, false);
    let (mut error, mut energy) = (0.0, 0.0);
    for i in 0..m {
        for j in 0..n {
            let exact: f64 = 0.5 * (0..k).map(|s| f64::from(a[i * k + s]) * f64::from(b[j * k + s])).sum::<f64>();
            error += (f64::from(out[i * n + j]) - exact).powi(2);
            energy += exact.powi(2);
        }
    }
    assert!(error / energy < 1e-12, "{}", error / energy);
}

#[test]
fn threads_rows_and_scratch_do_not_matter() {
    let (m, n, k) = (300, 200, 700);
    let (a, b) = (random("a", m * k), random("b", n * k));
    let run = |rows: std::ops::Range<usize>| {
        let mut out = vec![0.0; rows.len() * n];
        nt(&a[rows.start * k..rows.end * k], rows.len(), k, &Weight::F32(&b), n, &mut out, 1.0, false);
        bits(&out)
    };
    let whole = pool(1).install(|| run(0..m));
    for threads in [2, 3, 5] {
        assert_eq!(pool(threads).install(|| run(0..m)), whole, "{threads} threads");
    }
    assert_eq!(run(17..18), whole[17 * n..18 * n]);
    assert_eq!(run(40..93), whole[40 * n..93 * n]);
}

#[test]
fn every_storage_type_equals_its_converted_copy() {
    for (n, k) in [(48, 64), (50, 40), (33, 50), (64, 192), (7, 129), (90, 682), (53, 2048)] {
        let m = 9;
        let (x, dense) = (random("x", m * k.max(n)), random("w", n * k));
        let half: Vec<f16> = dense.iter().map(|v| f16::from_f32(*v)).collect();
        let brain: Vec<bf16> = dense.iter().map(|v| bf16::from_f32(*v)).collect();
        let plain = nf4::quantize(&dense, n, k, false);
        let nested = nf4::quantize(&dense, n, k, true);
        let weights = [Weight::F16(&half), Weight::Bf16(&brain), Weight::Nf4(plain.view()), Weight::Nf4(nested.view())];
        for weight in weights {
            let mut copy = vec![0.0; n * k];
            weight.read_f32(0, &mut copy);
            for backend in Backend::supported() {
                backend.with(|| {
                    let (mut found, mut expected) = (vec![0.5; m * n], vec![0.5; m * n]);
                    nt(&x[..m * k], m, k, &weight, n, &mut found, 2.0, true);
                    nt(&x[..m * k], m, k, &Weight::F32(&copy), n, &mut expected, 2.0, true);
                    assert_eq!(bits(&found), bits(&expected), "nt {backend} {n} {k}");
                    let (mut found, mut expected) = (vec![0.5; m * k], vec![0.5; m * k]);
                    nn(&x[..m * n], m, n, &weight, k, &mut found, 2.0, true);
                    nn(&x[..m * n], m, n, &Weight::F32(&copy), k, &mut expected, 2.0, true);
                    assert_eq!(bits(&found), bits(&expected), "nn {backend} {n} {k}");
                });
            }
        }
    }
}

#[test]
fn empty_sides() {
    let mut out = [7.0; 6];
    nt(&[], 2, 0, &Weight::F32(&[]), 3, &mut out, 1.0, true);
    assert_eq!(out, [7.0; 6]);
    nt(&[], 2, 0, &Weight::F32(&[]), 3, &mut out, 1.0, false);
    assert_eq!(out, [0.0; 6]);
    nt(&[], 0, 5, &Weight::F32(&[0.0; 15]), 3, &mut [], 1.0, false);
    nt(&[1.0; 4], 2, 2, &Weight::F32(&[]), 0, &mut [], 1.0, false);
}

#[test]
fn a_nan_stays_in_its_row_and_column() {
    let (m, n, k) = (20, 60, 70);
    let (mut a, mut b) = (random("a", m * k), random("b", n * k));
    a[3 * k + 5] = f32::NAN;
    b[11 * k + 7] = f32::INFINITY;
    let mut out = vec![0.0; m * n];
    nt(&a, m, k, &Weight::F32(&b), n, &mut out, 1.0, false);
    for i in 0..m {
        for j in 0..n {
            let value = out[i * n + j];
            assert_eq!(value.is_nan(), i == 3, "{i} {j}");
            assert_eq!(value.is_infinite(), i != 3 && j == 11, "{i} {j}");
        }
    }
}
