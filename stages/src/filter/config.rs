//! The `with` block of a filter.

use std::collections::BTreeMap;

use camino::Utf8Path;
use luthier_core::{ConfigIssue, PrepareEnv, SourceKind, SourceRef, check_config, parse_config};
use luthier_plugins::author::Workshop;
use luthier_plugins::{Language, Limits, PluginSource, path_dependencies};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::bounds::{self, ScoreBounds};
use super::decontaminate::DecontaminateConfig;
use super::dedup::DedupConfig;
use super::tokens::TokensConfig;
use crate::one_or_many::OneOrMany;

/// `with` of a filter.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FilterConfig {
    /// What a row passes through, in order. Each step has one of `plugin`, `dedup`, `decontaminate` and
    /// `tokens`.
    #[schemars(length(min = 1))]
    pub steps: Vec<StepConfig>,
    /// What to do when no row is left: `fail`, or `allow` an empty dataset.
    #[serde(default)]
    pub on_empty: OnEmpty,
}

/// What a step does.
#[derive(Debug, Clone, Copy)]
pub(super) enum StepKind<'a> {
    Plugin(&'a str),
    Dedup(&'a DedupConfig),
    Decontaminate(&'a DecontaminateConfig),
    Tokens(&'a TokensConfig),
}

/// One step.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StepConfig {
    /// `builtin:NAME`, the directory of a plugin (Rust, Python, JavaScript or C), or a `.wasm` component. `luthier plugin
    /// inspect 'builtin:*'` lists the built-ins, with a NAME its configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// `exact`, `minhash`, or a mapping with `method` and its options. The first of equal rows stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedup: Option<DedupConfig>,
    /// Drops rows that repeat evaluation data: `decontaminate: {}`, with the sets as the input `against`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decontaminate: Option<DecontaminateConfig>,
    /// Bounds on the length in tokens: `tokens: {max: 2048}`, with the model as the input `model`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<TokensConfig>,
    /// The column to judge, or several, joined by a line break. A plugin may name its own; else the text of the
    /// dataset: `text`, `completion`, or the contents of all messages. Of a chat, `completion` is the last
    /// answer and `prompt` what stands before it; what rewrites text judges and rewrites every message by itself. Deduplication compares all of a row by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<OneOrMany>,
    /// Name in tables and in `filter_step`; by default that of the plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Configuration of the plugin, checked by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Map<String, Value>>,
    /// Bounds on scores of the plugin, by name: `keep: {words: {min: 50}}`. What a plugin finds out is kept apart from them, so
    /// that moving a bound selects again without judging again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<BTreeMap<String, ScoreBounds>>,
    /// How a built-in runs: `native`, or as the `wasm` component of the same source. The verdicts are equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunMode>,
    /// Ceilings of a plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsConfig>,
    /// When a plugin fails on a row: `fail` the stage, or `drop` the row with the reason. With `drop` instructions are
    /// metered, so that no verdict depends on the speed of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_trap: Option<OnTrapConfig>,
    /// Most rows to drop for failures before the stage fails after all; 100 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_traps: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum OnEmpty {
    #[default]
    Fail,
    Allow,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum RunMode {
    #[default]
    Native,
    Wasm,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum OnTrapConfig {
    #[default]
    Fail,
    Drop,
}

/// Ceilings for one instance of a plugin; there is one per thread.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitsConfig {
    /// Memory, MiB; 256 by default.
    #[schemars(range(min = 1, max = 4096))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u32>,
    /// Time for up to 4,096 rows, milliseconds; 5,000 by default. Exceeding it is an error, never a verdict.
    #[schemars(range(min = 1))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Instructions for up to 4,096 rows; metering costs up to half of the speed. Not metered by default.
    #[schemars(range(min = 1))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fuel: Option<u64>,
}

/// Enough for seconds of work, so that only a loop without end exhausts it.
const DROP_FUEL: u64 = 5_000_000_000;

impl StepConfig {
    pub fn on_trap(&self) -> OnTrapConfig {
        self.on_trap.unwrap_or_default()
    }

    /// Most rows that the plugin may fail on.
    pub fn max_traps(&self) -> u64 {
        self.max_traps.unwrap_or(100)
    }

    /// The ceilings of the step, defaults filled.
    pub fn limits(&self) -> Limits {
        let given = self.limits.unwrap_or_default();
        let metered = (self.on_trap() == OnTrapConfig::Drop).then_some(DROP_FUEL);
        Limits {
            memory_mib: given.memory_mib.unwrap_or(Limits::DEFAULT.memory_mib),
            timeout_ms: given.timeout_ms.unwrap_or(Limits::DEFAULT.timeout_ms),
            fuel: given.fuel.or(metered),
        }
    }

    /// The name without regard to other steps.
    fn own_name(&self) -> String {
        if let Some(name) = &self.name {
            return name.clone();
        }
        match self.kind() {
            Some(StepKind::Plugin(plugin)) => match plugin.strip_prefix("builtin:") {
                Some(name) => name.to_owned(),
                None => Utf8Path::new(plugin).file_stem().unwrap_or("plugin").to_owned(),
            },
            Some(StepKind::Dedup(dedup)) => format!("dedup-{}", dedup.method()),
            Some(StepKind::Decontaminate(_)) => "decontaminate".to_owned(),
            Some(StepKind::Tokens(_)) => "tokens".to_owned(),
            None => "step".to_owned(),
        }
    }

    /// What the step is; the first, if it says several things.
    pub fn kind(&self) -> Option<StepKind<'_>> {
        let plugin = self.plugin.as_deref().map(StepKind::Plugin);
        let dedup = self.dedup.as_ref().map(StepKind::Dedup);
        let decontaminate = self.decontaminate.as_ref().map(StepKind::Decontaminate);
        plugin.or(dedup).or(decontaminate).or_else(|| self.tokens.as_ref().map(StepKind::Tokens))
    }

    /// The keys that say what the step is.
    fn kinds(&self) -> Vec<&'static str> {
        let present = [
            ("plugin", self.plugin.is_some()),
            ("dedup", self.dedup.is_some()),
            ("decontaminate", self.decontaminate.is_some()),
            ("tokens", self.tokens.is_some()),
        ];
        present.iter().filter(|(_, present)| *present).map(|(name, _)| *name).collect()
    }
}

/// Names of all steps; a repeated one gets a number.
pub(super) fn step_names(steps: &[StepConfig]) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(steps.len());
    for step in steps {
        let own = step.own_name();
        let name = (1..)
            .map(|number| if number == 1 { own.clone() } else { format!("{own}-{number}") })
            .find(|name| !names.contains(name));
        names.push(name.unwrap_or(own));
    }
    names
}

