//! Whether an adapter was trained on data that was freed of the rows it is now measured with.
//!
//! Training data that holds the answers makes any score good. What is known is what the stages wrote down on the way: the
//! digests of the sets that a `filter` decontaminated against, which the adapter carries. It is compared with the digest of
//! the very dataset that is connected; a part or a rewritten copy of it is another dataset, and is warned about.

use luthier_core::{StageContext, StageOutcome, StageResult};
use luthier_formats::decontaminated::Decontaminated;

/// What is known of the training data of an adapter and the data of this evaluation.
#[derive(Debug, PartialEq, Eq)]
pub enum Contamination {
    /// There is no adapter, or no data.
    Nothing,
    Checked,
    /// Names of the adapter and of the data, as the pipeline has them.
    Unchecked(String, String),
}

impl Contamination {
    /// # Errors
    /// The adapter's record is damaged.
    pub fn check(context: &StageContext<'_>) -> StageResult<Self> {
        let (Some(adapter), Some(data)) = (context.optional_input("adapter"), context.optional_input("data")) else {
            return Ok(Self::Nothing);
        };
        if Decontaminated::read(&adapter.path)?.contains(&data.digest) {
            return Ok(Self::Checked);
        }
        Ok(Self::Unchecked(adapter.from.clone(), data.from.clone()))
    }

    /// A metric, and a warning where nothing stands against memorised answers.
    pub fn report(&self, outcome: &mut StageOutcome) {
        match self {
            Self::Nothing => {}
            Self::Checked => {
                outcome.metric("decontaminated", 1.0, "");
            }
            Self::Unchecked(adapter, data) => {
                outcome.metric("decontaminated", 0.0, "");
                outcome.warn(format!(
                    "the training data of `{adapter}` was not decontaminated against `{data}`, so its scores may show \
                     memory (hint: before `tokenize`, add a `filter` stage with `in: {{data: …, against: [{data}]}}` and \
                     the step `decontaminate: {{}}`)"
                ));
            }
        }
    }
}
