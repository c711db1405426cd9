//! What the tests of operations share.

pub mod emulator;
pub mod sources;

use std::sync::OnceLock;

use bytemuck::Pod;
use libloading::Library;
use luthier_cuda::{CudaDevice, CudaOptions, Precision};
use luthier_kernels::device::{Buffer, Component, Device, DeviceExt, Slice, SliceMut};
use luthier_kernels::random::Stream;

pub fn random(name: &str, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    Stream::new(7, name).fill_normal(0, 0.0, 1.0, &mut values);
    values
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Squared error over squared size; a NaN anywhere makes it NaN.
pub fn nmse(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len(), "lengths");
    let error: f64 = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    error / expected.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().max(1e-30)
}

pub fn upload<T: Pod>(device: &dyn Device, values: &[T]) -> Buffer<T> {
    let mut buffer = device.buffer(Component::Scratch, values.len()).unwrap();
    device.write(values, buffer.all_mut());
    buffer
}

/// What an operation writes to: filled before, with guards around it.
pub struct Output {
    buffer: Buffer<f32>,
    len: usize,
}

/// Floats before and after an output, a multiple of sixteen bytes.
const GUARD: usize = 64;
const SENTINEL: f32 = -1.25e30;

impl Output {
    pub fn new(device: &dyn Device, len: usize, fill: f32) -> Self {
        let mut values = vec![SENTINEL; len + 2 * GUARD];
        values[GUARD..GUARD + len].fill(fill);
        Self { buffer: upload(device, &values), len }
    }

    pub fn view(&mut self) -> SliceMut<'_, f32> {
        let end = GUARD + self.len;
        self.buffer.slice_mut(GUARD..end)
    }

    pub fn shared(&self) -> Slice<'_, f32> {
        self.buffer.slice(GUARD..GUARD + self.len)
    }

    pub fn read(&self, device: &dyn Device) -> Vec<f32> {
        let mut values = vec![0.0; self.len + 2 * GUARD];
        device.read(self.buffer.all(), &mut values);
        device.synchronize().unwrap();
        let guards = values[..GUARD].iter().chain(&values[GUARD + self.len..]);
        assert!(guards.into_iter().all(|x| *x == SENTINEL), "wrote outside the output");
        values[GUARD..GUARD + self.len].to_vec()
    }
}

/// Set in a process whose emulated device is one of compute capability 7.5.
pub const TURING: &str = "LUTHIER_TEST_TURING";

/// Set to test the machine's own device (`tests/gpu.sh`).
const REAL: &str = "LUTHIER_TEST_GPU";

/// Whether the device is the machine's own.
pub fn is_real() -> bool {
    std::env::var_os(REAL).is_some()
}

/// The device on the emulated driver, or the machine's own if that is tested; `None`, with a line that says so, where the
/// emulated driver cannot be built. `LUTHIER_EMULATED_DRIVER` names another build of it.
pub fn emulated(precision: Precision) -> Option<CudaDevice> {
    static DRIVER: OnceLock<Option<Library>> = OnceLock::new();
    let options = CudaOptions { ordinal: 0, precision, cublas: false };
    if is_real() {
        let device = CudaDevice::open(options).unwrap();
        assert!(!device.model().contains("emulation"), "{REAL} is set, but the driver is the emulated one");
        return Some(device);
    }
    let driver = DRIVER.get_or_init(|| {
        let path = match std::env::var_os("LUTHIER_EMULATED_DRIVER") {
            Some(path) => path.into(),
            None => {
                if let Some(why) = emulator::missing() {
                    eprintln!("skipped: {why}");
                    return None;
                }
                emulator::build(None, None)
            }
        };
        // The name inside it is the driver's, so that whoever asks for the driver later finds this one.
        // SAFETY: loading it runs the registration of its kernels.
        Some(unsafe { Library::new(path) }.unwrap())
    });
    driver.as_ref()?;
    if std::env::var_os(TURING).is_some() {
        in_capability(7, 5);
    }
    Some(CudaDevice::open(options).unwrap())
}

/// The order of threads from the next kernel on, in this whole process; a real device has its own.
pub fn in_order(order: &str) {
    if is_real() {
        return;
    }
    // SAFETY: the emulated driver is loaded, and the function takes a string that ends with a zero byte.
    unsafe {
        let driver = Library::new("libcuda.so").unwrap();
        let set: libloading::Symbol<'_, unsafe extern "C" fn(*const std::ffi::c_char)> =
            driver.get(b"emulator_set_order").unwrap();
        set(std::ffi::CString::new(order).unwrap().as_ptr());
    }
}

/// The compute capability of devices that are opened from now on, in this whole process; a real device has its own.
pub fn in_capability(major: i32, minor: i32) {
    if is_real() {
        return;
    }
    // SAFETY: the emulated driver is loaded, and the function takes two numbers.
    unsafe {
        let driver = Library::new("libcuda.so").unwrap();
        let set: libloading::Symbol<'_, unsafe extern "C" fn(i32, i32)> =
            driver.get(b"emulator_set_capability").unwrap();
        set(major, minor);
    }
}

/// Orders of threads that tests run under.
pub const ORDERS: [&str; 6] = ["rev", "3", "7", "warps", "warps-rev", "fwd"];
