//! Products, conversions, embedding and loss on the CUDA device, against definitions in `f64` and the CPU's decoding.
//!
//! Tolerances are squared errors over squared sizes. `f32`: sums of a few hundred products in `f32`, half an ulp each with
//! random signs, stay under 1e-12, as on the CPU. `bf16`: both factors are rounded to 8 bits, each with a relative error of
//! variance 2⁻¹⁸/3 at most, so a product of random numbers has 2.6e-6; against the product of the rounded factors only the
//! summation is left, for which hardware may drop bits below the greatest term of a step, so 1e-11 is allowed.

use crate::support::emulator::build_cublas;
use crate::support::{ORDERS, bits, emulated, in_order, is_real, random, upload};
use half::{bf16, f16};
use luthier_cuda::Precision;
use luthier_kernels::blocks::{BlockKind, BlockView};
use luthier_kernels::device::{Buffer, Component, Device, DeviceExt, Head, Matrix, Operand, Storage};
use luthier_kernels::nf4;
use luthier_kernels::random::Stream;
use luthier_kernels::testkit::nmse;

const F32: f64 = 1e-12;
const BF16_ROUNDED: f64 = 1e-11;
const BF16: f64 = 1e-5;
/// What an output holds before it is added to.
const INITIAL: f32 = 0.25;

fn download(device: &dyn Device, buffer: &Buffer<f32>) -> Vec<f32> {
    let mut values = vec![0.0; buffer.len()];
    device.read(buffer.all(), &mut values);
    device.synchronize().unwrap();
    values
}

/// A matrix `[rows, cols]` of a storage type on the device, and its values as the CPU decodes them.
struct Stored {
    name: &'static str,
    matrix: Matrix,
    values: Vec<f32>,
}

/// All kinds that have rows of `cols` elements.
fn stored(device: &dyn Device, rows: usize, cols: usize) -> Vec<Stored> {
    let dense = random("w", rows * cols);
    let mut all = Vec::new();
    let mut read = |range: std::ops::Range<usize>, out: &mut [f32]| -> Result<(), String> {
        out.copy_from_slice(&dense[range.start * cols..range.end * cols]);
        Ok(())
    };
    for (name, storage) in
        [("f32", Storage::F32), ("f16", Storage::F16), ("bf16", Storage::Bf16), ("nf4", Storage::Nf4)]
    {
        let shape = [rows, cols];
        let matrix =
            Matrix::load(device, Component::Weights, shape, storage, &mut read, |error| error.to_string()).unwrap();
        let values = match storage {
            Storage::F16 => dense.iter().map(|value| f16::from_f32(*value).to_f32()).collect(),
            Storage::Bf16 => dense.iter().map(|value| bf16::from_f32(*value).to_f32()).collect(),
            Storage::Nf4 => {
                let mut values = vec![0.0; rows * cols];
                nf4::dequantize(&nf4::quantize(&dense, rows, cols, true).view(), 0..rows, &mut values);
                values
            }
            _ => dense.clone(),
        };
        all.push(Stored { name, matrix, values });
    }
    if cols.is_multiple_of(32) {
        for kind in BlockKind::ALL {
            let bytes = blocks(kind, rows * cols / 32);
            let width = cols / 32 * kind.bytes();
            let matrix = Matrix::of_blocks(device, Component::Weights, [rows, cols], kind, |row| {
                &bytes[row * width..(row + 1) * width]
            });
            let mut values = vec![0.0; rows * cols];
            BlockView { kind, bytes: &bytes }.read_f32(0, &mut values);
            all.push(Stored { name: kind.name(), matrix: matrix.unwrap(), values });
        }
    }
    all
}

