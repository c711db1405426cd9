//! Which stages a run is about: `--only`, `--from`, `--until`, matrix groups.

use std::collections::{BTreeMap, BTreeSet};

use luthier_core::{StageId, nearest};

use crate::error::EngineError;
use crate::pipeline::Pipeline;
use crate::run::RunOptions;

/// The pipeline as numbers: each stage by its place in topological order.
pub(crate) struct Layout {
    /// Upstream stages, each once, in the order of the pipeline.
    pub reads: Vec<Vec<usize>>,
    pub readers: Vec<Vec<usize>>,
    pub place: BTreeMap<StageId, usize>,
}

impl Layout {
    pub fn new(pipeline: &Pipeline) -> Self {
        let place: BTreeMap<StageId, usize> =
            pipeline.stages.iter().enumerate().map(|(at, stage)| (stage.id.clone(), at)).collect();
        let mut readers = vec![Vec::new(); pipeline.stages.len()];
        let mut reads = Vec::with_capacity(pipeline.stages.len());
        for (at, stage) in pipeline.stages.iter().enumerate() {
            let upstream: BTreeSet<usize> =
                stage.inputs.values().flatten().filter_map(|from| place.get(&from.stage).copied()).collect();
            for up in &upstream {
                readers[*up].push(at);
            }
            reads.push(upstream.into_iter().collect());
        }
        Self { reads, readers, place }
    }

    fn reach(start: &[usize], next: &[Vec<usize>]) -> BTreeSet<usize> {
        let mut found: BTreeSet<usize> = start.iter().copied().collect();
        let mut pending = start.to_vec();
        while let Some(at) = pending.pop() {
            for further in &next[at] {
                if found.insert(*further) {
                    pending.push(*further);
                }
            }
        }
        found
    }

    /// These and all that they read.
    pub fn up(&self, start: &[usize]) -> BTreeSet<usize> {
        Self::reach(start, &self.reads)
    }

    /// These and all that read them.
    pub fn down(&self, start: &[usize]) -> BTreeSet<usize> {
        Self::reach(start, &self.readers)
    }
}

/// The error for a name that no stage has, with the nearest that one has.
pub(crate) fn unknown(pipeline: &Pipeline, name: &StageId) -> EngineError {
    let known: Vec<String> = pipeline.stages.iter().map(|stage| stage.id.to_string()).collect();
    let nearest = nearest(name.as_str(), known.iter().map(String::as_str)).map(str::to_owned);
    EngineError::UnknownStage { name: name.to_string(), nearest, known }
}

/// Places of the named stages; a group stands for its members.
pub(crate) fn resolve(pipeline: &Pipeline, names: &[StageId]) -> Result<Vec<usize>, EngineError> {
    let mut found = Vec::new();
    for name in names {
        let before = found.len();
        found.extend(
            pipeline
                .stages
                .iter()
                .enumerate()
                .filter(|(_, stage)| stage.id == *name || stage.group == *name)
                .map(|(at, _)| at),
        );
        if found.len() == before {
            return Err(unknown(pipeline, name));
        }
    }
    Ok(found)
}

/// Which stages are selected, and which of those are forced.
pub(crate) struct Selection {
    pub selected: Vec<bool>,
    pub forced: Vec<bool>,
    /// Everything is selected.
    pub all: bool,
}

impl Selection {
    pub fn new(pipeline: &Pipeline, layout: &Layout, options: &RunOptions) -> Result<Self, EngineError> {
        let only = resolve(pipeline, &options.only)?;
        let from = resolve(pipeline, &options.from)?;
        let until = resolve(pipeline, &options.until)?;
        let force = resolve(pipeline, &options.force)?;
        let count = pipeline.stages.len();
        let mut selected = vec![only.is_empty() && from.is_empty() && until.is_empty(); count];
        // `--from A --until B` is what lies between; otherwise the sets add up.
        let (down, up) = (layout.down(&from), layout.up(&until));
        let cone: BTreeSet<usize> = match (from.is_empty(), until.is_empty()) {
            (false, false) => down.intersection(&up).copied().collect(),
            _ => down.union(&up).copied().collect(),
        };
        for at in cone.into_iter().chain(only) {
            selected[at] = true;
        }
        let mut forced = vec![false; count];
        for at in force {
            forced[at] = true;
        }
        let all = selected.iter().all(|chosen| *chosen);
        Ok(Self { selected, forced, all })
    }
}
