//! Checks of a token set: what the training will see.

use std::ops::Range;

use camino::Utf8Path;
use luthier_core::StageResult;
use luthier_formats::tokens::{TokenSample, TokenSet};

use super::Base;
use super::finding::{Check, Finding, Severity};

pub fn examine(path: &Utf8Path, base: Option<&Base>) -> StageResult<Vec<Finding>> {
    let set = TokenSet::open(path)?;
    let mut checks = Checks::new();
    for sample in &set.samples {
        checks.look(sample, &set, base);
    }
    let mut findings = checks.finish(set.samples.len());
    findings.extend(lengths(&set));
    match base {
        Some(base) => findings.extend(against(&set, base)),
        None => findings.push(note(
            "what needs the tokenizer",
            "not looked at: double BOS, empty `<think>`, template and vocabulary of the model".to_owned(),
            Some("name the model that the tokens are for: `--model STAGE` or `--model PATH`"),
        )),
    }
    Ok(findings)
}

fn note(check: &'static str, found: String, hint: Option<&str>) -> Finding {
    Finding { severity: Severity::Note, check, found, examples: Vec::new(), hint: hint.map(str::to_owned) }
}

struct Checks {
    untrained: Check,
    endless: Check,
    whole: Check,
    outside: Check,
    double_bos: Check,
    empty_think: Check,
}

impl Checks {
    fn new() -> Self {
        Self {
            untrained: Check::error(
                "samples without a trained token",
                "train nothing",
                "look at the mask with `luthier data show`, and at the roles of the rows",
            ),
            endless: Check::error(
                "trained turns without a trained end token",
                "have one, so the model may never learn to stop",
                "use the model's own chat template, and raise `max_length` if answers were cut",
            ),
            whole: Check::warning(
                "samples with every token trained",
                "train on the prompt too",
                "right for plain text; for chats give prompt and answer as messages",
            ),
            outside: Check::error(
                "ids outside the vocabulary",
                "have an id that the model lacks",
                "tokenize with the model that is trained",
            ),
            double_bos: Check::error(
                "double BOS",
                "begin with BOS twice",
                "take BOS out of the text of the rows: the chat template writes it",
            ),
            empty_think: Check::warning(
                "empty `<think>` trained",
                "train an empty thinking block, so the model unlearns to think",
                "set `variables: {enable_thinking: false}` only for inference, or give the rows their reasoning",
            ),
        }
    }

    fn look(&mut self, sample: &TokenSample, set: &TokenSet, base: Option<&Base>) {
        let text = |range: Range<usize>| match base {
            Some(base) => base.tokenizer.decode(&sample.ids[range], false),
            None => format!("{:?}", &sample.ids[range]),
        };
        let trained = sample.trained();
        let all = 0..sample.ids.len();
        if trained == 0 {
            self.untrained.hit(&sample.id, || text(all.clone()));
        }
        // The first token is predicted from nothing, and what a template writes behind the last end token never is.
        let from_the_start = sample.mask.iter().skip(1).take_while(|trained| **trained).count();
        let is_whole = from_the_start > 0 && sample.ids.len() > 2 && from_the_start + 3 >= sample.ids.len();
        if is_whole {
            self.whole.hit(&sample.id, || text(all.clone()));
        }
        if let Some(turn) = trained_turns(sample).into_iter().find(|turn| !ends(sample, turn, &set.meta.eos_ids)) {
            self.endless.hit(&sample.id, || text(turn.end.saturating_sub(24).max(turn.start)..turn.end));
        }
        if sample.ids.iter().any(|id| *id as usize >= set.meta.vocab_size) {
            self.outside.hit(&sample.id, || text(all.clone()));
        }
        let Some(base) = base else { return };
        if let (Some(bos), [first, second, ..]) = (base.tokenizer.bos_id(), sample.ids.as_slice())
            && *first == bos
            && *second == bos
        {
            self.double_bos.hit(&sample.id, || text(0..sample.ids.len().min(24)));
        }
        for turn in trained_turns(sample) {
            let said = base.tokenizer.decode(&sample.ids[turn], false);
            if is_empty_think(&said) {
                self.empty_think.hit(&sample.id, || said);
                break;
            }
        }
    }

    fn finish(self, total: usize) -> Vec<Finding> {
        [self.untrained, self.endless, self.outside, self.double_bos, self.whole, self.empty_think]
            .map(|check| check.finish(total))
            .into()
    }
}

/// Runs of trained tokens.
fn trained_turns(sample: &TokenSample) -> Vec<Range<usize>> {
    let mut turns: Vec<Range<usize>> = Vec::new();
    for (at, _) in sample.mask.iter().enumerate().filter(|(_, trained)| **trained) {
        match turns.last_mut() {
            Some(turn) if turn.end == at => turn.end += 1,
            _ => turns.push(at..at + 1),
        }
    }
    turns
}

/// Whether the turn's last token ends it; templates may put a line end after the end token, trained or not.
fn ends(sample: &TokenSample, turn: &Range<usize>, eos: &[u32]) -> bool {
    sample.ids[turn.end.saturating_sub(2).max(turn.start)..turn.end].iter().any(|id| eos.contains(id))
}

pub(super) fn is_empty_think(text: &str) -> bool {
    text.match_indices("<think>").any(|(at, tag)| text[at + tag.len()..].trim_start().starts_with("</think>"))
}

/// Percentiles of the lengths, and how many reach the limit.
fn lengths(set: &TokenSet) -> Vec<Finding> {
    let most = set.meta.max_length;
    let mut lengths: Vec<usize> = set.samples.iter().map(|sample| sample.ids.len()).collect();
    lengths.sort_unstable();
    let at = |percent: usize| lengths.get((lengths.len().saturating_sub(1)) * percent / 100).copied().unwrap_or(0);
    let spread = format!("half have at most {}, 90 % {}, 99 % {}, all {} of {most}", at(50), at(90), at(99), at(100));
    let mut full = Check::warning(
        "samples as long as the limit",
        "fill `max_length` and may be cut",
        "raise `max_length`, or set `on_long: drop`",
    );
    for sample in set.samples.iter().filter(|sample| sample.ids.len() >= most) {
        full.hit(&sample.id, || format!("{} tokens", sample.ids.len()));
    }
    vec![note("tokens per sample", spread, None), full.finish(set.samples.len())]
}

/// What only the model can say.
fn against(set: &TokenSet, base: &Base) -> Vec<Finding> {
    let total = set.samples.len();
    let mut vocabulary = Check::error(
        "vocabulary of another model",
        "were made with another tokenizer than that of the model",
        "put the model that is trained into `in: {model: …}` of the tokenize stage",
    );
    if set.meta.tokenizer != base.tokenizer.digest() {
        vocabulary.count_all(total);
    }
    let mut template = Check::warning(
        "template unknown to the base",
        "were rendered by another chat template than the model's own",
        "right for a base model without a template; else set `template: auto`",
    );
    if let Some(used) = set.meta.template
        && base.template.as_ref().is_none_or(|own| own.digest() != used)
    {
        template.count_all(total);
    }
    vec![vocabulary.finish(total), template.finish(total)]
}
