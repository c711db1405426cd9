//! Loops over buffers and rows, randomness, optimisers and DoRA. All but sums in `f64` have the CPU's bits.

use half::bf16;
use luthier_cuda::Precision;
use luthier_kernels::device::{
    AdamW, Buffer, Component, CpuDevice, Device, DeviceExt, DoraRows, Dropout, Matrix, Moments8, NO_ROW, Noise,
    Segments, Storage,
};
use luthier_kernels::random::Stream;

use crate::support::{Output, bits, emulated, nmse, random, upload};

/// Two sums in `f64` in different orders, rounded to `f32`: at most the last bit differs.
const ROUNDED: f64 = 1e-14;

/// Runs `work` on both devices and returns what it gives.
fn both<T>(work: impl Fn(&dyn Device) -> T) -> Option<(T, T)> {
    let cuda = emulated(Precision::F32)?;
    let cpu = CpuDevice::new(2).unwrap();
    Some((work(&cuda), work(&cpu)))
}

const LENGTHS: [usize; 6] = [0, 1, 255, 256, 257, 1031];

#[test]
fn whole_buffers() {
    for len in LENGTHS {
        let Some((found, expected)) = both(|device| {
            let x = upload(device, &random("x", len));
            let [mut zeroed, mut copied, mut added, mut scaled] = [(); 4].map(|()| Output::new(device, len, 0.37));
            device.zero(zeroed.view());
            device.copy(x.all().into(), copied.view().into());
            device.add(x.all().into(), added.view().into());
            device.copy(x.all().into(), scaled.view().into());
            device.scale(0.3, scaled.view().into());
            [zeroed, copied, added, scaled].map(|output| bits(&output.read(device)))
        }) else {
            return;
        };
        assert_eq!(found, expected, "len={len}");
    }
}

#[test]
fn rows_and_columns() {
    for (rows, width) in [(1, 1), (3, 5), (7, 256), (2, 259)] {
        let Some((found, expected)) = both(|device| {
            let x = upload(device, &random("x", rows * width));
            let factors = upload(device, &random("factors", width));
            let picks: Vec<u32> =
                (0..rows as u32 + 2).map(|at| if at == 1 { NO_ROW } else { at * 5 % rows as u32 }).collect();
            let spread: Vec<u32> = (0..rows as u32).rev().collect();
            let offsets: Vec<u32> = vec![0, 0, 1, rows as u32];
            let (picks, spread, offsets) = (upload(device, &picks), upload(device, &spread), upload(device, &offsets));
            let mut biased = Output::new(device, rows * width, 0.5);
            let mut columns = Output::new(device, rows * width, 0.5);
            let mut gathered = Output::new(device, picks.len() * width, f32::NAN);
            let mut summed = Output::new(device, 3 * width, f32::NAN);
            let mut scattered = Output::new(device, rows * width, f32::NAN);
            device.add_bias(factors.all(), biased.view().into());
            device.scale_columns(x.all().into(), factors.all(), true, columns.view().into());
            device.gather_rows(x.all().into(), picks.all(), width, gathered.view().into());
            device.sum_rows(x.all().into(), offsets.all(), spread.all(), width, summed.view().into());
            device.scatter_rows(x.all(), spread.all(), width, scattered.view());
            [biased, columns, gathered, summed, scattered].map(|output| bits(&output.read(device)))
        }) else {
            return;
        };
        assert_eq!(found, expected, "rows={rows} width={width}");
    }
}

#[test]
fn dropout_and_noise_draw_the_same_numbers() {
    for (len, offset) in [(0, 0), (1, 4), (1026, 8), (4099, 1 << 33)] {
        let Some((found, expected)) = both(|device| {
            let x = upload(device, &random("x", len));
            let stream = Stream::new(11, "site");
            let offsets = upload(device, &[offset, offset + 3]);
            let [mut dropped, mut added, mut noisy] = [(); 3].map(|()| Output::new(device, len, 0.25));
            let dropout = Dropout { probability: 0.3, stream, offset: offsets.slice(..1) };
            device.dropout(x.all().into(), dropout, false, dropped.view().into());
            device.dropout(x.all().into(), dropout, true, added.view().into());
            // Sequences of different lengths, one of them empty, in rows of one.
            let middle = (len / 3) as u32;
            let starts = upload(device, &[0, middle, middle, len as u32]);
            let segments = Segments { starts: starts.all(), longest: len - len / 3 };
            let noise = Noise { strength: 5.0, stream, offset: offsets.slice(1..) };
            device.add_noise(noise, segments, 1, noisy.view());
            [dropped, added, noisy].map(|output| bits(&output.read(device)))
        }) else {
            return;
        };
        assert_eq!(found, expected, "len={len} offset={offset}");
    }
}

