//! `#[derive(Config)]`.

use proc_macro::{Delimiter, Span, TokenStream, TokenTree};

use crate::tokens::{Leading, Result, Wrong, is_ident, is_punct, leading, pairs, split_commas};

pub fn expand(item: TokenStream) -> Result<TokenStream> {
    let mut tokens = item.into_iter().collect::<Vec<_>>().into_iter().peekable();
    let head = leading(&mut tokens);
    let keyword = tokens.next().ok_or_else(|| Wrong(Span::call_site(), "expected a struct or an enum".to_owned()))?;
    let name = tokens.next().ok_or_else(|| Wrong(keyword.span(), "expected a name".to_owned()))?;
    let body = match tokens.next() {
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => group.stream(),
        Some(token) if is_punct(&token, '<') => {
            return Err(Wrong(token.span(), "a configuration cannot be generic".to_owned()));
        }
        _ => return Err(Wrong(name.span(), "a configuration needs named fields in braces".to_owned())),
    };
    let code = if is_ident(&keyword, "struct") {
        expand_struct(&name.to_string(), &head, body)?
    } else if is_ident(&keyword, "enum") {
        expand_enum(&name.to_string(), &head, body)?
    } else {
        return Err(Wrong(keyword.span(), "a configuration is a struct or an enum".to_owned()));
    };
    code.parse().map_err(|_| Wrong(name.span(), "the configuration could not be expanded".to_owned()))
}

struct Field {
    name: String,
    kind: String,
    doc: String,
    default: Option<String>,
    min: Option<String>,
    max: Option<String>,
}

impl Field {
    fn key(&self) -> &str {
        self.name.strip_prefix("r#").unwrap_or(&self.name)
    }

    fn optional(&self) -> bool {
        let kind = self.kind.replace(' ', "");
        kind.starts_with("Option<") || kind.starts_with("::core::option::Option<") || kind.starts_with("std::option::")
    }
}

fn fields(body: TokenStream) -> Result<Vec<Field>> {
    let mut found = Vec::new();
    for part in split_commas(body) {
        let span = part[0].span();
        let mut tokens = part.into_iter().peekable();
        let lead = leading(&mut tokens);
        let (Some(name), Some(colon)) = (tokens.next(), tokens.next()) else {
            return Err(Wrong(span, "expected `name: Type`".to_owned()));
        };
        if !is_punct(&colon, ':') {
            return Err(Wrong(colon.span(), "expected `name: Type`".to_owned()));
        }
        let kind: TokenStream = tokens.collect();
        let mut field = Field {
            name: name.to_string(),
            kind: kind.to_string(),
            doc: lead.doc,
            default: None,
            min: None,
            max: None,
        };
        for (argument, value) in pairs(lead.config.into_iter().collect(), &["default", "min", "max"])? {
            let value = Some(value.to_string());
            match argument.as_str() {
                "default" => field.default = value,
                "min" => field.min = value,
                _ => field.max = value,
            }
        }
        found.push(field);
    }
    Ok(found)
}

fn default_of(field: &Field) -> String {
    match &field.default {
        // A string literal becomes an owned string; anything else must already have the type.
        Some(value) if value.starts_with('"') => {
            format!("::core::option::Option::Some::<{}>(::std::convert::Into::into({value}))", field.kind)
        }
        Some(value) => format!("::core::option::Option::Some::<{}>({value})", field.kind),
        None if field.optional() => "::core::option::Option::Some(::core::option::Option::None)".to_owned(),
        None => "::core::option::Option::None".to_owned(),
    }
}

