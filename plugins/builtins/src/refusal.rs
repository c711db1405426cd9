//! Answers that refuse, or that speak about the model instead of the question.

use luthier_filter::{About, Config, Filter, Row, ScoreKind, Scores, Verdict};

use crate::vector::{self, bits64};

#[derive(Config)]
pub struct RefusalConfig {
    /// Drop answers that decline.
    #[config(default = true)]
    refusals: bool,
    /// Drop answers that speak of themselves as a model.
    #[config(default = true)]
    boilerplate: bool,
    /// Further phrases, in any case.
    #[config(default = vec![])]
    phrases: Vec<String>,
    /// Characters from the start in which phrases are looked for: who quotes a refusal later on does not refuse. 0 for
    /// the whole text.
    #[config(default = 200)]
    window: usize,
}

const REFUSALS: &[&str] = &[
    "i can't assist",
    "i cannot assist",
    "i can't help with",
    "i cannot help with",
    "i can't help you with",
    "i cannot help you with",
    "i can't provide",
    "i cannot provide",
    "i can't fulfill",
    "i cannot fulfill",
    "i can't comply",
    "i cannot comply",
    "i can't answer that",
    "i cannot answer that",
    "i can't generate",
    "i cannot generate",
    "i can't create",
    "i cannot create",
    "i can't do that",
    "i cannot do that",
    "i won't be able to",
    "i will not be able to",
    "i am not able to",
    "i'm not able to",
    "i am unable to",
    "i'm unable to",
    "i must decline",
    "i have to decline",
    "i must refuse",
    "i'm sorry, but i can't",
    "i'm sorry, but i cannot",
    "i'm sorry, i can't",
    "i'm sorry, i cannot",
    "i am sorry, but i can",
    "sorry, i can't",
    "sorry, i cannot",
    "sorry, but i can't",
    "sorry, but i cannot",
    "i apologize, but i can",
    "i apologize, but i am",
    "i apologize, but i'm",
    "it is not appropriate for me to",
    "it's not appropriate for me to",
    "it would not be appropriate",
    "it would be inappropriate for me",
    "goes against my guidelines",
    "against my programming",
];

const BOILERPLATE: &[&str] = &[
    "as an ai",
    "as a language model",
    "as a large language model",
    "i am an ai",
    "i'm an ai",
    "i am a language model",
    "i'm a language model",
    "i am a large language model",
    "i'm just a language model",
    "my knowledge cutoff",
    "my training data",
    "as of my last update",
    "as of my last knowledge",
    "i don't have personal opinions",
    "i do not have personal opinions",
    "i don't have personal experience",
    "i do not have personal experience",
    "i don't have access to real-time",
    "i do not have access to real-time",
    "i don't have feelings",
    "i do not have feelings",
    "i was trained by",
    "i was created by openai",
    "developed by openai",
];

/// Drops answers that refuse or that are about the model.
pub struct Refusal {
    config: RefusalConfig,
    phrases: Phrases,
    start: Vec<u8>,
}

