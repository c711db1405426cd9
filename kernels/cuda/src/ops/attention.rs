//! Attention over packed segments. Which kernel runs:
//!
//! ```text
//! factors in sixteen bits, heads of 64, 80, 96 or 128 on sixteen bytes           →  attention_mma.cu
//! otherwise                                                                      →  attention.cu, in f32
//! ```
//! Activations in f32 are narrowed to bf16 there, so a device without it takes them in f32. Both depend on the layer alone. Tiles are counted from the start of their segment and parts of a cache from its first
//! row, so a row's bits depend on its own sequence and on nothing else in the batch.

use luthier_kernels::device::{
    AttentionSaved, AttentionShape, FloatType, KeyValues, Segments, SliceMut, Values, ValuesMut,
};

use crate::{Arguments, CudaDevice, Precision};

/// Rows of a tile of the kernels in f32 and of both kinds of gradients.
const TILE: usize = 64;
const THREADS: usize = 256;
/// Query rows of a block of `attention_mma`, and keys that it takes at once.
const MMA_QUERIES: usize = 128;
const MMA_KEYS: usize = 64;
/// Threads of the gradients on tensor cores, and rows that pass by at once.
const GRADIENT_THREADS: usize = 128;
const PASSING_ROWS: usize = 32;
/// Keys of a part of the cache, and query heads that a block takes at once.
const DECODE_KEYS: usize = 256;
const DECODE_HEADS: usize = 8;

/// Writes `out` and the logs of the softmax's denominators.
///
/// # Panics
/// If a view does not have the length that its shape says.
#[expect(clippy::too_many_arguments, reason = "the operands of the operation")]
pub fn forward(
    device: &CudaDevice,
    q: Values<'_>,
    k: Values<'_>,
    v: Values<'_>,
    segments: Segments<'_>,
    shape: AttentionShape,
    out: ValuesMut<'_>,
    lse: SliceMut<'_, f32>,
) {
    let tokens = check(&shape, [q, k, v], lse.len());
    assert_eq!(out.len(), q.len(), "out must have the shape of q");
    assert_eq!(out.kind(), q.kind(), "out must have the type of q");
    let kind = q.kind().name();
    if tokens == 0 {
        return;
    }
    let count = segments.starts.len() - 1;
    let operands = |arguments: &mut Arguments| {
        arguments.address(q.address()).address(k.address()).address(v.address());
        arguments.address(segments.starts.address()).int(count).int(shape.heads).int(group(&shape));
    };
    if is_tensor(device, &shape, &[q, k, v, out.freeze()]) {
        let mut arguments = Arguments::new();
        operands(&mut arguments);
        scores(&mut arguments, &shape);
        arguments.address(out.address()).address(lse.address());
        let name = format!("attention_mma_{}_{kind}", shape.head_dim);
        let grid = [tiles(tokens, count, MMA_QUERIES), shape.heads, 1];
        let stage = if q.kind() == FloatType::F32 { 4 * shape.head_dim } else { 0 };
        let shared = MMA_KEYS * (4 * shape.head_dim + 32 + stage);
        device.launch_with_shared(&name, grid, THREADS, shared, arguments);
        return;
    }
    let columns = match shape.head_dim {
        ..=64 => 64,
        65..=128 => 128,
        _ => 256,
    };
    let name = format!("attention_{columns}_{kind}");
    for first in (0..shape.head_dim).step_by(columns) {
        let mut arguments = Arguments::new();
        operands(&mut arguments);
        arguments.int(shape.head_dim);
        scores(&mut arguments, &shape);
        arguments.int(first).address(out.address()).address(lse.address());
        device.launch(&name, [tiles(tokens, count, TILE), shape.heads, 1], THREADS, arguments);
    }
}

