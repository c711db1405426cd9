//! Dropout and noise from named streams.

use luthier_kernels::device::{Dropout, Noise, Segments, Slice, SliceMut, Values, ValuesMut};
use luthier_kernels::random::Stream;

use crate::{Arguments, CudaDevice};

const THREADS: usize = 256;

/// # Panics
/// If the lengths differ.
pub fn dropout(device: &CudaDevice, x: Values<'_>, dropout: Dropout<'_>, accumulate: bool, out: ValuesMut<'_>) {
    let len = out.len();
    assert_eq!(x.len(), len, "dropout of another length");
    let mut arguments = Arguments::new();
    arguments.address(x.address()).long(len);
    stream(&mut arguments, dropout.stream, dropout.offset);
    arguments.float(dropout.probability).float(1.0 / (1.0 - dropout.probability)).flag(accumulate);
    arguments.address(out.address());
    let name = format!("dropout_{}_{}", x.kind().name(), out.kind().name());
    device.launch(&name, [len.div_ceil(4 * THREADS), 1, 1], THREADS, arguments);
}

/// # Panics
/// If there are no offsets.
pub fn add_noise(device: &CudaDevice, noise: Noise<'_>, segments: Segments<'_>, width: usize, out: SliceMut<'_, f32>) {
    let mut arguments = Arguments::new();
    arguments.address(segments.starts.address()).int(width);
    stream(&mut arguments, noise.stream, noise.offset);
    arguments.double(noise.strength).address(out.address());
    let grid = [(segments.longest * width).div_ceil(THREADS), segments.starts.len() - 1, 1];
    device.launch("add_noise", grid, THREADS, arguments);
}

fn stream(arguments: &mut Arguments, stream: Stream, offset: Slice<'_, u64>) {
    assert!(!offset.is_empty(), "a stream is drawn from a position on");
    for word in stream.state() {
        arguments.int(word as usize);
    }
    arguments.address(offset.address());
}
