//! Operations on the emulated device as one of compute capability 7.5, whose tensor cores take halves alone. Runs in
//! processes of its own, as the capability is the whole process's.

use std::process::Command;

use crate::support::{TURING, bits, emulated, is_real, random, upload};
use half::f16;
use luthier_cuda::Precision;
use luthier_kernels::device::{Component, Device, DeviceExt, FloatType, Matrix, Operand};
use luthier_kernels::nf4;
use luthier_kernels::testkit::nmse;

/// Both factors are rounded to 11 bits. One term of each sum is far above the others, so the roundings do not average out:
/// 2⁻²² each.
const F16: f64 = 5e-7;

/// Runs the tests named like `filter` in a process whose device is of capability 7.5; whether this is another process.
fn apart(filter: &str) -> bool {
    if std::env::var_os(TURING).is_some() {
        return false;
    }
    if is_real() {
        eprintln!("skipped: a real device has the capability that it has");
        return true;
    }
    if emulated(Precision::Bf16).is_some() {
        let program = std::env::current_exe().unwrap();
        let output = Command::new(program).arg(filter).env(TURING, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
        assert!(!text.contains("running 0 tests"), "`{filter}` names no test");
    }
    true
}

#[test]
fn operations_on_activations_in_f16_are_the_cpu_s() {
    if std::env::var_os(TURING).is_none() {
        apart("narrow::");
    }
}

/// The product of rows, one size of element per row, with a matrix `[n, k]`.
fn product(device: &dyn Device, x: &[f32], w: Operand<'_>, [m, n, k]: [usize; 3], transposed: bool) -> Vec<f32> {
    let input = upload(device, x);
    let mut out = upload(device, &vec![f32::NAN; m * if transposed { k } else { n }]);
    if transposed {
        device.matmul_nn(input.all().into(), w, [m, n, k], 0.5, false, out.all_mut().into());
    } else {
        device.matmul_nt(input.all().into(), w, [m, n, k], 0.5, false, out.all_mut().into());
    }
    let mut values = vec![0.0; out.len()];
    device.read(out.all(), &mut values);
    device.synchronize().unwrap();
    values
}

/// Rows of a size far outside the range of a half, with their greatest element where only the last threads look.
fn rows(m: usize, width: usize) -> Vec<f32> {
    let mut x = random("x", m * width);
    for (row, x) in x.chunks_mut(width).enumerate() {
        let power = [1e-10, 1e-6, 1.0, 7e5, 1e10][row % 5];
        x.iter_mut().for_each(|value| *value *= power);
        x[width - 1] *= 1e5;
    }
    x
}

#[test]
fn products_with_f32_keep_its_range() {
    if apart("turing::products_with_f32") {
        return;
    }
    let Some(device) = emulated(Precision::Bf16) else { return };
    assert!(!device.has_bf16());
    let device: &dyn Device = &device;
    for [m, n, k] in [[9, 72, 128], [1, 80, 192], [40, 136, 72], [130, 140, 264]] {
        let dense: Vec<f32> = random("w", n * k).iter().map(|value| f16::from_f32(*value).to_f32()).collect();
        let halves: Vec<f16> = dense.iter().map(|value| f16::from_f32(*value)).collect();
        let quantized = nf4::quantize(&dense, n, k, true);
        let mut decoded = vec![0.0; n * k];
        nf4::dequantize(&quantized.view(), 0..n, &mut decoded);
        let matrix = Matrix::of_nf4(device, Component::Weights, &quantized.view()).unwrap();
        let (wide, narrow) = (upload(device, &dense), upload(device, &halves));
        let stored =
            [(Operand::F32(wide.all()), &dense), (Operand::F16(narrow.all()), &dense), (matrix.operand(), &decoded)];
        for transposed in [false, true] {
            let (inner, outer) = if transposed { (n, k) } else { (k, n) };
            let x = rows(m, inner);
            for (operand, values) in stored {
                let found = product(device, &x, operand, [m, n, k], transposed);
                for (row, found) in found.chunks(outer).enumerate() {
                    let w = |j: usize, s: usize| if transposed { values[s * k + j] } else { values[j * k + s] };
                    let term = |j: usize, s: usize| 0.5 * f64::from(x[row * inner + s]) * f64::from(w(j, s));
                    let exact: Vec<f64> = (0..outer).map(|j| (0..inner).map(|s| term(j, s)).sum()).collect();
                    let error = nmse(found, &exact);
                    assert!(error <= F16, "{m} {n} {k} transposed={transposed} row {row}: error {error:e}");
                }
                let alone = product(device, &x[..inner], operand, [1, n, k], transposed);
                assert_eq!(bits(&alone), bits(&found[..outer]), "a row's bits alone, {m} {n} {k} {transposed}");
            }
        }
    }
}

/// Beyond the range of a half there is an infinity, which no later step mistakes for a number.
#[test]
fn what_is_beyond_the_range_becomes_infinite() {
    if apart("turing::what_is_beyond") {
        return;
    }
    let Some(device) = emulated(Precision::Bf16) else { return };
    assert_eq!(device.activation_type(), FloatType::F16);
    let device: &dyn Device = &device;
    let x = upload(device, &[65_519.0f32, 65_520.0, -1e6, f32::NAN, 6e-8, 2e-8]);
    let mut out = upload(device, &[f16::ONE; 6]);
    device.copy(x.all().into(), out.all_mut().into());
    let mut found = [f16::ZERO; 6];
    device.read(out.all(), &mut found);
    device.synchronize().unwrap();
    assert_eq!(found[0], f16::MAX);
    assert_eq!([found[1], found[2]], [f16::INFINITY, f16::NEG_INFINITY]);
    assert!(found[3].is_nan());
    assert_eq!([found[4], found[5]], [f16::MIN_POSITIVE_SUBNORMAL, f16::ZERO]);
    // A gate and its partner that a half holds, whose product it does not.
    let [gate, up] = [300.0, 400.0].map(|value| upload(device, &[f16::from_f32(value); 4]));
    let mut active = upload(device, &[f16::ONE; 4]);
    device.swiglu(gate.all().into(), up.all().into(), active.all_mut().into());
    let mut found = [f16::ZERO; 4];
    device.read(active.all(), &mut found);
    device.synchronize().unwrap();
    assert_eq!(found, [f16::INFINITY; 4]);
}
