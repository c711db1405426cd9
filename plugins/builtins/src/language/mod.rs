//! The language of a text, by its script and by the trigrams of its letters.
//!
//! A script that one language uses decides by itself. Where several share one, the language whose 700 most frequent
//! trigrams make the text likeliest wins (naive Bayes; Cavnar and Trenkle 1994 for the features). The profiles come from the
//! Universal Declaration of Human Rights and GNOME's user help (`tests/golden/language`), where the accuracy is measured too.
//! Languages without a profile are taken for a neighbour; so is, often, Norwegian Bokmål for Danish.

mod profiles;
mod script;

use std::sync::OnceLock;

use luthier_filter::{About, Config, Filter, Row, ScoreKind, Scores, Verdict};

use profiles::Profiles;
use script::Script;

use crate::select::{below, first};
use crate::share;

#[derive(Config)]
pub struct LanguageConfig {
    /// ISO 639-1 codes of the languages that stay.
    keep: Vec<String>,
    /// Least confidence that a text is in one of them.
    #[config(default = 0.65, min = 0.0, max = 1.0)]
    min_confidence: f64,
}

/// Keeps texts of some languages.
pub struct Language {
    config: LanguageConfig,
    profiles: Profiles,
}

const NO_LETTERS: &str = "no_letters";

/// Letters that decide; a longer text is judged by its start.
const MOST_LETTERS: usize = 2_000;

/// A language and how sure that is, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guess {
    /// Empty for a text without letters of a known script.
    pub language: &'static str,
    pub confidence: f64,
}

impl Profiles {
    /// The likeliest language of a text, and how likely it is that the text is in one of `keep`.
    fn guess(&self, text: &str, keep: &[String]) -> (Guess, f64) {
        let mut counts = [0usize; script::COUNT];
        let mut letters = 0;
        for c in text.chars().filter(|c| c.is_alphabetic()).take(MOST_LETTERS) {
            letters += 1;
            if let Some(script) = Script::of(c) {
                counts[script as usize] += 1;
            }
        }
        // Kana make Han characters Japanese.
        if counts[Script::Japanese as usize] > 0 {
            counts[Script::Japanese as usize] += std::mem::take(&mut counts[Script::Han as usize]);
        }
        let mut best = 0;
        for (at, count) in counts.iter().enumerate() {
            if *count > counts[best] {
                best = at;
            }
        }
        if counts[best] == 0 {
            return (Guess { language: "", confidence: 0.0 }, 0.0);
        }
        let in_script = share(counts[best], letters);
        if let Some(language) = script::ALONE[best] {
            let kept = if keep.iter().any(|code| code == language) { in_script } else { 0.0 };
            return (Guess { language, confidence: in_script }, kept);
        }
        let likely = self.posterior(best, text, MOST_LETTERS);
        let mut top = (0.0, "");
        let mut kept = 0.0;
        for (language, probability) in likely {
            if probability > top.0 {
                top = (probability, language);
            }
            if keep.iter().any(|code| code == language) {
                kept += probability;
            }
        }
        (Guess { language: top.1, confidence: top.0 * in_script }, kept * in_script)
    }
}

/// The language of a text.
#[must_use]
pub fn guess(text: &str) -> Guess {
    static PROFILES: OnceLock<Profiles> = OnceLock::new();
    PROFILES.get_or_init(Profiles::load).guess(text, &[]).0
}

impl Filter for Language {
    type Config = LanguageConfig;

    const ABOUT: About = About {
        name: "language",
        version: "2",
        about: "Keeps texts of the languages named, told by script and trigrams.",
        text: "",
        reads: &[],
        scores: &[("confidence", ScoreKind::Real), ("likeliest", ScoreKind::Flag)],
        reasons: &[NO_LETTERS, "other_language", "uncertain"],
        edits: false,
    };

    fn open(config: LanguageConfig) -> Result<Self, String> {
        let profiles = Profiles::load();
        let known = profiles.languages();
        if config.keep.is_empty() {
            return Err("`keep` is empty, so every row would be dropped".to_owned());
        }
        if let Some(unknown) = config.keep.iter().find(|code| !known.contains(&code.as_str())) {
            return Err(format!("`keep`: there is no language `{unknown}` (known: {})", known.join(", ")));
        }
        Ok(Self { config, profiles })
    }

    fn judge(&mut self, row: &Row<'_>, scores: &mut Scores<'_>) -> Verdict {
        let (guess, kept) = self.profiles.guess(row.text(), &self.config.keep);
        let likeliest = self.config.keep.iter().any(|code| code == guess.language);
        scores.set_from(0, &[kept, f64::from(u8::from(likeliest))]);
        if guess.language.is_empty() {
            Verdict::Drop(NO_LETTERS)
        } else if kept >= self.config.min_confidence {
            Verdict::Keep
        } else {
            Verdict::Drop(if likeliest { "uncertain" } else { "other_language" })
        }
    }

    const THRESHOLDS: &'static [&'static str] = &["min_confidence"];

    fn select(&self, scores: &[f32], before: Option<&str>) -> Option<Verdict> {
        if before == Some(NO_LETTERS) {
            return Some(Verdict::Drop(NO_LETTERS));
        }
        let [kept, likeliest] = *scores.first_chunk::<2>()?;
        let reason = if likeliest == 1.0 { "uncertain" } else { "other_language" };
        first(&[(below(kept, self.config.min_confidence), reason)])
    }
}

#[cfg(test)]
mod tests {
    use luthier_filter::{Verdict, judge};

    use super::*;

    #[test]
    fn tells_languages_apart() {
        for (text, language) in [
            ("The luthier planes the spruce top of the violin until it rings.", "en"),
            ("Der Geigenbauer hobelt die Decke der Geige aus Fichte, bis sie klingt.", "de"),
            ("Le luthier rabote la table du violon jusqu'à ce qu'elle sonne.", "fr"),
            ("Все люди знают, что скрипка звучит лучше, если её делает мастер.", "ru"),
            ("Скрипковий майстер струже деку, поки вона не зазвучить.", "uk"),
            ("ヴァイオリン職人は表板を削ります。", "ja"),
            ("制琴师刨平云杉面板。", "zh"),
            ("바이올린 제작자는 앞판을 깎는다.", "ko"),
            ("Ο οργανοποιός πλανίζει το καπάκι του βιολιού.", "el"),
            ("صانع الكمان يصقل السطح حتى يرن صوته في الصباح", "ar"),
            ("12 + 34 = 46 …", ""),
            ("", ""),
        ] {
            assert_eq!(guess(text).language, language, "{text}: {:?}", guess(text));
        }
    }

    #[test]
    fn keeps_what_it_is_sure_of() {
        let verdict = |config: &str, text: &str| judge::<Language>(config, text, &[]).verdict;
        let english = "The luthier planes the spruce top of the violin until it rings like a bell.";
        assert_eq!(verdict(r#"{"keep": ["en"]}"#, english), Verdict::Keep);
        assert_eq!(verdict(r#"{"keep": ["de", "fr"]}"#, english), Verdict::Drop("other_language"));
        assert_eq!(verdict(r#"{"keep": ["en"]}"#, "?!"), Verdict::Drop("no_letters"));
        assert_eq!(verdict(r#"{"keep": ["en"]}"#, "of"), Verdict::Drop("uncertain"));
        let mixed = format!("{english} {}", "漢".repeat(80));
        assert_ne!(verdict(r#"{"keep": ["en"]}"#, &mixed), Verdict::Keep);
    }
}
