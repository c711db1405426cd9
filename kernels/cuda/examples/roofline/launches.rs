//! What a test counts on the emulated driver: launches of one layer, rank 16 on all seven projections, no dropout.

/// Norm, three projections reduced at once, seven matrices decoded and multiplied, rotations, attention, norm, two
/// projections reduced at once, gate; the output and down projections reduced alone.
pub const FORWARD: usize = 24;
/// The same without the down projection's product.
pub const AGAIN: usize = 22;
/// Seven matrices decoded and multiplied, a way through the ranks and the gradients of each of four groups, attention's
/// three, norms again and back, rotations, the gate again and back, two copies of the gradient in sixteen bits.
pub const BACKWARD: usize = 35;
