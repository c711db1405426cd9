//! Norms, rotary positions and gates on the emulated CUDA device, against the CPU's.

use crate::support::{ORDERS, Output, bits, emulated, in_order, nmse, random, upload};
use luthier_cuda::Precision;
use luthier_kernels::device::{Component, CpuDevice, Device, DeviceExt};
use luthier_kernels::rope::{Scaling, Table};

/// Two `f32` sums of a few thousand squares in different orders, a division and a square root.
const NORM: f64 = 1e-12;
/// Two exponentials within 1.5 ulp and 2 ulp, and two roundings each.
const GATE: f64 = 1e-13;

fn norm(device: &dyn Device, rows: usize, d: usize, shift: usize, accumulate: bool) -> [Vec<f32>; 3] {
    let x = upload(device, &random("x", rows * d + shift));
    let weight = upload(device, &random("weight", d));
    let dy = upload(device, &random("dy", rows * d));
    let mut out = Output::new(device, rows * d, f32::NAN);
    let mut inverse = Output::new(device, rows, f32::NAN);
    let mut dx = Output::new(device, rows * d, if accumulate { 0.25 } else { f32::NAN });
    let x = x.slice(shift..);
    device.rms_norm(x.into(), weight.all(), 1e-5, out.view().into(), inverse.view());
    device.rms_norm_backward(x.into(), weight.all(), inverse.shared(), dy.all().into(), accumulate, dx.view().into());
    [out.read(device), inverse.read(device), dx.read(device)]
}

#[test]
fn norms_are_the_cpu_s() {
    let Some(cuda) = emulated(Precision::F32) else { return };
    let cpu = CpuDevice::new(2).unwrap();
    for (rows, d) in [(0, 3), (1, 1), (3, 5), (2, 64), (3, 576), (1, 2049), (2, 8196), (1, 8301)] {
        for (shift, accumulate) in [(0, false), (0, true), (1, true)] {
            let found = norm(&cuda, rows, d, shift, accumulate);
            let expected = norm(&cpu, rows, d, shift, accumulate);
            for (name, found, expected) in [
                ("out", &found[0], &expected[0]),
                ("inverse", &found[1], &expected[1]),
                ("dx", &found[2], &expected[2]),
            ] {
                let error = nmse(found, expected);
                assert!(
                    error < NORM,
                    "{name} of rms_norm rows={rows} d={d} shift={shift} accumulate={accumulate}: {error}"
                );
            }
        }
    }
}

#[test]
fn a_row_s_norm_has_the_same_bits_alone() {
    let Some(cuda) = emulated(Precision::F32) else { return };
    let all = norm(&cuda, 3, 68, 0, false);
    let alone = norm(&cuda, 1, 68, 0, false);
    for (all, alone) in all.iter().zip(&alone) {
        assert_eq!(bits(&all[..alone.len()]), bits(alone));
    }
}

#[test]
fn rotations_have_the_cpu_s_bits() {
    let Some(cuda) = emulated(Precision::F32) else { return };
    let cpu = CpuDevice::new(2).unwrap();
    for (tokens, heads, d) in [(0, 1, 2), (1, 1, 2), (3, 2, 10), (5, 3, 64), (2, 1, 96)] {
        let run = |device: &dyn Device| {
            let rotary = device.rotary(Table::new(d, 10_000.0, Scaling::None, 40)).unwrap();
            let positions: Vec<u32> = (0..tokens as u32).map(|at| at * 13 % 40).collect();
            let positions = upload(device, &positions);
            let mut x = upload(device, &random("x", tokens * heads * d));
            let mut rotated = vec![0.0; x.len()];
            device.rope(positions.all(), heads, &rotary, false, x.all_mut().into());
            device.read(x.all(), &mut rotated);
            device.rope(positions.all(), heads, &rotary, true, x.all_mut().into());
            let mut back = vec![0.0; x.len()];
            device.read(x.all(), &mut back);
            (bits(&rotated), bits(&back))
        };
        assert_eq!(run(&cuda), run(&cpu), "tokens={tokens} heads={heads} d={d}");
    }
}

