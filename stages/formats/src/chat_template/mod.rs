//! Chat templates, rendered as transformers' `apply_chat_template` renders them.
//!
//! The template language is Jinja2 with `trim_blocks`, `lstrip_blocks`, loop controls and the `{% generation %}` block;
//! values print as Python prints them. A template cannot read files or the clock (`strftime_now` takes a date from the
//! configuration) and cannot run for ever.

mod environment;
mod load;
mod python;
mod render;
mod strftime;

use std::collections::BTreeMap;
use std::sync::Arc;

use luthier_core::{Digest, StageResult};
use minijinja::Environment;

pub use environment::{environment, template_error};
pub(crate) use load::read_json;
pub use load::special_tokens;
pub use python::to_jinja;
pub use render::{RenderOptions, Rendered};
pub use strftime::Date;

/// A compiled chat template with the special tokens it may name.
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    source: String,
    /// `bos_token` → `<s>`, …
    tokens: BTreeMap<String, String>,
    /// Where it came from, for messages.
    origin: String,
    generation_tags: bool,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("origin", &self.origin)
            .field("tokens", &self.tokens)
            .finish_non_exhaustive()
    }
}

/// The widely used ChatML format, for models without a template whose vocabulary has its two tokens.
pub const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + \
                          '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' \
                          }}{% endif %}";

impl ChatTemplate {
    /// Compiles a template. `tokens` are the variables such as `bos_token`.
    ///
    /// # Errors
    /// A syntax error, with its line.
    pub fn from_source(
        source: impl Into<String>,
        tokens: BTreeMap<String, String>,
        origin: impl Into<String>,
    ) -> StageResult<Self> {
        let (source, origin) = (source.into(), origin.into());
        let (compiled, generation_tags) = render::with_generation_filter(&source);
        let mut environment = environment::chat_environment();
        environment.add_template_owned(environment::NAME, compiled).map_err(|error| template_error(&error, &origin))?;
        Ok(Self { environment: Arc::new(environment), source, tokens, origin, generation_tags })
    }

    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Where it came from: a path, or `chatml`.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    #[must_use]
    pub fn tokens(&self) -> &BTreeMap<String, String> {
        &self.tokens
    }

    /// Of the source and the special tokens: equal digests render equally.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut bytes = self.source.clone().into_bytes();
        for (name, token) in &self.tokens {
            bytes.extend_from_slice(format!("\0{name}\0{token}").as_bytes());
        }
        Digest::of(&bytes)
    }

    /// Whether the template itself marks what the assistant generates.
    #[must_use]
    pub fn has_generation_tags(&self) -> bool {
        self.generation_tags
    }
}

#[cfg(test)]
mod tests;
