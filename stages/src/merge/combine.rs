//! What several changes of one weight become together.

use luthier_core::StageResult;
use luthier_kernels::random::Stream;
use luthier_kernels::{Weight, matmul};
use rayon::prelude::*;

use super::adapter::{Adapter, LowRank};
use super::config::{MergeConfig, MergeMethod};

/// Elements that one task handles.
const TASK: usize = 1 << 14;

/// One adapter's part in a weight.
pub(super) struct Contribution<'a> {
    pub adapter: &'a Adapter,
    /// Position of the adapter, for the random streams.
    pub index: usize,
    pub change: &'a LowRank,
    pub weight: f32,
}

/// Adds all contributions to `values`, a `rows × columns` matrix, in `f32`.
///
/// # Errors
/// A tensor of an adapter that cannot be read.
pub(super) fn add(
    config: &MergeConfig,
    name: &str,
    contributions: &[Contribution<'_>],
    rows: usize,
    columns: usize,
    values: &mut [f32],
) -> StageResult<()> {
    match config.method {
        MergeMethod::Linear => {
            for part in contributions {
                add_product(part, rows, columns, part.weight * part.change.scale, values)?;
            }
        }
        MergeMethod::Dare => {
            let keep = config.density as f32;
            for part in contributions {
                let mut delta = vec![0.0; values.len()];
                add_product(part, rows, columns, part.weight * part.change.scale / keep, &mut delta)?;
                let stream = Stream::new(config.seed, &format!("dare/{}/{name}", part.index));
                values.par_chunks_mut(TASK).zip(delta.par_chunks(TASK)).enumerate().for_each(
                    |(task, (values, delta))| {
                        for (index, (value, delta)) in values.iter_mut().zip(delta).enumerate() {
                            if stream.uniform((task * TASK + index) as u64) < keep {
                                *value += delta;
                            }
                        }
                    },
                );
            }
        }
        MergeMethod::Ties => add_ties(config, contributions, rows, columns, values)?,
    }
    Ok(())
}

fn add_product(
    part: &Contribution<'_>,
    rows: usize,
    columns: usize,
    scale: f32,
    values: &mut [f32],
) -> StageResult<()> {
    let (a, b) = part.adapter.factors(part.change)?;
    matmul::nn(&b, rows, part.change.rank, &Weight::F32(&a), columns, values, scale, true);
    Ok(())
}

/// TIES (Yadav et al., 2023): trim, elect signs, average what agrees. Per tensor, over the whole change `B · A`.
fn add_ties(
    config: &MergeConfig,
    contributions: &[Contribution<'_>],
    rows: usize,
    columns: usize,
    values: &mut [f32],
) -> StageResult<()> {
    let mut deltas: Vec<(f32, Vec<f32>)> = Vec::with_capacity(contributions.len());
    for part in contributions {
        let mut delta = vec![0.0; values.len()];
        add_product(part, rows, columns, part.change.scale, &mut delta)?;
        trim(&mut delta, config.density);
        deltas.push((part.weight, delta));
    }
    let all: f32 = contributions.iter().map(|part| part.weight).sum();
    values.par_iter_mut().enumerate().for_each(|(index, value)| {
        let total: f32 = deltas.iter().map(|(weight, delta)| weight * delta[index]).sum();
        let (mut sum, mut weights) = (0.0f32, 0.0f32);
        for (weight, delta) in &deltas {
            if delta[index] * total > 0.0 {
                sum += weight * delta[index];
                weights += weight;
            }
        }
        if weights > 0.0 {
            *value += all * (sum / weights);
        }
    });
    Ok(())
}

/// Zeroes all but the share `density` of largest magnitude; of equal ones the first stay.
fn trim(delta: &mut [f32], density: f64) {
    let keep = ((delta.len() as f64 * density).ceil() as usize).min(delta.len());
    if keep == delta.len() || keep == 0 {
        return;
    }
    let mut magnitudes: Vec<f32> = delta.iter().map(|value| value.abs()).collect();
    let (_, threshold, _) = magnitudes.select_nth_unstable_by(keep - 1, |a, b| b.total_cmp(a));
    let threshold = *threshold;
    let above = delta.iter().filter(|value| value.abs() > threshold).count();
    let mut equal = keep - above;
    for value in delta {
        let magnitude = value.abs();
        if magnitude == threshold && equal > 0 {
            equal -= 1;
        } else if magnitude <= threshold {
            *value = 0.0;
        }
    }
}

/// DoRA (Liu et al., 2024): each row of the changed weight is scaled to the trained magnitude.
pub(super) fn apply_magnitude(values: &mut [f32], columns: usize, magnitude: &[f32]) {
    values.par_chunks_mut(columns).zip(magnitude).for_each(|(row, magnitude)| {
        let square: f64 = row.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
        let factor = f64::from(*magnitude) / square.sqrt();
        if factor.is_finite() {
            for value in row {
                *value = (f64::from(*value) * factor) as f32;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trimming_keeps_the_largest_and_the_first_of_equals() {
        let mut delta = vec![1.0, -3.0, 2.0, -2.0, 2.0, 0.5];
        trim(&mut delta, 0.5);
        assert_eq!(delta, [0.0, -3.0, 2.0, -2.0, 0.0, 0.0]);
        trim(&mut delta, 1.0);
        assert_eq!(delta, [0.0, -3.0, 2.0, -2.0, 0.0, 0.0]);
    }

    #[test]
    fn magnitudes_become_the_norms_of_rows() {
        let mut values = vec![3.0, 4.0, 0.0, 0.0];
        apply_magnitude(&mut values, 2, &[10.0, 7.0]);
        assert_eq!(values, [6.0, 8.0, 0.0, 0.0]);
    }
}
