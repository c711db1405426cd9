//! The seven linear projections of a decoder block.

use luthier_formats::model_files::ModelConfig;

/// A linear projection of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Projection {
    Query,
    Key,
    Value,
    Output,
    Gate,
    Up,
    Down,
}

impl Projection {
    pub const ALL: [Self; 7] = [Self::Query, Self::Key, Self::Value, Self::Output, Self::Gate, Self::Up, Self::Down];

    /// The last part of the module's name, as transformers has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Query => "q_proj",
            Self::Key => "k_proj",
            Self::Value => "v_proj",
            Self::Output => "o_proj",
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::Down => "down_proj",
        }
    }

    /// The module's name in the model, as transformers has it.
    #[must_use]
    pub fn module(self, layer: usize) -> String {
        let part = match self {
            Self::Query | Self::Key | Self::Value | Self::Output => "self_attn",
            Self::Gate | Self::Up | Self::Down => "mlp",
        };
        format!("model.layers.{layer}.{part}.{}", self.name())
    }

    /// `(outputs, inputs)`: the weight is `[outputs, inputs]`.
    #[must_use]
    pub fn shape(self, config: &ModelConfig) -> (usize, usize) {
        let (hidden, query, key) =
            (config.hidden_size, config.heads * config.head_dim, config.kv_heads * config.head_dim);
        match self {
            Self::Query => (query, hidden),
            Self::Key | Self::Value => (key, hidden),
            Self::Output => (hidden, query),
            Self::Gate | Self::Up => (config.intermediate_size, hidden),
            Self::Down => (hidden, config.intermediate_size),
        }
    }
}
