//! A training step as the engine queues it, kernel by kernel: QLoRA on all projections, layer inputs kept, the rest
//! computed again in backward. Activations are f32 in memory, weights NF4.

use super::model::Model;

/// What bounds a kernel besides memory.
#[derive(Clone, Copy, PartialEq)]
pub enum Unit {
    /// Tensor cores, in products of many rows.
    Product,
    /// Tensor cores, in attention.
    Attention,
    /// Nothing: it streams.
    Stream,
}

/// Launches of one kind per step.
pub struct Kernel {
    pub name: &'static str,
    pub unit: Unit,
    pub launches: f64,
    /// Operations of all launches, a multiply-add counted as two.
    pub operations: f64,
    /// Bytes that all launches must read and write if nothing but their operands' reuse inside a launch is cached.
    pub bytes: f64,
}

/// One packed batch.
#[derive(Clone, Copy)]
pub struct Batch {
    pub tokens: f64,
    /// Tokens of each packed sequence.
    pub length: f64,
    pub rank: f64,
    /// Rows of the output head at once.
    pub chunk: f64,
}

const F32: f64 = 4.0;
const BF16: f64 = 2.0;
/// NF4 with a nested 8-bit scale per 64 weights and an f32 one per 256 of these.
pub const NF4: f64 = 0.5 + 1.0 / 64.0 + 4.0 / (64.0 * 256.0);
/// Query rows of a block in attention's forward, and rows of one in backward.
const FORWARD_TILE: f64 = 128.0;
const BACKWARD_TILE: f64 = 64.0;

/// Every kernel of a step.
pub fn step(model: &Model, batch: Batch) -> Vec<Kernel> {
    let mut kernels = products(model, batch);
    kernels.extend(adapters(model, batch));
    kernels.extend(attention(model, batch));
    kernels.extend(rows(model, batch));
    kernels.extend(head(model, batch));
    let trained: f64 = model.projections().iter().map(|[outputs, inputs]| batch.rank * (outputs + inputs)).sum();
    kernels.push(Kernel {
        name: "norm, clip and AdamW of the adapters",
        unit: Unit::Stream,
        launches: 4.0,
        operations: 0.0,
        bytes: model.layers * trained * F32 * (1.0 + 7.0),
    });
    kernels
}

/// The frozen projections: forward seven, recomputed six (the down projection's output is not needed), backward seven.
fn products(model: &Model, Batch { tokens, .. }: Batch) -> Vec<Kernel> {
    let shapes = model.projections();
    let passes = |outputs_and_inputs: &[f64; 2], index: usize| {
        let [outputs, inputs] = *outputs_and_inputs;
        let times = if index == 6 { 2.0 } else { 3.0 };
        (times, outputs * inputs, tokens * (outputs + inputs))
    };
    let mut launches = 0.0;
    let (mut operations, mut bytes, mut decoded) = (0.0, 0.0, 0.0);
    for (index, shape) in shapes.iter().enumerate() {
        let (times, weights, activations) = passes(shape, index);
        launches += times;
        operations += times * 2.0 * weights * tokens;
        bytes += times * (weights * BF16 + activations * F32);
        decoded += times * weights * (NF4 + BF16);
    }
    let layers = model.layers;
    vec![
        Kernel {
            name: "NF4 to bf16, one matrix at a time",
            unit: Unit::Stream,
            launches: layers * launches,
            operations: 0.0,
            bytes: layers * decoded,
        },
        Kernel {
            name: "products with frozen projections",
            unit: Unit::Product,
            launches: layers * launches,
            operations: layers * operations,
            bytes: layers * bytes,
        },
    ]
}

/// `x·Aᵀ` and `low·Bᵀ` forward and again (of the down projection the first alone), and the four products of backward.
fn adapters(model: &Model, Batch { tokens, rank, .. }: Batch) -> Vec<Kernel> {
    let (mut launches, mut operations, mut bytes) = (0.0, 0.0, 0.0);
    for (index, [outputs, inputs]) in model.projections().into_iter().enumerate() {
        // Into the rank (x·Aᵀ, dy·B) reads the wide side; out of it (low·Bᵀ, through·A) reads and adds to it; the
        // gradients of the factors read both sides.
        let into = |wide: f64| tokens * (wide + rank) * F32 + wide * rank * F32;
        let out_of = |wide: f64| tokens * (2.0 * wide + rank) * F32 + wide * rank * F32;
        let factor = |wide: f64| tokens * (wide + rank) * F32 + 2.0 * wide * rank * F32;
        let again = if index == 6 { 1.0 } else { 2.0 };
        launches += 2.0 + again + 4.0;
        operations += 2.0 * tokens * rank * (2.0 * inputs + again * outputs + 2.0 * (outputs + inputs));
        bytes += 2.0 * into(inputs) + again * out_of(outputs);
        bytes += factor(outputs) + into(outputs) + factor(inputs) + out_of(inputs);
    }
    vec![Kernel {
        name: "adapters, through the rank",
        unit: Unit::Stream,
        launches: model.layers * launches,
        operations: model.layers * operations,
        bytes: model.layers * bytes,
    }]
}

