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

/// What page-locked host memory is for. The names are those of the memory plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostComponent {
    /// What small copies go through: the device's own.
    Staging,
    /// Block inputs that wait for backward.
    BlockInputs,
    /// Frozen blocks on their way from disk.
    Blocks,
    /// Moments of the optimiser that come to the device a page at a time.
    Moments,
}

impl HostComponent {
    pub const ALL: [Self; 4] = [Self::Staging, Self::BlockInputs, Self::Blocks, Self::Moments];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Staging => "staging",
            Self::BlockInputs => "block inputs",
            Self::Blocks => "blocks",
            Self::Moments => "moments",
        }
    }
}

impl fmt::Display for HostComponent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Bytes held now, and the most that were held at once.
#[derive(Debug, Default)]
struct Count {
    now: AtomicUsize,
    peak: AtomicUsize,
}

impl Count {
    fn add(&self, bytes: usize) {
        let now = self.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(now, Ordering::Relaxed);
    }

    fn remove(&self, bytes: usize) {
        self.now.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn now(&self) -> usize {
        self.now.load(Ordering::Relaxed)
    }

    fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }
}

/// Counts the bytes that a device's live buffers hold, per component, and the most they ever held.
#[derive(Debug, Default)]
pub struct Ledger {
    components: [Count; Component::ALL.len()],
    total: Count,
    /// Page-locked host memory, which is not in the total.
    host: [Count; HostComponent::ALL.len()],
    host_total: Count,
}

impl Ledger {
    pub(crate) fn add(&self, component: Component, bytes: usize) {
        self.components[component as usize].add(bytes);
        self.total.add(bytes);
    }

    pub(crate) fn remove(&self, component: Component, bytes: usize) {
        self.components[component as usize].remove(bytes);
        self.total.remove(bytes);
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
    pub fn hold_host(self: &Arc<Self>, component: HostComponent, bytes: usize) -> HeldHost {
        self.host[component as usize].add(bytes);
        self.host_total.add(bytes);
        HeldHost { ledger: Arc::clone(self), component, bytes }
    }

    /// Page-locked host memory held now.
    #[must_use]
    pub fn host(&self, component: HostComponent) -> usize {
        self.host[component as usize].now()
    }

    /// The most page-locked host memory held at once by this component.
    #[must_use]
    pub fn host_peak(&self, component: HostComponent) -> usize {
        self.host[component as usize].peak()
    }

    /// The most page-locked host memory held at once.
    #[must_use]
    pub fn host_total_peak(&self) -> usize {
        self.host_total.peak()
    }

    /// Bytes held now.
    #[must_use]
    pub fn current(&self, component: Component) -> usize {
        self.components[component as usize].now()
    }

    /// The most bytes held at once by this component.
    #[must_use]
    pub fn peak(&self, component: Component) -> usize {
        self.components[component as usize].peak()
    }

    /// The most bytes held at once by all components together.
    #[must_use]
    pub fn total_peak(&self) -> usize {
        self.total.peak()
    }

    /// Bytes held now by all components together.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total.now()
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
    component: HostComponent,
    bytes: usize,
}

impl Drop for HeldHost {
    fn drop(&mut self) {
        self.ledger.host[self.component as usize].remove(self.bytes);
        self.ledger.host_total.remove(self.bytes);
    }
}
