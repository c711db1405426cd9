//! `${…}` in values.
//!
//! `${params.x}`, `${matrix.x}` and `${env.X}` are replaced. A scalar that is nothing but one reference takes the
//! value with its type; inside a longer text the value is written out. `${in.x}`, `${out.x}` and `${file.x}` are left
//! alone: they are paths, known only when a command runs. `$${` is a literal `${`, except before `in.`, `out.` and
//! `file.`, where the command that reads the reference also reads the escape.

use std::collections::BTreeMap;

use luthier_core::{nearest, quoted};

use super::diagnostic::Diagnostic;
use super::node::{Entry, Node, NodeValue};
use super::source::{SourceText, Span};

/// A parameter's value, and the environment it was made from.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamValue {
    pub value: Node,
    pub env: BTreeMap<String, String>,
}

/// Reads an environment variable; `None` if it is not set.
pub type ReadEnv<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What references may name.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    pub params: &'a BTreeMap<String, ParamValue>,
    /// The member's values; empty outside a matrix.
    pub matrix: &'a [(String, Node)],
    pub env: ReadEnv<'a>,
    /// What the values belong to, for messages: ``stage `train` ``.
    pub owner: &'a str,
}

/// Replaces references in values, and remembers which environment variables it read.
pub struct Interpolation<'a> {
    source: &'a SourceText,
    scope: Scope<'a>,
    pub env: BTreeMap<String, String>,
}

enum Reference<'t> {
    Value(&'t str, &'t str),
    /// `${in.x}`, `${out.x}` or `${file.x}`.
    Path,
}

impl<'a> Interpolation<'a> {
    #[must_use]
    pub const fn new(source: &'a SourceText, scope: Scope<'a>) -> Self {
        Self { source, scope, env: BTreeMap::new() }
    }

    /// The value with all references replaced. A reference that cannot be is reported and becomes null.
    pub fn node(&mut self, node: &Node, problems: &mut Vec<Diagnostic>) -> Node {
        let value = match &node.value {
            NodeValue::Text(text) if text.contains("${") => return self.text(text, node.span, problems),
            NodeValue::List(items) => NodeValue::List(items.iter().map(|item| self.node(item, problems)).collect()),
            NodeValue::Map(entries) => NodeValue::Map(
                entries
                    .iter()
                    .map(|entry| Entry {
                        key: entry.key.clone(),
                        key_span: entry.key_span,
                        value: self.node(&entry.value, problems),
                    })
                    .collect(),
            ),
            scalar => scalar.clone(),
        };
        Node::new(value, node.span)
    }

