//! A model with its tokenizer and template, for `chat`, `sample` and `logits`.

use std::borrow::Cow;

use camino::Utf8PathBuf;
use luthier_core::{StageError, StageResult};
use luthier_formats::chat_template::ChatTemplate;
use luthier_formats::model_files::ModelFiles;
use luthier_formats::tokenizer::Tokenizer;
pub use luthier_model::Sampler;
use luthier_model::adapter::AdapterStamp;
pub use luthier_model::device::Sampling;
use luthier_model::{BaseFormat, LanguageModel, LanguageModelOptions};
use serde_json::{Value, json};

use crate::device::{Compute, DeviceChoice, Opened};

/// What to load.
#[derive(Debug, Clone)]
pub struct ConversationOptions {
    pub model: Utf8PathBuf,
    pub adapter: Option<Utf8PathBuf>,
    pub threads: usize,
    pub device: DeviceChoice,
    /// How tokens are drawn; `None` takes the likeliest.
    pub sampler: Option<Sampler>,
    /// The longest prompt and answer together.
    pub max_tokens: usize,
}

/// Logits along a prompt.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct PromptLogits {
    pub ids: Vec<u32>,
    pub vocab_size: usize,
    /// One row of `vocab_size` per position of the prompt.
    pub logits: Vec<Vec<f32>>,
}

/// A loaded model that takes text.
pub struct Conversation {
    model: LanguageModel,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    sampler: Option<Sampler>,
}

impl Conversation {
    /// Loads a model, and an adapter onto it, with the base as it was when the adapter was trained.
    ///
    /// # Errors
    /// Files that cannot be read or do not fit together.
    pub fn open(options: &ConversationOptions) -> StageResult<Self> {
        // Plain for adapters of other programs.
        let stamp = options.adapter.as_deref().and_then(AdapterStamp::of);
        let base = stamp.map_or(BaseFormat::Stored, |stamp| stamp.base_format());
        let tokenizer = Tokenizer::from_model(&options.model)?;
        let template = ChatTemplate::from_model(&options.model)?;
        let limit = ModelFiles::open(&options.model)?.config().max_positions;
        let Opened { device, .. } = options.device.open(Compute::default(), options.threads)?;
        let load = LanguageModelOptions {
            model: &options.model,
            adapter: options.adapter.as_deref(),
            base,
            max_tokens: options.max_tokens.min(limit),
            threads: options.threads,
        };
        let model = LanguageModel::load_on(&device, load)?;
        Ok(Self { model, tokenizer, template, sampler: options.sampler })
    }

    /// The answer to a list of messages.
    ///
    /// # Errors
    /// The model has no chat template, or the conversation is longer than it takes.
    pub fn reply(&mut self, messages: &Value, limit: usize) -> StageResult<String> {
        let Some(template) = &self.template else {
            return Err(StageError::input("chat::no_template", "the model has no chat template")
                .hint("complete plain text instead: `luthier sample MODEL --raw`"));
        };
        let prompt = template.render(messages, true)?;
        let tokens = self.tokenizer.encode(&prompt, false)?;
        let answers = self.generate(&[tokens], limit)?;
        Ok(answers.into_iter().next().unwrap_or_default())
    }

    /// An answer for each prompt: through the chat template, or, when `raw`, as plain continuation.
    ///
    /// # Errors
    /// As [`Conversation::reply`].
    pub fn complete(
        &mut self,
        prompts: &[String],
        system: Option<&str>,
        raw: bool,
        limit: usize,
    ) -> StageResult<Vec<String>> {
        let mut encoded = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            let text: Cow<'_, str> = match (&self.template, raw) {
                (Some(template), false) => Cow::Owned(template.render(&messages(system, prompt), true)?),
                _ => Cow::Borrowed(prompt),
            };
            encoded.push(self.tokenizer.encode(&text, raw || self.template.is_none())?);
        }
        self.generate(&encoded, limit)
    }

    /// Logits at every position of a plain prompt.
    ///
    /// # Errors
    /// The prompt is empty or longer than the model takes.
    pub fn logits(&mut self, prompt: &str) -> StageResult<PromptLogits> {
        let ids = self.tokenizer.encode(prompt, false)?;
        if ids.is_empty() {
            return Err(StageError::input("logits::empty", "the prompt has no tokens").hint("give a longer `--prompt`"));
        }
        let vocab_size = self.model.config().vocab_size;
        let logits = self.model.logits(&ids)?.chunks(vocab_size).map(<[f32]>::to_vec).collect();
        Ok(PromptLogits { ids, vocab_size, logits })
    }

    fn generate(&mut self, prompts: &[Vec<u32>], limit: usize) -> StageResult<Vec<String>> {
        let stop = self.tokenizer.eos_ids();
        let answers = self.model.generate(prompts, limit, &stop, self.sampler)?;
        // The next question's numbers are others.
        if let Some(sampler) = &mut self.sampler {
            sampler.seed = sampler.seed.wrapping_add(1);
        }
        Ok(answers.into_iter().map(|answer| self.tokenizer.decode(&answer.tokens, true)).collect())
    }
}

/// The messages of one question.
#[must_use]
pub fn messages(system: Option<&str>, prompt: &str) -> Value {
    let user = json!({"role": "user", "content": prompt});
    match system {
        Some(system) => json!([{"role": "system", "content": system}, user]),
        None => json!([user]),
    }
}
