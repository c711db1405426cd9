//! Reading token trees by hand.

use proc_macro::{Delimiter, Span, TokenStream, TokenTree};

/// What is wrong, and where.
pub struct Wrong(pub Span, pub String);

pub type Result<T> = std::result::Result<T, Wrong>;

/// The expansion, or a `compile_error!` at the right place beside the unchanged item.
pub fn or_error(result: Result<TokenStream>, item: TokenStream) -> TokenStream {
    match result {
        Ok(tokens) => tokens,
        Err(Wrong(span, message)) => {
            let error: TokenStream = format!("::core::compile_error!({message:?});").parse().expect("a macro call");
            let error: TokenStream = error
                .into_iter()
                .map(|mut token| {
                    token.set_span(span);
                    token
                })
                .collect();
            [error, item].into_iter().collect()
        }
    }
}

pub fn is_punct(token: &TokenTree, wanted: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == wanted)
}

pub fn is_ident(token: &TokenTree, wanted: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident.to_string() == wanted)
}

/// The attributes and the visibility before an item, field or variant.
#[derive(Default)]
pub struct Leading {
    /// The doc comment, its lines joined.
    pub doc: String,
    /// The inside of `#[config(…)]`.
    pub config: Vec<TokenTree>,
}

/// Takes attributes and visibility from the front of `tokens`.
pub fn leading(tokens: &mut std::iter::Peekable<std::vec::IntoIter<TokenTree>>) -> Leading {
    let mut found = Leading::default();
    loop {
        match tokens.peek() {
            Some(token) if is_punct(token, '#') => {
                tokens.next();
                if let Some(TokenTree::Group(group)) = tokens.next() {
                    attribute(group.stream(), &mut found);
                }
            }
            Some(token) if is_ident(token, "pub") => {
                tokens.next();
                if matches!(tokens.peek(), Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis)
                {
                    tokens.next();
                }
            }
            _ => return found,
        }
    }
}

fn attribute(stream: TokenStream, found: &mut Leading) {
    let tokens: Vec<TokenTree> = stream.into_iter().collect();
    match tokens.as_slice() {
        [name, equals, TokenTree::Literal(text)] if is_ident(name, "doc") && is_punct(equals, '=') => {
            let text = unquote(&text.to_string());
            if !found.doc.is_empty() {
                found.doc.push(' ');
            }
            found.doc.push_str(text.trim());
        }
        [name, TokenTree::Group(group)] if is_ident(name, "config") => {
            found.config.extend(group.stream());
        }
        _ => {}
    }
}

/// The value of a string literal, as far as doc comments need it.
pub fn unquote(literal: &str) -> String {
    let inner = literal.trim_start_matches('r').trim_matches('#');
    let inner = inner.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(inner);
    if literal.starts_with('r') {
        return inner.to_owned();
    }
    let mut out = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('n')) => out.push('\n'),
            ('\\', Some('t')) => out.push('\t'),
            ('\\', Some(other)) => out.push(other),
            (other, _) => out.push(other),
        }
    }
    out
}

/// Splits at commas that are not inside `<…>`; groups are single tokens already.
pub fn split_commas(stream: TokenStream) -> Vec<Vec<TokenTree>> {
    let mut parts = vec![Vec::new()];
    let mut angle = 0i32;
    let mut arrow = false;
    for token in stream {
        if is_punct(&token, '<') {
            angle += 1;
        } else if is_punct(&token, '>') && !arrow {
            angle -= 1;
        }
        arrow = is_punct(&token, '-');
        if is_punct(&token, ',') && angle == 0 {
            parts.push(Vec::new());
        } else if let Some(last) = parts.last_mut() {
            last.push(token);
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// `name = tokens` pairs separated by commas.
pub fn pairs(stream: TokenStream, known: &[&str]) -> Result<Vec<(String, TokenStream)>> {
    let mut found = Vec::new();
    for part in split_commas(stream) {
        let span = part[0].span();
        let name = part[0].to_string();
        if !known.contains(&name.as_str()) {
            return Err(Wrong(span, format!("unknown argument `{name}`: known are `{}`", known.join("`, `"))));
        }
        match part.get(1) {
            Some(token) if is_punct(token, '=') && part.len() > 2 => {
                found.push((name, part.into_iter().skip(2).collect()));
            }
            _ => return Err(Wrong(span, format!("expected `{name} = …`"))),
        }
    }
    Ok(found)
}
