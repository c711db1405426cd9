//! The tables of ROOFLINE.md.

use std::fmt::Write as _;

use super::launches::{AGAIN, BACKWARD, FORWARD};
use super::machine::{EFFICIENCIES, Efficiency, MACHINES, Machine};
use super::model::{MODELS, Model};
use super::step::{Batch, Kernel, NF4, Unit, step};

const TOKENS: usize = 4096;

/// A batch as the engine cuts it: rows of logits are as many as fit where backward needs the room anyway.
fn batch(model: &Model) -> Batch {
    Batch { tokens: TOKENS as f64, length: TOKENS as f64, rank: 16.0, chunk: model.chunk_rows(TOKENS) }
}

const INTRODUCTION: &str = "# Roofline on paper

Everything here is **computed from shapes, never measured**: no kernel of this crate has run on a GPU yet. The numbers
come from `cargo run -p luthier-cuda --example roofline`, which writes this file; a test fails if it is stale.

One step is one micro-batch of 4,096 packed tokens (one sequence of 4,096, the worst case for attention), QLoRA of rank 16
on all seven projections, layer inputs kept and the rest computed again, every token trained, head in sixteen bits over as
many rows at once as the engine's workspace has room for. Activations are bf16 in memory (f16 on the T4, which has no bf16),
block inputs and the gradient that travels down f32, sums f32. A multiply-add is two operations. An adapter's update is added inside the product that it
belongs to; a library's products cannot, so where they are assumed it is a launch of its own.

- *bytes* are what a kernel must move if each operand is read once per launch, and keys and values once per tile of queries
  of a group of heads; what the second-level cache saves beyond that is not counted.
- *intensity* is operations per byte. A kernel is bound by its unit where that exceeds the card's ratio of peak operations
  to bandwidth, by memory elsewhere.
- Time is the greater of operations over the reached share of the tensor peak and bytes over the reached share of
  bandwidth, plus the gap after each launch. Kernels do not overlap. Copies for offloading and the optimiser's host part
  hide behind it and are not counted.
- Peaks are the makers' dense figures: ";

/// The whole file.
pub fn report() -> String {
    let mut out = INTRODUCTION.to_owned();
    let peaks: Vec<String> = MACHINES
        .iter()
        .map(|machine| {
            format!(
                "{} {:.0} TFLOP/s and {:.0} GB/s ({:.0} operations per byte)",
                machine.name,
                machine.tensor / 1e12,
                machine.bandwidth / 1e9,
                machine.tensor / machine.bandwidth
            )
        })
        .collect();
    let _ = writeln!(out, "{}.\n", peaks.join("; "));
    throughput(&mut out);
    for model in &MODELS {
        kernels(&mut out, model);
    }
    launches(&mut out);
    decoding(&mut out);
    out
}

fn throughput(out: &mut String) {
    out.push_str(
        "## Tokens per second that follow\n\nHFU counts the operations that are computed again, MFU does not.\n\n",
    );
    out.push_str(
        "| model | card | weights in NF4 | at | products, attention, streams | step | tokens/s | HFU | MFU |\n",
    );
    out.push_str("|---|---|---|---|---|---|---|---|---|\n");
    for model in &MODELS {
        for machine in &MACHINES {
            let stored = stored(model);
            let fits = if stored < machine.memory { "fits" } else { "streamed: not counted" };
            for efficiency in &EFFICIENCIES {
                let kernels = step(model, batch(model), efficiency.library);
                let all: f64 = kernels.iter().map(|kernel| kernel.operations).sum();
                let seconds: f64 = kernels.iter().map(|kernel| time(kernel, machine, efficiency)).sum();
                let share = |operations: f64| 100.0 * operations / seconds / machine.tensor;
                let _ = writeln!(
                    out,
                    "| {} | {} | {:.1} GB, {fits} | {} | {:.0} %, {:.0} %, {:.0} % | {} | {} | {:.0} % | {:.0} % |",
                    model.name,
                    machine.name,
                    stored / 1e9,
                    efficiency.name,
                    efficiency.product * 100.0,
                    efficiency.attention * 100.0,
                    efficiency.stream * 100.0,
                    duration(seconds),
                    grouped(TOKENS as f64 / seconds),
                    share(all),
                    share(all - recomputed(model)),
                );
            }
        }
    }
    let reached: Vec<String> = MACHINES
        .iter()
        .map(|machine| {
            let kernels = step(&MODELS[1], batch(&MODELS[1]), EFFICIENCIES[1].library);
            let seconds: f64 = kernels.iter().map(|kernel| time(kernel, machine, &EFFICIENCIES[1])).sum();
            let operations: f64 = kernels.iter().map(|kernel| kernel.operations).sum();
            format!("{:.0} % on the {}", 100.0 * operations / seconds / machine.tensor, machine.name)
        })
        .collect();
    let _ = writeln!(
        out,
        "\nThe target is 45 % HFU on packed 4k-token batches of an 8B model. With a vendor's products this comes to {}.\n",
        reached.join(", "),
    );
}

