//! Bytes in use per named component: what the memory plan predicts is what this counts.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a buffer is for. The names are those of the memory plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// Frozen matrices of the blocks, as stored (f32, bf16 or NF4 with its scales), biases and norms.
    Weights,
    /// Token embedding and output head.
    Embeddings,
    /// Trainable parameters.
    Adapters,
    /// One gradient per trainable parameter.
    Gradients,
    /// Moments of the optimiser.
    Optimizer,
    /// Values a block's forward saves for its backward.
    Activations,
    /// Block inputs kept for recomputation.
    Checkpoint,
    /// What is alive only inside one block's forward or backward or inside the loss: one arena, as large as the widest
    /// of them, and the gradient that travels down the blocks.
    Workspace,
    /// Keys and values of generated text.
    Cache,
    /// Indices, rotary tables and other small things.
    Scratch,
}

impl Component {
    pub const ALL: [Self; 10] = [
        Self::Weights,
        Self::Embeddings,
        Self::Adapters,
        Self::Gradients,
        Self::Optimizer,
        Self::Activations,
        Self::Checkpoint,
        Self::Workspace,
        Self::Cache,
        Self::Scratch,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Weights => "weights",
            Self::Embeddings => "embeddings",
            Self::Adapters => "adapters",
            Self::Gradients => "gradients",
            Self::Optimizer => "optimizer",
            Self::Activations => "activations",
            Self::Checkpoint => "checkpoint",
            Self::Workspace => "workspace",
            Self::Cache => "cache",
            Self::Scratch => "scratch",
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Counts the bytes that a device's live buffers hold, per component, and the most they ever held.
#[derive(Debug, Default)]
pub struct Ledger {
    current: [AtomicUsize; Component::ALL.len()],
    peak: [AtomicUsize; Component::ALL.len()],
    total: AtomicUsize,
    total_peak: AtomicUsize,
    /// Page-locked host memory, which is in no total.
    host: AtomicUsize,
    host_peak: AtomicUsize,
}

impl Ledger {
    pub(crate) fn add(&self, component: Component, bytes: usize) {
        let index = component as usize;
        let now = self.current[index].fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak[index].fetch_max(now, Ordering::Relaxed);
        let total = self.total.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.total_peak.fetch_max(total, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, component: Component, bytes: usize) {
        self.current[component as usize].fetch_sub(bytes, Ordering::Relaxed);
        self.total.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that no allocation of a device stands for, such as those of a mapped file, until the guard is
    /// dropped.
    #[must_use]
    pub fn hold(self: &Arc<Self>, component: Component, bytes: usize) -> Held {
        self.add(component, bytes);
        Held { ledger: Arc::clone(self), component, bytes }
    }

    /// Counts page-locked host memory until the guard is dropped.
    #[must_use]
    pub fn hold_host(self: &Arc<Self>, bytes: usize) -> HeldHost {
        let now = self.host.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.host_peak.fetch_max(now, Ordering::Relaxed);
        HeldHost { ledger: Arc::clone(self), bytes }
    }

    /// Page-locked host memory held now.
    #[must_use]
    pub fn host(&self) -> usize {
        self.host.load(Ordering::Relaxed)
    }

    /// The most page-locked host memory held at once.
    #[must_use]
    pub fn host_peak(&self) -> usize {
        self.host_peak.load(Ordering::Relaxed)
    }

    /// Bytes held now.
    #[must_use]
    pub fn current(&self, component: Component) -> usize {
        self.current[component as usize].load(Ordering::Relaxed)
    }

    /// The most bytes held at once by this component.
    #[must_use]
    pub fn peak(&self, component: Component) -> usize {
        self.peak[component as usize].load(Ordering::Relaxed)
    }

    /// The most bytes held at once by all components together.
    #[must_use]
    pub fn total_peak(&self) -> usize {
        self.total_peak.load(Ordering::Relaxed)
    }
}

/// Bytes that count as in use for as long as this lives.
#[derive(Debug)]
pub struct Held {
    ledger: Arc<Ledger>,
    component: Component,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.ledger.remove(self.component, self.bytes);
    }
}

/// Page-locked host memory that counts as in use for as long as this lives.
#[derive(Debug)]
pub struct HeldHost {
    ledger: Arc<Ledger>,
    bytes: usize,
}

impl Drop for HeldHost {
    fn drop(&mut self) {
        self.ledger.host.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