/// Random blocks with normal, subnormal and negative scales.
fn blocks(kind: BlockKind, count: usize) -> Vec<u8> {
    let stream = Stream::new(5, kind.name());
    let mut bytes: Vec<u8> = (0..(count * kind.bytes()) as u64).map(|at| stream.word(at) as u8).collect();
    for (index, block) in bytes.chunks_exact_mut(kind.bytes()).enumerate() {
        let scale = [0.0123, -6e-8, 3e-6, 0.25][index % 4];
        block[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
        if kind == BlockKind::Q4_1 {
            block[2..4].copy_from_slice(&f16::from_f32(scale * -3.0).to_le_bytes());
        }
    }
    bytes
}

/// `scale · Σ a(i, s) · b(s, j) + INITIAL`.
fn product(
    [m, n, k]: [usize; 3],
    scale: f64,
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
) -> Vec<f64> {
    let element = |i: usize, j: usize| (0..k).map(|s| f64::from(a(i, s)) * f64::from(b(s, j))).sum::<f64>();
    (0..m * n).map(|index| scale * element(index / n, index % n) + f64::from(INITIAL)).collect()
}

fn rounded(value: f32) -> f32 {
    bf16::from_f32(value).to_f32()
}

#[derive(Clone, Copy)]
enum Way {
    Nt,
    Nn,
}

/// A product of `m` rows with a matrix `[n, k]`.
fn run(device: &dyn Device, way: Way, x: &[f32], w: Operand<'_>, shape: [usize; 3], scale: f32) -> Vec<f32> {
    let [m, n, k] = shape;
    let input = upload(device, x);
    let mut out = upload(device, &vec![INITIAL; m * if matches!(way, Way::Nt) { n } else { k }]);
    match way {
        Way::Nt => device.matmul_nt(input.all().into(), w, shape, scale, true, out.all_mut().into()),
        Way::Nn => device.matmul_nn(input.all().into(), w, shape, scale, true, out.all_mut().into()),
    }
    download(device, &out)
}

/// One, primes, nothing to sum, not multiples of a tile or of sixteen bytes, several tiles, whole tiles.
const SHAPES: [[usize; 3]; 9] = [
    [1, 1, 1],
    [2, 3, 0],
    [7, 13, 17],
    [3, 48, 64],
    [33, 65, 100],
    [17, 40, 256],
    [40, 7, 200],
    [5, 96, 320],
    [70, 130, 96],
];

fn check_products(device: &dyn Device, precision: Precision, shape: [usize; 3]) {
    let [m, n, k] = shape;
    let (x, dy) = (random("x", m * k), random("dy", m * n));
    for Stored { name, matrix, values } in stored(device, n, k) {
        let nt = run(device, Way::Nt, &x, matrix.operand(), shape, 0.5);
        let nn = run(device, Way::Nn, &dy, matrix.operand(), shape, 2.0);
        let exact = |round: fn(f32) -> f32| {
            let (x, dy, w) = (|i, s| round(x[i * k + s]), |i, s| round(dy[i * n + s]), |i: usize| round(values[i]));
            [product([m, n, k], 0.5, x, |s, j| w(j * k + s)), product([m, k, n], 2.0, dy, |s, j| w(s * k + j))]
        };
        let narrow = name == "f32" && n.min(k) <= 64;
        let bounds: &[(fn(f32) -> f32, f64)] = match precision {
            Precision::F32 => &[(|value| value, F32)],
            Precision::Bf16 if narrow => &[(|value| value, F32)],
            // A few terms may all be rounded the same way.
            Precision::Bf16 if m * n * k < 1000 => &[(rounded, BF16_ROUNDED)],
            Precision::Bf16 => &[(rounded, BF16_ROUNDED), (|value| value, BF16)],
        };
        for (round, bound) in bounds {
            for (way, found, exact) in [("nt", &nt, &exact(*round)[0]), ("nn", &nn, &exact(*round)[1])] {
                let error = nmse(found, exact);
                assert!(error <= *bound, "{way} {name} {shape:?}: error {error:e}, allowed {bound:e}");
            }
        }
    }
}

#[test]
fn products_in_f32_are_the_definition_s() {
    let Some(device) = emulated(Precision::F32) else { return };
    for shape in SHAPES {
        check_products(&device, Precision::F32, shape);
    }
}

#[test]
fn products_in_bf16_are_the_definition_s() {
    let Some(device) = emulated(Precision::Bf16) else { return };
    for shape in SHAPES {
        check_products(&device, Precision::Bf16, shape);
    }
}

/// Tall sums: one part, several, and thin outputs both ways.
#[test]
fn tall_products_are_the_definition_s() {
    let Some(device) = emulated(Precision::Bf16) else { return };
    let device: &dyn Device = &device;
    for [m, p, q] in [[0, 3, 5], [1, 1, 1], [513, 7, 3], [700, 16, 40], [1030, 40, 16], [1100, 66, 70], [9, 130, 8]] {
        let (a, b) = (random("a", m * p), random("b", m * q));
        for accumulate in [false, true] {
            let (left, right) = (upload(device, &a), upload(device, &b));
            let mut out = upload(device, &vec![INITIAL; p * q]);
            device.matmul_tn(left.all().into(), right.all().into(), [m, p, q], -0.5, accumulate, out.all_mut());
            let found = download(device, &out);
            let mut exact = product([p, q, m], -0.5, |i, s| a[s * p + i], |s, j| b[s * q + j]);
            if !accumulate {
                exact.iter_mut().for_each(|value| *value -= f64::from(INITIAL));
            }
            let error = nmse(&found, &exact);
            assert!(error <= F32, "tn {m} {p} {q}: error {error:e}");
        }
    }
}

/// A row has the same bits alone, among a few and among many, in every storage type and both precisions: tiles and the
/// fused product of few rows do not show.
#[test]
fn a_row_s_bits_do_not_depend_on_its_neighbours() {
    for precision in [Precision::F32, Precision::Bf16] {
        let Some(device) = emulated(precision) else { return };
        let device: &dyn Device = &device;
        let ([n, k], most) = ([72, 192], 150);
        let (x, dy) = (random("x", most * k), random("dy", most * n));
        for Stored { name, matrix, .. } in stored(device, n, k) {
            let nt = run(device, Way::Nt, &x, matrix.operand(), [most, n, k], 0.5);
            let nn = run(device, Way::Nn, &dy, matrix.operand(), [most, n, k], 0.5);
            for (first, m) in [(0, 1), (7, 5), (3, 33), (20, 129)] {
                let few = run(device, Way::Nt, &x[first * k..(first + m) * k], matrix.operand(), [m, n, k], 0.5);
                assert_eq!(bits(&few), bits(&nt[first * n..(first + m) * n]), "nt {name} {precision:?} {m} rows");
                let few = run(device, Way::Nn, &dy[first * n..(first + m) * n], matrix.operand(), [m, n, k], 0.5);
                assert_eq!(bits(&few), bits(&nn[first * k..(first + m) * k]), "nn {name} {precision:?} {m} rows");
            }
        }
    }
}

/// Views that start inside a buffer are not aligned for wide loads.
#[test]
fn operands_may_start_anywhere() {
    for precision in [Precision::F32, Precision::Bf16] {
        let Some(device) = emulated(precision) else { return };
        let device: &dyn Device = &device;
        let [m, n, k] = [20, 72, 96];
        let x = random("x", m * k + 1);
        for Stored { name, matrix, .. } in stored(device, n, k) {
            let expected = run(device, Way::Nt, &x[1..], matrix.operand(), [m, n, k], 1.0);
            let input = upload(device, &x);
            let mut out = upload(device, &vec![INITIAL; m * n + 1]);
            device.matmul_nt(
                input.slice(1..).into(),
                matrix.operand(),
                [m, n, k],
                1.0,
                true,
                out.slice_mut(1..).into(),
            );
            assert_eq!(bits(&download(device, &out)[1..]), bits(&expected), "{name} {precision:?}");
        }
        for [n, k] in [[n, k], [8, k], [n, 16]] {
            let (x, w) = (random("x", m * k), random("w", n * k + 1));
            let (whole, shifted) = (upload(device, &w[1..]), upload(device, &w));
            let expected = run(device, Way::Nt, &x, whole.all().into(), [m, n, k], 1.0);
            let found = run(device, Way::Nt, &x, shifted.slice(1..).into(), [m, n, k], 1.0);
            assert_eq!(bits(&found), bits(&expected), "f32 [{n}, {k}] {precision:?}");
        }
    }
}

#[test]
fn decoding_has_the_bits_of_the_cpu_s() {
    let Some(device) = emulated(Precision::F32) else { return };
    // One element, a last block that is not whole, rows that blocks cross, several blocks of threads, nested scales.
    for [rows, cols] in [[1, 1], [3, 7], [5, 33], [1, 64], [9, 96], [70, 320], [300, 64]] {
        for Stored { name, matrix, values } in stored(&device, rows, cols) {
            let shown = format!("{name} {rows} x {cols}");
            let mut wide = upload(&device, &vec![f32::NAN; values.len()]);
            device.dequantize(matrix.operand(), wide.all_mut());
            assert_eq!(bits(&download(&device, &wide)), bits(&values), "{shown}");

            let mut narrow = upload(&device, &vec![bf16::NAN; values.len()]);
            device.dequantize_bf16(matrix.operand(), narrow.all_mut());
            let mut found = vec![bf16::ZERO; values.len()];
            (&device as &dyn Device).read(narrow.all(), &mut found);
            let expected: Vec<bf16> = values.iter().map(|value| bf16::from_f32(*value)).collect();
            assert!(found.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()), "{shown} bf16");

            let ids: Vec<u32> = (0..rows as u32).rev().chain([0]).collect();
            let tokens = upload(&device, &ids);
            let mut out = upload(&device, &vec![f32::NAN; ids.len() * cols]);
            device.embedding(matrix.operand(), tokens.all(), cols, out.all_mut());
            let expected: Vec<f32> =
                ids.iter().flat_map(|id| &values[*id as usize * cols..(*id as usize + 1) * cols]).copied().collect();
            assert_eq!(bits(&download(&device, &out)), bits(&expected), "{shown} embedding");
        }
    }
}

