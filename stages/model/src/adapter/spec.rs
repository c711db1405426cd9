//! What an adapter is made like, and the parameters that follow from it.

use std::collections::BTreeMap;

use luthier_core::{StageError, StageResult};
use luthier_formats::model_files::ModelConfig;

use super::set::Slot;
use super::targets::{Targets, compile};

/// How `A` starts; `B` always starts at zero, so that step 0 is the base model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Initialization {
    /// Uniform in `±1/√inputs`: PEFT's `init_lora_weights: true` (Kaiming uniform with `a = √5`).
    Kaiming,
    /// Normal with standard deviation `1/rank`: PEFT's `gaussian`.
    Gaussian,
}

/// The shape of an adapter, in PEFT's terms.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraSpec {
    pub rank: usize,
    pub alpha: f64,
    pub dropout: f64,
    pub targets: Targets,
    /// Only these blocks, counted from 0 (PEFT's `layers_to_transform`).
    pub layers: Option<Vec<usize>>,
    /// Rank of modules whose name ends with a match of the key.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Alpha of modules whose name ends with a match of the key.
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Scales by `alpha/√rank` instead of `alpha/rank`.
    pub rslora: bool,
    /// Splits each adapted weight into magnitude and direction (Liu et al. 2024).
    pub dora: bool,
    pub initialization: Initialization,
}

impl LoraSpec {
    /// One slot per selected module, with offsets into a flat parameter buffer: first all `A`, then all `B`, then the
    /// magnitudes.
    ///
    /// # Errors
    /// A target that matches nothing, or a pattern that does not compile.
    pub fn slots(&self, config: &ModelConfig) -> StageResult<Vec<Slot>> {
        let suffix = |key: &String| compile(&format!(r"^(?:.*\.)?(?:{key})$"), "the pattern");
        let ranks = self.rank_pattern.iter().map(|(key, rank)| Ok((suffix(key)?, *rank)));
        let ranks: Vec<_> = ranks.collect::<StageResult<_>>()?;
        let alphas = self.alpha_pattern.iter().map(|(key, alpha)| Ok((suffix(key)?, *alpha)));
        let alphas: Vec<_> = alphas.collect::<StageResult<_>>()?;
        let mut slots: Vec<Slot> = Vec::new();
        if let Some(stray) = self.layers.iter().flatten().find(|layer| **layer >= config.layers) {
            return Err(StageError::input(
                "train::no_such_layer",
                format!(
                    "`layers_to_transform` names layer {stray}, but the model has layers 0 to {}",
                    config.layers - 1
                ),
            )
            .hint(format!("write `layers_to_transform: [{}]` for the last one", config.layers - 1)));
        }
        let chosen = |layer: usize| self.layers.as_ref().is_none_or(|layers| layers.contains(&layer));
        for selected in self.targets.select(config)?.into_iter().filter(|selected| chosen(selected.layer)) {
            let module = selected.projection.module(selected.layer);
            let rank = ranks.iter().find(|(key, _)| key.is_match(&module)).map_or(self.rank, |(_, rank)| *rank);
            let alpha = alphas.iter().find(|(key, _)| key.is_match(&module)).map_or(self.alpha, |(_, alpha)| *alpha);
            let divisor = if self.rslora { (rank as f64).sqrt() } else { rank as f64 };
            let (outputs, inputs) = selected.projection.shape(config);
            slots.push(Slot {
                layer: selected.layer,
                projection: selected.projection,
                rank,
                outputs,
                inputs,
                scale: (alpha / divisor) as f32,
                a: 0,
                b: 0,
                magnitude: None,
            });
        }
        if let Some(slot) = slots.iter().find(|slot| !(slot.scale.is_finite() && slot.scale != 0.0 && slot.rank > 0)) {
            return Err(StageError::input(
                "train::no_gradient",
                format!(
                    "the adapter of `{}` has rank {} and scale {}, so it could never receive a gradient",
                    slot.projection.module(slot.layer),
                    slot.rank,
                    slot.scale
                ),
            )
            .hint("give it an alpha and a rank above 0 in `alpha_pattern` and `rank_pattern`, or leave it out of `targets`"));
        }
        if slots.is_empty() {
            return Err(StageError::input(
                "train::target_matches_nothing",
                "none of the layers in `layers_to_transform` has a module that `targets` selects",
            )
            .hint("remove `layers_to_transform`, or name layers that `targets` selects"));
        }
        let mut offset = 0;
        for slot in &mut slots {
            slot.a = offset;
            offset += slot.rank * slot.inputs;
        }
        for slot in &mut slots {
            slot.b = offset;
            offset += slot.outputs * slot.rank;
        }
        if self.dora {
            for slot in &mut slots {
                slot.magnitude = Some(offset);
                offset += slot.outputs;
            }
        }
        Ok(slots)
    }
}
