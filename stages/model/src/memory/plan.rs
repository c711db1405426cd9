//! Bytes per component.

use luthier_core::StageResult;
use luthier_formats::model_files::{ModelConfig, ModelFiles};
use luthier_kernels::device::{Component, Costs, FloatType, HostComponent, HostCosts, Storage};
use serde::Serialize;

use super::RunShape;
use crate::decoder::{BaseFormat, BlockLayout, RESIDENT, Sizes, Storages, operations, projection_storage, storage_of};
use crate::projection::Projection;
use crate::train::{OptimizerBytes, Paging, STEP_BYTES, TrainSpec};

const EMBEDDING: &str = "model.embed_tokens.weight";

/// The types that a model's matrices are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightTypes {
    /// Embedding and head.
    pub table: Storage,
    /// Projections of the blocks.
    pub projection: Storage,
    /// Bytes of all projections and of embedding and head, where the files are there and may mix types.
    pub found: Option<[usize; 2]>,
    pub storages: Storages,
}

impl WeightTypes {
    /// Of a model whose tensors are all stored as `stored`.
    #[must_use]
    pub fn new(stored: Storage, base: BaseFormat) -> Self {
        let projection = if base == BaseFormat::Nf4 { Storage::Nf4 } else { stored };
        Self { table: stored, projection, found: None, storages: Storages::new([projection], stored) }
    }

    /// Of the files of a model, which the loader follows tensor by tensor.
    #[must_use]
    pub fn of_files(files: &ModelFiles, base: BaseFormat) -> Self {
        let config = files.config();
        let kept = |name: &str| projection_storage(files, name, base);
        let projections: Vec<(Storage, usize)> = (0..config.layers)
            .flat_map(|layer| Projection::ALL.map(|projection| (layer, projection)))
            .map(|(layer, projection)| {
                let (rows, cols) = projection.shape(config);
                (kept(&format!("{}.weight", projection.module(layer))), rows * cols)
            })
            .collect();
        let tables: &[&str] = if config.tie_embeddings { &[EMBEDDING] } else { &[EMBEDDING, "lm_head.weight"] };
        let elements = config.vocab_size * config.hidden_size;
        let head = storage_of(files, tables[tables.len() - 1]);
        let tables = tables.iter().map(|name| storage_of(files, name).bytes(elements)).sum();
        Self {
            table: storage_of(files, EMBEDDING),
            projection: kept(&format!("{}.weight", Projection::Query.module(0))),
            found: Some([projections.iter().map(|(kept, elements)| kept.bytes(*elements)).sum(), tables]),
            storages: Storages::new(projections.iter().map(|(kept, _)| *kept), head),
        }
    }
}

/// Bytes that are alive only in one phase of a step, beside what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PhasePeaks {
    pub forward: usize,
    pub feed_forward_backward: usize,
    pub attention_backward: usize,
    pub loss: usize,
}

impl PhasePeaks {
    #[must_use]
    pub fn largest(&self) -> usize {
        self.forward.max(self.feed_forward_backward).max(self.attention_backward).max(self.loss)
    }
}

/// Page-locked host memory beside a device that has memory of its own, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct HostPlan {
    pub staging: usize,
    #[serde(skip_serializing_if = "is_zero")]
    pub block_inputs: usize,
    #[serde(skip_serializing_if = "is_zero")]
    pub blocks: usize,
    #[serde(skip_serializing_if = "is_zero")]
    pub moments: usize,
}

impl HostPlan {
    /// Bytes of a component as the device's ledger counts them.
    #[must_use]
    pub fn bytes(&self, component: HostComponent) -> usize {
        match component {
            HostComponent::Staging => self.staging,
            HostComponent::BlockInputs => self.block_inputs,
            HostComponent::Blocks => self.blocks,
            HostComponent::Moments => self.moments,
        }
    }

    /// All of it.
    #[must_use]
    pub fn total(&self) -> usize {
        HostComponent::ALL.into_iter().map(|component| self.bytes(component)).sum()
    }

    fn is_empty(&self) -> bool {
        self.total() == 0
    }
}

/// What a run needs, in bytes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MemoryPlan {
    pub weights: usize,
    pub embeddings: usize,
    pub adapters: usize,
    pub gradients: usize,
    pub optimizer: usize,
    /// Optimiser states in a mapped file, which need not be in memory and are not part of the total.
    #[serde(skip_serializing_if = "is_zero")]
    pub paged: usize,
    /// Not part of the total.
    #[serde(skip_serializing_if = "HostPlan::is_empty")]
    pub host: HostPlan,
    pub activations: usize,
    pub checkpoint: usize,
    pub workspace: usize,
    pub scratch: usize,
    /// The phases that share the workspace; it is as large as the largest, plus the gradient that travels down.
    pub phases: PhasePeaks,
    /// Matrices of one block, which are part of the weights.
    pub block: usize,
    pub trainable_parameters: usize,
    pub frozen_parameters: usize,
    /// Rows whose logits exist at once.
    pub chunk_rows: usize,
}

fn is_zero(bytes: &usize) -> bool {
    *bytes == 0
}

