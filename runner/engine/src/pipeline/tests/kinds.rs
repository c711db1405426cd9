//! Small stage kinds shaped like the real ones; none of them runs.

use std::collections::BTreeMap;

use luthier_core::{
    ArtifactKind, ArtifactName, ConfigIssue, InputPort, OutputDecl, PrepareEnv, Prepared, Registry, Resources,
    SourceKind, SourceRef, Stage, StageContext, StageError, StageOutcome, StageResult, config_schema, parse_config,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(super) fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.add(Fetch).add(Ingest).add(Filter).add(Split).add(Tokenize).add(Train).add(Merge).add(Command);
    registry
}

const fn port(name: &'static str, accepts: &'static [ArtifactKind], required: bool, many: bool) -> InputPort {
    InputPort { name, accepts, required, many, about: "what it says" }
}

fn prepared(config: &impl Serialize, outputs: Vec<OutputDecl>, sources: Vec<SourceRef>) -> Prepared {
    let config = serde_json::to_value(config).expect("a configuration is JSON");
    Prepared { key: config.clone(), config, outputs, sources, resources: Resources::ONE_THREAD, numeric_class: None }
}

fn output(path: &str, name: &str, kind: ArtifactKind) -> Result<OutputDecl, Vec<ConfigIssue>> {
    ArtifactName::new(name)
        .map(|name| OutputDecl { name, kind })
        .map_err(|error| vec![ConfigIssue { on_key: true, ..ConfigIssue::new(path, error.to_string()) }])
}