/// Forward twice; backward is the dots, three products of scores and one sum for dq, four and two sums for dk and dv.
fn attention(model: &Model, Batch { tokens, length, .. }: Batch) -> Vec<Kernel> {
    let (query, key) = (model.query(), model.key());
    let pairs = tokens * (length + 1.0) / 2.0;
    let rows = tokens * (2.0 * query + 2.0 * model.heads) * F32;
    let passing = |tile: f64, width: f64| tokens / tile * (length + tile) / 2.0 * 2.0 * width * F32;
    let group = model.heads / model.kv_heads;
    vec![
        Kernel {
            name: "attention, forward twice",
            unit: Unit::Attention,
            launches: model.layers * 2.0,
            operations: model.layers * 2.0 * 4.0 * pairs * query,
            // Tiles of queries of a group's heads read the same keys, from the second-level cache after the first.
            bytes: model.layers * 2.0 * (rows + passing(FORWARD_TILE, key)),
        },
        Kernel {
            name: "attention, dots of backward",
            unit: Unit::Stream,
            launches: model.layers,
            operations: 0.0,
            bytes: model.layers * tokens * (2.0 * query + model.heads) * F32,
        },
        Kernel {
            name: "attention, dk and dv",
            unit: Unit::Attention,
            launches: model.layers,
            operations: model.layers * 8.0 * pairs * query,
            bytes: model.layers * (passing(BACKWARD_TILE, key * group) + 4.0 * tokens * key * F32),
        },
        Kernel {
            name: "attention, dq",
            unit: Unit::Attention,
            launches: model.layers,
            operations: model.layers * 6.0 * pairs * query,
            bytes: model.layers * (passing(BACKWARD_TILE, key) + 3.0 * tokens * query * F32),
        },
    ]
}

/// What touches every row once: norms, rotations, the gate, residuals.
fn rows(model: &Model, Batch { tokens, .. }: Batch) -> Vec<Kernel> {
    let kernel = |name, launches: f64, floats: f64| Kernel {
        name,
        unit: Unit::Stream,
        launches: model.layers * launches,
        operations: 0.0,
        bytes: model.layers * tokens * floats * F32,
    };
    vec![
        kernel("RMSNorm: forward, again, and for the adapters", 6.0, 6.0 * 2.0 * model.hidden),
        kernel("RMSNorm, backward", 2.0, 2.0 * 4.0 * model.hidden),
        kernel("rotary positions", 6.0, 3.0 * 2.0 * (model.query() + model.key())),
        kernel("SwiGLU: forward, again, and for the adapters", 3.0, 3.0 * 3.0 * model.intermediate),
        kernel("SwiGLU, backward", 1.0, 5.0 * model.intermediate),
        kernel("residuals copied", 3.0, 3.0 * 2.0 * model.hidden),
    ]
}

/// Loss and its gradient, over chunks of rows; every token is trained.
fn head(model: &Model, Batch { tokens, chunk, .. }: Batch) -> Vec<Kernel> {
    let chunks = (tokens / chunk).ceil();
    let (weights, logits) = (model.vocabulary * model.hidden, tokens * model.vocabulary);
    vec![
        Kernel {
            name: "head: logits and their gradient's product",
            unit: Unit::Product,
            launches: 2.0 * chunks,
            operations: 4.0 * weights * tokens,
            bytes: 2.0 * (chunks * weights * BF16 + (logits + tokens * model.hidden) * F32),
        },
        Kernel {
            name: "head: softmax and gradient over the logits",
            unit: Unit::Stream,
            launches: chunks,
            operations: 0.0,
            bytes: 3.0 * logits * F32,
        },
    ]
}
