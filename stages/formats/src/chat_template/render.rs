//! Rendering a conversation, and finding what the assistant says in it.

use std::ops::Range;

use luthier_core::{StageError, StageResult};
use minijinja::{State, Value as Jinja};
use serde_json::Value;

use super::environment::NAME;
use super::to_jinja;
use super::{ChatTemplate, Date, template_error};

/// The filter that stands for `{% generation %}`: a block filter has the same whitespace rules as the block it replaces.
const FILTER: &str = "luthier_generation";
/// The variable that tells the filter what to mark with.
const MARK: &str = "luthier_mark";

/// What a render depends on besides the messages.
#[derive(Debug, Clone, Default)]
pub struct RenderOptions {
    pub add_generation_prompt: bool,
    /// A JSON list of function descriptions.
    pub tools: Option<Value>,
    pub date: Date,
    /// Further variables, such as `enable_thinking`.
    pub variables: std::collections::BTreeMap<String, Value>,
}

/// A rendered conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    pub text: String,
    /// Byte ranges inside `{% generation %}` blocks, in order.
    pub generated: Vec<Range<usize>>,
}

impl ChatTemplate {
    /// Renders `messages`, a JSON list of `{role, content, …}`, as `apply_chat_template(messages, tokenize=False)` does.
    ///
    /// # Errors
    /// The template refuses the conversation (`raise_exception`), or fails.
    pub fn render(&self, messages: &Value, add_generation_prompt: bool) -> StageResult<String> {
        let options = RenderOptions { add_generation_prompt, ..RenderOptions::default() };
        self.render_with(messages, &options).map(|rendered| rendered.text)
    }

    /// As [`Self::render`], with tools, date and variables, and with the ranges of generation blocks.
    ///
    /// # Errors
    /// As [`Self::render`].
    pub fn render_with(&self, messages: &Value, options: &RenderOptions) -> StageResult<Rendered> {
        let mark = if self.generation_tags { unused_mark(messages, options) } else { String::new() };
        let date = options.date;
        let now = Jinja::from_function(move |format: &str| date.format(format));
        let mut variables: Vec<(String, Jinja)> =
            options.variables.iter().map(|(name, value)| (name.clone(), to_jinja(value))).collect();
        variables.extend(self.tokens.iter().map(|(name, token)| (name.clone(), Jinja::from(token))));
        variables.extend([
            ("messages".to_owned(), to_jinja(messages)),
            ("tools".to_owned(), options.tools.as_ref().map_or(Jinja::from(()), to_jinja)),
            ("documents".to_owned(), Jinja::from(())),
            ("add_generation_prompt".to_owned(), Jinja::from(options.add_generation_prompt)),
            ("strftime_now".to_owned(), now),
            (MARK.to_owned(), Jinja::from(&mark)),
        ]);
        let template = self.environment.get_template(NAME).map_err(|error| template_error(&error, &self.origin))?;
        let text =
            template.render(Jinja::from_pairs(variables)).map_err(|error| template_error(&error, &self.origin))?;
        if mark.is_empty() {
            return Ok(Rendered { text, generated: Vec::new() });
        }
        split_marks(&text, &mark).ok_or_else(|| {
            StageError::input(
                "template::generation",
                "the chat template changes the text of a `{% generation %}` block",
            )
            .at(self.origin.clone(), 0, 0)
            .hint("keep filters out of the block")
        })
    }
}

pub(super) fn add_generation_filter(environment: &mut minijinja::Environment<'static>) {
    environment.add_filter(FILTER, |state: &State, text: String| {
        let mark = state.lookup(MARK).map(|mark| mark.to_string()).unwrap_or_default();
        format!("{mark}{text}{mark}")
    });
}

/// Replaces `{% generation %}` and `{% endgeneration %}`, with any whitespace control, by the block filter.
pub(super) fn with_generation_filter(source: &str) -> (String, bool) {
    let (mut out, mut rest, mut found) = (String::with_capacity(source.len()), source, false);
    while let Some(open) = rest.find("{%") {
        let Some(close) = rest[open..].find("%}") else { break };
        let inner = &rest[open + 2..open + close];
        let word = inner.trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace());
        let replacement = match word {
            "generation" => Some(format!("filter {FILTER}")),
            "endgeneration" => Some("endfilter".to_owned()),
            _ => None,
        };
        out.push_str(&rest[..open + 2]);
        match replacement {
            Some(replacement) => {
                found = true;
                out.push_str(&inner.replace(word, &replacement));
            }
            None => out.push_str(inner),
        }
        out.push_str("%}");
        rest = &rest[open + close + 2..];
    }
    out.push_str(rest);
    (out, found)
}

/// A string that occurs nowhere in the input, so that its places in the output are the template's alone.
fn unused_mark(messages: &Value, options: &RenderOptions) -> String {
    let mut haystack = messages.to_string();
    haystack.extend(options.tools.iter().map(Value::to_string));
    haystack.extend(options.variables.values().map(Value::to_string));
    let mut mark = "\u{f8ff}\u{f8fe}".to_owned();
    while haystack.contains(&mark) {
        mark.push('\u{f8fe}');
    }
    mark
}

fn split_marks(text: &str, mark: &str) -> Option<Rendered> {
    let mut out = String::with_capacity(text.len());
    let mut generated = Vec::new();
    for (at, piece) in text.split(mark).enumerate() {
        let start = out.len();
        out.push_str(piece);
        if at % 2 == 1 {
            generated.push(start..out.len());
        }
    }
    // An even number of marks leaves an odd number of pieces.
    text.matches(mark).count().is_multiple_of(2).then_some(Rendered { text: out, generated })
}