impl MemoryPlan {
    /// Of a device that keeps activations in `f32`.
    ///
    /// # Errors
    /// Targets that match nothing.
    pub fn new(config: &ModelConfig, types: WeightTypes, spec: &TrainSpec, shape: RunShape) -> StageResult<Self> {
        Self::on(config, types, spec, shape, FloatType::F32)
    }

    /// Of a device that keeps activations as `activations`.
    ///
    /// # Errors
    /// Targets that match nothing.
    pub fn on(
        config: &ModelConfig,
        types: WeightTypes,
        spec: &TrainSpec,
        shape: RunShape,
        activations: FloatType,
    ) -> StageResult<Self> {
        Self::of_device(config, types, spec, shape, activations, &HostCosts)
    }

    /// As [`MemoryPlan::on`], with what the device takes for itself; that is part of the scratch.
    ///
    /// # Errors
    /// Targets that match nothing.
    pub fn of_device(
        config: &ModelConfig,
        types: WeightTypes,
        spec: &TrainSpec,
        shape: RunShape,
        activations: FloatType,
        costs: &dyn Costs,
    ) -> StageResult<Self> {
        let slots = spec.lora.slots(config)?;
        let trainable = crate::adapter::parameters(&slots);
        let (norms, norms_scratch) = crate::adapter::magnitude_floats(&slots);
        let paging = Paging::new(spec.pages.is_some(), costs.staging().is_some());
        let states = OptimizerBytes::new(&slots, spec.optimizer.states, paging);
        let dropout = spec.lora.dropout > 0.0;
        let sizes = Sizes::new(config, &slots, shape.capacity, true, dropout, spec.checkpointing, activations);
        let sizes = if spec.offload { sizes.offloaded() } else { sizes };
        let positions = shape.longest.min(config.max_positions).max(1);
        let own = costs.fixed()
            + costs.rotary(positions, config.head_dim)
            + costs.scratch(&operations(config, &slots, &sizes, types.storages, true));
        let per_layer: usize = Projection::ALL
            .into_iter()
            .map(|projection| {
                let (rows, cols) = projection.shape(config);
                types.projection.bytes(rows * cols)
            })
            .sum();
        let linear: usize = Projection::ALL
            .into_iter()
            .map(|projection| {
                let (rows, cols) = projection.shape(config);
                rows * cols
            })
            .sum();
        let biases = if config.qkv_bias { config.query_size() + 2 * config.key_value_size() } else { 0 };
        let head_norms = if config.qk_norm { 2 * config.head_dim } else { 0 };
        let vectors = config.layers * (2 * config.hidden_size + biases + head_norms) + config.hidden_size;
        let table = config.vocab_size * config.hidden_size;
        let tables = if config.tie_embeddings { 1 } else { 2 };
        let residuals = sizes.landings() * sizes.residual;
        let saved = sizes.saved.iter().sum::<usize>();
        Ok(Self {
            weights: types.found.map_or(config.layers * per_layer, |[projections, _]| projections) + 4 * vectors,
            embeddings: types.found.map_or(tables * types.table.bytes(table), |[_, tables]| tables),
            adapters: 4 * (trainable + norms),
            gradients: 4 * trainable,
            optimizer: states.device,
            paged: states.file,
            host: HostPlan {
                staging: costs.staging().unwrap_or(0),
                block_inputs: sizes.pooled() * sizes.residual,
                blocks: 0,
                moments: states.host,
            },
            activations: if spec.checkpointing { saved } else { saved + residuals },
            checkpoint: if spec.checkpointing { residuals } else { 0 },
            workspace: sizes.arena + sizes.gradient,
            scratch: 4 * (sizes.indices + norms_scratch) + STEP_BYTES + own,
            phases: PhasePeaks {
                forward: sizes.peaks.forward,
                feed_forward_backward: sizes.peaks.feed_forward_backward,
                attention_backward: sizes.peaks.attention_backward,
                loss: sizes.peaks.loss,
            },
            block: per_layer,
            trainable_parameters: trainable,
            frozen_parameters: config.layers * linear + vectors + tables * table,
            chunk_rows: sizes.chunk_rows,
        })
    }

    /// The same run with the blocks' matrices on disk, a few of them resident at a time: where they are mapped, or in slots
    /// of a device that has memory of its own, which they come to through page-locked memory.
    #[must_use]
    pub fn streamed(mut self, config: &ModelConfig, apart: bool) -> Self {
        let resident = config.layers.min(RESIDENT);
        let slot = if apart { BlockLayout::new(config).bytes } else { self.block };
        self.weights = self.weights - config.layers * self.block + resident * slot;
        if apart {
            self.host.blocks = resident * slot;
        }
        self
    }

    /// Bytes of a component as the device's ledger counts them.
    #[must_use]
    pub fn bytes(&self, component: Component) -> usize {
        match component {
            Component::Weights => self.weights,
            Component::Embeddings => self.embeddings,
            Component::Adapters => self.adapters,
            Component::Gradients => self.gradients,
            Component::Optimizer => self.optimizer,
            Component::Activations => self.activations,
            Component::Checkpoint => self.checkpoint,
            Component::Workspace => self.workspace,
            Component::Cache => 0,
            Component::Scratch => self.scratch,
        }
    }

    /// All of it.
    #[must_use]
    pub fn total(&self) -> usize {
        Component::ALL.into_iter().map(|component| self.bytes(component)).sum()
    }
}
