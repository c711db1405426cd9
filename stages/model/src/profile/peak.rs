//! What the machine can do, and what the process took.

use std::time::Instant;

use luthier_kernels::device::{Component, Device, DeviceExt, Operation, Storage};

use crate::error::device_error;

/// Width of the square product that is timed.
const WIDTH: usize = 2048;

/// Floating-point operations a second of a large product on `device`, the fastest of `rounds`.
///
/// # Errors
/// Out of memory.
pub fn product_rate(device: &dyn Device, rounds: usize) -> luthier_core::StageResult<f64> {
    let mut operands = Vec::with_capacity(3);
    let shape = [WIDTH, WIDTH, WIDTH];
    device.reserve(&[Operation::MatmulNt(shape, Storage::F32)]).map_err(device_error)?;
    for _ in 0..3 {
        operands.push(device.buffer::<f32>(Component::Scratch, WIDTH * WIDTH).map_err(device_error)?);
    }
    let values: Vec<f32> = (0..WIDTH * WIDTH).map(|index| (index % 17) as f32 * 0.1 - 0.8).collect();
    let [x, w, out] = operands.as_mut_slice() else { return Ok(0.0) };
    device.write(&values, x.all_mut());
    device.write(&values, w.all_mut());
    let mut best = f64::INFINITY;
    for _ in 0..rounds.max(1) {
        let start = Instant::now();
        device.run(&mut || {
            device.matmul_nt(x.all().into(), w.all().into(), shape, 1.0, false, out.all_mut().into());
        });
        device.synchronize().map_err(device_error)?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(2.0 * (WIDTH as f64).powi(3) / best)
}

/// The most memory that this process ever had resident, where the system says so.
#[must_use]
pub fn resident_peak() -> Option<usize> {
    let status = fs_err::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(1024 * kibibytes)
}