fn expand_struct(name: &str, head: &Leading, body: TokenStream) -> Result<String> {
    let fields = fields(body)?;
    let known: Vec<String> = fields.iter().map(|field| format!("{:?}", field.key())).collect();
    let mut schema = String::new();
    let mut takes = String::new();
    let mut json = String::new();
    for field in &fields {
        let (kind, key, default) = (&field.kind, field.key(), default_of(field));
        let mut extra = Vec::new();
        if field.default.is_some() {
            extra.push(format!(
                "(\"default\", match {default} {{ \
                 ::core::option::Option::Some(value) => ::luthier_filter::ConfigValue::to_json(&value), \
                 ::core::option::Option::None => ::std::string::String::from(\"null\") }})"
            ));
        }
        for (bound, word) in [(&field.min, "minimum"), (&field.max, "maximum")] {
            if let Some(bound) = bound {
                let value =
                    format!("{{ let bound: {kind} = {bound}; ::luthier_filter::ConfigValue::to_json(&bound) }}");
                extra.push(format!("({word:?}, {value})"));
            }
        }
        let required = field.default.is_none() && !field.optional();
        schema.push_str(&format!(
            "({key:?}, ::luthier_filter::field_schema(&<{kind} as ::luthier_filter::ConfigValue>::schema(), {:?}, \
             &[{}]), {required}),",
            field.doc,
            extra.join(",")
        ));
        let take = format!("fields.take::<{kind}>({key:?}, {default}, issues)");
        let take = if field.min.is_some() || field.max.is_some() {
            let bound = |bound: &Option<String>| match bound {
                Some(value) => format!("::core::option::Option::Some({value})"),
                None => "::core::option::Option::None".to_owned(),
            };
            format!(
                "{{ let value = {take}; fields.bound({key:?}, value, {}, {}, issues) }}",
                bound(&field.min),
                bound(&field.max)
            )
        } else {
            take
        };
        takes.push_str(&format!("let {} = {take};", field.name));
        json.push_str(&format!(
            "parts.push(::std::format!(\"{{}}:{{}}\", ::luthier_filter::Json::quote({key:?}), \
             ::luthier_filter::ConfigValue::to_json(&self.{})));",
            field.name
        ));
    }
    let made: Vec<String> = fields.iter().map(|field| format!("{0}: {0}?", field.name)).collect();
    Ok(format!(
        "#[automatically_derived]
        impl ::luthier_filter::ConfigValue for {name} {{
            fn schema() -> ::std::string::String {{
                ::luthier_filter::object_schema({doc:?}, &[{schema}])
            }}
            fn parse(
                json: &::luthier_filter::Json,
                path: &str,
                issues: &mut ::std::vec::Vec<::luthier_filter::Issue>,
            ) -> ::core::option::Option<Self> {{
                let fields = ::luthier_filter::Fields::new(json, path, &[{known}], issues)?;
                {takes}
                ::core::option::Option::Some(Self {{ {made} }})
            }}
            fn to_json(&self) -> ::std::string::String {{
                let mut parts: ::std::vec::Vec<::std::string::String> = ::std::vec::Vec::new();
                {json}
                ::std::format!(\"{{{{{{}}}}}}\", parts.join(\",\"))
            }}
        }}",
        doc = head.doc,
        known = known.join(","),
        made = made.join(","),
    ))
}

/// `TooLong` as `too-long`.
fn kebab(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('-');
        }
        out.extend(c.to_lowercase());
    }
    out
}

fn expand_enum(name: &str, head: &Leading, body: TokenStream) -> Result<String> {
    let mut variants = Vec::new();
    for part in split_commas(body) {
        let mut tokens = part.into_iter().peekable();
        let _ = leading(&mut tokens);
        let Some(variant) = tokens.next() else { continue };
        if let Some(token) = tokens.next() {
            return Err(Wrong(token.span(), "a variant of a configuration has no fields".to_owned()));
        }
        variants.push(variant.to_string());
    }
    let names: Vec<String> = variants.iter().map(|variant| kebab(variant)).collect();
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    let arms = |f: &dyn Fn(&str, &str) -> String| -> String {
        variants.iter().zip(&names).map(|(variant, name)| f(variant, name)).collect()
    };
    Ok(format!(
        "#[automatically_derived]
        impl ::luthier_filter::ConfigValue for {name} {{
            fn schema() -> ::std::string::String {{
                ::std::string::String::from({schema:?})
            }}
            fn parse(
                json: &::luthier_filter::Json,
                path: &str,
                issues: &mut ::std::vec::Vec<::luthier_filter::Issue>,
            ) -> ::core::option::Option<Self> {{
                let text = <::std::string::String as ::luthier_filter::ConfigValue>::parse(json, path, issues)?;
                match text.as_str() {{
                    {parse}
                    other => {{
                        issues.push(::luthier_filter::Issue::new(
                            path,
                            ::std::format!(\"`{{other}}` is not one of {list}\"),
                        ));
                        ::core::option::Option::None
                    }}
                }}
            }}
            fn to_json(&self) -> ::std::string::String {{
                ::luthier_filter::Json::quote(match self {{ {json} }})
            }}
        }}",
        schema = format!(
            "{{\"type\":\"string\",\"description\":\"{}\",\"enum\":[{}]}}",
            head.doc.replace('"', "'"),
            quoted.join(",")
        ),
        parse = arms(&|variant, name| format!("{name:?} => ::core::option::Option::Some(Self::{variant}),")),
        json = arms(&|variant, name| format!("Self::{variant} => {name:?},")),
        list = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
    ))
}
