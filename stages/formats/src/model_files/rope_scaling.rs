//! Ways of stretching rotary positions beyond the length a model was first trained with.

use luthier_core::{StageError, StageResult};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How the rotary frequencies are scaled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum RopeScaling {
    /// Every frequency divided by `factor`.
    Linear { factor: f64 },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a smooth step between.
    Llama3 { factor: f64, low_freq_factor: f64, high_freq_factor: f64, original_max_positions: usize },
    /// Frequency `i` divided by `divisors[i]`, as a GGUF file lists them in `rope_freqs.weight`.
    Divisors { divisors: Vec<f32> },
}

impl RopeScaling {
    /// What each of the `head_dim / 2` frequencies `theta^(-2i/head_dim)` is divided by.
    ///
    /// Source: transformers' `modeling_rope_utils` for the Llama 3 step.
    #[must_use]
    pub fn divisors(&self, head_dim: usize, theta: f64) -> Vec<f64> {
        let half = head_dim / 2;
        match self {
            Self::Linear { factor } => vec![*factor; half],
            Self::Divisors { divisors } => divisors.iter().map(|divisor| f64::from(*divisor)).collect(),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
                let original = *original_max_positions as f64;
                (0..half)
                    .map(|index| {
                        let frequency = theta.powf(-2.0 * index as f64 / head_dim as f64);
                        let wavelength = 2.0 * std::f64::consts::PI / frequency;
                        if wavelength < original / high_freq_factor {
                            1.0
                        } else if wavelength > original / low_freq_factor {
                            *factor
                        } else {
                            let smooth =
                                (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                            1.0 / ((1.0 - smooth) / factor + smooth)
                        }
                    })
                    .collect()
            }
        }
    }

    /// Reads `rope_scaling` (transformers 4) or `rope_parameters` (transformers 5) of a config.json.
    pub(super) fn from_json(value: &Value) -> StageResult<Option<Self>> {
        if value.is_null() {
            return Ok(None);
        }
        let kind = value.get("rope_type").or_else(|| value.get("type")).and_then(Value::as_str).unwrap_or("default");
        let number =
            |key: &str| {
                value.get(key).and_then(Value::as_f64).filter(|number| number.is_finite() && *number > 0.0).ok_or_else(
                    || {
                        StageError::input(
                    "model::bad_config",
                    format!("config.json: `rope_scaling.{key}` of a `{kind}` scaling is {}, expected a positive number",
                        value.get(key).map_or("missing".to_owned(), Value::to_string)),
                )
                .hint("compare the file with the model's original config.json")
                    },
                )
            };
        match kind {
            "default" => Ok(None),
            "linear" => Ok(Some(Self::Linear { factor: number("factor")? })),
            "llama3" => {
                let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
                if low >= high {
                    return Err(StageError::input(
                        "model::bad_config",
                        format!("config.json: `low_freq_factor` {low} is not below `high_freq_factor` {high}"),
                    )
                    .hint("compare the file with the model's original config.json"));
                }
                Ok(Some(Self::Llama3 {
                    factor: number("factor")?,
                    low_freq_factor: low,
                    high_freq_factor: high,
                    original_max_positions: number("original_max_position_embeddings")? as usize,
                }))
            }
            other => Err(StageError::input(
                "model::rope_scaling",
                format!("config.json: rope scaling `{other}` is not known, expected `default`, `linear` or `llama3`"),
            )
            .hint("remove `rope_scaling` from the config to train at the model's original context length")),
        }
    }

    /// As config.json writes it; `None` for the form that only GGUF has.
    #[must_use]
    pub fn to_json(&self) -> Option<Value> {
        match self {
            Self::Linear { factor } => Some(serde_json::json!({"rope_type": "linear", "factor": factor})),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
                Some(serde_json::json!({
                    "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor,
                    "high_freq_factor": high_freq_factor, "original_max_position_embeddings": original_max_positions,
                }))
            }
            Self::Divisors { .. } => None,
        }
    }

    /// The scaling behind the divisors of a GGUF file: Llama 3's if it reproduces them, else the bare list.
    pub(super) fn from_divisors(divisors: Vec<f32>, head_dim: usize, theta: f64) -> Option<Self> {
        if divisors.iter().all(|divisor| *divisor == 1.0) {
            return None;
        }
        let factor = divisors.iter().fold(1.0f64, |most, divisor| most.max(f64::from(*divisor)));
        let guess = Self::Llama3 { factor, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_positions: 8192 };
        let close = guess
            .divisors(head_dim, theta)
            .iter()
            .zip(&divisors)
            .all(|(expected, found)| (expected - f64::from(*found)).abs() <= 1e-4 * expected);
        Some(if close { guess } else { Self::Divisors { divisors } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_is_recovered_from_its_divisors() {
        let scaling = RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_positions: 8192,
        };
        let divisors: Vec<f32> = scaling.divisors(64, 500_000.0).iter().map(|divisor| *divisor as f32).collect();
        assert_eq!((divisors[0], divisors[31]), (1.0, 32.0));
        assert_eq!(RopeScaling::from_divisors(divisors.clone(), 64, 500_000.0), Some(scaling));
        let mut other = divisors;
        other[20] *= 1.5;
        assert!(matches!(RopeScaling::from_divisors(other, 64, 500_000.0), Some(RopeScaling::Divisors { .. })));
        assert_eq!(RopeScaling::from_divisors(vec![1.0; 32], 64, 500_000.0), None);
    }

    #[test]
    fn unknown_scaling_is_refused() {
        let error = RopeScaling::from_json(&serde_json::json!({"rope_type": "dynamic", "factor": 2.0})).unwrap_err();
        assert!(error.message.contains("`dynamic`"), "{error}");
        assert_eq!(RopeScaling::from_json(&Value::Null).unwrap(), None);
        let error = RopeScaling::from_json(&serde_json::json!({"type": "linear"})).unwrap_err();
        assert!(error.message.contains("`rope_scaling.factor`") && error.message.contains("missing"), "{error}");
    }
}