fn factors(device: &dyn Device, step: u64) -> Buffer<f32> {
    let step = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, step };
    upload(device, &step.factors().to_array())
}

#[test]
fn adamw_has_the_cpu_s_bits() {
    for len in LENGTHS {
        let Some((found, expected)) = both(|device| {
            let [mut params, mut m, mut v] =
                [random("params", len), vec![0.0; len], vec![0.0; len]].map(|values| upload(device, &values));
            for at in 1..=3 {
                let grads = upload(device, &random(&format!("grads {at}"), len));
                device.adamw(grads.all(), factors(device, at).all(), params.all_mut(), m.all_mut(), v.all_mut());
            }
            [params, m, v].map(|buffer| {
                let mut values = vec![0.0; len];
                device.read(buffer.all(), &mut values);
                bits(&values)
            })
        }) else {
            return;
        };
        assert_eq!(found, expected, "len={len}");
    }
}

#[test]
fn adamw_in_eight_bits_has_the_cpu_s_bits() {
    for (len, steps) in LENGTHS.into_iter().flat_map(|len| [(len, 1), (len, 4)]) {
        let Some((found, expected)) = both(|device| {
            let blocks = len.div_ceil(256);
            let mut params = upload(device, &random("params", len));
            let [mut first, mut second] = [(); 2].map(|()| upload(device, &vec![0_u8; len]));
            let [mut first_scales, mut second_scales] = [(); 2].map(|()| upload(device, &vec![0.0_f32; blocks]));
            for at in 1..=steps {
                let mut grads = random(&format!("grads {at}"), len);
                // A block of zeros keeps a scale of one.
                grads.iter_mut().take(256).for_each(|grad| *grad = if at == 1 { 0.0 } else { *grad });
                let grads = upload(device, &grads);
                let moments = Moments8 {
                    codes: [first.all_mut(), second.all_mut()],
                    scales: [first_scales.all_mut(), second_scales.all_mut()],
                };
                device.adamw_8bit(grads.all(), factors(device, at).all(), params.all_mut(), moments);
            }
            let mut values = vec![0.0; len];
            device.read(params.all(), &mut values);
            let codes = [first, second].map(|codes| {
                let mut bytes = vec![0; len];
                device.read(codes.all(), &mut bytes);
                bytes
            });
            let scales = [first_scales, second_scales].map(|scales| {
                let mut values = vec![0.0; blocks];
                device.read(scales.all(), &mut values);
                bits(&values)
            });
            (bits(&values), codes, scales)
        }) else {
            return;
        };
        assert!(found == expected, "len={len} steps={steps}");
    }
}

#[test]
fn norms_and_sums_are_exact() {
    for len in [0, 1, 255, 8192, 8193, 40_000] {
        let Some((found, expected)) = both(|device| {
            let x = upload(device, &random("x", len));
            let mut out = upload(device, &[f64::NAN, f64::NAN, 0.5]);
            device.norm(x.all(), out.slice_mut(..1));
            device.sum(x.all(), false, out.slice_mut(1..2));
            device.sum(x.all(), true, out.slice_mut(2..));
            let mut values = [0.0; 3];
            device.read(out.all(), &mut values);
            values
        }) else {
            return;
        };
        for (found, expected) in found.iter().zip(&expected) {
            // Sums of values of both signs: rounding is relative to their sizes, of which there are `len`.
            assert!((found - expected).abs() <= 1e-14 * expected.max(len as f64), "len={len}: {found} {expected}");
        }
    }
}