#[test]
fn an_id_outside_the_table_gives_nan() {
    let Some(device) = emulated(Precision::F32) else { return };
    let device: &dyn Device = &device;
    // There is memory behind the table, with numbers that must not be taken for its next row.
    let (table, ids) = (upload(device, &[1f32; 24]), upload(device, &[3u32, 4, 0]));
    let mut out = upload(device, &[0f32; 9]);
    device.embedding(table.slice(..12).into(), ids.all(), 3, out.all_mut());
    let found = download(device, &out);
    assert!(found[3..6].iter().all(|value| value.is_nan()), "{found:?}");
    assert_eq!([&found[..3], &found[6..]].concat(), [1.0; 6]);
}

/// Loss and gradient in `f64`.
fn cross_entropy(hidden: &[f32], w: &[f32], targets: &[u32], width: usize, scale: f64) -> (Vec<f64>, Vec<f64>) {
    let (vocabulary, mut losses, mut gradient) = (w.len() / width, Vec::new(), vec![0.0; hidden.len()]);
    for (row, (hidden, target)) in hidden.chunks(width).zip(targets).enumerate() {
        let logit = |token: usize| -> f64 {
            hidden.iter().zip(&w[token * width..]).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum()
        };
        let logits: Vec<f64> = (0..vocabulary).map(logit).collect();
        let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = logits.iter().map(|logit| (logit - top).exp()).sum();
        losses.push(total.ln() + top - logits[*target as usize]);
        for (token, logit) in logits.iter().enumerate() {
            let share = (logit - top).exp() / total - f64::from(u8::from(token == *target as usize));
            for (out, w) in gradient[row * width..].iter_mut().zip(&w[token * width..(token + 1) * width]) {
                *out += scale * share * f64::from(*w);
            }
        }
    }
    (losses, gradient)
}

