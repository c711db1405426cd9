//! Additions over whole buffers: residual connections, gradient sums.

use crate::parallel;

/// `to += from`.
///
/// # Panics
/// If the lengths differ.
pub fn add(to: &mut [f32], from: &[f32]) {
    assert_eq!(to.len(), from.len(), "both buffers must have one length");
    parallel::pieces(to, [from], |to, [from]| {
        for (to, from) in to.iter_mut().zip(from) {
            *to += from;
        }
    });
}

/// `to = a + b`.
///
/// # Panics
/// If the lengths differ.
pub fn sum(a: &[f32], b: &[f32], to: &mut [f32]) {
    assert_eq!(a.len(), b.len(), "both operands must have one length");
    assert_eq!(a.len(), to.len(), "the result must have the operands' length");
    parallel::pieces(to, [a, b], |to, [a, b]| {
        for ((to, a), b) in to.iter_mut().zip(a).zip(b) {
            *to = a + b;
        }
    });
}

/// `to += factor · from`, the product rounded before the sum.
///
/// # Panics
/// If the lengths differ.
pub fn add_scaled(to: &mut [f32], from: &[f32], factor: f32) {
    assert_eq!(to.len(), from.len(), "both buffers must have one length");
    parallel::pieces(to, [from], |to, [from]| {
        for (to, from) in to.iter_mut().zip(from) {
            *to += factor * from;
        }
    });
}
