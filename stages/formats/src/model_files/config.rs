//! The shape of a model: what config.json or a GGUF header says, checked once, in one type.

use luthier_core::{StageError, StageResult};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::architecture::Architecture;
use super::rope_scaling::RopeScaling;
use crate::gguf::{GgufFile, MetaValue};

/// Hyper-parameters of a decoder-only model.
///
/// Invariants: every dimension is at least 1 and below 2^31, `heads` is a multiple of `kv_heads`, `head_dim` is even.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    pub architecture: Architecture,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub rms_eps: f64,
    pub rope_theta: f64,
    pub rope_scaling: Option<RopeScaling>,
    pub max_positions: usize,
    /// The head reads the embedding's weights; there is no `lm_head.weight`.
    pub tie_embeddings: bool,
    /// Each position sees this many positions at most, itself included.
    pub sliding_window: Option<usize>,
    /// q, k and v have a bias.
    pub qkv_bias: bool,
    /// q and k are RMS-normalised per head.
    pub qk_norm: bool,
    pub bos_id: Option<u32>,
    /// Tokens that end generation, in the order written.
    pub eos_ids: Vec<u32>,
    pub pad_id: Option<u32>,
}

fn bad(message: String) -> StageError {
    StageError::input("model::bad_config", message).hint("compare the file with the model's original one")
}