#[test]
fn the_loss_and_its_gradient_are_the_definition_s() {
    // The logits of the blocks are of size 300, where f32 has steps of 3e-5, which exponentials turn into relative errors.
    // bf16: they carry 300 · 2⁻⁹ / √96 of rounding, and the gradient's factors are rounded again.
    for (precision, bound) in [(Precision::F32, 1e-9), (Precision::Bf16, 1e-2)] {
        let Some(device) = emulated(precision) else { return };
        let device: &dyn Device = &device;
        for [rows, width, vocabulary, chunk] in [[1, 1, 2, 1], [3, 5, 17, 2], [4, 64, 301, 100], [5, 96, 1100, 3]] {
            let hidden = random("hidden", rows * width);
            let targets: Vec<u32> = (0..rows).map(|row| (row * 37 % vocabulary) as u32).collect();
            for Stored { name, matrix, values } in stored(device, vocabulary, width) {
                let (losses, gradient) = cross_entropy(&hidden, &values, &targets, width, 0.125);
                let (input, tokens) = (upload(device, &hidden), upload(device, &targets));
                let (mut dhidden, mut out) = (upload(device, &hidden), upload(device, &vec![f32::NAN; rows]));
                let mut scratch = upload(device, &vec![f32::NAN; chunk.min(rows) * vocabulary]);
                let head = Head { weight: matrix.operand(), vocabulary, hidden: width, chunk_rows: chunk };
                let scale = upload(device, &[0.125_f32]);
                let gradient_out = Some(dhidden.all_mut());
                let (scratch_out, losses_out) = (scratch.all_mut(), out.all_mut());
                device.cross_entropy(
                    input.all().into(),
                    tokens.all(),
                    head,
                    scale.all(),
                    gradient_out,
                    scratch_out,
                    losses_out,
                );
                let found = download(device, &out);
                let shown = format!("{name} {precision:?} rows={rows} vocabulary={vocabulary}");
                let error = nmse(&found, &losses);
                assert!(error <= bound, "{shown}: loss has error {error:e}");
                let error = nmse(&download(device, &dhidden), &gradient);
                assert!(error <= bound, "{shown}: gradient has error {error:e}");

                let (scratch_out, losses_out) = (scratch.all_mut(), out.all_mut());
                device.cross_entropy(
                    input.all().into(),
                    tokens.all(),
                    head,
                    scale.all(),
                    None,
                    scratch_out,
                    losses_out,
                );
                assert_eq!(bits(&download(device, &out)), bits(&found), "{shown}: loss without gradient");
            }
        }
    }
}

