//! What a tokenization tells: counts, warnings, samples.

use luthier_core::{StageError, StageOutcome, quoted};
use luthier_formats::tokens::TokenSet;

use super::config::{OnLong, TokenizeConfig};
use super::encode::{Encoder, Notes};
use super::show;

/// Every row was left out.
pub fn nothing_left(rows: u64, config: &TokenizeConfig, notes: Notes) -> StageError {
    let error = StageError::input(
        "tokenize::nothing_left",
        format!(
            "none of {rows} rows is left: {} longer than {} tokens, {} without a trained token, {} refused by the template",
            notes.dropped_long, config.max_length, notes.untrained, notes.refused
        ),
    );
    if notes.lost_turns > 0 {
        return error.hint(
            "where the assistant's turns begin and end cannot be told from this template: put `{% generation %}` and \
             `{% endgeneration %}` around them in a copy, and name it with `template: copy.jinja`",
        );
    }
    if notes.dropped_long > notes.untrained + notes.refused {
        return error.hint("raise `max_length:`, or set `on_long: truncate`");
    }
    let roles = quoted(&config.roles_to_train);
    error.hint(format!(
        "check that the rows have turns of [{roles}], as `roles_to_train` says; `train_on: all` trains every token"
    ))
}

pub fn outcome(set: &TokenSet, encoder: &Encoder<'_>, rows: u64, notes: Notes, lengths: &[usize]) -> StageOutcome {
    let mut outcome = StageOutcome::new();
    let meta = &set.meta;
    outcome
        .metric("samples", meta.samples as f64, "samples")
        .metric("tokens", meta.tokens as f64, "tokens")
        .metric("trained_tokens", meta.trained_tokens as f64, "tokens")
        .metric("longest", meta.longest as f64, "tokens");
    if meta.packed {
        outcome.metric("bins", meta.bins as f64, "bins").metric("fill", set.fill(), "");
    }
    for (name, count) in [
        ("dropped_long", notes.dropped_long),
        ("truncated", notes.truncated),
        ("untrained", notes.untrained),
        ("refused", notes.refused),
    ] {
        if count > 0 {
            outcome.metric(name, count as f64, "samples");
        }
    }
    for warning in warnings(encoder, rows, notes) {
        outcome.warn(warning);
    }
    outcome.section(show::samples(set, encoder.tokenizer)).section(show::lengths(lengths));
    outcome
}

fn warnings(encoder: &Encoder<'_>, rows: u64, notes: Notes) -> Vec<String> {
    let most = encoder.config.max_length;
    let mut warnings = Vec::new();
    let mut warn = |count: u64, text: String| {
        if count > 0 {
            warnings.push(text);
        }
    };
    warn(
        notes.dropped_long,
        format!(
            "{} of {rows} rows are longer than {most} tokens and were left out; raise `max_length:` to keep them",
            notes.dropped_long
        ),
    );
    let loses = if encoder.config.on_long == OnLong::Truncate {
        "; their ends, with the token that stops the model, are not trained"
    } else {
        ""
    };
    warn(notes.truncated, format!("{} of {rows} rows were cut to {most} tokens{loses}", notes.truncated));
    warn(notes.untrained, format!("{} of {rows} rows have nothing to train and were left out", notes.untrained));
    warn(notes.refused, format!("{} of {rows} rows were refused by the chat template and left out", notes.refused));
    warn(
        notes.double_bos,
        format!("{} rows began with BOS twice and lost one; take it out of the text of the rows", notes.double_bos),
    );
    let ends: Vec<String> =
        encoder.ends.iter().filter_map(|id| encoder.tokenizer.token(*id)).map(|token| format!("`{token}`")).collect();
    warn(
        notes.endless,
        format!(
            "{} trained turns do not end in a token that stops the model ([{}]), so it may not learn to stop",
            notes.endless,
            ends.join(", ")
        ),
    );
    warn(
        notes.lost_turns,
        format!(
            "{} turns of the assistant are not trained, since the template rewrites them; put `{{% generation %}}` blocks into \
             a copy of it to train them",
            notes.lost_turns
        ),
    );
    warn(
        notes.special_in_text,
        format!(
            "{} rows have special tokens written out in their text, which become real ones; filter such rows if they come \
             from users",
            notes.special_in_text
        ),
    );
    warnings
}
