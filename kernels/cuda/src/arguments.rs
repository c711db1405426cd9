//! The parameters of a launch.

use std::ffi::c_void;
use std::ptr::NonNull;

/// Something that lies in the device's memory.
pub trait Address {
    fn word(self) -> u64;
}

impl Address for u64 {
    fn word(self) -> u64 {
        self
    }
}

impl<T> Address for NonNull<T> {
    fn word(self) -> u64 {
        self.as_ptr().addr() as u64
    }
}

/// Parameters in the order of a kernel's signature. A parameter of fewer bytes is the low end of its word, as on every
/// machine that CUDA runs on.
#[derive(Debug, Default)]
pub struct Arguments {
    words: Vec<u64>,
}

impl Arguments {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn address(&mut self, address: impl Address) -> &mut Self {
        self.words.push(address.word());
        self
    }

    /// An `int`, or a `u32`.
    ///
    /// # Panics
    /// If it does not fit.
    pub fn int(&mut self, value: usize) -> &mut Self {
        assert!(u32::try_from(value).is_ok(), "a kernel's count of {value} is beyond 32 bits");
        self.words.push(value as u64);
        self
    }

    pub fn long(&mut self, value: usize) -> &mut Self {
        self.words.push(value as u64);
        self
    }

    pub fn float(&mut self, value: f32) -> &mut Self {
        self.words.push(u64::from(value.to_bits()));
        self
    }

    pub fn double(&mut self, value: f64) -> &mut Self {
        self.words.push(value.to_bits());
        self
    }

    pub fn flag(&mut self, value: bool) -> &mut Self {
        self.words.push(u64::from(value));
        self
    }

    /// What the driver wants: where each parameter is.
    pub fn pointers(&mut self) -> Vec<*mut c_void> {
        self.words.iter_mut().map(|word| std::ptr::from_mut(word).cast()).collect()
    }
}
