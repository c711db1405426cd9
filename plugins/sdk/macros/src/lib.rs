//! `#[filter]` and `#[derive(Config)]`.
//!
//! Written on `proc_macro` alone: a plugin must build fast, and the two inputs are simple enough to read token by token.

mod config;
mod filter;
mod tokens;

use proc_macro::TokenStream;

/// Makes a function the filter of its crate: `fn name(row: &Row, config: &Config) -> Verdict`, or with a third
/// parameter `scores: &mut Scores`.
///
/// Arguments, all optional:
/// - `reasons = ["too-short"]`: every reason that a `Verdict::Drop` gives
/// - `text = "word"`: the column to judge when the pipeline does not say
/// - `reads = ["completion"]`: further columns for `row.column(…)`
/// - `scores = ["ratio"]`: what `scores.set(…)` sets
/// - `edits = true`: the function returns `Verdict::Edit`
#[proc_macro_attribute]
pub fn filter(arguments: TokenStream, item: TokenStream) -> TokenStream {
    tokens::or_error(filter::expand(arguments, item.clone()), item)
}

/// A configuration: a struct with named fields, or an enum whose variants have none (written in kebab-case).
///
/// On a field: `#[config(default = 3, min = 1, max = 9)]`, each optional. A field without default must be given, unless
/// it is an `Option`. Doc comments become the descriptions of the JSON Schema.
#[proc_macro_derive(Config, attributes(config))]
pub fn derive_config(item: TokenStream) -> TokenStream {
    tokens::or_error(config::expand(item), TokenStream::new())
}
