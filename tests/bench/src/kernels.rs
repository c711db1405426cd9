//! Kernels: matrix products beside the `gemm` crate in the same run, attention, loss, row operations.

use std::io::{self, Write};
use std::time::Instant;

use luthier_kernels::attention::{self, AttentionShape};
use luthier_kernels::optimizer::{AdamW, adamw, global_norm};
use luthier_kernels::rope::{Scaling, Table};
use luthier_kernels::{Backend, Weight, cross_entropy, matmul, nf4, rms_norm, rope, swiglu};

#[derive(clap::Args)]
pub struct Arguments {
    /// Threads; all processors if not given.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Seconds per measurement at least.
    #[arg(long, default_value_t = 0.3)]
    seconds: f64,
}

/// `(m, n, k)`: square ones, a 135 M-parameter model's layers at 512 tokens, its head, LoRA, generation.
const PRODUCTS: [(usize, usize, usize); 14] = [
    (512, 512, 512),
    (1024, 1024, 1024),
    (2048, 2048, 2048),
    (512, 576, 576),
    (512, 1536, 576),
    (512, 576, 1536),
    (512, 192, 576),
    (256, 49152, 576),
    (512, 16, 576),
    (512, 576, 16),
    (1, 1536, 576),
    (8, 1536, 576),
    (32, 1536, 576),
    (64, 1536, 576),
];

pub fn run(arguments: &Arguments, out: &mut (dyn Write + Send)) -> io::Result<()> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(arguments.threads).build().map_err(io::Error::other)?;
    pool.install(|| {
        writeln!(out, "backend: {}, threads: {}", Backend::current(), rayon::current_num_threads())?;
        products(arguments.seconds, out)?;
        attention_rates(arguments.seconds, out)?;
        rows(arguments.seconds, out)
    })
}