/// Writes the gradients of q, k and v.
///
/// # Panics
/// If a view does not have the length that its shape says.
#[expect(clippy::too_many_arguments, reason = "the operands of the operation")]
pub fn backward(
    device: &CudaDevice,
    forward: AttentionSaved<'_>,
    dout: Values<'_>,
    segments: Segments<'_>,
    shape: AttentionShape,
    dq: ValuesMut<'_>,
    dk: ValuesMut<'_>,
    dv: ValuesMut<'_>,
) {
    let AttentionSaved { q, k, v, out, lse } = forward;
    let tokens = check(&shape, [q, k, v], lse.len());
    assert_eq!([out.len(), dout.len(), dq.len()], [q.len(); 3], "out, dout and dq must have the shape of q");
    assert_eq!([dk.len(), dv.len()], [k.len(); 2], "dk and dv must have the shape of k");
    let kinds = [out.kind(), dout.kind(), dq.kind(), dk.kind(), dv.kind()];
    assert_eq!(kinds, [q.kind(); 5], "gradients must have the type of q");
    // A dot product in f32 takes the place of a head's first elements.
    assert!(q.kind() == FloatType::F32 || shape.head_dim.is_multiple_of(2), "heads in sixteen bits have an even size");
    let kind = q.kind().name();
    if tokens == 0 {
        return;
    }
    let count = segments.starts.len() - 1;
    let row_heads = tokens * shape.heads;
    let mut arguments = Arguments::new();
    arguments.address(out.address()).address(dout.address()).long(row_heads).int(shape.head_dim).address(dq.address());
    device.launch(&format!("attention_delta_{kind}"), [row_heads.div_ceil(THREADS / 32), 1, 1], THREADS, arguments);

    let tensor = is_tensor(device, &shape, &[q, k, v, dout, dq.freeze(), dk.freeze(), dv.freeze()]);
    let operands = |keys: bool| {
        let mut arguments = Arguments::new();
        arguments.address(q.address()).address(k.address()).address(v.address()).address(lse.address());
        arguments.address(dout.address());
        if keys {
            // The dots of `attention_delta`.
            arguments.address(dq.address());
        }
        arguments.address(segments.starts.address()).int(count).int(shape.heads).int(group(&shape));
        if !tensor {
            arguments.int(shape.head_dim);
        }
        scores(&mut arguments, &shape);
        arguments
    };
    let grid = |heads: usize| [tiles(tokens, count, TILE), heads, 1];
    if tensor {
        let d = shape.head_dim;
        let coming = if q.kind() == FloatType::F32 { 4 * d } else { 2 * d + 16 };
        // A device without bf16 has 64 KiB.
        let passing = if q.kind() == FloatType::F16 && d == 128 { PASSING_ROWS / 2 } else { PASSING_ROWS };
        let shared = (TILE + passing) * 2 * (2 * d + 16) + 2 * passing * coming;
        let mut arguments = operands(true);
        arguments.address(dk.address()).address(dv.address());
        let name = format!("attention_key_gradients_mma_{d}_{kind}");
        device.launch_with_shared(&name, grid(shape.kv_heads), GRADIENT_THREADS, shared, arguments);
        let mut arguments = operands(false);
        arguments.address(dq.address());
        let name = format!("attention_query_gradients_mma_{d}_{kind}");
        device.launch_with_shared(&name, grid(shape.heads), GRADIENT_THREADS, shared, arguments);
        return;
    }
    let columns = if shape.head_dim <= 64 { 64 } else { 128 };
    let starts: Vec<usize> = (0..shape.head_dim).step_by(columns).collect();
    for first in &starts {
        let mut arguments = operands(true);
        arguments.int(*first).address(dk.address()).address(dv.address());
        let name = format!("attention_key_gradients_{columns}_{kind}");
        device.launch(&name, grid(shape.kv_heads), THREADS, arguments);
    }
    // The first columns last: they hold the dots until then.
    for first in starts.iter().rev() {
        let mut arguments = operands(false);
        arguments.int(*first).address(dq.address());
        let name = format!("attention_query_gradients_{columns}_{kind}");
        device.launch(&name, grid(shape.heads), THREADS, arguments);
    }
}

