//! Round trips of every codec, against candle's independent implementation of the same formats.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use proptest::prelude::*;

use super::*;

/// Normal-like values from a multiplicative generator: a sum of four uniforms, with an outlier now and then.
fn sample(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut uniform = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..count)
        .map(|index| {
            let value = (uniform() + uniform() + uniform() + uniform()) * 0.05;
            if index % 97 == 0 { value * 6.0 } else { value }
        })
        .collect()
}

fn oracle_type(kind: TensorType) -> Option<GgmlDType> {
    Some(match kind {
        TensorType::Q4_0 => GgmlDType::Q4_0,
        TensorType::Q4_1 => GgmlDType::Q4_1,
        TensorType::Q5_0 => GgmlDType::Q5_0,
        TensorType::Q5_1 => GgmlDType::Q5_1,
        TensorType::Q8_0 => GgmlDType::Q8_0,
        TensorType::Q2_K => GgmlDType::Q2K,
        TensorType::Q3_K => GgmlDType::Q3K,
        TensorType::Q4_K => GgmlDType::Q4K,
        TensorType::Q5_K => GgmlDType::Q5K,
        TensorType::Q6_K => GgmlDType::Q6K,
        _ => return None,
    })
}

fn oracle_decode(kind: GgmlDType, bytes: &[u8], count: usize) -> Vec<f32> {
    let storage = candle_core::quantized::QStorage::from_data(bytes.into(), &Device::Cpu, kind).unwrap();
    let tensor = QTensor::new(storage, count).unwrap();
    tensor.dequantize(&Device::Cpu).unwrap().to_vec1().unwrap()
}

fn oracle_error(kind: GgmlDType, values: &[f32]) -> f64 {
    let tensor = Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap();
    let decoded = QTensor::quantize(&tensor, kind).unwrap().dequantize(&Device::Cpu).unwrap().to_vec1().unwrap();
    rms_error(values, &decoded)
}

fn rms_error(values: &[f32], decoded: &[f32]) -> f64 {
    let sum: f64 = values.iter().zip(decoded).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    (sum / values.len() as f64).sqrt()
}

fn round_trip(kind: TensorType, values: &[f32], importance: Option<&[f32]>) -> Vec<f32> {
    let bytes = quantize(kind, values, importance.map_or(values.len(), <[f32]>::len), importance).unwrap();
    let mut decoded = vec![0.0; values.len()];
    dequantize(kind, &bytes, &mut decoded).unwrap();
    decoded
}

#[test]
fn any_bytes_decode_as_candle_decodes_them() {
    for kind in TensorType::with_codec() {
        let Some(oracle) = oracle_type(kind) else { continue };
        let mut bytes = vec![0u8; kind.row_bytes(4096).unwrap()];
        let mut state = 88_172_645_463_325_252u64;
        for byte in &mut bytes {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = (state >> 24) as u8;
        }
        // Scales that are numbers: clear the exponent's highest bit in each half-precision field.
        let halves: &[usize] = match kind {
            TensorType::Q4_1 | TensorType::Q5_1 | TensorType::Q4_K | TensorType::Q5_K => &[0, 2],
            TensorType::Q2_K => &[80, 82],
            TensorType::Q3_K => &[108],
            TensorType::Q6_K => &[208],
            _ => &[0],
        };
        for block in bytes.chunks_exact_mut(kind.block_bytes()) {
            for at in halves {
                block[at + 1] &= 0xBF;
            }
        }
        let mut decoded = vec![0.0; 4096];
        dequantize(kind, &bytes, &mut decoded).unwrap();
        let expected = oracle_decode(oracle, &bytes, 4096);
        for (index, (found, expected)) in decoded.iter().zip(&expected).enumerate() {
            assert_eq!(found.to_bits(), expected.to_bits(), "{kind} element {index}: {found} against {expected}");
        }
    }
}

#[test]
fn encoding_is_no_worse_than_candles() {
    for kind in TensorType::with_codec() {
        let Some(oracle) = oracle_type(kind) else { continue };
        let values = sample(64 * 256, 3);
        let ours = rms_error(&values, &round_trip(kind, &values, None));
        let theirs = oracle_error(oracle, &values);
        println!("{kind:8} ours {ours:.3e} candle {theirs:.3e}");
        assert!(ours <= theirs * 1.0001, "{kind}: rms error {ours} against {theirs}");
    }
}

#[test]
fn error_shrinks_with_bits() {
    let values = sample(64 * 256, 5);
    let rms = rms_error(&values, &vec![0.0; values.len()]);
    // Relative error that a uniform quantiser of so many levels could have, doubled; the codebook types gain a little.
    let bounds = [
        (TensorType::Q2_K, 0.45),
        (TensorType::Q3_K, 0.25),
        (TensorType::IQ4_XS, 0.11),
        (TensorType::IQ4_NL, 0.11),
        (TensorType::Q4_0, 0.15),
        (TensorType::Q4_1, 0.13),
        (TensorType::Q4_K, 0.11),
        (TensorType::Q5_0, 0.07),
        (TensorType::Q5_1, 0.06),
        (TensorType::Q5_K, 0.055),
        (TensorType::Q6_K, 0.03),
        (TensorType::Q8_0, 0.01),
        (TensorType::BF16, 0.003),
        (TensorType::F16, 0.0005),
        (TensorType::F32, 0.0),
    ];
    for (kind, bound) in bounds {
        let error = rms_error(&values, &round_trip(kind, &values, None)) / rms;
        println!("{kind:8} relative {error:.4}");
        assert!(error <= bound, "{kind}: relative error {error}");
        assert!(bound == 0.0 || error > bound / 30.0, "{kind}: error {error} is suspiciously small");
    }
}

