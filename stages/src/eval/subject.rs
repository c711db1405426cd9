//! The model under test: one set of base weights, with the adapter on or off.

use std::sync::Arc;

use camino::Utf8Path;
use luthier_core::{StageError, StageResult};
use luthier_formats::chat_template::ChatTemplate;
use luthier_formats::dataset::DatasetShape;
use luthier_formats::model_files::ModelFiles;
use luthier_formats::tokenizer::Tokenizer;
use luthier_model::adapter::{AdapterSet, AdapterStamp};
use luthier_model::device::Device;
use luthier_model::{BaseFormat, LanguageModel, LanguageModelOptions};
use serde_json::{Value, json};

use super::config::{Precision, TemplateUse};
use super::data::{Item, Prompt};

/// With or without the adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variant {
    Base,
    Tuned,
}

impl Variant {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Tuned => "tuned",
        }
    }
}

/// Turns items into tokens.
pub struct Encoder {
    pub tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    positions: usize,
}

/// A prompt and one continuation, as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scored {
    pub tokens: Vec<u32>,
    /// The first token that is scored.
    pub first: usize,
}

impl Scored {
    pub fn mask(&self) -> Vec<bool> {
        (0..self.tokens.len()).map(|index| index >= self.first).collect()
    }
}

impl Encoder {
    /// # Errors
    /// The model has no tokenizer that can be read.
    pub fn open(model: &Utf8Path, shape: Option<DatasetShape>, template: TemplateUse) -> StageResult<Self> {
        let wanted = template == TemplateUse::Auto && shape.is_some_and(|shape| shape != DatasetShape::Text);
        let files = ModelFiles::open(model)?;
        Ok(Self {
            tokenizer: Tokenizer::from_model(model)?,
            template: if wanted { ChatTemplate::from_model(model)? } else { None },
            positions: files.config().max_positions,
        })
    }

    pub fn uses_template(&self) -> bool {
        self.template.is_some()
    }

    /// The longest sequence that the model was made for.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// The text that stands before an answer.
    fn prompt_text(&self, item: &Item) -> StageResult<String> {
        match (&item.prompt, &self.template) {
            (Prompt::Nothing, _) => Ok(String::new()),
            (Prompt::Messages(messages), Some(template)) => {
                template.render(&Value::Array(messages.clone()), true).map_err(|error| name_row(error, &item.id))
            }
            (Prompt::Messages(_), None) => Ok(item.prompt.text()),
        }
    }

    /// The tokens of a prompt to be answered in at most `room` tokens.
    ///
    /// # Errors
    /// The prompt does not fit.
    pub fn prompt(&self, item: &Item, room: usize) -> StageResult<Vec<u32>> {
        let text = self.prompt_text(item)?;
        let mut tokens = self.tokenizer.encode(&text, self.template.is_none())?;
        if tokens.is_empty() {
            tokens.push(self.prefix());
        }
        self.check_length(tokens.len() + room, &item.id)?;
        Ok(tokens)
    }

    /// A prompt with its reference, up to and with the end of the turn; the whole text, after a prefix token, where
    /// there is no prompt.
    ///
    /// # Errors
    /// It does not fit, or the template refuses the conversation.
    pub fn reference(&self, item: &Item) -> StageResult<Scored> {
        let Prompt::Messages(messages) = &item.prompt else {
            return self.rolling(&item.reference);
        };
        let prompt = self.prompt_text(item)?;
        let whole = match &self.template {
            Some(template) => {
                let answer = json!({"role": "assistant", "content": item.reference});
                let all: Vec<Value> = messages.iter().cloned().chain([answer]).collect();
                let text = template.render(&Value::Array(all), false).map_err(|error| name_row(error, &item.id))?;
                match text.strip_prefix(&prompt) {
                    Some(rest) => format!("{prompt}{}", rest.trim_end()),
                    None => format!("{prompt}{}", item.reference),
                }
            }
            None => format!("{prompt}{}", item.reference),
        };
        let scored = self.continuation(&prompt, &whole)?;
        self.check_length(scored.tokens.len(), &item.id)?;
        Ok(scored)
    }

