//! Added tokens: found in a text before anything else happens to it, leftmost first, longest first.

use std::collections::BTreeMap;

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;

/// A stretch of a text.
pub enum Piece<'a> {
    Token(u32),
    Text(&'a str),
}

pub struct AddedTokens {
    /// Found in the raw text.
    first: Option<Finder>,
    /// Found in what is left of it after normalisation.
    second: Option<Finder>,
    lengths: BTreeMap<u32, usize>,
}

struct Finder {
    automaton: AhoCorasick,
    ids: Vec<u32>,
}

impl Finder {
    fn of(tokens: &[(&str, u32)]) -> Option<Self> {
        let texts: Vec<&str> = tokens.iter().map(|(text, _)| *text).collect();
        let automaton = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts).ok()?;
        Some(Self { automaton, ids: tokens.iter().map(|(_, id)| *id).collect() })
    }

    fn pieces<'a>(&self, text: &'a str, piece: &mut dyn FnMut(Piece<'a>) -> Option<()>) -> Option<()> {
        let mut start = 0;
        for found in self.automaton.find_iter(text) {
            if start < found.start() {
                piece(Piece::Text(&text[start..found.start()]))?;
            }
            piece(Piece::Token(self.ids[found.pattern().as_usize()]))?;
            start = found.end();
        }
        if start < text.len() { piece(Piece::Text(&text[start..])) } else { Some(()) }
    }
}

impl AddedTokens {
    /// `None` if one has an option that looks at its surroundings, or cannot be told from another.
    pub fn build(tokens: &Value) -> Option<Self> {
        let (mut raw, mut normalized) = (Vec::new(), Vec::new());
        let mut lengths = BTreeMap::new();
        for token in tokens.as_array().map(Vec::as_slice).unwrap_or_default() {
            if ["single_word", "lstrip", "rstrip"].into_iter().any(|option| token[option] == true) {
                return None;
            }
            let text = token["content"].as_str().filter(|text| !text.is_empty())?;
            let id = u32::try_from(token["id"].as_u64()?).ok()?;
            lengths.insert(id, text.len());
            let special = token["special"] == true;
            // Where the file does not say, ordinary tokens are normalized and special ones are not.
            let list = if token["normalized"].as_bool().unwrap_or(!special) { &mut normalized } else { &mut raw };
            list.push((text, id));
        }
        let finder = |tokens: &[(&str, u32)]| match tokens {
            [] => Some(None),
            tokens => Finder::of(tokens).map(Some),
        };
        Some(Self { first: finder(&raw)?, second: finder(&normalized)?, lengths })
    }

    /// How many bytes an added token stands for.
    pub fn length(&self, id: u32) -> Option<usize> {
        self.lengths.get(&id).copied()
    }

    /// The stretches of a text in order, until one is answered with `None`.
    pub fn pieces<'a>(&self, text: &'a str, mut piece: impl FnMut(Piece<'a>) -> Option<()>) -> Option<()> {
        let mut second = |found: Piece<'a>| match (found, &self.second) {
            (Piece::Text(text), Some(finder)) => finder.pieces(text, &mut piece),
            (found, _) => piece(found),
        };
        match &self.first {
            Some(finder) => finder.pieces(text, &mut second),
            None if text.is_empty() => Some(()),
            None => second(Piece::Text(text)),
        }
    }
}
