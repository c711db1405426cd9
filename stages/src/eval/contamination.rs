//! Whether a model was fine-tuned on data that was freed of the rows it is now measured with.
//!
//! Training data that holds the answers makes any score good. What is known is what the stages wrote down on the way: the
//! digests of the sets that a `filter` decontaminated against, which adapters carry, and models that such adapters were
//! merged into. It is compared with the digest of the very dataset that is connected; a part or a rewritten copy of it is
//! another dataset, and is warned about. A model without a record may be one as it was published, of whose training data
//! nobody knows, so nothing is said of it.

use luthier_core::{StageContext, StageOutcome, StageResult};
use luthier_formats::decontaminated::Decontaminated;

/// What is known of the training data of what is measured, and the data of this evaluation.
#[derive(Debug, PartialEq, Eq)]
pub enum Contamination {
    /// There is no data, or neither an adapter nor a record of the model.
    Nothing,
    Checked,
    /// Names of what was trained and of the data, as the pipeline has them.
    Unchecked(String, String),
}

impl Contamination {
    /// # Errors
    /// A record is damaged.
    pub fn check(context: &StageContext<'_>) -> StageResult<Self> {
        let Some(data) = context.optional_input("data") else { return Ok(Self::Nothing) };
        let mut known = false;
        for port in ["adapter", "model"] {
            let Some(trained) = context.optional_input(port) else { continue };
            let record = match Decontaminated::recorded(&trained.path)? {
                None if port == "model" => continue,
                record => record.unwrap_or_default(),
            };
            if !record.contains(&data.digest) {
                return Ok(Self::Unchecked(trained.from.clone(), data.from.clone()));
            }
            known = true;
        }
        Ok(if known { Self::Checked } else { Self::Nothing })
    }

    /// A metric, and a warning where nothing stands against memorised answers.
    pub fn report(&self, outcome: &mut StageOutcome) {
        match self {
            Self::Nothing => {}
            Self::Checked => {
                outcome.metric("decontaminated", 1.0, "");
            }
            Self::Unchecked(trained, data) => {
                outcome.metric("decontaminated", 0.0, "");
                outcome.warn(format!(
                    "the training data of `{trained}` was not decontaminated against `{data}`, so its scores may show \
                     memory (hint: before `tokenize`, add a `filter` stage with `in: {{data: …, against: [{data}]}}` and \
                     the step `decontaminate: {{}}`)"
                ));
            }
        }
    }
}
