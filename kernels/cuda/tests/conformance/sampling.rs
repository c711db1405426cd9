//! Tokens chosen on the CUDA device, against a sort on the host.

use crate::support::{emulated, upload};
use luthier_cuda::Precision;
use luthier_kernels::device::{Buffer, CpuDevice, Device, DeviceExt, Draw, Sampling};
use luthier_kernels::random::Stream;

fn download(device: &dyn Device, buffer: &Buffer<u32>) -> Vec<u32> {
    let mut values = vec![0; buffer.len()];
    device.read(buffer.all(), &mut values);
    device.synchronize().unwrap();
    values
}

/// Logits on a grid of quarters, so that some are equal.
fn logits(vocabulary: usize, round: u64) -> Vec<f32> {
    let mut values = vec![0.0; vocabulary];
    Stream::new(round, "logits").fill_normal(0, 0.0, 2.0, &mut values);
    values.iter().map(|value| (value * 4.0).round() / 4.0).collect()
}

fn sample(device: &dyn Device, logits: &[f32], sampling: Sampling, random: &[u64]) -> Vec<u32> {
    let vocabulary = logits.len() / random.len();
    let (rows, numbers) = (upload(device, logits), upload(device, random));
    let mut ids = upload(device, &vec![u32::MAX; random.len()]);
    let draw = Draw { sampling, random: numbers.all() };
    device.choose_tokens(rows.all(), vocabulary, Some(draw), ids.all_mut());
    download(device, &ids)
}

/// Tokens by falling logit, the lower id first among equals, with their likelihoods; what the filters leave.
fn kept(logits: &[f32], sampling: Sampling) -> Vec<(usize, f64)> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let likelihood = |token: usize| f64::from((logits[token] - top) / sampling.temperature).exp();
    let mut order: Vec<(usize, f64)> = (0..logits.len()).map(|token| (token, likelihood(token))).collect();
    order.sort_by(|a, b| logits[b.0].total_cmp(&logits[a.0]).then(a.0.cmp(&b.0)));
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k as usize);
    }
    let total: f64 = order.iter().map(|token| token.1).sum();
    let mut sum = 0.0;
    let mut count = 0;
    while count < order.len() && (count == 0 || sum < total * f64::from(sampling.top_p) - 1e-9) {
        sum += order[count].1;
        count += 1;
    }
    order.truncate(count);
    order.sort_unstable_by_key(|token| token.0);
    order
}

#[test]
fn draws_fall_where_the_shares_say() {
    let Some(device) = emulated(Precision::F32) else { return };
    let cpu = CpuDevice::new(2).unwrap();
    for vocabulary in [1, 2, 17, 300, 1500] {
        for (top_k, top_p) in [(0, 1.0), (1, 1.0), (5, 1.0), (100, 1.0), (0, 0.7), (0, 0.1), (40, 0.9)] {
            let sampling = Sampling { temperature: 0.8, top_k, top_p };
            let rows: Vec<Vec<f32>> = (0..12).map(|row| logits(vocabulary, row)).collect();
            let random: Vec<u64> = (0..12).map(|row| u64::MAX / 25 * (2 * row + 1)).collect();
            let found = sample(&device, &rows.concat(), sampling, &random);
            assert_eq!(found, sample(&cpu, &rows.concat(), sampling, &random), "{vocabulary} tokens, {sampling:?}");
            for ((row, random), found) in rows.iter().zip(&random).zip(&found) {
                let kept = kept(row, sampling);
                let total: f64 = kept.iter().map(|token| token.1).sum();
                let place = (*random as f64 / 2f64.powi(64)) * total;
                let mut before = 0.0;
                let chosen = kept.iter().find(|token| {
                    before += token.1;
                    // Likelihoods have 24 bits.
                    token.0 == *found as usize
                        && place <= before + 1e-5 * total
                        && place >= before - token.1 - 1e-5 * total
                });
                assert!(chosen.is_some(), "{vocabulary} tokens, {sampling:?}: token {found} does not hold {place}");
            }
        }
    }
}

#[test]
fn the_first_of_the_likeliest_is_greedy_s() {
    let Some(device) = emulated(Precision::F32) else { return };
    for vocabulary in [1, 5, 256, 257, 2000] {
        let rows: Vec<Vec<f32>> = (0..4).map(|row| logits(vocabulary, row)).collect();
        let input = upload(&device, &rows.concat());
        let mut ids = upload(&device, &[u32::MAX; 4]);
        device.choose_tokens(input.all(), vocabulary, None, ids.all_mut());
        for (row, found) in rows.iter().zip(download(&device, &ids)) {
            let expected = (0..vocabulary).rev().max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
            assert_eq!(found as usize, expected, "{vocabulary} tokens");
        }
    }
}

#[test]
fn zeros_of_both_signs_are_equal_and_nan_is_never_chosen() {
    let Some(device) = emulated(Precision::F32) else { return };
    let input = upload(&device, &[f32::NAN, -0.0, 0.0, -1.0]);
    let mut ids = upload(&device, &[u32::MAX]);
    device.choose_tokens(input.all(), 4, None, ids.all_mut());
    assert_eq!(download(&device, &ids), [1]);
    let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 };
    for random in [0, u64::MAX / 2, u64::MAX] {
        assert_ne!(sample(&device, &[f32::NAN, -0.0, 0.0, -1.0], sampling, &[random]), [0]);
    }
}
