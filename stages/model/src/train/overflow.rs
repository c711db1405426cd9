//! Finds where a pass in f16 left its range: behind an infinity everything is NaN, so the loss says nothing of the place.

use half::f16;
use luthier_core::{StageError, StageResult};
use luthier_kernels::device::{Device, FloatType, Values};

use super::trainer::Trainer;
use crate::adapter::AdapterSet;
use crate::decoder::{Batch, Decoder, Pieces, Workspace};
use crate::projection::Projection;

/// The elements on the host; empty where they are not f16.
fn halves(device: &dyn Device, values: Values<'_>) -> Vec<f32> {
    if values.kind() != FloatType::F16 {
        return Vec::new();
    }
    let mut bytes = vec![0; 2 * values.len()];
    device.read_bytes(values.as_bytes(), &mut bytes);
    bytes.chunks_exact(2).map(|two| f16::from_le_bytes([two[0], two[1]]).to_f32()).collect()
}

/// What of a block is the first to be beyond the range.
fn place(device: &dyn Device, layer: usize, pieces: &Pieces<'_>) -> Option<String> {
    let beyond = |values: Values<'_>| halves(device, values).iter().any(|value| !value.is_finite());
    let output = |projection: Projection| format!("the output of `{}`", projection.module(layer));
    let (query, key) = if pieces.query_raw.is_empty() {
        (pieces.query.freeze(), pieces.key.freeze())
    } else {
        (pieces.query_raw.freeze(), pieces.key_raw.freeze())
    };
    let projected = [
        (Projection::Query, query),
        (Projection::Key, key),
        (Projection::Value, pieces.value.freeze()),
        (Projection::Gate, pieces.gate.freeze()),
        (Projection::Up, pieces.up.freeze()),
    ];
    if let Some((projection, _)) = projected.into_iter().find(|(_, values)| beyond(*values)) {
        return Some(output(projection));
    }
    let (gate, up) = (halves(device, pieces.gate.freeze()), halves(device, pieces.up.freeze()));
    let mut active = gate.iter().zip(&up).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up);
    active
        .any(|value| !f16::from_f32(value).is_finite())
        .then(|| format!("the input of `{}`", Projection::Down.module(layer)))
}

/// The first place of a forward pass over `batch` that is beyond the range.
pub(crate) fn find(
    decoder: &Decoder,
    adapters: Option<&AdapterSet>,
    workspace: &mut Workspace,
    batch: &Batch,
) -> Option<String> {
    let device = decoder.device().as_ref();
    let uploaded = workspace.upload_scored(device, batch);
    let mut found = None;
    let before = std::mem::replace(&mut workspace.forward_only, true);
    workspace.forward(decoder, adapters, None, uploaded, &mut |layer, pieces| {
        if found.is_none() {
            found = place(device, layer, pieces);
        }
    });
    workspace.forward_only = before;
    found
}

/// What to say of it; `what` is what came out of the pass.
pub(crate) fn error(what: &str, place: Option<String>) -> StageError {
    let place = place.unwrap_or_else(|| "an activation".to_owned());
    StageError::new(
        "model::f16_overflow",
        format!("{what}: {place} is beyond 65504, the largest number of f16, in which this device keeps activations"),
    )
    .hint("set `compute_type: f32`, which keeps them in twice the bytes, or use a device of compute capability 8.0 or later")
}

impl Trainer<'_> {
    /// The error of a step without a finite loss, where activations are f16 and one of them is beyond its range; `None` if
    /// the loss is not finite for another reason.
    ///
    /// # Errors
    /// A device failure.
    pub fn overflow(&mut self, what: &str) -> StageResult<Option<StageError>> {
        if self.loss_scale.is_none() {
            return Ok(None);
        }
        let Self { decoder, adapters, workspace, batches, .. } = self;
        let (decoder, batches) = (*decoder, batches[0].batches());
        let found = super::trainer::inside(decoder, || {
            Ok(batches.iter().find_map(|batch| find(decoder, Some(adapters), workspace, batch)))
        })?;
        Ok(found.map(|place| error(what, Some(place))))
    }
}
