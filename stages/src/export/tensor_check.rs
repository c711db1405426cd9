//! Reads an exported file back and holds every tensor to the bound of its type.

use std::collections::BTreeMap;

use luthier_core::{Section, StageContext, StageError, StageResult};
use luthier_formats::model_files::ModelFiles;
use luthier_formats::quant::{self, TensorType};
use rayon::prelude::*;

/// What the tensors of one type add up to.
#[derive(Debug, Clone, Copy, Default)]
struct TypeTotal {
    tensors: usize,
    elements: u64,
    bytes: u64,
    error_square: f64,
    square: f64,
    largest: f64,
}

/// The result of a check that passed.
pub(super) struct TensorReport {
    types: BTreeMap<TensorType, TypeTotal>,
}

/// Compares `exported` with `source`, tensor by tensor, both in Hugging Face order.
///
/// # Errors
/// A value that is further off than its type explains: a fault of the exporter or of the disk.
pub(super) fn compare(
    context: &StageContext<'_>,
    source: &ModelFiles,
    exported: &ModelFiles,
) -> StageResult<TensorReport> {
    let mut types: BTreeMap<TensorType, TypeTotal> = BTreeMap::new();
    let total = source.names().len() as u64;
    for (done, (name, spec)) in source.specs().iter().enumerate() {
        context.check_cancelled()?;
        let count: usize = spec.shape.iter().product();
        let (mut before, mut after) = (vec![0.0; count], vec![0.0; count]);
        source.read_f32(name, &mut before)?;
        exported.read_f32(name, &mut after)?;
        let tensor_type = exported.dtype(name).unwrap_or(TensorType::F32);
        let (error_square, square, largest) = compare_values(name, tensor_type, &before, &after)?;
        let entry = types.entry(tensor_type).or_default();
        entry.tensors += 1;
        entry.elements += count as u64;
        entry.bytes += (count / tensor_type.block_len() * tensor_type.block_bytes()) as u64;
        entry.error_square += error_square;
        entry.square += square;
        entry.largest = entry.largest.max(largest);
        context.progress(done as u64 + 1, total, "tensors", format!("checking {name}"));
    }
    Ok(TensorReport { types })
}

/// Sums of squared errors and of squares, and the largest error.
fn compare_values(name: &str, tensor_type: TensorType, before: &[f32], after: &[f32]) -> StageResult<(f64, f64, f64)> {
    let block = tensor_type.block_len();
    let (relative, absolute) = quant::tolerance(tensor_type);
    // Tasks of a fixed number of blocks, so that sums do not depend on threads.
    let task = block * (8192 / block).max(1);
    let parts: Vec<(f64, f64, f64, Option<usize>)> = before
        .par_chunks(task)
        .zip(after.par_chunks(task))
        .enumerate()
        .map(|(index, (before, after))| {
            let mut part = (0.0, 0.0, 0.0f64, None);
            for (at, (before, after)) in before.chunks(block).zip(after.chunks(block)).enumerate() {
                let peak = before.iter().fold(0.0f32, |peak, value| peak.max(value.abs()));
                let bound = relative * peak + absolute;
                for (within, (before, after)) in before.iter().zip(after).enumerate() {
                    let difference = f64::from(*after) - f64::from(*before);
                    part.0 += difference * difference;
                    part.1 += f64::from(*before) * f64::from(*before);
                    part.2 = part.2.max(difference.abs());
                    if (difference.is_nan() || difference.abs() > f64::from(bound)) && part.3.is_none() {
                        part.3 = Some(index * task + at * block + within);
                    }
                }
            }
            part
        })
        .collect();
    let mut sums = (0.0, 0.0, 0.0f64);
    for part in parts {
        if let Some(index) = part.3 {
            return Err(StageError::new(
                "export::check",
                format!(
                    "tensor `{name}` reads back as {} at element {index}, where {} was written as {tensor_type}",
                    after[index], before[index]
                ),
            )
            .hint("run the stage again; if it fails at the same place, check the disk with `luthier verify`"));
        }
        sums = (sums.0 + part.0, sums.1 + part.1, sums.2.max(part.2));
    }
    Ok(sums)
}

impl TensorReport {
    /// Stored bits per weight, over all tensors.
    pub(super) fn bits_per_weight(&self) -> f64 {
        let bytes: u64 = self.types.values().map(|total| total.bytes).sum();
        let elements: u64 = self.types.values().map(|total| total.elements).sum();
        if elements == 0 { 0.0 } else { 8.0 * bytes as f64 / elements as f64 }
    }

    /// Root of the squared error over the squares, over all tensors.
    pub(super) fn relative_error(&self) -> f64 {
        let error: f64 = self.types.values().map(|total| total.error_square).sum();
        let square: f64 = self.types.values().map(|total| total.square).sum();
        if square == 0.0 { 0.0 } else { (error / square).sqrt() }
    }

    pub(super) fn table(&self) -> Section {
        Section::Table {
            title: "Tensors by type, read back".to_owned(),
            columns: ["type", "tensors", "weights", "bytes", "relative error", "largest error"]
                .map(str::to_owned)
                .to_vec(),
            rows: self
                .types
                .iter()
                .map(|(tensor_type, total)| {
                    let relative = if total.square == 0.0 { 0.0 } else { (total.error_square / total.square).sqrt() };
                    vec![
                        tensor_type.to_string(),
                        total.tensors.to_string(),
                        total.elements.to_string(),
                        total.bytes.to_string(),
                        format!("{relative:.2e}"),
                        format!("{:.2e}", total.largest),
                    ]
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_out_of_bounds_is_named() {
        let before = vec![0.5f32; 64];
        let mut after = before.clone();
        assert_eq!(compare_values("w", TensorType::Q8_0, &before, &after).unwrap().0, 0.0);
        after[40] = 0.51;
        let error = compare_values("w", TensorType::Q8_0, &before, &after).unwrap_err();
        assert_eq!(error.message, "tensor `w` reads back as 0.51 at element 40, where 0.5 was written as Q8_0");
        after[40] = f32::NAN;
        assert!(compare_values("w", TensorType::Q2_K, &before, &after).is_err());
    }
}
