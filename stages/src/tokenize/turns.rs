//! Where in a rendered conversation the trained turns are: by construction, never by searching for role names.
//!
//! Three ways, in this order:
//! 1. the template's own `{% generation %}` blocks;
//! 2. the render of the turns before one (with the generation prompt) and the render up to its end, both of which must be
//!    prefixes of the whole;
//! 3. marks of characters that occur nowhere in the row, put around the turn's content; the render without the marks must be
//!    the whole again.

use std::ops::Range;

use luthier_core::StageResult;
use luthier_formats::chat_template::{ChatTemplate, RenderOptions};
use serde_json::Value;

use super::config::TrainOn;

/// What counts as a turn to be trained.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub train_on: TrainOn,
    /// Roles whose turns are trained; `assistant` includes `model`, as Gemma's templates call it.
    pub roles: &'a [String],
}

/// A rendered conversation and the byte ranges that are trained.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Turns {
    pub text: String,
    pub trained: Vec<Range<usize>>,
    /// Turns to be trained whose place could not be told.
    pub lost: usize,
}

/// Renders and finds.
///
/// # Errors
/// The template refuses the conversation, or fails.
pub fn render(
    template: &ChatTemplate,
    messages: &[Value],
    options: &RenderOptions,
    wanted: Wanted<'_>,
) -> StageResult<Turns> {
    let all = Value::Array(messages.to_vec());
    let whole = template.render_with(&all, options)?;
    if wanted.train_on == TrainOn::All {
        let end = whole.text.len();
        return Ok(Turns { text: whole.text, trained: std::iter::once(0..end).collect(), lost: 0 });
    }
    let turns = wanted_turns(messages, wanted);
    let mut found = Turns { text: whole.text, trained: Vec::new(), lost: 0 };
    let tagged = template.has_generation_tags();
    if tagged {
        found.trained = tagged_ranges(messages, wanted, &turns, whole.generated);
    }
    // The tags speak of the assistant only.
    for turn in turns.into_iter().filter(|turn| !tagged || !is_assistant(&messages[*turn])) {
        // Only the assistant's turns begin where a generation prompt ends.
        let by_prefix = || {
            is_assistant(&messages[turn]).then(|| by_prefix(template, messages, options, turn, &found.text)).flatten()
        };
        match by_prefix().or_else(|| by_marks(template, messages, options, turn, &found.text)) {
            Some(range) => found.trained.push(range),
            None => found.lost += 1,
        }
    }
    found.trained.sort_by_key(|range| range.start);
    Ok(found)
}

fn tagged_ranges(
    messages: &[Value],
    wanted: Wanted<'_>,
    turns: &[usize],
    generated: Vec<Range<usize>>,
) -> Vec<Range<usize>> {
    let spoken: Vec<usize> = (0..messages.len()).filter(|turn| is_assistant(&messages[*turn])).collect();
    if generated.len() == spoken.len() {
        let kept = spoken.iter().zip(generated).filter(|(turn, _)| turns.contains(turn));
        return kept.map(|(_, range)| range).collect();
    }
    if !wanted.roles.iter().any(|role| role == "assistant" || role == "model") {
        return Vec::new();
    }
    // The blocks do not go one to one with the turns, so only all or the last of them can be meant.
    match wanted.train_on {
        TrainOn::Last => generated.into_iter().last().into_iter().collect(),
        _ => generated,
    }
}

fn role(message: &Value) -> Option<&str> {
    message.get("role").and_then(Value::as_str)
}

fn is_assistant(message: &Value) -> bool {
    matches!(role(message), Some("assistant" | "model"))
}

/// The turns that are trained; `train: false` or `weight: 0` in a message takes it out.
fn wanted_turns(messages: &[Value], wanted: Wanted<'_>) -> Vec<usize> {
    let off = |turn: usize| {
        let message = &messages[turn];
        message.get("train").and_then(Value::as_bool) == Some(false)
            || message.get("weight").and_then(Value::as_f64) == Some(0.0)
    };
    let named = |turn: &usize| {
        wanted
            .roles
            .iter()
            .any(|name| role(&messages[*turn]) == Some(name) || (name == "assistant" && is_assistant(&messages[*turn])))
    };
    let mut turns: Vec<usize> = (0..messages.len()).filter(named).collect();
    if wanted.train_on == TrainOn::Last {
        turns.drain(..turns.len().saturating_sub(1));
    }
    turns.retain(|turn| !off(*turn));
    turns
}

fn by_prefix(
    template: &ChatTemplate,
    messages: &[Value],
    options: &RenderOptions,
    turn: usize,
    whole: &str,
) -> Option<Range<usize>> {
    let render = |messages: &[Value], add_generation_prompt: bool| {
        let options = RenderOptions { add_generation_prompt, ..options.clone() };
        let rendered = template.render_with(&Value::Array(messages.to_vec()), &options).ok()?;
        whole.starts_with(&rendered.text).then_some(rendered.text.len())
    };
    if turn == 0 {
        return None;
    }
    let without_prompt = render(&messages[..turn], false);
    let start = render(&messages[..turn], true)?;
    // A template without a generation prompt would put the role's header into the trained text.
    if without_prompt == Some(start) {
        return None;
    }
    let end = if turn + 1 == messages.len() { whole.len() } else { render(&messages[..=turn], false)? };
    (start <= end).then_some(start..end)
}

fn by_marks(
    template: &ChatTemplate,
    messages: &[Value],
    options: &RenderOptions,
    turn: usize,
    whole: &str,
) -> Option<Range<usize>> {
    let content = messages[turn].get("content")?.as_str()?;
    let trimmed = content.trim();
    let at = content.len() - content.trim_start().len();
    let (open, close) = unused_marks(whole, messages);
    // Outside the marks the white space may still be trimmed away by the template, as it would be without them.
    let marked = format!("{}{open}{trimmed}{close}{}", &content[..at], &content[at + trimmed.len()..]);
    let mut changed = messages.to_vec();
    changed[turn]["content"] = Value::String(marked);
    let rendered = template.render_with(&Value::Array(changed), options).ok()?.text;
    let (before, rest) = rendered.split_once(&open)?;
    let (inside, after) = rest.split_once(&close)?;
    let same = whole.strip_prefix(before)?.strip_prefix(inside)? == after;
    same.then_some(before.len()..before.len() + inside.len())
}

fn unused_marks(whole: &str, messages: &[Value]) -> (String, String) {
    let (mut open, mut close) = ("\u{f8fd}".to_owned(), "\u{f8fc}".to_owned());
    let texts: Vec<&str> = messages.iter().filter_map(|message| message.get("content")?.as_str()).collect();
    while whole.contains(&open)
        || whole.contains(&close)
        || texts.iter().any(|text| text.contains(&open) || text.contains(&close))
    {
        open.push('\u{f8fd}');
        close.push('\u{f8fc}');
    }
    (open, close)
}