impl ModelConfig {
    /// From a parsed config.json. Source: transformers' configuration classes and their defaults.
    ///
    /// # Errors
    /// An unknown family, a missing or impossible value, or a feature that is not supported (biased feed-forward,
    /// quantised weights, unknown rope scaling), each named.
    pub fn from_json(json: &Value) -> StageResult<Self> {
        let reader = JsonReader(json);
        let Some(model_type) = json.get("model_type").and_then(Value::as_str) else {
            return Err(bad("config.json has no `model_type`, expected one such as `llama`".to_owned()));
        };
        let architecture = Architecture::from_model_type(model_type)?;
        reader.refuse_unsupported()?;
        let hidden_size = reader.dimension("hidden_size", None)?;
        let heads = reader.dimension("num_attention_heads", None)?;
        let default_head_dim = match architecture {
            Architecture::Qwen3 => 128,
            _ => hidden_size / heads,
        };
        let rope = json.get("rope_parameters").filter(|value| value.is_object());
        let theta = rope.and_then(|rope| rope.get("rope_theta")).or_else(|| json.get("rope_theta"));
        let scaling = rope.or_else(|| json.get("rope_scaling")).unwrap_or(&Value::Null);
        let window = match architecture {
            Architecture::Mistral => json.get("sliding_window").and_then(Value::as_u64),
            _ => None,
        };
        if matches!(architecture, Architecture::Qwen2 | Architecture::Qwen3)
            && json.get("use_sliding_window").and_then(Value::as_bool) == Some(true)
        {
            return Err(StageError::input(
                "model::unsupported",
                "config.json sets `use_sliding_window: true`, which is not supported for Qwen",
            )
            .hint("set `use_sliding_window: false` if sequences are shorter than the window"));
        }
        let config = Self {
            architecture,
            vocab_size: reader.dimension("vocab_size", None)?,
            hidden_size,
            intermediate_size: reader.dimension("intermediate_size", None)?,
            layers: reader.dimension("num_hidden_layers", None)?,
            heads,
            kv_heads: reader.dimension("num_key_value_heads", Some(heads))?,
            head_dim: reader.dimension("head_dim", Some(default_head_dim))?,
            rms_eps: reader.number("rms_norm_eps", 1e-6)?,
            rope_theta: match theta {
                None | Some(Value::Null) => 10_000.0,
                Some(theta) => theta.as_f64().ok_or_else(|| bad(format!("config.json: `rope_theta` is {theta}")))?,
            },
            rope_scaling: RopeScaling::from_json(scaling)?,
            max_positions: reader.dimension("max_position_embeddings", Some(2048))?,
            tie_embeddings: json.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false),
            sliding_window: window.map(|window| window as usize),
            qkv_bias: architecture == Architecture::Qwen2,
            qk_norm: architecture == Architecture::Qwen3,
            bos_id: reader.ids("bos_token_id")?.first().copied(),
            eos_ids: reader.ids("eos_token_id")?,
            pad_id: reader.ids("pad_token_id")?.first().copied(),
        };
        config.check("config.json")?;
        Ok(config)
    }

    /// From the header of a GGUF file. Source: the standardised keys of the GGUF specification.
    ///
    /// # Errors
    /// As [`Self::from_json`], naming the metadata key.
    pub fn from_gguf(file: &GgufFile) -> StageResult<Self> {
        let name = file.require("general.architecture", "a string", MetaValue::as_str)?;
        let architecture = Architecture::from_gguf_name(name)?;
        let key = |suffix: &str| format!("{name}.{suffix}");
        let dimension = |suffix: &str| -> StageResult<usize> {
            let value = file.require(&key(suffix), "an integer", MetaValue::as_u64)?;
            usize::try_from(value).map_err(|_| bad(format!("`{}`: `{}` is {value}", file.path(), key(suffix))))
        };
        let optional =
            |suffix: &str| file.metadata(&key(suffix)).and_then(MetaValue::as_u64).map(|value| value as usize);
        for (suffix, what) in
            [("expert_count", "a mixture of experts"), ("attention.alibi_bias_max", "ALiBi positions")]
        {
            if optional(suffix).is_some_and(|count| count > 0) {
                return Err(StageError::input(
                    "model::unsupported",
                    format!("`{}` is {what} (`{}`), which is not supported", file.path(), key(suffix)),
                )
                .hint("use a dense model of the same family"));
            }
        }
        let hidden_size = dimension("embedding_length")?;
        let heads = dimension("attention.head_count")?;
        if heads == 0 {
            return Err(bad(format!("`{}`: `{}` is 0", file.path(), key("attention.head_count"))));
        }
        let head_dim = optional("attention.key_length").unwrap_or(hidden_size / heads);
        if let Some(value_length) = optional("attention.value_length").filter(|length| *length != head_dim) {
            return Err(bad(format!(
                "`{}`: heads of v have length {value_length}, those of k {head_dim}; expected the same",
                file.path()
            )));
        }
        if let Some(rotated) = optional("rope.dimension_count").filter(|count| *count != head_dim) {
            return Err(StageError::input(
                "model::unsupported",
                format!(
                    "`{}`: `{}` is {rotated}, but heads are {head_dim} wide; partly rotated heads are not supported",
                    file.path(),
                    key("rope.dimension_count")
                ),
            )
            .hint("use another model of the family"));
        }
        let rope_theta = file.metadata(&key("rope.freq_base")).and_then(MetaValue::as_f64).unwrap_or(10_000.0);
        let id = |key: &str| file.metadata(key).and_then(MetaValue::as_u64).and_then(|id| u32::try_from(id).ok());
        let mut eos_ids: Vec<u32> = Vec::new();
        for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"] {
            eos_ids.extend(id(key).filter(|id| !eos_ids.contains(id)));
        }
        let embedding = file.require_tensor("token_embd.weight")?;
        let config = Self {
            architecture,
            vocab_size: embedding.rows(),
            hidden_size,
            intermediate_size: dimension("feed_forward_length")?,
            layers: dimension("block_count")?,
            heads,
            kv_heads: optional("attention.head_count_kv").unwrap_or(heads),
            head_dim,
            rms_eps: file
                .require(&key("attention.layer_norm_rms_epsilon"), "a number", MetaValue::as_f64)
                .map(shortest_f32)?,
            rope_theta: shortest_f32(rope_theta),
            rope_scaling: gguf_rope_scaling(file, name, head_dim, rope_theta)?,
            max_positions: dimension("context_length")?,
            tie_embeddings: file.tensor("output.weight").is_none(),
            sliding_window: optional("attention.sliding_window").filter(|window| *window > 0),
            qkv_bias: file.tensor("blk.0.attn_q.bias").is_some(),
            qk_norm: file.tensor("blk.0.attn_q_norm.weight").is_some(),
            bos_id: id("tokenizer.ggml.bos_token_id"),
            eos_ids,
            pad_id: id("tokenizer.ggml.padding_token_id"),
        };
        config.check(file.path().as_str())?;
        Ok(config)
    }

    /// Rows of q: `heads * head_dim`.
    #[must_use]
    pub fn query_size(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Rows of k and of v: `kv_heads * head_dim`.
    #[must_use]
    pub fn key_value_size(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    fn check(&self, source: &str) -> StageResult<()> {
        const LIMIT: usize = 1 << 31;
        let dimensions = [
            ("vocabulary", self.vocab_size),
            ("hidden size", self.hidden_size),
            ("intermediate size", self.intermediate_size),
            ("number of layers", self.layers),
            ("number of heads", self.heads),
            ("number of key-value heads", self.kv_heads),
            ("head dimension", self.head_dim),
            ("context length", self.max_positions),
            ("query size", self.heads.saturating_mul(self.head_dim)),
        ];
        for (what, value) in dimensions {
            if value == 0 || value >= LIMIT {
                return Err(bad(format!("`{source}`: the {what} is {value}, expected 1 to {}", LIMIT - 1)));
            }
        }
        // The names of all tensors are built from this number, so a hostile one must not get far.
        if self.layers > 4096 {
            return Err(bad(format!("`{source}`: {} layers are more than any known model has (4096)", self.layers)));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(bad(format!(
                "`{source}`: {} heads are no multiple of {} key-value heads",
                self.heads, self.kv_heads
            )));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(bad(format!(
                "`{source}`: the head dimension {} is odd, so it cannot be rotated",
                self.head_dim
            )));
        }
        if !(self.rms_eps.is_finite() && self.rms_eps >= 0.0) {
            return Err(bad(format!(
                "`{source}`: the norm's epsilon is {}, expected a small positive number",
                self.rms_eps
            )));
        }
        if !(self.rope_theta.is_finite() && self.rope_theta >= 1.0) {
            return Err(bad(format!(
                "`{source}`: the rope base is {}, expected a number such as 10000",
                self.rope_theta
            )));
        }
        Ok(())
    }
}

/// The `f64` that prints like the `f32` it came from: 1e-5, not 9.999999747378752e-6.
fn shortest_f32(value: f64) -> f64 {
    let single = value as f32;
    if f64::from(single) == value { single.to_string().parse().unwrap_or(value) } else { value }
}

fn gguf_rope_scaling(file: &GgufFile, name: &str, head_dim: usize, theta: f64) -> StageResult<Option<RopeScaling>> {
    if let Some(info) = file.tensor("rope_freqs.weight") {
        if info.elements() != head_dim / 2 {
            return Err(bad(format!(
                "`{}`: tensor `rope_freqs.weight` has {} elements, expected {}",
                file.path(),
                info.elements(),
                head_dim / 2
            )));
        }
        let mut divisors = vec![0.0; head_dim / 2];
        file.read_f32("rope_freqs.weight", &mut divisors)?;
        if divisors.iter().any(|divisor| !(divisor.is_finite() && *divisor > 0.0)) {
            return Err(bad(format!(
                "`{}`: tensor `rope_freqs.weight` holds values that are not positive",
                file.path()
            )));
        }
        return Ok(RopeScaling::from_divisors(divisors, head_dim, theta));
    }
    let kind = file.metadata(&format!("{name}.rope.scaling.type")).and_then(MetaValue::as_str).unwrap_or("none");
    let factor = file.metadata(&format!("{name}.rope.scaling.factor")).and_then(MetaValue::as_f64);
    match (kind, factor) {
        ("none", _) => Ok(None),
        ("linear", Some(factor)) if factor.is_finite() && factor > 0.0 => Ok(Some(RopeScaling::Linear { factor })),
        ("linear", _) => {
            Err(bad(format!("`{}`: `{name}.rope.scaling.factor` is missing or not positive", file.path())))
        }
        (other, _) => Err(StageError::input(
            "model::rope_scaling",
            format!("`{}`: rope scaling `{other}` is not known, expected `none` or `linear`", file.path()),
        )
        .hint("use the model's Hugging Face directory, or a variant without stretched context")),
    }
}

struct JsonReader<'a>(&'a Value);

