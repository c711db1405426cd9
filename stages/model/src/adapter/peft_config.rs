//! PEFT's `adapter_config.json`, as all that read an adapter see it. Source: `LoraConfig` of PEFT 0.21.
//!
//! Everything in it is either honoured or refused: a key that is passed over would silently give another model.

use camino::Utf8Path;
use indexmap::IndexMap;
use luthier_core::{StageError, StageResult};
use regex::Regex;
use serde::Deserialize;
use serde_json::Value;

pub(super) const CONFIG: &str = "adapter_config.json";
pub(super) const TENSORS: &str = "adapter_model.safetensors";

/// What an adapter's directory has to hold.
const DIRECTORY: &str = "an adapter is a directory with adapter_config.json and adapter_model.safetensors";

/// Initialisations that change the base weights, so that the adapter alone does not say what was trained.
const BASE_CHANGING: [&str; 5] = ["pissa", "olora", "loftq", "corda", "lora_ga"];

/// The keys that change what an adapter computes; all others concern its training.
#[derive(Deserialize)]
struct Keys {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    fan_in_fan_out: bool,
    #[serde(default)]
    lora_bias: bool,
    #[serde(default)]
    use_qalora: bool,
    #[serde(default)]
    bias: Option<String>,
    #[serde(default)]
    rank_pattern: Option<IndexMap<String, usize>>,
    #[serde(default)]
    alpha_pattern: Option<IndexMap<String, f64>>,
    #[serde(default)]
    layer_replication: Option<Value>,
    #[serde(default)]
    trainable_token_indices: Option<Value>,
    #[serde(default)]
    target_parameters: Option<Value>,
    #[serde(default)]
    alora_invocation_tokens: Option<Value>,
    #[serde(default)]
    monteclora_config: Option<Value>,
    #[serde(default)]
    use_bdlora: Option<Value>,
    #[serde(default)]
    arrow_config: Option<Value>,
    #[serde(default)]
    kasa_config: Option<Value>,
    #[serde(default)]
    init_lora_weights: Option<Value>,
    #[serde(default)]
    base_model_name_or_path: Option<String>,
}

impl Keys {
    /// What of it is not supported, as the end of a sentence that begins with the adapter.
    fn unsupported(&self) -> Option<String> {
        let set = |value: &Option<Value>| match value {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::Array(items)) => !items.is_empty(),
            Some(Value::Object(items)) => !items.is_empty(),
            Some(_) => true,
        };
        let initialization = self.init_lora_weights.as_ref().and_then(Value::as_str).unwrap_or_default();
        let base_changing = BASE_CHANGING.iter().any(|name| initialization.to_ascii_lowercase().starts_with(name));
        let reasons = [
            (self.peft_type != "LORA", format!("is of type `{}`, expected `LORA`", self.peft_type)),
            (self.fan_in_fan_out, "sets `fan_in_fan_out`".to_owned()),
            (self.lora_bias, "sets `lora_bias`".to_owned()),
            (self.bias.as_deref().is_some_and(|bias| bias != "none"), "trains biases".to_owned()),
            (self.use_qalora, "pools its inputs (`use_qalora`)".to_owned()),
            (set(&self.layer_replication), "replicates layers".to_owned()),
            (set(&self.trainable_token_indices), "trains single token embeddings".to_owned()),
            (set(&self.target_parameters), "targets parameters of experts".to_owned()),
            (set(&self.alora_invocation_tokens), "acts only after its `alora_invocation_tokens`".to_owned()),
            (set(&self.monteclora_config), "samples its factors (`monteclora_config`)".to_owned()),
            (set(&self.use_bdlora), "has factors in blocks (`use_bdlora`)".to_owned()),
            (set(&self.arrow_config), "routes between adapters (`arrow_config`)".to_owned()),
            (set(&self.kasa_config), "changes the base weights too (`kasa_config`)".to_owned()),
            (base_changing, format!("was initialised by `{initialization}`, which changes the base weights too")),
        ];
        reasons.into_iter().find(|(wrong, _)| *wrong).map(|(_, reason)| reason)
    }
}

/// The configuration of a LoRA or DoRA adapter that can be honoured.
pub struct PeftConfig {
    keys: Keys,
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
}

impl PeftConfig {
    /// Reads that of an adapter's directory; `label` names the adapter in messages.
    ///
    /// # Errors
    /// A missing or damaged file, a feature that cannot be honoured.
    pub fn read(directory: &Utf8Path, label: &str) -> StageResult<Self> {
        let path = directory.join(CONFIG);
        for path in [&path, &directory.join(TENSORS)] {
            if !path.is_file() {
                return Err(StageError::input("adapter::damaged", format!("`{path}` does not exist")).hint(DIRECTORY));
            }
        }
        let keys: Keys = serde_json::from_slice(&fs_err::read(&path)?).map_err(|error| {
            StageError::input("adapter::damaged", "is not a PEFT configuration")
                .at(path.clone(), error.line() as u64, error.column() as u64)
                .hint("an adapter's configuration has at least `peft_type`, `r` and `lora_alpha`")
                .caused_by(error)
        })?;
        if let Some(reason) = keys.unsupported() {
            return Err(StageError::input(
                "adapter::unsupported",
                format!("the adapter `{label}` {reason}; used here it would give another model than was trained"),
            )
            .hint("merge it with PEFT's `merge_and_unload` and use the merged model"));
        }
        let ranks = compile(keys.rank_pattern.iter().flatten(), label)?;
        let alphas = compile(keys.alpha_pattern.iter().flatten(), label)?;
        Ok(Self { keys, ranks, alphas })
    }