macro_rules! kind {
    ($name:ident, $text:literal, $config:ty, $inputs:expr, $about:literal, |$with:ident| $result:expr) => {
        pub(super) struct $name;
        impl Stage for $name {
            fn kind(&self) -> &'static str {
                $text
            }
            fn recipe_version(&self) -> u32 {
                1
            }
            fn about(&self) -> &'static str {
                $about
            }
            fn schema(&self) -> Value {
                config_schema::<$config>()
            }
            fn inputs(&self) -> &'static [InputPort] {
                const PORTS: &[InputPort] = $inputs;
                PORTS
            }
            fn accepts_any_input(&self) -> bool {
                $text == "command"
            }
            fn outputs_about(&self) -> &'static str {
                "what it makes"
            }
            fn prepare(&self, with: &Value, _: PrepareEnv<'_>) -> Result<Prepared, Vec<ConfigIssue>> {
                let $with: $config = parse_config(with)?;
                $result
            }
            fn run(&self, _: &mut StageContext<'_>) -> StageResult<StageOutcome> {
                Err(StageError::new("test::run", "this kind is for checks only"))
            }
        }
    };
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FetchConfig {
    /// Where the file comes from.
    from: String,
    /// What the file is.
    #[serde(default, rename = "as")]
    kind: FetchKind,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum FetchKind {
    #[default]
    Model,
    File,
}

kind!(Fetch, "fetch", FetchConfig, &[], "Obtains a file and pins it by digest.", |with| {
    let output = match with.kind {
        FetchKind::Model => OutputDecl::new("model", ArtifactKind::Model),
        FetchKind::File => OutputDecl::new("file", ArtifactKind::File),
    };
    Ok(prepared(&with, vec![output], vec![]))
});

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct IngestConfig {
    /// Files of the working tree.
    #[serde(default)]
    files: Vec<String>,
    /// Templates by column.
    #[serde(default)]
    map: BTreeMap<String, String>,
}

kind!(
    Ingest,
    "ingest",
    IngestConfig,
    &[port("files", &[ArtifactKind::File], false, true)],
    "Reads files into a dataset.",
    |with| {
        let sources = with
            .files
            .iter()
            .enumerate()
            .map(|(index, path)| SourceRef {
                label: format!("files[{index}]"),
                path: path.into(),
                kind: SourceKind::File,
                config_path: format!("files[{index}]"),
            })
            .collect();
        Ok(prepared(&with, vec![OutputDecl::new("dataset", ArtifactKind::Dataset)], sources))
    }
);

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FilterConfig {
    /// Plugins in order.
    steps: Vec<FilterStep>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FilterStep {
    /// The plugin's name or path.
    plugin: String,
    /// What the plugin reads.
    #[serde(default)]
    config: FilterLimits,
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FilterLimits {
    /// The most that is kept.
    #[schemars(range(min = 0, max = 100))]
    max: Option<u32>,
}

kind!(
    Filter,
    "filter",
    FilterConfig,
    &[port("data", &[ArtifactKind::Dataset], true, false)],
    "Drops rows that plugins refuse.",
    |with| {
        let outputs =
            vec![OutputDecl::new("kept", ArtifactKind::Dataset), OutputDecl::new("dropped", ArtifactKind::Dataset)];
        Ok(prepared(&with, outputs, vec![]))
    }
);

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SplitConfig {
    /// Rows or fractions by part.
    parts: BTreeMap<String, Value>,
    /// Of the order.
    #[serde(default)]
    seed: u64,
}

kind!(
    Split,
    "split",
    SplitConfig,
    &[port("data", &[ArtifactKind::Dataset], true, false)],
    "Divides a dataset.",
    |with| {
        let outputs = with
            .parts
            .keys()
            .map(|name| output(&format!("parts.{name}"), name, ArtifactKind::Dataset))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(prepared(&with, outputs, vec![]))
    }
);

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TokenizeConfig {
    /// Longer samples are cut.
    #[schemars(range(min = 1))]
    #[serde(default)]
    max_length: Option<u32>,
}

kind!(
    Tokenize,
    "tokenize",
    TokenizeConfig,
    &[
        port("model", &[ArtifactKind::Model, ArtifactKind::Gguf], true, false),
        port("data", &[ArtifactKind::Dataset], true, false),
    ],
    "Turns text into token ids.",
    |with| Ok(prepared(&with, vec![OutputDecl::new("tokens", ArtifactKind::Tokens)], vec![]))
);

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TrainConfig {
    /// Which weights learn.
    #[serde(default)]
    method: Method,
    /// Rank of the adapter.
    #[schemars(range(min = 1, max = 512))]
    #[serde(default = "sixteen")]
    rank: u32,
    /// Peak of the schedule.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    learning_rate: f64,
    /// Layers that get an adapter.
    #[serde(default)]
    targets: Vec<String>,
}

const fn sixteen() -> u32 {
    16
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Method {
    Lora,
    #[default]
    Qlora,
}

kind!(
    Train,
    "train",
    TrainConfig,
    &[
        port("model", &[ArtifactKind::Model], true, false),
        port("data", &[ArtifactKind::Tokens], true, false),
        port("validation", &[ArtifactKind::Tokens], false, false),
    ],
    "Trains an adapter.",
    |with| {
        let outputs =
            vec![OutputDecl::new("adapter", ArtifactKind::Adapter), OutputDecl::new("curve", ArtifactKind::Report)];
        Ok(prepared(&with, outputs, vec![]))
    }
);

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MergeConfig {}

kind!(
    Merge,
    "merge",
    MergeConfig,
    &[port("model", &[ArtifactKind::Model], true, false), port("adapters", &[ArtifactKind::Adapter], true, true),],
    "Merges adapters into a model.",
    |with| Ok(prepared(&with, vec![OutputDecl::new("model", ArtifactKind::Model)], vec![]))
);

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CommandConfig {
    /// A shell line.
    run: String,
    /// Kinds of artifact by output name.
    outputs: BTreeMap<String, ArtifactKind>,
}

kind!(Command, "command", CommandConfig, &[], "Runs any program.", |with| {
    let outputs = with
        .outputs
        .iter()
        .map(|(name, kind)| output(&format!("outputs.{name}"), name, *kind))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(prepared(&with, outputs, vec![]))
});