/// One query per sequence against its cache.
///
/// # Panics
/// If a view does not have the length that its shape says.
pub fn decode(device: &CudaDevice, q: Values<'_>, cache: KeyValues<'_>, shape: AttentionShape, out: ValuesMut<'_>) {
    let sequences = cache.lengths.len();
    let KeyValues { keys, values, .. } = cache;
    assert_eq!(q.len(), sequences * shape.query_width(), "q must be [{sequences}, heads * head_dim]");
    assert_eq!(out.len(), q.len(), "out must have the shape of q");
    let stored = sequences * cache.capacity * shape.key_width();
    assert_eq!([keys.len(), values.len()], [stored; 2], "a cache must be [capacity, kv_heads * head_dim]");
    assert_eq!([keys.kind(), values.kind(), out.kind()], [q.kind(); 3], "caches and out must have the type of q");
    let kind = q.kind().name();
    if sequences == 0 {
        return;
    }
    let parts = cache.capacity.div_ceil(DECODE_KEYS);
    let scratch = device.scratch(parts_bytes(&shape, sequences, cache.capacity));
    let mut arguments = Arguments::new();
    arguments.address(q.address()).address(keys.address()).address(values.address());
    arguments.address(cache.lengths.address()).int(cache.capacity).int(shape.heads).int(group(&shape));
    arguments.int(shape.head_dim);
    scores(&mut arguments, &shape);
    arguments.address(scratch);
    let grid = [parts, shape.kv_heads * group(&shape).div_ceil(DECODE_HEADS), sequences];
    device.launch(&format!("attention_decode_{kind}"), grid, THREADS, arguments);
    let mut arguments = Arguments::new();
    arguments.address(scratch).address(cache.lengths.address()).int(parts).int(shape.heads).int(shape.head_dim);
    arguments.int(window(&shape)).address(out.address());
    device.launch(&format!("attention_decode_join_{kind}"), [shape.heads, sequences, 1], THREADS, arguments);
}

/// Scratch that [`decode`] uses.
#[must_use]
pub fn parts_bytes(shape: &AttentionShape, sequences: usize, capacity: usize) -> usize {
    sequences * shape.heads * capacity.div_ceil(DECODE_KEYS) * (2 + shape.head_dim) * 4
}

fn check(shape: &AttentionShape, [q, k, v]: [Values<'_>; 3], lse: usize) -> usize {
    assert!(shape.kv_heads > 0 && shape.heads.is_multiple_of(shape.kv_heads), "heads must be a multiple of kv_heads");
    assert!(shape.head_dim > 0, "head_dim must not be zero");
    assert!(shape.window != Some(0), "window must not be zero");
    let tokens = q.len() / shape.query_width();
    assert_eq!(q.len(), tokens * shape.query_width(), "q must be [{tokens}, heads * head_dim]");
    assert_eq!(k.len(), tokens * shape.key_width(), "k must be [{tokens}, kv_heads * head_dim]");
    assert_eq!(v.len(), k.len(), "v must have the shape of k");
    assert_eq!(lse, tokens * shape.heads, "lse must be [{tokens}, heads]");
    tokens
}

fn is_tensor(device: &CudaDevice, shape: &AttentionShape, views: &[Values<'_>]) -> bool {
    device.precision() == Precision::Bf16
        && (device.has_bf16() || views.iter().all(|view| view.kind() == FloatType::F16))
        && matches!(shape.head_dim, 64 | 80 | 96 | 128)
        && views.iter().all(|view| view.address().as_ptr().addr().is_multiple_of(16))
}

/// Enough tiles for any lengths of `segments` segments.
fn tiles(tokens: usize, segments: usize, rows: usize) -> usize {
    tokens / rows + segments
}

fn group(shape: &AttentionShape) -> usize {
    shape.heads / shape.kv_heads
}

fn window(shape: &AttentionShape) -> usize {
    shape.window.unwrap_or(usize::MAX).min(i32::MAX as usize)
}

fn scores(arguments: &mut Arguments, shape: &AttentionShape) {
    arguments.float(shape.scale).int(window(shape)).float(shape.soft_cap.unwrap_or(0.0));
}
