//! Rotary position embedding in place.

use luthier_kernels::device::{Rotary, Slice, ValuesMut};

use crate::{Arguments, CudaDevice};

const THREADS: usize = 256;

/// Rotates every head of `x` by its row's position, or back. A position outside the tables makes NaNs.
///
/// # Panics
/// If `x` has another shape than positions, heads and tables say, or the tables are not on this device.
pub fn rotate(
    device: &CudaDevice,
    positions: Slice<'_, u32>,
    heads: usize,
    rotary: &Rotary,
    inverse: bool,
    x: ValuesMut<'_>,
) {
    let Rotary::Device { cos, sin, head_dim } = rotary else { panic!("the rotary tables are not on this device") };
    let half = head_dim / 2;
    assert_eq!(x.len(), positions.len() * heads * head_dim, "x must be [{}, {heads} * {head_dim}]", positions.len());
    let pairs = x.len() / 2;
    if pairs == 0 {
        return;
    }
    let mut arguments = Arguments::new();
    arguments.address(x.address()).address(positions.address()).address(cos.all().address());
    arguments.address(sin.all().address()).long(pairs).int(heads).int(half).int(cos.len() / half);
    arguments.float(if inverse { -1.0 } else { 1.0 });
    device.launch(&format!("rope_{}", x.kind().name()), [pairs.div_ceil(THREADS), 1, 1], THREADS, arguments);
}