#[test]
fn importance_moves_the_error_to_unimportant_columns() {
    let columns = 512;
    let values = sample(columns * 16, 9);
    let importance: Vec<f32> = (0..columns).map(|column| if column % 8 == 0 { 100.0 } else { 1.0 }).collect();
    for kind in [
        TensorType::Q2_K,
        TensorType::Q3_K,
        TensorType::Q4_K,
        TensorType::Q5_K,
        TensorType::Q6_K,
        TensorType::Q4_0,
        TensorType::Q4_1,
        TensorType::Q5_0,
        TensorType::Q5_1,
        TensorType::IQ4_NL,
        TensorType::IQ4_XS,
    ] {
        let weighted = |decoded: &[f32]| -> f64 {
            values
                .iter()
                .zip(decoded)
                .enumerate()
                .map(|(i, (a, b))| f64::from(importance[i % columns]) * f64::from(a - b).powi(2))
                .sum()
        };
        let plain = weighted(&round_trip(kind, &values, Some(&vec![1.0; columns])));
        let guided = weighted(&round_trip(kind, &values, Some(&importance)));
        assert!(guided < plain, "{kind}: {guided} against {plain}");
    }
}

#[test]
fn bytes_do_not_depend_on_threads() {
    let values = sample(TASK_ELEMENTS * 3 + 256, 11);
    let importance = sample(256, 12).iter().map(|x| x.abs() + 0.01).collect::<Vec<_>>();
    let encode = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| quantize(TensorType::Q4_K, &values, 256, Some(&importance)).unwrap())
    };
    assert_eq!(encode(1), encode(3));
}

#[test]
fn wrong_lengths_and_values_are_errors() {
    let mut out = vec![0.0; 32];
    assert!(matches!(dequantize(TensorType::Q4_0, &[0; 17], &mut out), Err(CodecError::Length { expected: 18, .. })));
    assert!(matches!(dequantize(TensorType::Q4_K, &[0; 144], &mut out), Err(CodecError::Ragged { block: 256, .. })));
    assert!(matches!(dequantize(TensorType::IQ1_S, &[], &mut out), Err(CodecError::Unsupported(_))));
    assert!(matches!(quantize(TensorType::Q4_0, &[0.0; 48], 48, None), Err(CodecError::Ragged { .. })));
    let mut values = vec![0.0f32; 64];
    values[40] = f32::NAN;
    let error = quantize(TensorType::Q8_0, &values, 32, None).unwrap_err();
    assert!(matches!(error, CodecError::NotFinite { index: 40, .. }));
    values[40] = 1e6;
    assert!(quantize(TensorType::F16, &values, 32, None).is_err());
    assert!(quantize(TensorType::BF16, &values, 32, None).is_ok());
    let error = error.in_tensor("model.gguf".into(), "blk.0.ffn_up.weight");
    assert_eq!(
        error.message,
        "`model.gguf`: tensor `blk.0.ffn_up.weight`: element 40 is NaN, which Q8_0 cannot represent"
    );
}

fn any_kind() -> impl Strategy<Value = TensorType> {
    proptest::sample::select(TensorType::with_codec().collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever the values, encoding succeeds, decoding is finite, and no value is off by more than a step of the type's
    /// grid over the block's largest value.
    #[test]
    fn round_trip_is_bounded(
        kind in any_kind(),
        exponent in -40i32..15,
        values in proptest::collection::vec(-1.0f32..1.0, 256),
    ) {
        let scale = 2f32.powi(exponent);
        let values: Vec<f32> = values.iter().map(|value| value * scale).collect();
        let decoded = round_trip(kind, &values, None);
        let peak = values.iter().fold(0.0f32, |peak, value| peak.max(value.abs()));
        let (step, floor) = tolerance(kind);
        for (value, decoded) in values.iter().zip(&decoded) {
            prop_assert!(decoded.is_finite());
            prop_assert!((value - decoded).abs() <= step * peak + floor, "{} {} {} {}", kind, value, decoded, peak);
        }
    }

    /// Any bytes decode to something, without a panic.
    #[test]
    fn any_bytes_decode(kind in any_kind(), seed in proptest::collection::vec(any::<u8>(), 292)) {
        let bytes: Vec<u8> = seed.iter().copied().cycle().take(kind.row_bytes(256).unwrap()).collect();
        let mut out = vec![0.0; 256];
        prop_assert!(dequantize(kind, &bytes, &mut out).is_ok());
    }
}
