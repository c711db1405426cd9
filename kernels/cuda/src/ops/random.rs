//! Dropout and noise from named streams.

use luthier_kernels::device::{Dropout, Noise, Slice, SliceMut};
use luthier_kernels::random::Stream;

use crate::{Arguments, CudaDevice};

const THREADS: usize = 256;

/// # Panics
/// If the lengths differ.
pub fn dropout(device: &CudaDevice, x: Slice<'_, f32>, dropout: Dropout, accumulate: bool, out: SliceMut<'_, f32>) {
    let len = out.len();
    assert_eq!(x.len(), len, "dropout of another length");
    let mut arguments = Arguments::new();
    arguments.address(x.address()).long(len);
    stream(&mut arguments, dropout.stream, dropout.offset);
    arguments.float(dropout.probability).float(1.0 / (1.0 - dropout.probability)).flag(accumulate);
    arguments.address(out.address());
    device.launch("dropout", [len.div_ceil(4 * THREADS), 1, 1], THREADS, arguments);
}

pub fn add_noise(device: &CudaDevice, noise: Noise, out: SliceMut<'_, f32>) {
    let len = out.len();
    let mut arguments = Arguments::new();
    arguments.long(len);
    stream(&mut arguments, noise.stream, noise.offset);
    arguments.float(noise.magnitude).address(out.address());
    device.launch("add_noise", [len.div_ceil(THREADS), 1, 1], THREADS, arguments);
}

fn stream(arguments: &mut Arguments, stream: Stream, offset: u64) {
    for word in stream.state() {
        arguments.int(word as usize);
    }
    arguments.long(offset as usize);
}
