//! Which modules get an adapter: `all-linear`, names, or one regular expression, as PEFT reads `target_modules`.

use luthier_core::{StageError, StageResult, nearest, quoted};
use luthier_formats::model_files::ModelConfig;
use regex::Regex;

use crate::projection::Projection;

/// What the user wrote under `targets`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// Every projection of every block; the head and the embedding are not among them.
    AllLinear,
    /// Module names or their last parts: a module fits if it equals a name or ends with `.name`.
    Names(Vec<String>),
    /// A regular expression that a whole module name must match.
    Pattern(String),
}

/// A module that was selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selected {
    pub layer: usize,
    pub projection: Projection,
}

/// Compiles a pattern of the user's.
pub(super) fn compile(pattern: &str, what: &str) -> StageResult<Regex> {
    Regex::new(pattern).map_err(|error| {
        StageError::input("train::pattern", format!("{what} `{pattern}` is not a regular expression"))
            .hint("escape dots as `\\.`, or give the module names as a list, such as `[q_proj, v_proj]`")
            .caused_by(error)
    })
}

impl Targets {
    /// The modules selected, in order of layer and projection.
    ///
    /// # Errors
    /// A bad pattern, or a name or pattern that matches nothing: the message lists what exists.
    pub fn select(&self, config: &ModelConfig) -> StageResult<Vec<Selected>> {
        let modules = (0..config.layers)
            .flat_map(|layer| Projection::ALL.into_iter().map(move |projection| Selected { layer, projection }));
        let found: Vec<Selected> = match self {
            Self::AllLinear => modules.collect(),
            Self::Names(names) => {
                let all: Vec<(Selected, String)> =
                    modules.map(|selected| (selected, selected.projection.module(selected.layer))).collect();
                let fits = |module: &str, name: &str| {
                    module == name || module.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
                };
                if let Some(stray) = names.iter().find(|name| !all.iter().any(|(_, module)| fits(module, name))) {
                    return Err(nothing_matches(stray, config));
                }
                all.into_iter()
                    .filter(|(_, module)| names.iter().any(|name| fits(module, name)))
                    .map(|(selected, _)| selected)
                    .collect()
            }
            Self::Pattern(pattern) => {
                let regex = compile(&format!("^(?:{pattern})$"), "the target")?;
                modules.filter(|selected| regex.is_match(&selected.projection.module(selected.layer))).collect()
            }
        };
        if found.is_empty() {
            let text = match self {
                Self::Pattern(pattern) => pattern.as_str(),
                _ => "[]",
            };
            return Err(nothing_matches(text, config));
        }
        Ok(found)
    }
}

fn nothing_matches(target: &str, config: &ModelConfig) -> StageError {
    let names = Projection::ALL.map(Projection::name);
    let listed = quoted(names);
    let error = StageError::input(
        "train::target_matches_nothing",
        format!(
            "the target `{target}` matches no module; each of the {} layers has [{listed}], as in `{}`",
            config.layers,
            Projection::Query.module(0)
        ),
    );
    match nearest(target, names) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error.hint("write `targets: all-linear`, or a list of those names"),
    }
}