    fn text(&mut self, text: &str, span: Span, problems: &mut Vec<Diagnostic>) -> Node {
        let mut built = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, from) = rest.split_at(at);
            if let Some(before) = before.strip_suffix('$') {
                // The command that reads `${in.x}` reads its escape too.
                let path = from.find('}').is_some_and(|end| matches!(classify(&from[..=end]), Some(Reference::Path)));
                built.push_str(before);
                built.push_str(if path { "$${" } else { "${" });
                rest = &from[2..];
                continue;
            }
            let Some(length) = from.find('}') else {
                problems.push(
                    Diagnostic::new("spec::reference", "`${` is not closed by `}`")
                        .at(self.place(span, from), "opened here")
                        .hint("write `$${` for a literal `${`"),
                );
                return Node::new(NodeValue::Null, span);
            };
            let (written, after) = from.split_at(length + 1);
            built.push_str(before);
            rest = after;
            match classify(written) {
                Some(Reference::Path) => built.push_str(written),
                Some(Reference::Value(space, name)) => {
                    let place = self.place(span, written);
                    let Some(value) = self.lookup(space, name, written, place, problems) else {
                        return Node::new(NodeValue::Null, span);
                    };
                    if written == text {
                        return value.moved_to(span);
                    }
                    let Some(value_text) = value.scalar_text() else {
                        let message = format!("`{written}` is {}, which cannot be part of a text", value.describe());
                        problems.push(
                            Diagnostic::new("spec::reference", message)
                                .at(place, "inside a longer text")
                                .hint("use it as the whole value"),
                        );
                        return Node::new(NodeValue::Null, span);
                    };
                    built.push_str(&value_text);
                }
                None => {
                    problems.push(self.unknown_space(written, span));
                    return Node::new(NodeValue::Null, span);
                }
            }
        }
        built.push_str(rest);
        Node::new(NodeValue::Text(built), span)
    }

    fn lookup(
        &mut self,
        space: &str,
        name: &str,
        written: &str,
        place: Span,
        problems: &mut Vec<Diagnostic>,
    ) -> Option<Node> {
        match space {
            "params" => {
                if let Some(param) = self.scope.params.get(name) {
                    self.env.extend(param.env.clone());
                    return Some(param.value.clone());
                }
                let known = self.scope.params.keys().map(String::as_str);
                problems.push(self.unknown(name, written, "params", known, place));
                None
            }
            "matrix" => {
                let found = self.scope.matrix.iter().find(|(key, _)| key == name);
                if found.is_none() {
                    let known = self.scope.matrix.iter().map(|(key, _)| key.as_str());
                    problems.push(self.unknown(name, written, "matrix", known, place));
                }
                found.map(|(_, value)| value.clone())
            }
            _ => {
                let Some(value) = (self.scope.env)(name) else {
                    problems.push(
                        Diagnostic::new(
                            "spec::env",
                            format!("{} needs the environment variable `{name}`, which is not set", self.scope.owner),
                        )
                        .at(place, "not set")
                        .hint(format!("set it, as in `{name}=… luthier run {}`", self.source.file())),
                    );
                    return None;
                };
                self.env.insert(name.to_owned(), value.clone());
                Some(Node::new(NodeValue::Text(value), place))
            }
        }
    }

    fn unknown<'k>(
        &self,
        name: &str,
        written: &str,
        space: &str,
        known: impl Iterator<Item = &'k str> + Clone,
        place: Span,
    ) -> Diagnostic {
        let hint = match nearest(name, known.clone()) {
            Some(near) => format!("did you mean `${{{space}.{near}}}`?"),
            None if known.clone().next().is_none() && space == "matrix" => {
                format!("give {} a `matrix:` with `{name}`", self.scope.owner)
            }
            None if known.clone().next().is_none() => format!("add `{name}` with a default under `params:`"),
            None => format!("`{space}` has {}", quoted(known)),
        };
        let message = format!("{} uses `{written}`, but `{space}` has no `{name}`", self.scope.owner);
        Diagnostic::new("spec::reference", message).at(place, "unknown name").hint(hint)
    }

    fn unknown_space(&self, written: &str, span: Span) -> Diagnostic {
        let inner = written.trim_start_matches("${").trim_end_matches('}').trim();
        let hint = if self.scope.params.contains_key(inner) {
            format!("did you mean `${{params.{inner}}}`?")
        } else if let Some((space, rest)) = inner.split_once('.')
            && let Some(near) = nearest(space, ["params", "env", "matrix", "in", "out", "file"])
        {
            if near == space {
                "names in references are of a-z, A-Z, 0-9, `_` and `-`".to_owned()
            } else {
                format!("did you mean `${{{near}.{rest}}}`?")
            }
        } else {
            "write `${params.x}`, `${env.X}` or `${matrix.x}`; for a literal `${` write `$${`".to_owned()
        };
        Diagnostic::new("spec::reference", format!("`{written}` is not a reference"))
            .at(self.place(span, written), "unknown reference")
            .hint(hint)
    }

    /// The bytes of a reference inside a scalar, or the scalar's if escapes or folding hide it.
    fn place(&self, span: Span, written: &str) -> Span {
        let line = written.lines().next().unwrap_or_default();
        match self.source.slice(span).find(line) {
            Some(at) if !line.is_empty() => Span::new(span.start + at, span.start + at + line.len()),
            _ => span,
        }
    }
}

fn classify(written: &str) -> Option<Reference<'_>> {
    let inner = written.strip_prefix("${")?.strip_suffix('}')?;
    let (space, name) = inner.split_once('.')?;
    let well_formed = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    match space {
        _ if !well_formed => None,
        "params" | "matrix" | "env" => Some(Reference::Value(space, name)),
        "in" | "out" | "file" => Some(Reference::Path),
        _ => None,
    }
}
