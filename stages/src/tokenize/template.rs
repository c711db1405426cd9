//! Which template renders the rows.

use std::collections::BTreeMap;

use camino::Utf8Path;
use luthier_core::{StageContext, StageError, StageResult};
use luthier_formats::chat_template::{CHATML, ChatTemplate, special_tokens};
use luthier_formats::dataset::DatasetShape;
use luthier_formats::tokenizer::Tokenizer;

use super::config::TokenizeConfig;

/// What `template:` says.
pub enum Choice<'a> {
    Auto,
    Chatml,
    None,
    File(&'a str),
}

impl<'a> Choice<'a> {
    pub fn of(text: &'a str) -> Self {
        match text {
            "auto" => Self::Auto,
            "chatml" => Self::Chatml,
            "none" => Self::None,
            path => Self::File(path),
        }
    }
}

/// The template for rows of `shape`; `None` where texts are taken as they are.
///
/// # Errors
/// The model has none, or the vocabulary lacks what the chosen one writes.
pub fn load(
    context: &StageContext<'_>,
    config: &TokenizeConfig,
    model: &Utf8Path,
    tokenizer: &Tokenizer,
    shape: DatasetShape,
) -> StageResult<Option<ChatTemplate>> {
    if shape == DatasetShape::Text {
        return Ok(None);
    }
    match Choice::of(&config.template) {
        Choice::Auto => match ChatTemplate::from_model(model)? {
            Some(template) => Ok(Some(template)),
            None => Err(no_template(context, shape, tokenizer)),
        },
        Choice::Chatml => {
            let missing = ["<|im_start|>", "<|im_end|>"].into_iter().find(|token| tokenizer.token_id(token).is_none());
            if let Some(token) = missing {
                return Err(StageError::input(
                    "tokenize::template_tokens",
                    format!("`template: chatml` writes `{token}`, which the model's vocabulary does not have"),
                )
                .hint("use a template of the model's family as a file: `template: family.jinja`"));
            }
            from_source(CHATML.to_owned(), model, "chatml").map(Some)
        }
        Choice::None if shape == DatasetShape::Chat => {
            Err(StageError::input("tokenize::no_template", "`template: none` cannot join the messages of a chat")
                .hint("set `template:` to `auto`, `chatml` or a file, or ingest `prompt` and `completion`"))
        }
        Choice::None => Ok(None),
        Choice::File(path) => {
            let source = fs_err::read_to_string(&context.source("template")?.path)?;
            from_source(source, model, path).map(Some)
        }
    }
}

fn from_source(source: String, model: &Utf8Path, origin: &str) -> StageResult<ChatTemplate> {
    let tokens: BTreeMap<String, String> = special_tokens(model)?;
    ChatTemplate::from_source(source, tokens, origin)
}

fn no_template(context: &StageContext<'_>, shape: DatasetShape, tokenizer: &Tokenizer) -> StageError {
    let from = context.input("model").map_or_else(|_| "the model".to_owned(), |input| format!("`{}`", input.from));
    let mut error = StageError::input("tokenize::no_template", format!("{from} has no chat template"));
    if tokenizer.token_id("<|im_end|>").is_some() {
        error = error.hint("its vocabulary has ChatML's tokens: set `template: chatml`");
    }
    if shape == DatasetShape::PromptCompletion {
        error =
            error.hint("set `template: none` to train the completion right after the prompt, as base models take it");
    }
    error.hint("or name a file with the template of its family: `template: family.jinja`")
}
