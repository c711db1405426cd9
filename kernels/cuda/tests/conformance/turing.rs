//! Products on the emulated device as one of compute capability 7.5, whose tensor cores take halves alone. Runs in a
//! process of its own, as the capability is the whole process's.

use std::process::Command;

use crate::support::{bits, emulated, in_capability, is_real, random, upload};
use half::f16;
use luthier_cuda::Precision;
use luthier_kernels::device::{Component, Device, DeviceExt, Matrix, Operand};
use luthier_kernels::nf4;
use luthier_kernels::testkit::nmse;

/// Both factors are rounded to 11 bits. One term of each sum is far above the others, so the roundings do not average out:
/// 2⁻²² each.
const F16: f64 = 5e-7;
/// Set in the process that runs these tests alone.
const ALONE: &str = "LUTHIER_TEST_ALONE";

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
fn products_with_halves_keep_the_range_of_f32() {
    if is_real() {
        eprintln!("skipped: a real device has the capability that it has");
        return;
    }
    if std::env::var_os(ALONE).is_none() {
        let program = std::env::current_exe().unwrap();
        let status = Command::new(program).args(["turing::", "--nocapture"]).env(ALONE, "1").status().unwrap();
        assert!(status.success());
        return;
    }
    // Before a device is opened.
    let Some(first) = emulated(Precision::Bf16) else { return };
    drop(first);
    in_capability(7, 5);
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
