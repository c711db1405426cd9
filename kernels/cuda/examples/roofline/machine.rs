//! The cards, by their makers' data sheets, and what share of their peaks the kernels are taken to reach.

/// Peaks of one card.
pub struct Machine {
    pub name: &'static str,
    /// Products of bf16, or of f16 where there is none, with f32 sums on the tensor cores, dense, operations per second.
    pub tensor: f64,
    /// f32 outside the tensor cores, operations per second.
    pub plain: f64,
    /// Bytes per second of its memory.
    pub bandwidth: f64,
    /// Bytes of its memory.
    pub memory: f64,
}

pub const MACHINES: [Machine; 4] = [
    Machine { name: "T4, 16 GB", tensor: 65e12, plain: 8.1e12, bandwidth: 320e9, memory: 16e9 },
    Machine { name: "RTX 4090, 24 GB", tensor: 165.2e12, plain: 82.6e12, bandwidth: 1008e9, memory: 24e9 },
    Machine { name: "A100 SXM, 80 GB", tensor: 312e12, plain: 19.5e12, bandwidth: 2039e9, memory: 80e9 },
    Machine { name: "H100 SXM, 80 GB", tensor: 989.4e12, plain: 66.9e12, bandwidth: 3350e9, memory: 80e9 },
];

/// Shares of a peak that a kernel is taken to reach, and what a launch costs the card.
pub struct Efficiency {
    pub name: &'static str,
    /// Products are a library's.
    pub library: bool,
    /// Of `tensor`, by products of hundreds of rows and more.
    pub product: f64,
    /// Of `tensor`, by attention.
    pub attention: f64,
    /// Of `bandwidth`, by everything that memory bounds.
    pub stream: f64,
    /// Seconds between two kernels that a captured graph or a full queue leaves.
    pub gap: f64,
}

pub const EFFICIENCIES: [Efficiency; 3] = [
    Efficiency { name: "the roof itself", library: false, product: 1.0, attention: 1.0, stream: 1.0, gap: 0.0 },
    Efficiency { name: "a vendor's library", library: true, product: 0.75, attention: 0.5, stream: 0.85, gap: 1.5e-6 },
    Efficiency {
        name: "kernels of this crate, first draft",
        library: false,
        product: 0.5,
        attention: 0.3,
        stream: 0.7,
        gap: 3e-6,
    },
];