/// Also what finds a missing barrier: threads that run ahead of others then read what is not there yet, or no longer.
#[test]
fn orders_of_threads_change_no_bit() {
    for precision in [Precision::F32, Precision::Bf16] {
        let Some(device) = emulated(precision) else { return };
        let device: &dyn Device = &device;
        let (rows, width, vocabulary) = (3, 64, 301);
        let hidden = random("hidden", rows * width);
        let (targets, scale) = (upload(device, &[0_u32, 37, 300]), upload(device, &[0.125_f32]));
        let kinds = stored(device, vocabulary, width);
        let all = || {
            let mut results = Vec::new();
            for Stored { matrix, .. } in &kinds {
                let input = upload(device, &hidden);
                let (mut dhidden, mut losses) = (upload(device, &hidden), upload(device, &vec![f32::NAN; rows]));
                let mut scratch = upload(device, &vec![f32::NAN; rows * vocabulary]);
                let head = Head { weight: matrix.operand(), vocabulary, hidden: width, chunk_rows: rows };
                let gradient = Some(dhidden.all_mut());
                device.cross_entropy(
                    input.all().into(),
                    targets.all(),
                    head,
                    scale.all(),
                    gradient,
                    scratch.all_mut(),
                    losses.all_mut(),
                );
                results.push(bits(&download(device, &losses)));
                results.push(bits(&download(device, &dhidden)));
            }
            results
        };
        let expected = all();
        for order in ORDERS {
            in_order(order);
            assert!(all() == expected, "{precision:?} in order {order}");
        }
    }
}

#[test]
fn cublas_is_used_where_it_is_asked_for_and_found() {
    let Some(mut device) = emulated(Precision::Bf16) else { return };
    let own = device.numeric_class();
    if let Err(error) = device.use_cublas() {
        assert!(error.to_string().contains("cuBLAS was not found (libcublas)"), "{error}");
        assert_eq!(device.numeric_class(), own);
        if is_real() {
            eprintln!("skipped: {error}");
            return;
        }
        // SAFETY: the emulated library has no initialisers. It stays loaded, so that it is found by its name.
        std::mem::forget(unsafe { libloading::Library::new(build_cublas()) }.unwrap());
        device.use_cublas().unwrap();
    }
    assert!(device.numeric_class().starts_with(&format!("{own}-cublas")), "{}", device.numeric_class());
    // Enough rows, all of them; too few; widths that it does not take.
    for shape in [[130, 72, 96], [256, 136, 64], [127, 72, 96], [140, 70, 96]] {
        check_products(&device, Precision::Bf16, shape);
    }
}
