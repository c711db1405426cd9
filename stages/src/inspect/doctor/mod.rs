//! `data doctor`: what usually goes wrong with training data, looked for.
//!
//! Each check counts, and shows the first rows that fail it. An error is something that spoils a training; a warning is
//! something that a person should have looked at.

mod finding;
mod rows;
mod tokens;

use camino::Utf8Path;
use luthier_core::{StageError, StageResult};
use luthier_formats::chat_template::ChatTemplate;
use luthier_formats::tokenizer::Tokenizer;

pub use finding::{Example, Finding, Severity};

use super::is_tokens;

/// What a model says about the data made for it.
pub(super) struct Base {
    pub tokenizer: Tokenizer,
    pub template: Option<ChatTemplate>,
}

/// Examines a dataset or a token set. With the model that the data is for, its tokenizer and template count too.
///
/// # Errors
/// The path is neither, or is damaged, or the model has no tokenizer.
pub fn examine(path: &Utf8Path, model: Option<&Utf8Path>) -> StageResult<Vec<Finding>> {
    if !path.exists() {
        return Err(StageError::input("data::missing", format!("`{path}` does not exist"))
            .hint("name a path, or a stage as in `luthier data doctor tokens -f PIPELINE`"));
    }
    super::check_kind(path)?;
    let base = model
        .map(|model| {
            let tokenizer = Tokenizer::from_model(model)?;
            Ok::<_, StageError>(Base { tokenizer, template: ChatTemplate::from_model(model)? })
        })
        .transpose()?;
    if is_tokens(path) { tokens::examine(path, base.as_ref()) } else { rows::examine(path, base.as_ref()) }
}

#[cfg(test)]
mod tests;