/// Label of the source of step `index`; its path dependencies follow as `…/dependency[n]`.
pub(super) fn source_label(index: usize) -> String {
    format!("steps[{index}].plugin")
}

type Checked = (Value, Value, Vec<SourceRef>);

/// Checks a `with` block: the configuration, its key, and the plugin sources.
pub(super) fn prepare(with: &Value, env: PrepareEnv<'_>) -> Result<Checked, Vec<ConfigIssue>> {
    let config: FilterConfig = parse_config(with)?;
    let mut issues = Vec::new();
    let mut sources = Vec::new();
    let mut keys = Vec::new();
    for ((index, step), name) in config.steps.iter().enumerate().zip(step_names(&config.steps)) {
        let path = format!("steps[{index}]");
        let kinds = step.kinds();
        if kinds.len() > 1 {
            let message = format!("a step is one thing, and this one has `{}`", kinds.join("` and `"));
            issues.push(ConfigIssue::new(&path, message).help("make a step of each"));
            continue;
        }
        let mut key = match step.kind() {
            Some(StepKind::Plugin(plugin)) => prepare_plugin(step, plugin, &path, env, &mut sources, &mut issues),
            Some(StepKind::Dedup(dedup)) => {
                prepare_own(step, &path, "dedup", &mut issues);
                dedup.check(&format!("{path}.dedup"), &mut issues);
                json!({"dedup": dedup.filled()})
            }
            Some(StepKind::Decontaminate(config)) => {
                prepare_own(step, &path, "decontaminate", &mut issues);
                config.check(&format!("{path}.decontaminate"), &mut issues);
                json!({"decontaminate": config})
            }
            Some(StepKind::Tokens(bounds)) => {
                prepare_own(step, &path, "tokens", &mut issues);
                bounds.check(&format!("{path}.tokens"), &mut issues);
                json!({"tokens": bounds})
            }
            None => {
                issues.push(
                    ConfigIssue::new(&path, "a step needs `plugin`, `dedup`, `decontaminate` or `tokens`, found none")
                        .help("add `plugin: builtin:NAME`, `plugin: ./path` or `dedup: exact`"),
                );
                continue;
            }
        };
        key["name"] = json!(name);
        if let Some(on) = &step.on {
            key["on"] = json!(on);
        }
        keys.push(key);
    }
    if !issues.is_empty() {
        return Err(issues);
    }
    let key = json!({"steps": keys, "on_empty": config.on_empty});
    Ok((serde_json::to_value(&config).unwrap_or_default(), key, sources))
}