impl JsonReader<'_> {
    fn dimension(&self, key: &str, default: Option<usize>) -> StageResult<usize> {
        match (self.0.get(key).filter(|value| !value.is_null()), default) {
            (None, Some(default)) => Ok(default),
            (None, None) => Err(bad(format!("config.json has no `{key}`, expected an integer"))),
            (Some(value), _) => match value.as_u64() {
                Some(number) if (1..1 << 31).contains(&number) => Ok(number as usize),
                _ => Err(bad(format!("config.json: `{key}` is {value}, expected an integer of at least 1"))),
            },
        }
    }

    fn number(&self, key: &str, default: f64) -> StageResult<f64> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => {
                value.as_f64().ok_or_else(|| bad(format!("config.json: `{key}` is {value}, expected a number")))
            }
        }
    }

    fn ids(&self, key: &str) -> StageResult<Vec<u32>> {
        let one = |value: &Value| {
            value
                .as_u64()
                .and_then(|id| u32::try_from(id).ok())
                .ok_or_else(|| bad(format!("config.json: `{key}` holds {value}, expected a token id")))
        };
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(values)) => values.iter().map(one).collect(),
            Some(value) => Ok(vec![one(value)?]),
        }
    }

    fn refuse_unsupported(&self) -> StageResult<()> {
        let refuse = |message: String, hint: &str| Err(StageError::input("model::unsupported", message).hint(hint));
        for key in ["attention_bias", "mlp_bias"] {
            if self.0.get(key).and_then(Value::as_bool) == Some(true) {
                return refuse(
                    format!("config.json sets `{key}: true`, which is not supported"),
                    "use a model of the family without these biases",
                );
            }
        }
        if let Some(quantization) = self.0.get("quantization_config").filter(|value| !value.is_null()) {
            let method = quantization.get("quant_method").and_then(Value::as_str).unwrap_or("unknown");
            let is_4bit = quantization.get("load_in_4bit").and_then(Value::as_bool) == Some(true);
            let kind = quantization.get("bnb_4bit_quant_type").and_then(Value::as_str).unwrap_or("fp4");
            if !(method == "bitsandbytes" && is_4bit && kind == "nf4") {
                let what = if is_4bit { format!("{method}, {kind}") } else { method.to_owned() };
                return refuse(
                    format!(
                        "config.json says that the weights are quantised (`{what}`), which is read only for `bitsandbytes, nf4`"
                    ),
                    "use the model's unquantised repository; `method: qlora` quantises while loading",
                );
            }
        }
        match self.0.get("hidden_act").and_then(Value::as_str) {
            None | Some("silu" | "swish") => Ok(()),
            Some(other) => refuse(
                format!("config.json: `hidden_act` is `{other}`, expected `silu`"),
                "use a model of the family with SiLU",
            ),
        }
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
