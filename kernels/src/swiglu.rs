//! The gated activation of Llama's feed-forward block: `out = silu(gate) · up`.

/// `out = silu(gate) · up`.
///
/// # Panics
/// If the lengths differ.
pub fn forward(gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert_eq!(gate.len(), up.len(), "gate and up must have one length");
    assert_eq!(gate.len(), out.len(), "out must have gate's length");
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        *out = gate / (1.0 + (-gate).exp()) * up;
    }
}

/// `dup = dout · silu(gate)`, `dgate = dout · up · σ(gate) · (1 + gate · (1 - σ(gate)))`.
///
/// # Panics
/// If the lengths differ.
pub fn backward(gate: &[f32], up: &[f32], dout: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    assert_eq!(gate.len(), up.len(), "gate and up must have one length");
    assert_eq!(gate.len(), dout.len(), "dout must have gate's length");
    assert_eq!(gate.len(), dgate.len(), "dgate must have gate's length");
    assert_eq!(gate.len(), dup.len(), "dup must have gate's length");
    for ((((dgate, dup), gate), up), dout) in dgate.iter_mut().zip(dup).zip(gate).zip(up).zip(dout) {
        let sigmoid = 1.0 / (1.0 + (-gate).exp());
        *dup = dout * gate * sigmoid;
        *dgate = dout * up * sigmoid * (1.0 + gate * (1.0 - sigmoid));
    }
}
