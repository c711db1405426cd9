//! Training steps beside the `gemm` crate's rate in the same run; and the tokens to time another program with.

use std::io::{self, Write};
use std::time::Instant;

use camino::Utf8PathBuf;
use luthier_stages::measure::{self, TrainBench};
use serde_json::json;

use crate::plan;

#[derive(clap::Args)]
pub struct Arguments {
    /// A GGUF file or a Hugging Face model directory.
    model: Utf8PathBuf,
    /// Base as stored (`lora`) or in NF4 (`qlora`); several are measured in turn, a line for each and the ratio of each
    /// one's best step to the first's.
    #[arg(long, value_delimiter = ',', default_value = "lora")]
    method: Vec<String>,
    /// Times that several methods take turns.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    #[arg(long, default_value_t = 16)]
    rank: usize,
    #[arg(long, default_value_t = 1)]
    batch: usize,
    #[arg(long, default_value_t = 512)]
    length: usize,
    /// Tokens at the start of each random sequence without a loss.
    #[arg(long, default_value_t = 0)]
    prompt: usize,
    /// A tokens artifact instead of random tokens.
    #[arg(long)]
    data: Option<Utf8PathBuf>,
    #[arg(long)]
    checkpointing: bool,
    #[arg(long)]
    share_prefix: bool,
    #[arg(long, default_value_t = 5)]
    steps: u64,
    /// All processors if not given.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Only write the random tokens into this directory, as a tokens artifact.
    #[arg(long)]
    write_tokens: Option<Utf8PathBuf>,
}

pub fn run(arguments: &Arguments, out: &mut (dyn Write + Send)) -> io::Result<()> {
    let available = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = if arguments.threads == 0 { available } else { arguments.threads };
    let bench = |method: &str| TrainBench {
        model: arguments.model.clone(),
        data: arguments.data.clone(),
        length: arguments.length,
        prompt: arguments.prompt,
        steps: arguments.steps,
        threads,
        with: json!({
            "method": method, "rank": arguments.rank, "batch": arguments.batch,
            "checkpointing": arguments.checkpointing, "share_prefix": arguments.share_prefix,
        }),
    };
    if let Some(directory) = &arguments.write_tokens {
        return measure::write_tokens(&bench("lora"), arguments.batch, directory).map_err(io::Error::other);
    }
    let [method] = arguments.method.as_slice() else { return in_turn(arguments, bench, out) };
    let bench = bench(method);
    let before = gemm_rate(threads)?;
    let profile = bench.run().map_err(io::Error::other)?;
    hold_plan(&profile)?;
    let rate = before.max(gemm_rate(threads)?);
    if arguments.json {
        let mut json = serde_json::to_value(&profile)?;
        json["gemm_crate_flops_per_second"] = json!(rate);
        return writeln!(out, "{json}");
    }
    let share = |flops: f64| 100.0 * flops / rate;
    writeln!(out, "gemm crate, product of 2048: {:.1} GFLOP/s", rate / 1e9)?;
    writeln!(out, "our product of 2048: {:.1} % of it", share(profile.peak_flops_per_second))?;
    writeln!(
        out,
        "a step by model FLOPs: {:.1} % of it (median), {:.1} % (best)",
        share(profile.flops_per_second),
        share(profile.flops_per_step.total() / profile.best_seconds)
    )?;
    for section in measure::sections(&profile) {
        if let luthier_core::Section::Table { title, columns, rows } = section {
            writeln!(out, "\n{title}")?;
            for row in std::iter::once(&columns).chain(&rows) {
                let cells: Vec<String> = row.iter().map(|cell| format!("{cell:<32}")).collect();
                writeln!(out, "  {}", cells.join("").trim_end())?;
            }
        }
    }
    Ok(())
}

fn hold_plan(profile: &measure::TrainProfile) -> io::Result<()> {
    let parts = profile.memory.iter().map(|part| (part.component, part.planned, part.measured));
    plan::hold(parts, profile.planned_bytes, profile.measured_bytes).map_err(io::Error::other)
}

/// The methods' steps, a round of each after the other, so that a machine that speeds up or slows down does it to all.
fn in_turn(arguments: &Arguments, bench: impl Fn(&str) -> TrainBench, out: &mut (dyn Write + Send)) -> io::Result<()> {
    let mut seconds: Vec<Vec<f64>> = vec![Vec::new(); arguments.method.len()];
    let mut products = vec![f64::INFINITY; arguments.method.len()];
    let mut tokens = 0.0;
    for _ in 0..arguments.rounds {
        for (index, method) in arguments.method.iter().enumerate() {
            let profile = bench(method).run().map_err(io::Error::other)?;
            hold_plan(&profile)?;
            seconds[index].extend(profile.seconds);
            tokens = profile.tokens_per_step;
            let wide = |name: &str| ["matmul_nt", "matmul_nn"].contains(&name);
            let spent = profile.operations.iter().filter(|share| wide(share.operation));
            products[index] = products[index].min(spent.map(|share| share.seconds_per_step).sum());
        }
    }
    let best = |seconds: &[f64]| seconds.iter().copied().fold(f64::INFINITY, f64::min);
    for ((method, seconds), products) in arguments.method.iter().zip(&mut seconds).zip(&products) {
        seconds.sort_by(f64::total_cmp);
        let median = seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN);
        writeln!(
            out,
            "{method:<8} best {:8.1} tokens/s, median {:8.1}, of {} steps; products {:6.1} ms of a step in the best round",
            tokens / best(seconds),
            tokens / median,
            seconds.len(),
            products * 1e3,
        )?;
    }
    for (method, other) in arguments.method.iter().zip(&seconds).skip(1) {
        writeln!(out, "{method}: best {:.3} of {}'s", best(&seconds[0]) / best(other), arguments.method[0])?;
    }
    Ok(())
}

/// The `gemm` crate's rate for a square product of 2048, the fastest of a few.
fn gemm_rate(threads: usize) -> io::Result<f64> {
    const WIDTH: usize = 2048;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().map_err(io::Error::other)?;
    let parallel = if threads == 1 { gemm::Parallelism::None } else { gemm::Parallelism::Rayon(threads) };
    let x: Vec<f32> = (0..WIDTH * WIDTH).map(|index| (index % 17) as f32 * 0.1 - 0.8).collect();
    let mut c = vec![0f32; WIDTH * WIDTH];
    let width = WIDTH as isize;
    Ok(pool.install(|| {
        let mut best = f64::INFINITY;
        for _ in 0..5 {
            let start = Instant::now();
            // SAFETY: all three are square matrices of `WIDTH`.
            unsafe {
                gemm::gemm(
                    WIDTH,
                    WIDTH,
                    WIDTH,
                    c.as_mut_ptr(),
                    1,
                    width,
                    false,
                    x.as_ptr(),
                    1,
                    width,
                    x.as_ptr(),
                    width,
                    1,
                    0.0f32,
                    1.0f32,
                    false,
                    false,
                    false,
                    parallel,
                );
            }
            best = best.min(start.elapsed().as_secs_f64());
        }
        2.0 * (WIDTH as f64).powi(3) / best
    }))
}
