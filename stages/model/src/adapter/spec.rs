//! What an adapter is made like, and the parameters that follow from it.

use std::collections::BTreeMap;

use luthier_core::StageResult;
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
        for selected in self.targets.select(config)? {
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