    /// A prompt with one choice.
    ///
    /// # Errors
    /// It does not fit.
    pub fn choice(&self, item: &Item, choice: &str, delimiter: &str) -> StageResult<Scored> {
        let prompt = self.prompt_text(item)?;
        let between = if self.template.is_some() || prompt.is_empty() { "" } else { delimiter };
        let scored = self.continuation(&prompt, &format!("{prompt}{between}{choice}"))?;
        self.check_length(scored.tokens.len(), &item.id)?;
        Ok(scored)
    }

    /// As lm-evaluation-harness encodes pairs: the whole at once, cut where the prompt alone would end, whose trailing
    /// white space belongs to the continuation.
    fn continuation(&self, prompt: &str, whole: &str) -> StageResult<Scored> {
        if prompt.is_empty() {
            return self.rolling(whole);
        }
        let special = self.template.is_none();
        let tokens = self.tokenizer.encode(whole, special)?;
        let context = self.tokenizer.encode(if special { prompt.trim_end() } else { prompt }, special)?;
        let first = context.len().clamp(1, tokens.len().saturating_sub(1).max(1));
        Ok(Scored { tokens, first })
    }

    /// Plain text after the prefix token, all of it scored.
    ///
    /// # Errors
    /// The tokenizer cannot encode it.
    pub fn rolling(&self, text: &str) -> StageResult<Scored> {
        let tokens = self.tokenizer.encode(text, false)?;
        Ok(Scored { tokens: std::iter::once(self.prefix()).chain(tokens).collect(), first: 1 })
    }

    /// Beginning of sequence, else end of sequence, else token 0.
    fn prefix(&self) -> u32 {
        self.tokenizer.bos_id().or_else(|| self.tokenizer.eos_ids().first().copied()).unwrap_or(0)
    }

    fn check_length(&self, tokens: usize, id: &str) -> StageResult<()> {
        if tokens <= self.positions {
            return Ok(());
        }
        Err(StageError::input(
            "eval::too_long",
            format!("row `{id}` needs {tokens} tokens, but the model takes at most {}", self.positions),
        )
        .hint("drop long rows with `builtin:length` in a filter stage, or lower `generation.max_new_tokens`"))
    }
}

fn name_row(mut error: StageError, id: &str) -> StageError {
    error.message = format!("row `{id}`: {}", error.message);
    error
}

/// A loaded model whose adapter can be taken off.
pub struct Subject {
    model: LanguageModel,
    /// The adapter while it is off.
    off: Option<AdapterSet>,
    on: Variant,
    pub precision: &'static str,
}

impl Subject {
    /// # Errors
    /// A model or adapter that cannot be read or does not fit together.
    pub fn load(
        model: &Utf8Path,
        adapter: Option<&Utf8Path>,
        precision: Precision,
        max_tokens: usize,
        device: &Arc<dyn Device>,
    ) -> StageResult<Self> {
        // Plain for adapters of other programs.
        let stamp = adapter.filter(|_| precision == Precision::AsTrained).and_then(AdapterStamp::of);
        let base = stamp.map_or(BaseFormat::Stored, |stamp| stamp.base_format());
        let on = if adapter.is_some() { Variant::Tuned } else { Variant::Base };
        let options = LanguageModelOptions { model, adapter, base, max_tokens, threads: 0 };
        let model = LanguageModel::load_on(device, options)?;
        let precision = if base == BaseFormat::Nf4 { "nf4" } else { "stored" };
        Ok(Self { model, off: None, on, precision })
    }

    /// The model as `variant`.
    pub fn variant(&mut self, variant: Variant) -> &mut LanguageModel {
        if variant != self.on {
            let other = self.off.take();
            self.off = self.model.set_adapter(other);
            self.on = variant;
        }
        &mut self.model
    }

    pub fn vocabulary(&self) -> usize {
        self.model.config().vocab_size
    }
}
