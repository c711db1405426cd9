//! What an operation keeps on each device that it has run on.

use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Error, Result};
use luthier_kernels::device::{Device, DeviceResult};

/// A value for each device, made when it is first needed there. Devices live as long as the program.
pub struct Placed<T> {
    values: Mutex<Vec<(usize, Arc<T>)>>,
}

impl<T> Default for Placed<T> {
    fn default() -> Self {
        Self { values: Mutex::default() }
    }
}

impl<T> Placed<T> {
    /// # Errors
    /// Those of `make`.
    pub fn on(&self, device: &dyn Device, make: impl FnOnce(&dyn Device) -> DeviceResult<T>) -> Result<Arc<T>> {
        let place = ptr::from_ref(device).cast::<()>().addr();
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, value)) = values.iter().find(|(known, _)| *known == place) {
            return Ok(Arc::clone(value));
        }
        let value = Arc::new(make(device).map_err(Error::wrap)?);
        values.push((place, Arc::clone(&value)));
        Ok(value)
    }
}
