//! A training step as the engine queues it, kernel by kernel: QLoRA on all projections, layer inputs kept, the rest
//! computed again in backward. Activations are bf16 (or f16) in memory, block inputs and the gradient that travels down f32, weights
//! NF4.

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

/// Every kernel of a step; `library` says that products are a library's, which cannot add updates inside them.
pub fn step(model: &Model, batch: Batch, library: bool) -> Vec<Kernel> {
    let mut kernels = products(model, batch);
    kernels.extend(adapters(model, batch));
    if library {
        kernels.push(updates(model, batch));
    }
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

/// Bytes that a product reads and writes of each element of its result: the residual stream is f32, read and written;
/// gradients of a norm's output are f32, added to from the second projection of a group on; the others are bf16.
const FORWARD_RESULTS: [f64; 7] = [BF16, BF16, BF16, 2.0 * F32, BF16, BF16, 2.0 * F32];
const BACKWARD_RESULTS: [f64; 7] = [F32, 2.0 * F32, 2.0 * F32, BF16, F32, 2.0 * F32, BF16];

/// Passes over a projection's forward product: the down projection's output is not needed again.
fn forwards(index: usize) -> f64 {
    if index == 6 { 1.0 } else { 2.0 }
}

/// The frozen projections with their adapters' updates: forward seven, recomputed six, backward seven.
fn products(model: &Model, Batch { tokens, rank, .. }: Batch) -> Vec<Kernel> {
    let mut launches = 0.0;
    let (mut operations, mut bytes, mut decoded) = (0.0, 0.0, 0.0);
    for (index, [outputs, inputs]) in model.projections().into_iter().enumerate() {
        let (weights, forward) = (outputs * inputs, forwards(index));
        let times = forward + 1.0;
        launches += times;
        operations += times * 2.0 * weights * tokens + 2.0 * tokens * rank * (forward * outputs + inputs);
        let update = |width: f64| tokens * rank * BF16 + width * rank * F32;
        bytes += times * weights * BF16;
        bytes += forward * (tokens * (inputs * BF16 + outputs * FORWARD_RESULTS[index]) + update(outputs));
        bytes += tokens * (outputs * BF16 + inputs * BACKWARD_RESULTS[index]) + update(inputs);
        decoded += times * weights * (NF4 + BF16);
    }
    let layers = model.layers;
    vec![
        Kernel {
            name: "NF4 to sixteen bits, one matrix at a time",
            unit: Unit::Stream,
            launches: layers * launches,
            operations: 0.0,
            bytes: layers * decoded,
        },
        Kernel {
            name: "products with frozen projections, updates of the adapters in them",
            unit: Unit::Product,
            launches: layers * launches,
            operations: layers * operations,
            bytes: layers * bytes,
        },
    ]
}

/// Updates before a library's products: results are written once more, and read once more by the product that adds.
fn updates(model: &Model, Batch { tokens, .. }: Batch) -> Kernel {
    let (mut launches, mut bytes) = (0.0, 0.0);
    for (index, [outputs, inputs]) in model.projections().into_iter().enumerate() {
        let twice = |each: f64| 2.0 * if each == BF16 { BF16 } else { F32 };
        launches += forwards(index) + 1.0;
        bytes += tokens * forwards(index) * outputs * twice(FORWARD_RESULTS[index]);
        bytes += tokens * inputs * twice(BACKWARD_RESULTS[index]);
    }
    Kernel {
        name: "updates of the adapters, before a library's products",
        unit: Unit::Stream,
        launches: model.layers * launches,
        operations: 0.0,
        bytes: model.layers * bytes,
    }
}

/// Projections of one input, by index.
const GROUPS: [&[usize]; 4] = [&[0, 1, 2], &[3], &[4, 5], &[6]];

/// `x·Aᵀ` forward and again, one launch for each group; in backward `dy·B` and the gradients of the factors.
fn adapters(model: &Model, Batch { tokens, rank, .. }: Batch) -> Vec<Kernel> {
    let shapes = model.projections();
    let (mut launches, mut operations, mut bytes) = (0.0, 0.0, 0.0);
    for group in GROUPS {
        let inputs = shapes[group[0]][1];
        launches += 4.0;
        bytes += 2.0 * tokens * inputs * BF16;
        for [outputs, inputs] in group.iter().map(|index| shapes[*index]) {
            let factors = rank * (outputs + inputs);
            operations += 2.0 * tokens * rank * (3.0 * inputs + 2.0 * outputs);
            // The gradients of A read the input for each projection; low and through are written and read.
            bytes += 2.0 * rank * inputs * F32 + tokens * (2.0 * outputs + inputs) * BF16 + factors * 3.0 * F32;
            bytes += 6.0 * tokens * rank * BF16;
        }
    }
    vec![Kernel {
        name: "adapters, into the rank and their gradients",
        unit: Unit::Product,
        launches: model.layers * launches,
        operations: model.layers * operations,
        bytes: model.layers * bytes,
    }]
}

/// Forward twice; backward is the dots, three products of scores and one sum for dq, four and two sums for dk and dv.
fn attention(model: &Model, Batch { tokens, length, .. }: Batch) -> Vec<Kernel> {
    let (query, key) = (model.query(), model.key());
    let pairs = tokens * (length + 1.0) / 2.0;
    let rows = tokens * (2.0 * query * BF16 + model.heads * F32);
    let passing = |tile: f64, width: f64| tokens / tile * (length + tile) / 2.0 * 2.0 * width * BF16;
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
            bytes: model.layers * tokens * (2.0 * query * BF16 + model.heads * F32),
        },
        Kernel {
            name: "attention, dk and dv",
            unit: Unit::Attention,
            launches: model.layers,
            operations: model.layers * 8.0 * pairs * query,
            bytes: model.layers * (passing(BACKWARD_TILE, key * group) + 4.0 * tokens * key * BF16),
        },
        Kernel {
            name: "attention, dq",
            unit: Unit::Attention,
            launches: model.layers,
            operations: model.layers * 6.0 * pairs * query,
            bytes: model.layers * (passing(BACKWARD_TILE, key) + 3.0 * tokens * query * BF16),
        },
    ]
}

/// What touches every row once: norms, rotations, the gate, residuals.
fn rows(model: &Model, Batch { tokens, .. }: Batch) -> Vec<Kernel> {
    let kernel = |name, launches: f64, bytes: f64| Kernel {
        name,
        unit: Unit::Stream,
        launches: model.layers * launches,
        operations: 0.0,
        bytes: model.layers * tokens * bytes,
    };
    vec![
        kernel("RMSNorm: forward, again, and for the adapters", 6.0, 6.0 * (F32 + BF16) * model.hidden),
        kernel("RMSNorm, backward", 2.0, 2.0 * 4.0 * F32 * model.hidden),
        kernel("rotary positions", 6.0, 3.0 * 2.0 * BF16 * (model.query() + model.key())),
        kernel("SwiGLU: forward, again, and for the adapters", 3.0, 3.0 * 3.0 * BF16 * model.intermediate),
        kernel("SwiGLU, backward", 1.0, 5.0 * BF16 * model.intermediate),
        kernel("the gradient in sixteen bits, for products", 2.0, 2.0 * (F32 + BF16) * model.hidden),
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
            // Logits come in f32, their gradient in bf16 in their place.
            bytes: 2.0 * chunks * weights * BF16 + (logits + tokens * model.hidden) * (F32 + BF16),
        },
        Kernel {
            name: "head: softmax and gradient over the logits",
            unit: Unit::Stream,
            launches: chunks,
            operations: 0.0,
            bytes: logits * (2.0 * F32 + BF16),
        },
    ]
}