/// The start of a text in lower case, with straight apostrophes and single spaces: UTF-8.
fn plain(text: &str, window: usize, out: &mut Vec<u8>) {
    out.clear();
    let text = text.trim_start();
    let mut left = if window == 0 { usize::MAX } else { window };
    let mut at = 0;
    while left > 0 {
        let run = plain_run(&text.as_bytes()[at..], out.last() == Some(&b' ')).min(left);
        if run > 0 {
            out.extend(text.as_bytes()[at..at + run].iter().map(u8::to_ascii_lowercase));
            at += run;
            left -= run;
            continue;
        }
        left -= 1;
        let Some(c) = text[at..].chars().next() else { return };
        at += c.len_utf8();
        match c {
            '’' | '‘' | 'ʼ' => out.push(b'\''),
            c if c.is_whitespace() => {
                if out.last() != Some(&b' ') {
                    out.push(b' ');
                }
            }
            c => {
                for c in c.to_lowercase() {
                    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
            }
        }
    }
}

/// How many bytes from the start on, of up to 64, are visible ASCII or a space that follows no other; `space`: one is before.
fn plain_run(bytes: &[u8], space: bool) -> usize {
    let block = vector::four(bytes, 0);
    let spaces = bits64(&block.map(|bytes| bytes.is(b' ')));
    let visible = bits64(&block.map(|bytes| bytes.within(b'!', b'~')));
    (!(visible | spaces & !(spaces << 1 | u64::from(space)))).trailing_zeros() as usize
}

/// The phrases of both lists by their first four bytes, which all have.
struct Phrases {
    /// Sorted by those bytes, with whether the phrase is a refusal.
    all: Vec<([u8; 4], &'static [u8], bool)>,
    /// Whether a phrase starts with a byte.
    starts: [bool; 256],
}

impl Phrases {
    fn load() -> Self {
        let mut all = Vec::with_capacity(REFUSALS.len() + BOILERPLATE.len());
        let mut starts = [false; 256];
        for (list, refuses) in [(REFUSALS, true), (BOILERPLATE, false)] {
            for phrase in list {
                let phrase = phrase.as_bytes();
                if let Some(head) = phrase.first_chunk::<4>() {
                    all.push((*head, phrase, refuses));
                    starts[usize::from(head[0])] = true;
                }
            }
        }
        all.sort_unstable();
        Self { all, starts }
    }

    /// Whether a phrase of either list stands in a text as words of its own: refusal, boilerplate. No phrase starts anew in
    /// the middle of itself, so every start of a word is one to try.
    fn find(&self, text: &[u8]) -> (bool, bool) {
        let mut found = (false, false);
        let mut inside = false;
        let mut at = 0;
        while let Some(byte) = text.get(at) {
            let (is_word, length) = if byte.is_ascii() { (byte.is_ascii_alphanumeric(), 1) } else { wide(&text[at..]) };
            if !inside && self.starts[usize::from(*byte)] {
                self.add(&text[at..], &mut found);
            }
            inside = is_word;
            at += length;
        }
        found
    }

    /// Adds the phrases that a text starts with.
    fn add(&self, text: &[u8], found: &mut (bool, bool)) {
        let Some(head) = text.first_chunk::<4>() else { return };
        let from = self.all.partition_point(|(first, ..)| first < head);
        for (_, phrase, refuses) in self.all[from..].iter().take_while(|(first, ..)| first == head) {
            let Some(rest) = text.strip_prefix(*phrase) else { continue };
            let goes_on = match rest.first() {
                None => false,
                Some(byte) if byte.is_ascii() => byte.is_ascii_alphanumeric(),
                Some(_) => wide(rest).0,
            };
            // A phrase may end within a word only where it is cut off on purpose.
            if !goes_on || phrase.ends_with(b"can") {
                *(if *refuses { &mut found.0 } else { &mut found.1 }) = true;
            }
        }
    }
}

fn contains(text: &[u8], phrase: &[u8]) -> bool {
    text.windows(phrase.len()).any(|part| part == phrase)
}

/// Whether the character outside ASCII at the start is a letter or number, and its bytes.
fn wide(text: &[u8]) -> (bool, usize) {
    let most = &text[..text.len().min(4)];
    let valid = match std::str::from_utf8(most) {
        Ok(valid) => valid,
        Err(error) => std::str::from_utf8(&most[..error.valid_up_to()]).unwrap_or_default(),
    };
    valid.chars().next().map_or((false, 1), |c| (c.is_alphanumeric(), c.len_utf8()))
}

impl Filter for Refusal {
    type Config = RefusalConfig;

    const ABOUT: About = About {
        name: "refusal",
        version: "2",
        about: "Drops answers that refuse, or that speak about the model instead of the question.",
        text: "",
        reads: &[],
        scores: &[("refusal", ScoreKind::Flag), ("boilerplate", ScoreKind::Flag), ("phrase", ScoreKind::Flag)],
        reasons: &["refusal", "boilerplate", "phrase"],
        edits: false,
    };

    fn open(mut config: RefusalConfig) -> Result<Self, String> {
        if config.phrases.iter().any(|phrase| phrase.trim().is_empty()) {
            return Err("`phrases` has an empty phrase, which would drop every row".to_owned());
        }
        for phrase in &mut config.phrases {
            let mut bytes = Vec::new();
            plain(phrase, 0, &mut bytes);
            *phrase = String::from_utf8_lossy(&bytes).into_owned();
        }
        Ok(Self { config, phrases: Phrases::load(), start: Vec::new() })
    }

    fn judge(&mut self, row: &Row<'_>, scores: &mut Scores<'_>) -> Verdict {
        let config = &self.config;
        plain(row.text(), config.window, &mut self.start);
        let (refusal, boilerplate) = self.phrases.find(&self.start);
        let phrase = config.phrases.iter().any(|phrase| contains(&self.start, phrase.as_bytes()));
        let found = [refusal, boilerplate, phrase];
        scores.set_from(0, &found.map(|found| f64::from(u8::from(found))));
        self.verdict(found)
    }

    const THRESHOLDS: &'static [&'static str] = &["refusals", "boilerplate"];

    fn select(&self, scores: &[f32], _before: Option<&str>) -> Option<Verdict> {
        Some(self.verdict(scores.first_chunk::<3>()?.map(|score| score == 1.0)))
    }
}

impl Refusal {
    fn verdict(&self, [refusal, boilerplate, phrase]: [bool; 3]) -> Verdict {
        if refusal && self.config.refusals {
            Verdict::Drop("refusal")
        } else if boilerplate && self.config.boilerplate {
            Verdict::Drop("boilerplate")
        } else if phrase {
            Verdict::Drop("phrase")
        } else {
            Verdict::Keep
        }
    }
}

#[cfg(test)]
mod tests {
    use luthier_filter::{Verdict, judge};

    use super::{Refusal, plain};

    #[test]
    fn texts_are_made_plain_whatever_is_beside_what() {
        // Character by character.
        let slow = |text: &str, window: usize| {
            let mut out = String::new();
            for c in text.trim_start().chars().take(if window == 0 { usize::MAX } else { window }) {
                match c {
                    '’' | '‘' | 'ʼ' => out.push('\''),
                    c if c.is_whitespace() && out.ends_with(' ') => {}
                    c if c.is_whitespace() => out.push(' '),
                    c => out.extend(c.to_lowercase()),
                }
            }
            out.into_bytes()
        };
        let parts =
            ["I’m", " ", "  ", "\n", "Don't", "É", "\u{130}", "\0", "\u{a0}", "a B c ", "~!", "\u{7f}", "word "];
        let mut state = 3u64;
        let mut next = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let mut out = Vec::new();
        for _ in 0..5_000 {
            let text: String = (0..next(60)).map(|_| parts[next(parts.len())]).collect();
            for window in [0, 1, 63, 64, 65, 200] {
                plain(&text, window, &mut out);
                assert_eq!(out, slow(&text, window), "{text:?} {window}");
            }
        }
    }

    #[test]
    fn tells_refusals_from_answers() {
        let verdict = |text: &str| judge::<Refusal>("{}", text, &[]).verdict;
        for text in ["I’m sorry, but I can’t\nassist with that.", "Sorry, I cannot say.", "I apologize, but I cannot."]
        {
            assert_eq!(verdict(text), Verdict::Drop("refusal"), "{text}");
        }
        for text in ["As an AI language model, I think", "Well. I'm an AI."] {
            assert_eq!(verdict(text), Verdict::Drop("boilerplate"), "{text}");
        }
        for text in [
            "The violin is made of spruce.",
            "As an aide to the minister, she wrote.",
            "I can help with that: cut along the line.",
            "",
        ] {
            assert_eq!(verdict(text), Verdict::Keep, "{text}");
        }
        let late = format!("{} He wrote: I'm sorry, but I can't assist.", "Long before. ".repeat(20));
        assert_eq!(verdict(&late), Verdict::Keep);
    }

    #[test]
    fn own_phrases_and_windows_count() {
        let config = r#"{"phrases": ["Lorem  IPSUM"], "refusals": false, "window": 0}"#;
        let verdict = |text: &str| judge::<Refusal>(config, text, &[]).verdict;
        assert_eq!(verdict(&("x ".repeat(300) + "lorem ipsum")), Verdict::Drop("phrase"));
        assert_eq!(verdict("Sorry, I can't."), Verdict::Keep);
    }
}
