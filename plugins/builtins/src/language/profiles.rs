//! The trigrams of languages that share a script.
//!
//! `profiles.txt` has a line per language: code, script, and groups `COST:TRIGRAMS`, where a trigram is three characters, `_`
//! stands for a space and the cost is in eighths of a bit.

use super::script::{ALONE, SHARED};
use crate::hash::{FACTOR, mix};

/// What a trigram outside a profile costs.
const FLOOR: u32 = 17 * 8;
/// Trigrams are no independent witnesses: from this many on, more of them do not make a guess surer.
const WITNESSES: f64 = 60.0;

/// All profiles.
pub struct Profiles {
    languages: Vec<Profile>,
    /// Open table: a trigram, and where its gains are; 0 marks an empty slot.
    slots: Vec<(u64, u32, u32)>,
    /// Language and how much less than [`FLOOR`] the trigram costs there.
    gains: Vec<(u16, u16)>,
}

struct Profile {
    code: &'static str,
    script: usize,
}

fn trigram(chars: [char; 3]) -> u64 {
    chars.iter().fold(1, |key, c| key << 21 | u64::from(u32::from(*c)))
}

impl Profiles {
    pub fn load() -> Self {
        let mut languages = Vec::new();
        let mut all: Vec<(u64, u16, u16)> = Vec::new();
        for line in include_str!("profiles.txt").lines() {
            let mut parts = line.split(' ');
            let (Some(code), Some(script)) = (parts.next(), parts.next()) else { continue };
            let script = SHARED.iter().position(|name| *name == script).unwrap_or_default();
            let language = languages.len() as u16;
            languages.push(Profile { code, script });
            for group in parts {
                let Some((cost, trigrams)) = group.split_once(':') else { continue };
                let gain = FLOOR.saturating_sub(cost.parse().unwrap_or(FLOOR)) as u16;
                let mut chars = trigrams.chars().map(|c| if c == '_' { ' ' } else { c });
                while let (Some(a), Some(b), Some(c)) = (chars.next(), chars.next(), chars.next()) {
                    all.push((trigram([a, b, c]), language, gain));
                }
            }
        }
        all.sort_unstable();
        let mut profiles = Self { languages, slots: vec![(0, 0, 0); 1 << 16], gains: Vec::new() };
        for same in all.chunk_by(|a, b| a.0 == b.0) {
            let start = profiles.gains.len() as u32;
            profiles.gains.extend(same.iter().map(|(_, language, gain)| (*language, *gain)));
            let at = profiles.slot(same[0].0);
            profiles.slots[at] = (same[0].0, start, start + same.len() as u32);
        }
        profiles
    }

    /// The slot of a trigram, or the empty one where it belongs. There are far fewer trigrams than slots.
    fn slot(&self, key: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = (mix(key, FACTOR) >> 20) as usize & mask;
        while self.slots[at].0 != 0 && self.slots[at].0 != key {
            at = (at + 1) & mask;
        }
        at
    }

    /// Codes of all languages that can be told.
    pub fn languages(&self) -> Vec<&'static str> {
        let mut codes: Vec<&str> = self.languages.iter().map(|profile| profile.code).collect();
        codes.extend(ALONE.into_iter().flatten());
        codes.sort_unstable();
        codes
    }

    /// How likely each language of a script is, by the first `most` letters of a text.
    pub fn posterior(&self, script: usize, text: &str, most: usize) -> Vec<(&'static str, f64)> {
        let mut gains = vec![0u32; self.languages.len()];
        let mut seen = 0;
        let mut window = [' ', ' ', ' '];
        let mut add = |c: char, gains: &mut Vec<u32>| {
            // One space between words; a second one ends nothing.
            if c == ' ' && window[2] == ' ' {
                return;
            }
            window = [window[1], window[2], c];
            // The first letter has no two characters before it.
            if window[1] != ' ' || window[0] != ' ' {
                let slot = self.slots[self.slot(trigram(window))];
                for (language, gain) in &self.gains[slot.1 as usize..slot.2 as usize] {
                    gains[usize::from(*language)] += u32::from(*gain);
                }
            }
        };
        for c in text.chars() {
            if c.is_alphabetic() || is_mark(c) {
                if seen == most {
                    break;
                }
                seen += 1;
                c.to_lowercase().for_each(|c| add(c, &mut gains));
            } else {
                add(' ', &mut gains);
            }
        }
        add(' ', &mut gains);
        let best = self.of_script(script).map(|at| gains[at]).max().unwrap_or(0);
        let scale = (WITNESSES / f64::from(seen.max(1) as u32)).min(1.0) / 8.0;
        let weight = |at: usize| halved(f64::from(best - gains[at]) * scale);
        let total: f64 = self.of_script(script).map(weight).sum();
        self.of_script(script).map(|at| (self.languages[at].code, weight(at) / total)).collect()
    }

    fn of_script(&self, script: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.languages.len()).filter(move |at| self.languages[*at].script == script)
    }
}

/// `2^-x`, by roots and products alone: those are the same on every machine.
fn halved(x: f64) -> f64 {
    if x >= 1_000.0 {
        return 0.0;
    }
    let whole = x as u64;
    let mut value = f64::from_bits((1_023 - whole) << 52);
    let (mut rest, mut root) = (x - whole as f64, 0.5f64);
    for _ in 0..32 {
        root = root.sqrt();
        rest *= 2.0;
        if rest >= 1.0 {
            value *= root;
            rest -= 1.0;
        }
    }
    value
}

/// Marks that belong to the letter before: of Indic scripts and of Arabic.
fn is_mark(c: char) -> bool {
    matches!(u32::from(c), 0x300..=0x36f | 0x610..=0x61a | 0x64b..=0x65f | 0x900..=0x903 | 0x93a..=0x94f | 0x951..=0x957)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profiles_parse() {
        let profiles = Profiles::load();
        assert_eq!(profiles.languages.len(), 42);
        assert!(profiles.languages().contains(&"en") && profiles.languages().contains(&"ko"));
        let filled = profiles.slots.iter().filter(|slot| slot.0 != 0).count();
        assert!(filled > 5_000 && filled < profiles.slots.len() / 2, "{filled}");
        assert_eq!(profiles.gains.len(), include_str!("profiles.txt").lines().map(count).sum::<usize>());
    }

    fn count(line: &str) -> usize {
        line.split(' ')
            .skip(2)
            .filter_map(|group| group.split_once(':'))
            .map(|(_, text)| text.chars().count() / 3)
            .sum()
    }

    #[test]
    fn halves_by_products() {
        for x in [0.0, 0.3, 1.0, 7.25, 99.9] {
            assert!((halved(x) / (-x).exp2() - 1.0).abs() < 1e-8, "{x}");
        }
        assert_eq!(halved(5_000.0), 0.0);
    }

    #[test]
    fn what_is_likely_adds_up() {
        let profiles = Profiles::load();
        let likely = profiles.posterior(0, "Le luthier rabote la table du violon.", 2_000);
        let total: f64 = likely.iter().map(|(_, probability)| probability).sum();
        assert!((total - 1.0).abs() < 1e-9);
        assert_eq!(likely.iter().max_by(|a, b| a.1.total_cmp(&b.1)).map(|(code, _)| *code), Some("fr"));
    }
}
