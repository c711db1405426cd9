//! Graphs captured from the stream: what a step queues, kept by the driver to be queued again in one call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cudarc::driver::DriverError;
use luthier_kernels::device::Recording;

use crate::CudaDevice;
use crate::driver::{Driver, Executable};

/// Set to `0` where a driver has trouble with graphs: the same kernels are launched one by one.
const SWITCH: &str = "LUTHIER_CUDA_GRAPHS";

/// Whether graphs are captured, and whether one is being captured now.
pub(crate) struct Capture {
    wanted: bool,
    active: AtomicBool,
    /// Something was called that cannot be in a graph.
    spoilt: AtomicBool,
}

impl Capture {
    pub fn new() -> Self {
        Self {
            wanted: std::env::var_os(SWITCH).is_none_or(|value| value != "0"),
            active: AtomicBool::new(false),
            spoilt: AtomicBool::new(false),
        }
    }

    pub fn set_wanted(&mut self, wanted: bool) {
        self.wanted = wanted;
    }

    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::Acquire)
    }

    /// Gives up what is captured; whether anything is.
    pub fn spoil(&self) -> bool {
        let active = self.is_active();
        self.spoilt.fetch_or(active, Ordering::AcqRel);
        active
    }

    pub fn is_spoilt(&self) -> bool {
        self.is_active() && self.spoilt.load(Ordering::Acquire)
    }
}

/// A graph that is ready to run.
struct Graph {
    executable: Executable,
    driver: Arc<Driver>,
    /// Of the scratch memory that its kernels borrow.
    generation: usize,
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.driver.destroy(self.executable);
    }
}

impl CudaDevice {
    /// Captures what `work` queues.
    pub(crate) fn capture_work(&self, work: &mut dyn FnMut()) -> Option<Recording> {
        let capture = self.capture();
        if !capture.wanted || capture.is_active() || self.has_failed() {
            return None;
        }
        self.driver().begin_capture().ok()?;
        capture.spoilt.store(false, Ordering::Release);
        capture.active.store(true, Ordering::Release);
        work();
        let spoilt = capture.is_spoilt();
        capture.active.store(false, Ordering::Release);
        let executable = self.driver().end_capture(spoilt).ok()??;
        let graph = Graph { executable, driver: Arc::clone(self.shared_driver()), generation: self.generation() };
        Some(Recording::new(graph))
    }

    /// Queues a graph; whether it could.
    ///
    /// # Safety
    /// All memory of its kernels is there.
    pub(crate) unsafe fn replay_graph(&self, recording: &Recording) -> bool {
        let Some(graph) = recording.get::<Graph>() else { return false };
        if graph.generation != self.generation() || self.capture().is_active() {
            return false;
        }
        if !self.has_failed() {
            // SAFETY: as the caller says; its scratch has not moved.
            let queued: Result<(), DriverError> = unsafe { self.driver().run_graph(graph.executable) };
            self.mark_queued();
            self.note(queued);
        }
        true
    }

    /// Whether operations that come again are captured as graphs; they are unless `LUTHIER_CUDA_GRAPHS` is 0.
    pub fn capture_graphs(&mut self, wanted: bool) {
        self.capture_mut().set_wanted(wanted);
    }
}