fn kernels(out: &mut String, model: &Model) {
    let kernels = step(model, batch(model), false);
    let _ = writeln!(out, "## {}: a step by kernel\n", model.name);
    out.push_str("| kernel | launches | TFLOP | GB | intensity |");
    for machine in &MACHINES {
        let _ = write!(out, " {}, bound by |", machine.name);
    }
    let _ = writeln!(out, "\n|---|---|---|---|---|{}", "---|".repeat(MACHINES.len()));
    let roof = &EFFICIENCIES[0];
    for kernel in &kernels {
        let _ = write!(
            out,
            "| {} | {} | {:.2} | {:.2} | {:.0} |",
            kernel.name,
            grouped(kernel.launches),
            kernel.operations / 1e12,
            kernel.bytes / 1e9,
            kernel.operations / kernel.bytes
        );
        for machine in &MACHINES {
            let bound = if compute(kernel, machine, roof) > kernel.bytes / machine.bandwidth {
                "tensor cores"
            } else {
                "memory"
            };
            let _ = write!(out, " {}, {bound} |", duration(time(kernel, machine, roof)));
        }
        out.push('\n');
    }
    let sum = |value: fn(&Kernel) -> f64| kernels.iter().map(value).sum::<f64>();
    let _ = write!(
        out,
        "| **all** | {} | {:.2} | {:.2} | {:.0} |",
        grouped(sum(|kernel| kernel.launches)),
        sum(|kernel| kernel.operations) / 1e12,
        sum(|kernel| kernel.bytes) / 1e9,
        sum(|kernel| kernel.operations) / sum(|kernel| kernel.bytes)
    );
    for machine in &MACHINES {
        let seconds: f64 = kernels.iter().map(|kernel| time(kernel, machine, roof)).sum();
        let _ = write!(out, " {} |", duration(seconds));
    }
    out.push_str("\n\n");
}

fn launches(out: &mut String) {
    out.push_str("## Launches\n\n| pass over a layer | launches |\n|---|---|\n");
    let passes = [
        ("forward", FORWARD, "seven weights are decoded before their products"),
        ("again, in backward", AGAIN, "the down projection's product is not needed"),
        ("backward", BACKWARD, "seven weights, and attention is three kernels"),
    ];
    for (pass, count, why) in passes {
        let _ = writeln!(out, "| {pass} | {count}: {why} |");
    }
    out.push_str(
        "\nA test counts them on the emulated driver. The target is fewer than 40 launches per layer and pass. A library's products\ntake one more for each adapter; dropout on adapters and DoRA take their updates out of the products.\n\n",
    );
}

/// Generation reads every weight once per token: what memory allows, for one sequence.
fn decoding(out: &mut String) {
    out.push_str("## Generation, one sequence with 2,048 tokens in its cache\n\n| model |");
    for machine in &MACHINES {
        let _ = write!(out, " {} |", machine.name);
    }
    let _ = writeln!(out, "\n|---|{}", "---|".repeat(MACHINES.len()));
    for model in &MODELS {
        let cache = model.layers * 2048.0 * 2.0 * model.key() * 2.0;
        let bytes = stored(model) + cache;
        let _ = write!(out, "| {}: {:.2} GB per token |", model.name, bytes / 1e9);
        for machine in &MACHINES {
            let rate = 0.7 * machine.bandwidth / bytes;
            let fits = if bytes < machine.memory {
                grouped(rate) + " tokens/s at 70 % of bandwidth"
            } else {
                "does not fit".into()
            };
            let _ = write!(out, " {fits} |");
        }
        out.push('\n');
    }
}

/// NF4 projections and a head in sixteen bits.
fn stored(model: &Model) -> f64 {
    model.layers * model.weights() * NF4 + model.vocabulary * model.hidden * 2.0
}

fn recomputed(model: &Model) -> f64 {
    let down = model.intermediate * model.hidden;
    let tokens = TOKENS as f64;
    let products = 2.0 * (model.weights() - down) * tokens;
    let pairs = tokens * (tokens + 1.0) / 2.0;
    // Backward computes scores twice and their gradients twice where once each would do.
    model.layers * (products + (4.0 + 4.0) * pairs * model.query())
}

fn compute(kernel: &Kernel, machine: &Machine, efficiency: &Efficiency) -> f64 {
    match kernel.unit {
        Unit::Product => kernel.operations / (machine.tensor * efficiency.product),
        Unit::Attention => kernel.operations / (machine.tensor * efficiency.attention),
        Unit::Stream => kernel.operations / (machine.plain * efficiency.stream),
    }
}

fn time(kernel: &Kernel, machine: &Machine, efficiency: &Efficiency) -> f64 {
    let memory = kernel.bytes / (machine.bandwidth * efficiency.stream);
    compute(kernel, machine, efficiency).max(memory) + kernel.launches * efficiency.gap
}

fn duration(seconds: f64) -> String {
    if seconds >= 10.0 {
        format!("{seconds:.1} s")
    } else if seconds >= 1.0 {
        format!("{seconds:.2} s")
    } else if seconds >= 0.01 {
        format!("{:.0} ms", seconds * 1e3)
    } else {
        format!("{:.2} ms", seconds * 1e3)
    }
}

fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
