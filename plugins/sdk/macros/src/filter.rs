//! `#[filter]`.

use proc_macro::{Delimiter, Span, TokenStream, TokenTree};

use crate::tokens::{Result, Wrong, is_ident, leading, pairs, split_commas};

pub fn expand(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let mut tokens = item.clone().into_iter().collect::<Vec<_>>().into_iter().peekable();
    let head = leading(&mut tokens);
    let keyword = tokens.next().ok_or_else(|| Wrong(Span::call_site(), "expected a function".to_owned()))?;
    let name = match tokens.next() {
        Some(TokenTree::Ident(name)) if is_ident(&keyword, "fn") => name,
        _ => return Err(Wrong(keyword.span(), "`#[filter]` belongs on a function".to_owned())),
    };
    let parameters = match tokens.next() {
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis => group.stream(),
        _ => return Err(Wrong(name.span(), "a filter function cannot be generic".to_owned())),
    };
    let parameters = split_commas(parameters);
    if !(2..=3).contains(&parameters.len()) {
        return Err(Wrong(
            name.span(),
            "expected `fn(row: &Row, config: &Config) -> Verdict`, or with `scores: &mut Scores` as the third parameter"
                .to_owned(),
        ));
    }
    let config = config_type(&parameters[1])?;

    let (mut text, mut reads, mut scores) = ("\"\"".to_owned(), "[]".to_owned(), Vec::new());
    let (mut reasons, mut edits) = ("[]".to_owned(), "false".to_owned());
    for (argument, value) in pairs(arguments, &["reasons", "text", "reads", "scores", "edits"])? {
        match argument.as_str() {
            "text" => text = value.to_string(),
            "reads" => reads = value.to_string(),
            "reasons" => reasons = value.to_string(),
            "edits" => edits = value.to_string(),
            _ => scores = score_names(value)?,
        }
    }
    let scores: Vec<String> =
        scores.iter().map(|name| format!("({name}, ::luthier_filter::ScoreKind::Real)")).collect();
    let call = if parameters.len() == 3 { ", scores" } else { "" };
    let code = format!(
        "#[allow(dead_code)]
        struct FilterOfThisCrate {{ config: {config} }}
        impl ::luthier_filter::Filter for FilterOfThisCrate {{
            type Config = {config};
            const ABOUT: ::luthier_filter::About = ::luthier_filter::About {{
                name: ::core::env!(\"CARGO_PKG_NAME\"),
                version: ::core::env!(\"CARGO_PKG_VERSION\"),
                about: {doc:?},
                text: {text},
                reads: &{reads},
                scores: &[{scores}],
                reasons: &{reasons},
                edits: {edits},
            }};
            fn open(config: Self::Config) -> ::core::result::Result<Self, ::std::string::String> {{
                ::core::result::Result::Ok(Self {{ config }})
            }}
            fn judge(
                &mut self,
                row: &::luthier_filter::Row<'_>,
                scores: &mut ::luthier_filter::Scores<'_>,
            ) -> ::luthier_filter::Verdict {{
                let _ = &scores;
                {name}(row, &self.config{call})
            }}
        }}
        ::luthier_filter::export!(FilterOfThisCrate);",
        doc = head.doc,
        scores = scores.join(","),
    );
    let code: TokenStream =
        code.parse().map_err(|_| Wrong(name.span(), "the filter could not be expanded".to_owned()))?;
    Ok([item, code].into_iter().collect())
}

/// `config: &Links` → `Links`.
fn config_type(parameter: &[TokenTree]) -> Result<String> {
    let span = parameter[0].span();
    let ampersand = parameter.iter().position(|token| token.to_string() == "&");
    let after =
        ampersand.ok_or_else(|| Wrong(span, "the configuration is taken by reference: `&Config`".to_owned()))?;
    let kind: TokenStream = parameter[after + 1..].iter().cloned().collect();
    Ok(kind.to_string())
}

fn score_names(value: TokenStream) -> Result<Vec<String>> {
    match value.into_iter().next() {
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Bracket => {
            Ok(group.stream().into_iter().map(|token| token.to_string()).filter(|token| token != ",").collect())
        }
        other => Err(Wrong(
            other.map_or_else(Span::call_site, |token| token.span()),
            "expected a list of names: `scores = [\"ratio\"]`".to_owned(),
        )),
    }
}
