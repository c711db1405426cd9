//! Answers that refuse, or that speak about the model instead of the question.

use luthier_filter::{About, Config, Filter, Row, ScoreKind, Scores, Verdict};

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
}

/// The start of a text in lower case, with straight apostrophes and single spaces.
fn plain(text: &str, window: usize) -> String {
    let window = if window == 0 { usize::MAX } else { window };
    let mut out = String::new();
    for c in text.trim_start().chars().take(window) {
        match c {
            '!'..='~' => out.push(c.to_ascii_lowercase()),
            '’' | '‘' | 'ʼ' => out.push('\''),
            c if c.is_whitespace() => {
                if !out.ends_with(' ') {
                    out.push(' ');
                }
            }
            c => out.extend(c.to_lowercase()),
        }
    }
    out
}

/// Whether one of the phrases stands there as words of its own. No phrase starts anew in the middle of itself, so every
/// start of a word is one to try.
fn has(text: &str, phrases: &[&str]) -> bool {
    let mut inside = false;
    text.char_indices().any(|(at, c)| {
        let starts = !std::mem::replace(&mut inside, c.is_alphanumeric());
        starts
            && phrases.iter().any(|phrase| {
                phrase.as_bytes()[0] == text.as_bytes()[at]
                    && text[at..].strip_prefix(phrase).is_some_and(|rest| {
                        // A phrase may end within a word only where it is cut off on purpose.
                        phrase.ends_with("can") || !rest.starts_with(char::is_alphanumeric)
                    })
            })
    })
}

impl Filter for Refusal {
    type Config = RefusalConfig;

    const ABOUT: About = About {
        name: "refusal",
        version: "1",
        about: "Drops answers that refuse, or that speak about the model instead of the question.",
        text: "",
        reads: &[],
        scores: &[("refusal", ScoreKind::Flag), ("boilerplate", ScoreKind::Flag)],
        reasons: &["refusal", "boilerplate", "phrase"],
        edits: false,
    };

    fn open(mut config: RefusalConfig) -> Result<Self, String> {
        if config.phrases.iter().any(|phrase| phrase.trim().is_empty()) {
            return Err("`phrases` has an empty phrase, which would drop every row".to_owned());
        }
        config.phrases.iter_mut().for_each(|phrase| *phrase = plain(phrase, 0));
        Ok(Self { config })
    }

    fn judge(&mut self, row: &Row<'_>, scores: &mut Scores<'_>) -> Verdict {
        let config = &self.config;
        let start = plain(row.text(), config.window);
        let (refusal, boilerplate) = (has(&start, REFUSALS), has(&start, BOILERPLATE));
        scores.set("refusal", f32::from(u8::from(refusal)));
        scores.set("boilerplate", f32::from(u8::from(boilerplate)));
        if refusal && config.refusals {
            Verdict::Drop("refusal")
        } else if boilerplate && config.boilerplate {
            Verdict::Drop("boilerplate")
        } else if config.phrases.iter().any(|phrase| start.contains(phrase.as_str())) {
            Verdict::Drop("phrase")
        } else {
            Verdict::Keep
        }
    }
}

#[cfg(test)]
mod tests {
    use luthier_filter::{Verdict, judge};

    use super::Refusal;

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
