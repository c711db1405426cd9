//! The merge gap: what the model loses between training and the merged file.
//!
//! An adapter is trained on top of one base, in one precision; the merge puts it onto another. The loss on the same
//! tokens before and after is the measure of what that costs.

use camino::Utf8Path;
use luthier_core::{Section, StageContext, StageOutcome, StageResult};
use luthier_formats::tokens::{TokenSample, TokenSet};
use luthier_model::{BaseFormat, LanguageModel, LanguageModelOptions};

/// Samples between two looks at the cancel token.
const GROUP: usize = 16;

/// One model to measure.
struct Subject<'a> {
    name: &'static str,
    metric: &'static str,
    model: &'a Utf8Path,
    adapter: Option<&'a Utf8Path>,
    base: BaseFormat,
}

/// What is compared.
pub(super) struct Gap<'a> {
    pub base: &'a Utf8Path,
    pub merged: &'a Utf8Path,
    /// The only adapter, and how its base was kept in training.
    pub adapter: Option<(&'a Utf8Path, BaseFormat)>,
    /// Samples of the token set that are measured; all if 0.
    pub samples: usize,
}

impl Gap<'_> {
    /// Measures the mean loss of each subject over the trained tokens.
    ///
    /// # Errors
    /// A token set or model that cannot be read, or that do not fit together.
    pub(super) fn measure(
        &self,
        context: &StageContext<'_>,
        tokens: &Utf8Path,
        outcome: &mut StageOutcome,
    ) -> StageResult<()> {
        let set = TokenSet::open(tokens)?;
        let count = if self.samples == 0 { set.samples.len() } else { self.samples.min(set.samples.len()) };
        let samples = &set.samples[..count];
        let base =
            Subject { name: "base", metric: "loss_base", model: self.base, adapter: None, base: BaseFormat::Stored };
        let merged = Subject { name: "merged", metric: "loss_merged", model: self.merged, ..base };
        let mut subjects = vec![base];
        if let Some((adapter, format)) = self.adapter {
            subjects.push(Subject {
                name: "base and adapter, as trained",
                metric: "loss_trained",
                model: self.base,
                adapter: Some(adapter),
                base: format,
            });
        }
        subjects.push(merged);
        let mut losses = Vec::new();
        for (index, subject) in subjects.iter().enumerate() {
            context.progress(index as u64, subjects.len() as u64, "models", format!("loss of {}", subject.name));
            let loss = subject.loss(context, samples, set.meta.longest)?;
            outcome.metric(subject.metric, loss, "nats");
            losses.push((subject.name, loss));
        }
        if let [_, (_, trained), (_, merged)] = losses[..] {
            outcome.metric("merge_gap", merged - trained, "nats");
        }
        let reference = losses.first().map_or(0.0, |(_, loss)| *loss);
        outcome.section(Section::Table {
            title: format!("Loss before and after the merge, on {count} samples"),
            columns: ["model", "loss per token", "against the base"].map(str::to_owned).to_vec(),
            rows: losses
                .iter()
                .map(|(name, loss)| vec![(*name).to_owned(), format!("{loss:.4}"), format!("{:+.4}", loss - reference)])
                .collect(),
        });
        Ok(())
    }
}

impl Subject<'_> {
    fn loss(&self, context: &StageContext<'_>, samples: &[TokenSample], longest: usize) -> StageResult<f64> {
        let mut model = LanguageModel::load(LanguageModelOptions {
            model: self.model,
            adapter: self.adapter,
            base: self.base,
            max_tokens: longest.max(1),
            threads: context.threads(),
        })?;
        let (mut sum, mut count) = (0.0f64, 0u64);
        for group in samples.chunks(GROUP) {
            context.check_cancelled()?;
            let ids: Vec<&[u32]> = group.iter().map(|sample| sample.ids.as_slice()).collect();
            let masks: Vec<&[bool]> = group.iter().map(|sample| sample.mask.as_slice()).collect();
            for scored in model.masked_log_probs(&ids, &masks)? {
                count += scored.len() as u64;
                sum = scored.iter().fold(sum, |sum, log_prob| sum - f64::from(*log_prob));
            }
        }
        Ok(if count == 0 { 0.0 } else { sum / count as f64 })
    }
}
