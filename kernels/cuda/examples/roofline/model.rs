//! The models, by their published configurations.

/// A decoder of the Llama family with tied or untied embeddings.
pub struct Model {
    pub name: &'static str,
    pub hidden: f64,
    pub layers: f64,
    pub heads: f64,
    pub kv_heads: f64,
    pub head_dim: f64,
    pub intermediate: f64,
    pub vocabulary: f64,
}

pub const MODELS: [Model; 3] = [
    Model {
        name: "1B",
        hidden: 2048.0,
        layers: 16.0,
        heads: 32.0,
        kv_heads: 8.0,
        head_dim: 64.0,
        intermediate: 8192.0,
        vocabulary: 128_256.0,
    },
    Model {
        name: "8B",
        hidden: 4096.0,
        layers: 32.0,
        heads: 32.0,
        kv_heads: 8.0,
        head_dim: 128.0,
        intermediate: 14_336.0,
        vocabulary: 128_256.0,
    },
    Model {
        name: "70B",
        hidden: 8192.0,
        layers: 80.0,
        heads: 64.0,
        kv_heads: 8.0,
        head_dim: 128.0,
        intermediate: 28_672.0,
        vocabulary: 128_256.0,
    },
];

impl Model {
    pub fn query(&self) -> f64 {
        self.heads * self.head_dim
    }

    pub fn key(&self) -> f64 {
        self.kv_heads * self.head_dim
    }

    /// Outputs and inputs of the seven projections of a layer.
    pub fn projections(&self) -> [[f64; 2]; 7] {
        let (query, key) = (self.query(), self.key());
        [
            [query, self.hidden],
            [key, self.hidden],
            [key, self.hidden],
            [self.hidden, query],
            [self.intermediate, self.hidden],
            [self.intermediate, self.hidden],
            [self.hidden, self.intermediate],
        ]
    }

    /// Weights of a layer's projections.
    pub fn weights(&self) -> f64 {
        self.projections().iter().map(|[outputs, inputs]| outputs * inputs).sum()
    }
}