/// Seconds of the fastest of several runs.
fn best(seconds: f64, mut body: impl FnMut()) -> f64 {
    let (start, mut best, mut runs) = (Instant::now(), f64::INFINITY, 0);
    while runs < 3 || start.elapsed().as_secs_f64() < seconds {
        let begin = Instant::now();
        body();
        best = best.min(begin.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}

fn filled(len: usize) -> Vec<f32> {
    (0..len).map(|index| (index % 17) as f32 * 0.1 - 0.8).collect()
}

fn products(seconds: f64, out: &mut (dyn Write + Send)) -> io::Result<()> {
    writeln!(out, "\nproducts, GFLOP/s: gemm crate, ours (share of it), by orientation and weight type")?;
    writeln!(
        out,
        "{:>6}{:>7}{:>6} {:>8} {:>8}{:>7} {:>8} {:>8} {:>8} {:>8}",
        "m", "n", "k", "gemm", "nt", "", "nn", "tn", "nf4 nt", "nf4 nn"
    )?;
    let threads = rayon::current_num_threads();
    let parallel = if threads == 1 { gemm::Parallelism::None } else { gemm::Parallelism::Rayon(threads) };
    for (m, n, k) in PRODUCTS {
        let (x, w) = (filled(m * k), filled(n * k));
        let mut c = vec![0.0f32; m * n];
        let flops = 2.0 * m as f64 * n as f64 * k as f64 / 1e9;
        let (by_rows, by_columns) = (nf4::quantize(&w, n, k, true), nf4::quantize(&w, k, n, true));
        let theirs = flops
            / best(seconds, || {
                // SAFETY: the pointers cover `[m, n]`, `[m, k]` and the transpose of `[n, k]`.
                unsafe {
                    gemm::gemm(
                        m,
                        n,
                        k,
                        c.as_mut_ptr(),
                        1,
                        n as isize,
                        false,
                        x.as_ptr(),
                        1,
                        k as isize,
                        w.as_ptr(),
                        k as isize,
                        1,
                        0.0f32,
                        1.0f32,
                        false,
                        false,
                        false,
                        parallel,
                    );
                }
            });
        let nt = flops / best(seconds, || matmul::nt(&x, m, k, &Weight::F32(&w), n, &mut c, 1.0, false));
        let nn = flops / best(seconds, || matmul::nn(&x, m, k, &Weight::F32(&w), n, &mut c, 1.0, false));
        let tn = flops / best(seconds, || matmul::tn(&x, &w, k, m, n, &mut c, 1.0, false));
        let quantised = Weight::Nf4(by_rows.view());
        let nf4_nt = flops / best(seconds, || matmul::nt(&x, m, k, &quantised, n, &mut c, 1.0, false));
        let quantised = Weight::Nf4(by_columns.view());
        let nf4_nn = flops / best(seconds, || matmul::nn(&x, m, k, &quantised, n, &mut c, 1.0, false));
        let share = format!("({:.0} %)", 100.0 * nt / theirs);
        writeln!(
            out,
            "{m:>6}{n:>7}{k:>6} {theirs:>8.1} {nt:>8.1}{share:>7} {nn:>8.1} {tn:>8.1} {nf4_nt:>8.1} {nf4_nn:>8.1}"
        )?;
    }
    Ok(())
}

fn attention_rates(seconds: f64, out: &mut (dyn Write + Send)) -> io::Result<()> {
    writeln!(out, "\nattention, 9 heads on 3 of 64: milliseconds and GFLOP/s of what a causal mask leaves")?;
    let shape = AttentionShape { heads: 9, kv_heads: 3, head_dim: 64, scale: 0.125, window: None, soft_cap: None };
    for (count, length) in [(17usize, 30usize), (1, 512), (4, 512), (1, 2048)] {
        let t = count * length;
        let segments: Vec<u32> = (0..=count).map(|index| (index * length) as u32).collect();
        let (q, k, v) = (filled(t * 576), filled(t * 192), filled(t * 192));
        let (mut o, mut lse) = (vec![0.0; t * 576], vec![0.0; t * 9]);
        let forward = best(seconds, || attention::forward(&q, &k, &v, &segments, &shape, &mut o, &mut lse));
        let (mut dq, mut dk, mut dv) = (vec![0.0; t * 576], vec![0.0; t * 192], vec![0.0; t * 192]);
        let backward = best(seconds, || {
            attention::backward(&q, &k, &v, &o, &lse, &q, &segments, &shape, &mut dq, &mut dk, &mut dv);
        });
        let pairs = (count * length * (length + 1) / 2 * 576) as f64 / 1e9;
        writeln!(
            out,
            "{count:>3} x {length:<5} forward {:>8.3} ms {:>6.1}   backward {:>8.3} ms {:>6.1}",
            forward * 1e3,
            4.0 * pairs / forward,
            backward * 1e3,
            10.0 * pairs / backward
        )?;
    }
    Ok(())
}

fn rows(seconds: f64, out: &mut (dyn Write + Send)) -> io::Result<()> {
    writeln!(out, "\nothers, milliseconds")?;
    let mut line = |name: &str, time: f64, note: String| writeln!(out, "{name:<36}{:>9.3}  {note}", time * 1e3);
    let n = 512 * 1536;
    let (a, b, c) = (filled(n), filled(n), filled(n));
    let (mut x, mut y) = (vec![0.0; n], vec![0.0; n]);
    let time = best(seconds, || swiglu::forward(&a, &b, &mut x));
    line("swiglu forward 512 x 1536", time, format!("{:.1} GB/s", 12.0 * n as f64 / time / 1e9))?;
    let time = best(seconds, || swiglu::backward(&a, &b, &c, &mut x, &mut y));
    line("swiglu backward 512 x 1536", time, format!("{:.1} GB/s", 20.0 * n as f64 / time / 1e9))?;
    let n = 512 * 576;
    let (w, mut inverse) = (vec![1.0; 576], vec![0.0; 512]);
    let time = best(seconds, || rms_norm::forward(&a[..n], &w, 1e-5, 576, &mut x[..n], &mut inverse));
    line("rms_norm forward 512 x 576", time, format!("{:.1} GB/s", 8.0 * n as f64 / time / 1e9))?;
    let time = best(seconds, || rms_norm::backward(&a[..n], &w, &inverse, &b[..n], 576, &mut x[..n], true));
    line("rms_norm backward 512 x 576", time, format!("{:.1} GB/s", 16.0 * n as f64 / time / 1e9))?;
    let (table, positions) = (Table::new(64, 1e4, Scaling::None, 512), (0..512).collect::<Vec<u32>>());
    let time = best(seconds, || rope::forward(&mut x[..n], &positions, 9, &table));
    line("rope 512 x 9 x 64", time, format!("{:.1} GB/s", 8.0 * n as f64 / time / 1e9))?;
    let (head, targets, mut scratch) = (filled(49152 * 576), vec![5u32; 512], vec![0.0; 128 * 49152]);
    let head = Weight::F32(&head);
    let time = best(seconds, || {
        let to = Some(&mut x[..n]);
        let _ = cross_entropy::forward_backward(&a[..n], &targets, 576, &head, 128, 1.0, to, &mut scratch);
    });
    let rate = 4.0 * 512.0 * 576.0 * 49152.0 / time / 1e9;
    line("cross_entropy 512 x 576 x 49152", time, format!("{rate:.1} GFLOP/s"))?;
    let n = 4_884_480;
    let (gradient, mut p, mut m, mut v) = (vec![0.01; n], vec![0.1; n], vec![0.0; n], vec![0.0; n]);
    let config = AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, step: 3 };
    let time = best(seconds, || adamw(&mut p, &gradient, &mut m, &mut v, &config.factors()));
    line("adamw 4.9 M", time, format!("{:.1} GB/s", 28.0 * n as f64 / time / 1e9))?;
    let time = best(seconds, || {
        std::hint::black_box(global_norm(&gradient));
    });
    line("global_norm 4.9 M", time, format!("{:.1} GB/s", 4.0 * n as f64 / time / 1e9))
}