    /// The rank that a module's factors have.
    #[must_use]
    pub fn rank(&self, module: &str) -> usize {
        find(&self.ranks, module).unwrap_or(self.keys.r)
    }

    /// `scale` of `scale · B · A`; not finite if the rank is 0.
    #[must_use]
    pub fn scale(&self, module: &str) -> f32 {
        let (rank, alpha) = (self.rank(module) as f64, self.alpha(module));
        (alpha / if self.keys.use_rslora { rank.sqrt() } else { rank }) as f32
    }

    #[must_use]
    pub fn alpha(&self, module: &str) -> f64 {
        find(&self.alphas, module).unwrap_or(self.keys.lora_alpha)
    }

    #[must_use]
    pub fn use_dora(&self) -> bool {
        self.keys.use_dora
    }

    /// `base_model_name_or_path`.
    #[must_use]
    pub fn base_model(&self) -> Option<&str> {
        self.keys.base_model_name_or_path.as_deref()
    }
}

/// In their order, of which the first that fits counts.
fn compile<'a, T: Copy + 'a>(
    patterns: impl Iterator<Item = (&'a String, &'a T)>,
    label: &str,
) -> StageResult<Vec<(Regex, T)>> {
    let compiled = patterns.map(|(pattern, value)| {
        let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$")).map_err(|error| {
            StageError::input(
                "adapter::damaged",
                format!("the adapter `{label}` has the pattern `{pattern}`, which is not a regular expression that can be used here"),
            )
            .hint("write `rank_pattern` and `alpha_pattern` without look-around")
            .caused_by(error)
        })?;
        Ok((regex, *value))
    });
    compiled.collect()
}

fn find<T: Copy>(patterns: &[(Regex, T)], module: &str) -> Option<T> {
    patterns.iter().find(|(pattern, _)| pattern.is_match(module)).map(|(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use camino::Utf8PathBuf;
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> StageResult<PeftConfig> {
        let scratch = tempfile::tempdir().unwrap();
        let directory = Utf8PathBuf::try_from(scratch.path().to_owned()).unwrap();
        fs_err::write(directory.join(CONFIG), text).unwrap();
        fs_err::write(directory.join(TENSORS), b"").unwrap();
        PeftConfig::read(&directory, "tuned.adapter")
    }

    /// Of a configuration with this besides what every one has.
    fn read_with(with: &Value) -> StageResult<PeftConfig> {
        let mut config = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8});
        config.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
        read(&config.to_string())
    }

    #[test]
    fn the_first_pattern_that_fits_counts() {
        // In an order that sorting would change.
        let text = r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_rslora": true,
            "rank_pattern": {"v_proj": 16},
            "alpha_pattern": {"self_attn.q_proj": 2, "layers.0.self_attn.q_proj": 6, "k_pro": 1}}"#;
        let config = read(text).unwrap();
        let of = |name: &str| {
            let module = format!("model.layers.0.self_attn.{name}");
            (config.rank(&module), config.scale(&module))
        };
        assert_eq!([of("q_proj"), of("k_proj"), of("v_proj")], [(4, 1.0), (4, 4.0), (16, 2.0)]);
    }

    #[test]
    fn what_would_give_another_model_is_refused() {
        let mut refused = Vec::new();
        for with in [
            json!({"init_lora_weights": "lora_ga"}),
            json!({"layer_replication": [[0, 2], [1, 2]]}),
            json!({"use_qalora": true}),
            json!({"alora_invocation_tokens": [4, 5]}),
            json!({"kasa_config": {"beta": 1e-4}}),
        ] {
            refused.push(read_with(&with).err().expect("a refusal").to_string());
        }
        insta::assert_snapshot!(refused.join("\n"), @r"
        the adapter `tuned.adapter` was initialised by `lora_ga`, which changes the base weights too; used here it would give another model than was trained
        the adapter `tuned.adapter` replicates layers; used here it would give another model than was trained
        the adapter `tuned.adapter` pools its inputs (`use_qalora`); used here it would give another model than was trained
        the adapter `tuned.adapter` acts only after its `alora_invocation_tokens`; used here it would give another model than was trained
        the adapter `tuned.adapter` changes the base weights too (`kasa_config`); used here it would give another model than was trained
        ");
        for with in [
            json!({"init_lora_weights": "mica"}),
            json!({"init_lora_weights": "eva", "velora_config": null}),
            json!({"layer_replication": [], "use_bdlora": null, "kasa_config": null, "alpha_pattern": null}),
        ] {
            assert!(read_with(&with).is_ok(), "{with}");
        }
    }
}
