//! The built-in filters: public heuristics with the defaults of their originals.
//!
//! Each is a [`luthier_filter::Filter`] like anybody's plugin. The host links them natively, which is fastest, and can
//! build any of them to WebAssembly from this very source; a test holds the two to equal verdicts. Nothing here depends on
//! time, on the order of hash tables, or on any crate but the SDK and, for `regex` alone, the crate of that name.
//!
//! Functions with loops of their own are never inlined: a component is linked as one crate, and a function of thousands of
//! instructions keeps nothing in a register where it is compiled again by a simpler compiler.
//!
//! Where an original divides by nothing (a text without lines or words), the share is 0.

mod c4_paragraphs;
mod c4_quality;
pub mod character;
mod curator_quality;
mod curator_repetition;
mod data_juicer;
mod fineweb_quality;
mod gopher_quality;
mod gopher_repetition;
mod hash;
mod language;
mod length;
mod lines;
mod masks;
mod overlap;
mod pii;
mod refusal;
#[cfg(feature = "regex")]
mod regex;
mod repetition;
mod run_counts;
mod select;
mod shared;
pub mod special;
mod special_characters;
mod stop_words;
mod url_ratio;
mod vector;
mod word_cache;
pub mod words;

pub use c4_paragraphs::C4Paragraphs;
pub use c4_quality::C4Quality;
pub use curator_quality::CuratorQuality;
pub use curator_repetition::CuratorRepetition;
pub use data_juicer::DataJuicer;
pub use fineweb_quality::FinewebQuality;
pub use gopher_quality::GopherQuality;
pub use gopher_repetition::GopherRepetition;
pub use language::{Guess, Language, guess};
pub use length::Length;
pub use overlap::Overlap;
pub use pii::Pii;
pub use refusal::Refusal;
#[cfg(feature = "regex")]
pub use regex::Regex;
pub use shared::Document;
pub use url_ratio::UrlRatio;
pub use word_cache::SharedWords;

/// Calls a macro with `name => Type` for every built-in filter.
#[macro_export]
macro_rules! for_each_builtin {
    ($with:ident) => {
        $with! {
            "c4-paragraphs" => C4Paragraphs,
            "c4-quality" => C4Quality,
            "curator-quality" => CuratorQuality,
            "curator-repetition" => CuratorRepetition,
            "data-juicer" => DataJuicer,
            "fineweb-quality" => FinewebQuality,
            "gopher-quality" => GopherQuality,
            "gopher-repetition" => GopherRepetition,
            "language" => Language,
            "length" => Length,
            "overlap" => Overlap,
            "pii" => Pii,
            "refusal" => Refusal,
            "regex" => Regex,
            "url-ratio" => UrlRatio,
        }
    };
}

/// `part / whole`, 0 if there is no whole.
fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Characters, as all published lengths count them.
fn chars(text: &str) -> usize {
    text.len() - vector::count(text.as_bytes(), |bytes| bytes.within(0x80, 0xbf))
}
