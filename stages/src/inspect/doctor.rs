//! `data doctor`: what usually goes wrong with training data, looked for.

use std::collections::BTreeMap;

use camino::Utf8Path;
use luthier_core::StageResult;
use luthier_formats::dataset::{DatasetReader, DatasetShape, column_text};
use luthier_formats::tokens::TokenSet;
use serde::Serialize;

use super::is_tokens;

/// One thing found, or one check passed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    pub ok: bool,
    pub check: &'static str,
    pub found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Finding {
    fn new(check: &'static str, bad: usize, total: usize, what: &str, hint: &str) -> Self {
        let ok = bad == 0;
        Self {
            ok,
            check,
            found: if ok { format!("none of {total}") } else { format!("{bad} of {total} {what}") },
            hint: (!ok).then(|| hint.to_owned()),
        }
    }
}

/// Examines a dataset or a token set.
///
/// # Errors
/// The path is neither, or is damaged.
pub fn examine(path: &Utf8Path) -> StageResult<Vec<Finding>> {
    if is_tokens(path) { examine_tokens(path) } else { examine_rows(path) }
}

fn examine_tokens(path: &Utf8Path) -> StageResult<Vec<Finding>> {
    let set = TokenSet::open(path)?;
    let total = set.samples.len();
    let count = |test: &dyn Fn(&luthier_formats::tokens::TokenSample) -> bool| {
        set.samples.iter().filter(|sample| test(sample)).count()
    };
    let eos = &set.meta.eos_ids;
    let ends = |sample: &luthier_formats::tokens::TokenSample| {
        let last = sample.mask.iter().rposition(|trained| *trained);
        // Templates may put a line end after the end token, trained or not.
        last.is_some_and(|last| sample.ids[last.saturating_sub(1)..=last].iter().any(|id| eos.contains(id)))
    };
    let out_of_range =
        |sample: &luthier_formats::tokens::TokenSample| sample.ids.iter().any(|id| *id as usize >= set.meta.vocab_size);
    Ok(vec![
        Finding::new(
            "samples without a trained token",
            count(&|sample| sample.trained() == 0),
            total,
            "train nothing",
            "look at the mask with `luthier data show`, and at the roles of the rows",
        ),
        Finding::new(
            "samples whose answer has no trained end token",
            count(&|sample| sample.trained() > 0 && !ends(sample)),
            total,
            "never learn to stop",
            "use the model's own chat template, and raise `max_length` if answers were cut",
        ),
        Finding::new(
            "samples with every token trained",
            count(&|sample| sample.ids.len() > 2 && sample.trained() + 1 >= sample.ids.len()),
            total,
            "train on the prompt too",
            "right for plain text; for chats give prompt and answer as messages",
        ),
        Finding::new(
            "ids outside the vocabulary",
            count(&out_of_range),
            total,
            "have an id the model lacks",
            "tokenize with the model that is trained",
        ),
        Finding::new(
            "samples as long as the limit",
            count(&|sample| sample.ids.len() >= set.meta.max_length),
            total,
            "fill `max_length` and may be cut",
            "raise `max_length`, or drop long rows",
        ),
    ])
}

fn examine_rows(path: &Utf8Path) -> StageResult<Vec<Finding>> {
    let reader = DatasetReader::open(path)?;
    let names: &[&str] = match reader.shape() {
        DatasetShape::Chat => &["messages"],
        DatasetShape::PromptCompletion => &["prompt", "completion"],
        DatasetShape::Text => &["text"],
    };
    let (mut total, mut empty, mut control, mut padded) = (0usize, 0usize, 0usize, 0usize);
    let mut seen: BTreeMap<[u8; 32], u64> = BTreeMap::new();
    for batch in reader.batches(4096) {
        let batch = batch?;
        let columns: Vec<_> = names.iter().filter_map(|name| batch.column_by_name(name)).collect();
        for row in 0..batch.num_rows() {
            total += 1;
            let mut hasher = blake3::Hasher::new();
            let (mut is_empty, mut has_control, mut has_padding) = (false, false, false);
            for column in &columns {
                let text = column_text(column.as_ref(), row);
                is_empty |= text.trim().is_empty() || text == "[]";
                has_control |= text.chars().any(|c| c == '\u{fffd}' || (c.is_control() && !"\n\t\r".contains(c)));
                has_padding |= text.as_ref() != text.trim();
                hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
            }
            empty += usize::from(is_empty);
            control += usize::from(has_control);
            padded += usize::from(has_padding);
            *seen.entry(*hasher.finalize().as_bytes()).or_default() += 1;
        }
    }
    let copies = total - seen.len();
    Ok(vec![
        Finding::new("empty fields", empty, total, "have an empty field", "drop them with `plugin: builtin:length`"),
        Finding::new(
            "control or replacement characters",
            control,
            total,
            "have them",
            "look for a wrong encoding upstream",
        ),
        Finding::new(
            "white space at the ends",
            padded,
            total,
            "have it",
            "trim in the `map` of ingest: `{{ row.answer | trim }}`",
        ),
        Finding::new("exact copies", copies, total, "repeat an earlier row", "add `- dedup: exact` to the filter"),
    ])
}