#[test]
fn a_position_outside_the_table_shows() {
    let Some(cuda) = emulated(Precision::F32) else { return };
    let rotary = cuda.rotary(Table::new(4, 10_000.0, Scaling::None, 3)).unwrap();
    let positions = upload(&cuda, &[2_u32, 3]);
    let mut x = upload(&cuda, &[1.0_f32; 8]);
    cuda.rope(positions.all(), 1, &rotary, false, x.all_mut().into());
    let mut rotated = [0.0; 8];
    (&cuda as &dyn Device).read(x.all(), &mut rotated);
    assert!(rotated[..4].iter().all(|x| x.is_finite()) && rotated[4..].iter().all(|x| x.is_nan()), "{rotated:?}");
}

#[test]
fn gates_are_the_cpu_s() {
    let Some(cuda) = emulated(Precision::F32) else { return };
    let cpu = CpuDevice::new(2).unwrap();
    for len in [0, 1, 255, 256, 257, 1024, 1028] {
        let run = |device: &dyn Device| {
            let wide: Vec<f32> = random("gate", len).iter().map(|x| x * 8.0).collect();
            let (gate, up, dout) =
                (upload(device, &wide), upload(device, &random("up", len)), upload(device, &random("dout", len)));
            let [mut out, mut dgate, mut dup] = [(); 3].map(|()| Output::new(device, len, f32::NAN));
            device.copy(gate.all().into(), dgate.view().into());
            device.copy(dout.all().into(), dup.view().into());
            device.swiglu(gate.all().into(), up.all().into(), out.view().into());
            device.swiglu_backward(dgate.view().into(), up.all().into(), dup.view().into());
            [out.read(device), dgate.read(device), dup.read(device)]
        };
        for (name, (found, expected)) in ["out", "dgate", "dup"].iter().zip(run(&cuda).iter().zip(&run(&cpu))) {
            let error = nmse(found, expected);
            assert!(error < GATE, "{name} of swiglu len={len}: {error}");
        }
    }
}

#[test]
fn gates_with_gelu_are_the_cpu_s() {
    let Some(cuda) = emulated(Precision::F32) else { return };
    let cpu = CpuDevice::new(2).unwrap();
    for len in [0, 1, 255, 256, 257, 1024, 1028] {
        let run = |device: &dyn Device| {
            let wide: Vec<f32> = random("gate", len).iter().map(|x| x * 4.0).collect();
            let (gate, up, dout) =
                (upload(device, &wide), upload(device, &random("up", len)), upload(device, &random("dout", len)));
            let [mut out, mut dgate, mut dup] = [(); 3].map(|()| Output::new(device, len, f32::NAN));
            device.geglu(gate.all(), up.all(), out.view());
            device.geglu_backward(gate.all(), up.all(), dout.all(), dgate.view(), dup.view());
            [out.read(device), dgate.read(device), dup.read(device)]
        };
        for (name, (found, expected)) in ["out", "dgate", "dup"].iter().zip(run(&cuda).iter().zip(&run(&cpu))) {
            let error = nmse(found, expected);
            assert!(error < GATE, "{name} of geglu len={len}: {error}");
        }
    }
}

#[test]
fn the_ledger_is_empty_at_the_end() {
    let Some(cuda) = emulated(Precision::F32) else { return };
    let before = cuda.ledger().current(Component::Scratch);
    drop(upload(&cuda, &[1.0_f32; 3]));
    assert_eq!(cuda.ledger().current(Component::Scratch), before);
}

#[test]
fn orders_of_threads_change_no_bit() {
    let Some(cuda) = emulated(Precision::F32) else { return };
    let expected = norm(&cuda, 2, 2052, 0, false).map(|values| bits(&values));
    for order in ORDERS {
        in_order(order);
        assert_eq!(norm(&cuda, 2, 2052, 0, false).map(|values| bits(&values)), expected, "{order}");
    }
}
