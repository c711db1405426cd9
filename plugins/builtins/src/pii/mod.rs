//! Masking of personal data: e-mail addresses, IP addresses, telephone numbers, keys. Rewrites the text.
//!
//! Each kind has a scanner that checks what it finds (ranges of numbers, shapes of keys, what stands beside), because a
//! mask on a version number or a date damages more text than it protects. Of finds that overlap the one that starts first
//! wins, of those the longest.

mod email;
mod ip;
mod key;
mod phone;

use std::ops::Range;

use luthier_filter::{About, Config, Filter, Row, ScoreKind, Scores, Verdict};

#[derive(Config)]
pub struct PiiConfig {
    /// What takes the place of an e-mail address; empty to leave them.
    #[config(default = "<email>")]
    email: String,
    /// What takes the place of an IP address, version 4 or 6; empty to leave them.
    #[config(default = "<ip>")]
    ip: String,
    /// Mask addresses that are not routed too: private networks, loopback, documentation.
    #[config(default = false)]
    private_ips: bool,
    /// What takes the place of a telephone number; empty to leave them.
    #[config(default = "<phone>")]
    phone: String,
    /// What takes the place of keys, tokens and passwords; empty to leave them.
    #[config(default = "<key>")]
    key: String,
}

/// Masks personal data.
pub struct Pii {
    config: PiiConfig,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Email,
    Ip,
    Phone,
    Key,
}

/// The byte before, if any.
fn before(bytes: &[u8], at: usize) -> Option<u8> {
    at.checked_sub(1).map(|at| bytes[at])
}

/// Part of a word: an ASCII letter, a digit, or any part of a character beyond ASCII.
fn is_word(byte: Option<u8>) -> bool {
    byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte >= 0x80)
}

fn digits(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| byte.is_ascii_digit()).count()
}

impl Pii {
    /// What is masked, in order and without overlap.
    fn find(&self, text: &str) -> Vec<(Range<usize>, Kind)> {
        let bytes = text.as_bytes();
        let mut found: Vec<(Range<usize>, Kind)> = Vec::new();
        let config = &self.config;
        if !config.key.is_empty() {
            key::find(text, |range| found.push((range, Kind::Key)));
        }
        if !config.email.is_empty() {
            email::find(bytes, |range| found.push((range, Kind::Email)));
        }
        if !config.ip.is_empty() {
            ip::find(text, config.private_ips, |range| found.push((range, Kind::Ip)));
        }
        if !config.phone.is_empty() {
            phone::find(bytes, |range| found.push((range, Kind::Phone)));
        }
        found.sort_by_key(|(range, kind)| (range.start, std::cmp::Reverse(range.end), *kind));
        let mut end = 0;
        found.retain(|(range, _)| {
            let apart = range.start >= end;
            if apart {
                end = range.end;
            }
            apart
        });
        found
    }
}

impl Filter for Pii {
    type Config = PiiConfig;

    const ABOUT: About = About {
        name: "pii",
        version: "1",
        about: "Masks e-mail addresses, IP addresses, telephone numbers and keys.",
        text: "",
        reads: &[],
        scores: &[
            ("emails", ScoreKind::Count),
            ("ips", ScoreKind::Count),
            ("phones", ScoreKind::Count),
            ("keys", ScoreKind::Count),
        ],
        reasons: &[],
        edits: true,
    };

    fn open(config: PiiConfig) -> Result<Self, String> {
        Ok(Self { config })
    }

    fn judge(&mut self, row: &Row<'_>, scores: &mut Scores<'_>) -> Verdict {
        let text = row.text();
        let found = self.find(text);
        for (name, kind) in [("emails", Kind::Email), ("ips", Kind::Ip), ("phones", Kind::Phone), ("keys", Kind::Key)] {
            scores.set(name, found.iter().filter(|(_, found)| *found == kind).count() as f32);
        }
        if found.is_empty() {
            return Verdict::Keep;
        }
        let mut masked = String::with_capacity(text.len());
        let mut at = 0;
        for (range, kind) in found {
            masked.push_str(&text[at..range.start]);
            masked.push_str(match kind {
                Kind::Email => &self.config.email,
                Kind::Ip => &self.config.ip,
                Kind::Phone => &self.config.phone,
                Kind::Key => &self.config.key,
            });
            at = range.end;
        }
        masked.push_str(&text[at..]);
        if masked == text { Verdict::Keep } else { Verdict::Edit(masked) }
    }
}

#[cfg(test)]
mod tests;
