//! How much of a text is addresses (the URL rule of NeMo Curator's heuristics).

use luthier_filter::{About, Config, Filter, Row, ScoreKind, Scores, Verdict};

use crate::character::is_space;
use crate::select::{above, first};
use crate::vector::find_four;
use crate::{chars, share};

#[derive(Config)]
pub struct UrlRatioConfig {
    /// Largest share of characters in addresses.
    #[config(default = 0.2, min = 0.0, max = 1.0)]
    max: f64,
}

/// Drops texts that are mostly addresses.
pub struct UrlRatio {
    config: UrlRatioConfig,
}

/// Characters in `http://…` and `https://…`, each up to the next white space or quote.
fn address_chars(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut total, mut at) = (0, 0);
    while let Some(start) = find_four(bytes, at, b"http") {
        let scheme = ["https://", "http://"].iter().find(|scheme| bytes[start..].starts_with(scheme.as_bytes()));
        let Some(scheme) = scheme else {
            at = start + 4;
            continue;
        };
        let ends = |c: char| is_space(c) || matches!(c, '"' | '\'' | '<' | '>' | '(' | ')');
        let rest = start + scheme.len();
        at = text[rest..].find(ends).map_or(text.len(), |end| rest + end);
        total += chars(&text[start..at]);
    }
    total
}

impl Filter for UrlRatio {
    type Config = UrlRatioConfig;

    const ABOUT: About = About {
        name: "url-ratio",
        version: "1",
        about: "Drops texts that are mostly addresses.",
        text: "",
        reads: &[],
        scores: &[("url-chars", ScoreKind::Real)],
        reasons: &["url_ratio"],
        edits: false,
    };

    fn open(config: UrlRatioConfig) -> Result<Self, String> {
        Ok(Self { config })
    }

    fn judge(&mut self, row: &Row<'_>, scores: &mut Scores<'_>) -> Verdict {
        let ratio = share(address_chars(row.text()), chars(row.text()));
        scores.set_from(0, &[ratio]);
        if ratio > self.config.max { Verdict::Drop("url_ratio") } else { Verdict::Keep }
    }

    const THRESHOLDS: &'static [&'static str] = &["max"];

    fn select(&self, scores: &[f32], _before: Option<&str>) -> Option<Verdict> {
        first(&[(above(scores[0], self.config.max), "url_ratio")])
    }
}

#[cfg(test)]
mod tests {
    use super::address_chars;

    #[test]
    fn measures_addresses() {
        assert_eq!(address_chars("see https://a.b/c, (http://d) httpx"), 14 + 8);
        assert_eq!(address_chars(""), 0);
    }
}