#[test]
fn clipping_has_the_cpu_s_bits() {
    for limit in [0.3, 2.0, 1e9] {
        let Some((found, expected)) = both(|device| {
            let norm = upload(device, &[2.0_f64]);
            let mut x = Output::new(device, 1000, 0.7);
            device.clip(norm.all(), limit, x.view());
            bits(&x.read(device))
        }) else {
            return;
        };
        assert_eq!(found, expected, "limit {limit}");
        assert_eq!(found[0] == 0.7_f32.to_bits(), limit >= 2.0, "limit {limit}");
    }
}

#[test]
fn a_norm_that_is_no_number_scales_nothing() {
    let Some((found, _)) = both(|device| {
        let norm = upload(device, &[f64::NAN]);
        let mut x = Output::new(device, 3, 0.7);
        device.clip(norm.all(), 1.0, x.view());
        x.read(device)
    }) else {
        return;
    };
    assert_eq!(found, [0.7; 3]);
}

#[test]
fn dora_s_rows_and_columns() {
    for (rows, cols, rank) in [(1, 64, 1), (5, 64, 3), (300, 128, 8)] {
        let Some((found, expected)) = both(|device| {
            let dense: Vec<f32> = random("w", rows * cols).iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
            let mut squares: Vec<Vec<f32>> = Vec::new();
            for storage in [Storage::F32, Storage::Bf16, Storage::F16, Storage::Nf4] {
                let mut read = |range: std::ops::Range<usize>, out: &mut [f32]| -> Result<(), String> {
                    out.copy_from_slice(&dense[range.start * cols..range.end * cols]);
                    Ok(())
                };
                let shape = [rows, cols];
                let matrix =
                    Matrix::load(device, Component::Weights, shape, storage, &mut read, |error| error.to_string());
                let mut out = Output::new(device, rows, f32::NAN);
                device.row_squares(matrix.unwrap().operand(), shape, out.view());
                squares.push(out.read(device));
            }
            let uploaded = upload(device, &squares[0]);
            let cross = upload(device, &random("cross", rank * rows));
            let gram = upload(device, &random("gram", rank * rank));
            let b = upload(device, &random("b", rows * rank));
            let magnitude = upload(device, &random("magnitude", rows));
            let changed =
                DoraRows { squares: uploaded.all(), cross: cross.all(), gram: gram.all(), b: b.all(), scale: 0.2 };
            let [mut gains, mut inverse, mut norms] = [(); 3].map(|()| Output::new(device, rows, f32::NAN));
            device.dora_gains(changed, None, norms.view(), inverse.view());
            device.dora_gains(changed, Some(magnitude.all()), gains.view(), inverse.view());
            let (dy, x) = (upload(device, &random("dy", 7 * rows)), upload(device, &random("x", 7 * rows)));
            let mut dots = Output::new(device, rows, 0.5);
            device.column_dots(dy.all().into(), x.all().into(), magnitude.all(), true, dots.view());
            squares.extend([gains, inverse, norms, dots].map(|output| output.read(device)));
            squares
        }) else {
            return;
        };
        for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let error = nmse(found, expected);
            assert!(error < ROUNDED, "rows={rows} cols={cols} rank={rank}, result {at}: {error}");
        }
    }
}

#[test]
fn operations_join_a_stream_of_somebody_else_s() {
    use cudarc::driver::sys;
    let Some(theirs) = emulated(Precision::F32) else { return };
    let options = luthier_cuda::CudaOptions { precision: Precision::F32, ..luthier_cuda::CudaOptions::default() };
    let mut stream = std::ptr::null_mut();
    // A write makes the device's context this thread's.
    let x = upload(&theirs, &random("x", 300));
    theirs.synchronize().unwrap();
    // SAFETY: the context is current and the stream is written to.
    unsafe { sys::cuStreamCreate(&raw mut stream, 1) }.result().unwrap();
    // SAFETY: it is a stream of the context, and destroyed below.
    let ours = unsafe { luthier_cuda::CudaDevice::join(options, stream.cast()) }.unwrap();
    let mut out = Output::new(&ours, 300, 0.5);
    ours.add(x.all().into(), out.view().into());
    ours.check().unwrap();
    let expected: Vec<f32> = random("x", 300).iter().map(|x| x + 0.5).collect();
    assert_eq!(bits(&out.read(&ours)), bits(&expected));
    drop((out, ours));
    // SAFETY: nobody uses the stream any more.
    unsafe { sys::cuStreamDestroy_v2(stream) }.result().unwrap();
}