/// Holds the configuration of a step to the schema of its plugin, if that is known, or can be learned before a run. What
/// cannot be built here is left to the run, which may find its result in the store.
fn check_plugin_config(
    env: PrepareEnv<'_>,
    plugin: &Utf8Path,
    step: &StepConfig,
    path: &str,
    issues: &mut Vec<ConfigIssue>,
) {
    let Some(cache) = env.cache else { return };
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let workshop = Workshop { cache, offline: true, jobs };
    let manifest = workshop.known_manifest(plugin).or_else(|| {
        let loaded = (env.build && is_quick(plugin)).then(|| workshop.load(plugin, Limits::DEFAULT))?;
        Some(loaded.ok()?.manifest().clone())
    });
    let Some(manifest) = manifest else { return };
    let config = Value::Object(step.config.clone().unwrap_or_default());
    for mut issue in check_config(&config, &manifest.config_schema) {
        issue.path = match (&step.config, issue.path.as_str()) {
            (None, _) => path.to_owned(),
            (Some(_), "") => format!("{path}.config"),
            (Some(_), at) => format!("{path}.config.{at}"),
        };
        issue.message = format!("plugin `{}`: {}", manifest.name, issue.message);
        issues.push(issue);
    }
}

/// A component with an interpreter in it takes a minute to compile, which belongs into the run, where it is shown.
fn is_quick(plugin: &Utf8Path) -> bool {
    const LARGEST: u64 = 1 << 20;
    match Language::of(plugin) {
        Some(language) => matches!(language, Language::Rust | Language::C),
        None => fs_err::metadata(plugin).is_ok_and(|meta| meta.len() <= LARGEST),
    }
}

fn prepare_plugin(
    step: &StepConfig,
    plugin: &str,
    path: &str,
    env: PrepareEnv<'_>,
    sources: &mut Vec<SourceRef>,
    issues: &mut Vec<ConfigIssue>,
) -> Value {
    let at = format!("{path}.plugin");
    let mut key = json!({"config": step.config.clone().unwrap_or_default()});
    if let Some(keep) = &step.keep {
        bounds::check(keep, path, issues);
        key["keep"] = json!(keep);
    }
    if step.on_trap() == OnTrapConfig::Drop {
        let limits = step.limits();
        key["on_trap"] = json!({"memory_mib": limits.memory_mib, "fuel": limits.fuel, "max_traps": step.max_traps()});
    }
    match PluginSource::parse(plugin, env.directory) {
        Err(problem) => issues.push(ConfigIssue::new(at, problem.message).help(problem.help)),
        Ok(PluginSource::Builtin(name)) => {
            super::step::prepare_builtin(step, &name, path, &mut key, issues);
        }
        Ok(source) => {
            if step.run.is_some() {
                issues.push(ConfigIssue {
                    path: format!("{path}.run"),
                    on_key: true,
                    message: "only built-ins have `run`: a plugin always runs as WebAssembly".to_owned(),
                    help: Some("remove `run`".to_owned()),
                });
            }
            let label = at.clone();
            check_plugin_config(env, &env.directory.join(plugin), step, path, issues);
            match source {
                PluginSource::Directory(krate) => {
                    key["plugin"] = json!("crate");
                    let root = env.directory.join(&krate);
                    let root = root.canonicalize_utf8().unwrap_or(root);
                    let dependencies = path_dependencies(&root);
                    sources.push(SourceRef {
                        label: label.clone(),
                        path: krate,
                        kind: SourceKind::Tree,
                        config_path: at.clone(),
                    });
                    sources.extend(dependencies.into_iter().enumerate().map(|(number, dependency)| SourceRef {
                        label: format!("{label}/dependency[{number}]"),
                        path: dependency,
                        kind: SourceKind::Tree,
                        config_path: at.clone(),
                    }));
                }
                PluginSource::Component(file) => {
                    key["plugin"] = json!("component");
                    sources.push(SourceRef { label, path: file, kind: SourceKind::File, config_path: at });
                }
                PluginSource::Builtin(_) => {}
            }
        }
    }
    key
}

/// Keys of plugins do not belong to a step of another kind.
fn prepare_own(step: &StepConfig, path: &str, kind: &str, issues: &mut Vec<ConfigIssue>) {
    let present = [
        ("config", step.config.is_some()),
        ("keep", step.keep.is_some()),
        ("run", step.run.is_some()),
        ("limits", step.limits.is_some()),
        ("on_trap", step.on_trap.is_some()),
        ("max_traps", step.max_traps.is_some()),
    ];
    for (key, _) in present.iter().filter(|(_, present)| *present) {
        issues.push(ConfigIssue {
            path: format!("{path}.{key}"),
            on_key: true,
            message: format!("`{key}` belongs to plugins, and this step is a `{kind}`"),
            help: Some(match kind {
                "dedup" => "options of a deduplication go into it: `dedup: {method: minhash, …}`".to_owned(),
                _ => format!("options go into `{kind}: {{…}}`"),
            }),
        });
    }
}
