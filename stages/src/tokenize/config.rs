//! `with` of a tokenization.

use std::collections::BTreeMap;

use luthier_formats::chat_template::Date;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenizeConfig {
    /// The most tokens of a sample, and of a packed bin.
    #[serde(default = "default_length")]
    #[schemars(range(min = 2, max = 1_048_576))]
    pub max_length: usize,
    /// How messages become text: `auto` is the model's own template, `chatml` the common one, `none` joins prompt and
    /// completion as they are; anything else is a path to a Jinja file.
    #[serde(default = "default_template")]
    pub template: String,
    /// What is trained: every turn of the trained roles, only the last, or every token.
    #[serde(default)]
    pub train_on: TrainOn,
    /// Whose turns `train_on` speaks of. A message with `train: false` or `weight: 0` is never trained.
    #[serde(default = "default_roles", skip_serializing_if = "are_default_roles")]
    #[schemars(length(min = 1), extend("default" = ["assistant"]))]
    pub roles_to_train: Vec<String>,
    /// After which trained turns the token that ends the turn is trained too.
    #[serde(default, skip_serializing_if = "TrainOnEot::is_default")]
    #[schemars(extend("default" = "turn"))]
    pub train_on_eot: TrainOnEot,
    /// What happens to samples over `max_length`.
    #[serde(default)]
    pub on_long: OnLong,
    /// What a row does that the template refuses: `fail` stops, `skip` leaves it out and counts it.
    #[serde(default)]
    pub on_error: OnError,
    /// Puts several samples into a bin of up to `max_length` tokens. Each keeps its own positions and attention, so results
    /// per token do not change; a batch then counts bins.
    #[serde(default)]
    pub packing: bool,
    /// Variables for the template, such as `enable_thinking: false`.
    #[serde(default)]
    pub variables: BTreeMap<String, Value>,
    /// The date that templates get who ask for today's, as `YEAR-MONTH-DAY`.
    #[serde(default)]
    #[schemars(with = "String")]
    pub date: Date,
}

fn default_length() -> usize {
    2048
}

fn default_template() -> String {
    "auto".to_owned()
}

fn default_roles() -> Vec<String> {
    vec!["assistant".to_owned()]
}

fn are_default_roles(roles: &[String]) -> bool {
    roles == default_roles()
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TrainOn {
    /// Every turn of `roles_to_train`.
    #[default]
    Assistant,
    /// The last turn of `roles_to_train`.
    Last,
    /// Every token, prompts included.
    All,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TrainOnEot {
    /// After each: the model learns to stop.
    #[default]
    Turn,
    /// After the last only.
    Last,
    /// After none, for formats whose end something else decides.
    None,
}

impl TrainOnEot {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnLong {
    /// Leaves the sample out.
    #[default]
    Drop,
    /// Cuts its end off.
    Truncate,
    /// Cuts it into several; for plain texts only.
    Split,
    Fail,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    #[default]
    Fail,
    Skip,
}
