//! YAML text to a tree of [`Node`]s. The only module that names the YAML crate.
//!
//! The parser's events are read rather than its serde side, because only events give keys, values and duplicates their
//! exact bytes. What a hostile file may cost is bounded: nesting by [`MAX_DEPTH`], copies made by aliases by
//! [`MAX_ALIASED_NODES`]; building the tree needs no recursion.
//!
//! One liberty is taken with YAML: `${name.x}` may stand unquoted inside `{…}` and `[…]`, where its braces would end
//! the value. Its two braces are hidden from the parser and put back into the scalar.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_saphyr::granit_parser::{Event, Options, Parser, ScalarStyle, Span as ParserSpan, Tag};

use super::diagnostic::Diagnostic;
use super::node::{Entry, Node, NodeValue};
use super::scalar;
use super::source::{SourceText, Span};

/// Nested lists and mappings, aliases counted with what they stand for.
pub const MAX_DEPTH: usize = 100;
/// Values that aliases and merge keys may copy, all together.
pub const MAX_ALIASED_NODES: usize = 100_000;

/// Stand-ins for the braces of `${…}`; a file that contains them itself is read without the liberty.
const HIDDEN_OPEN: char = '\u{10fffc}';
const HIDDEN_CLOSE: char = '\u{10fffd}';

/// Parses one document.
///
/// # Errors
/// All errors up to the first that leaves no way to go on.
pub fn parse(source: &SourceText) -> Result<Node, Vec<Diagnostic>> {
    let text = source.text();
    let hidden = hide_references(text);
    let mut builder = Builder::new(text, matches!(hidden, Cow::Owned(_)));
    let mut options = Options::default();
    options.emit_comments = false;
    options.emit_unresolved_aliases = true;
    let mut documents = 0usize;
    for event in Parser::new_from_str_with_options(&hidden, options) {
        let (event, span) = match event {
            Ok(event) => event,
            Err(error) => {
                let at = builder.positions.byte(error.marker().index());
                builder.problems.push(scan_problem(text, at, &error.info()));
                return Err(builder.problems);
            }
        };
        if let Event::DocumentStart(..) = event {
            documents += 1;
            if documents > 1 {
                let start = builder.span(span).start;
                let marker = if text[start..].starts_with("---") { 3 } else { 0 };
                builder.problems.push(
                    Diagnostic::new("spec::yaml", "a pipeline file holds one document, but here a second one begins")
                        .at(Span::new(start, start + marker), "second document")
                        .hint("move it to a file of its own, or remove the `---`"),
                );
                return Err(builder.problems);
            }
        }
        if builder.event(event, span).is_err() {
            return Err(builder.problems);
        }
    }
    match (builder.root, builder.problems.is_empty()) {
        (Some(root), true) => Ok(root),
        (None, true) => Err(vec![
            Diagnostic::new("spec::empty", "the file is empty, but a pipeline was expected")
                .at(Span::default(), "nothing here")
                .hint("write one with `luthier init --force`"),
        ]),
        (_, false) => Err(builder.problems),
    }
}

/// One value as it would stand in a pipeline file, for `-p name=value`: a quoted text, `[…]`, `{…}`, or a plain scalar
/// that may hold any characters.
///
/// # Errors
/// What is wrong with it, as a fragment.
pub fn parse_value(text: &str) -> Result<NodeValue, String> {
    let trimmed = text.trim();
    if !trimmed.starts_with(['[', '{', '"', '\'']) {
        return scalar::resolve(trimmed);
    }
    let source = SourceText::new("", trimmed);
    match parse(&source) {
        Ok(node) => Ok(node.value),
        Err(problems) => Err(problems.into_iter().next().map(|problem| problem.message).unwrap_or_default()),
    }
}

fn scan_problem(text: &str, at: usize, info: &str) -> Diagnostic {
    let line_start = text[..at].rfind('\n').map_or(0, |index| index + 1);
    let line = text[line_start..].lines().next().unwrap_or_default();
    let indentation = &line[..line.len() - line.trim_start().len()];
    let hint = if indentation.contains('\t') {
        Some("YAML is indented with spaces; replace the tab at the start of this line".to_owned())
    } else if info.contains("mapping values are not allowed") {
        Some("a value that contains `: ` must be quoted".to_owned())
    } else if info.contains("unclosed") {
        Some("close it, or quote the text if the character is meant literally".to_owned())
    } else {
        None
    };
    Diagnostic::new("spec::yaml", format!("not valid YAML: {info}")).at(first_char(text, at), "here").hint_if(hint)
}

/// The character at a byte.
fn first_char(text: &str, at: usize) -> Span {
    Span::new(at, at + text[at..].chars().next().map_or(0, char::len_utf8))
}

/// Replaces the braces of `${letter…}` (on one line) by stand-ins, character for character.
fn hide_references(text: &str) -> Cow<'_, str> {
    if !text.contains("${") || text.contains([HIDDEN_OPEN, HIDDEN_CLOSE]) {
        return Cow::Borrowed(text);
    }
    let mut hidden = String::with_capacity(text.len() + 64);
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, reference) = rest.split_at(at);
        hidden.push_str(before);
        let inner = &reference[2..];
        let length = inner.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')));
        match length {
            Some(length) if length > 0 && inner[length..].starts_with('}') => {
                hidden.push('$');
                hidden.push(HIDDEN_OPEN);
                hidden.push_str(&inner[..length]);
                hidden.push(HIDDEN_CLOSE);
                rest = &inner[length + 1..];
            }
            _ => {
                hidden.push_str("${");
                rest = inner;
            }
        }
    }
    hidden.push_str(rest);
    Cow::Owned(hidden)
}

/// Character indices, which the stand-ins leave alone, to byte offsets of the text.
enum Positions {
    Ascii(usize),
    Bytes(Vec<usize>),
}

impl Positions {
    fn new(text: &str) -> Self {
        if text.is_ascii() {
            Self::Ascii(text.len())
        } else {
            Self::Bytes(text.char_indices().map(|(index, _)| index).chain(std::iter::once(text.len())).collect())
        }
    }

    fn byte(&self, index: usize) -> usize {
        match self {
            Self::Ascii(length) => index.min(*length),
            Self::Bytes(bytes) => bytes.get(index).or(bytes.last()).copied().unwrap_or(0),
        }
    }
}

struct Anchored {
    node: Node,
    nodes: usize,
    depth: usize,
}

struct Key {
    text: String,
    span: Span,
    merge: bool,
}

enum Content {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, merges: Vec<(Span, Node)>, key: Option<Key> },
}

struct Frame {
    content: Content,
    start: usize,
    anchor: usize,
    /// A collection in the place of a key: reported, built and dropped.
    as_key: bool,
    depth: usize,
}

/// Nothing sensible can be read after this point; the reason is among the problems.
struct Fatal;

struct Builder<'t> {
    text: &'t str,
    restore: bool,
    positions: Positions,
    stack: Vec<Frame>,
    root: Option<Node>,
    anchors: BTreeMap<usize, Anchored>,
    aliased: usize,
    problems: Vec<Diagnostic>,
}

impl<'t> Builder<'t> {
    fn new(text: &'t str, restore: bool) -> Self {
        Self {
            text,
            restore,
            positions: Positions::new(text),
            stack: Vec::new(),
            root: None,
            anchors: BTreeMap::new(),
            aliased: 0,
            problems: Vec::new(),
        }
    }

    /// A parser span in bytes, without white space at its end (block scalars and blocks run on to the next token).
    fn span(&self, span: ParserSpan) -> Span {
        let start = self.positions.byte(span.start.index());
        let end = self.positions.byte(span.end.index()).max(start);
        let trimmed = self.text[start..end].trim_end().len();
        Span::new(start, start + trimmed)
    }

    fn expects_key(&self) -> bool {
        matches!(self.stack.last(), Some(Frame { content: Content::Map { key: None, .. }, .. }))
    }

    fn event(&mut self, event: Event<'_>, parser_span: ParserSpan) -> Result<(), Fatal> {
        let span = self.span(parser_span);
        match event {
            Event::Scalar(text, style, anchor, tag) => self.scalar(&text, style, anchor, tag.as_deref(), span),
            Event::SequenceStart(_, anchor, tag) => {
                self.tag_of_collection(tag.as_deref(), "seq", span);
                self.open(Content::List(Vec::new()), anchor, span)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.tag_of_collection(tag.as_deref(), "map", span);
                self.open(Content::Map { entries: Vec::new(), merges: Vec::new(), key: None }, anchor, span)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Alias(id) => self.alias(id, span),
            Event::UnresolvedAlias(name) => {
                let message = format!("alias `*{name}` refers to no anchor before it");
                self.problems.push(
                    Diagnostic::new("spec::alias", message)
                        .at(span, "unknown alias")
                        .hint(format!("mark the value it stands for with `&{name}`, or quote the text")),
                );
                self.put(Node::new(NodeValue::Null, span), 0)
            }
            _ => Ok(()),
        }
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        span: Span,
    ) -> Result<(), Fatal> {
        let text =
            if self.restore { text.replace(HIDDEN_OPEN, "{").replace(HIDDEN_CLOSE, "}") } else { text.to_owned() };
        if self.expects_key() && anchor == 0 {
            let merge = style == ScalarStyle::Plain && text == "<<";
            self.key(Key { text, span, merge });
            return Ok(());
        }
        let resolved = match tag {
            Some(tag) => tagged(tag, &text),
            None if style == ScalarStyle::Plain => scalar::resolve(&text),
            None => Ok(NodeValue::Text(text)),
        };
        let value = resolved.unwrap_or_else(|message| {
            self.problems.push(
                Diagnostic::new("spec::scalar", message)
                    .at(span, "this value")
                    .hint("quote it if a text is meant, else write a value that fits"),
            );
            NodeValue::Null
        });
        self.put(Node::new(value, span), anchor)
    }

    fn tag_of_collection(&mut self, tag: Option<&Tag>, expected: &str, span: Span) {
        if let Some(tag) = tag.filter(|tag| tag.core_suffix() != Some(expected)) {
            let message = format!("unknown tag `{}`", tag.original());
            let at = first_char(self.text, span.start);
            self.problems.push(Diagnostic::new("spec::tag", message).at(at, "").hint("remove the tag"));
        }
    }

    fn open(&mut self, content: Content, anchor: usize, span: Span) -> Result<(), Fatal> {
        if self.stack.len() >= MAX_DEPTH {
            self.problems.push(too_deep(span));
            return Err(Fatal);
        }
        let as_key = self.expects_key();
        if as_key {
            self.problems.push(
                Diagnostic::new("spec::key", "a key must be a plain text, not a list or a mapping")
                    .at(first_char(self.text, span.start), "used as a key")
                    .hint("quote it if text is meant; `{{ … }}` templates must be quoted"),
            );
        }
        self.stack.push(Frame { content, start: span.start, anchor, as_key, depth: 0 });
        Ok(())
    }

    fn close(&mut self, end: Span) -> Result<(), Fatal> {
        let Some(frame) = self.stack.pop() else { return Ok(()) };
        let (value, last) = match frame.content {
            Content::List(items) => {
                let last = items.last().map(|item| item.span.end);
                (NodeValue::List(items), last)
            }
            Content::Map { entries, merges, .. } => {
                let last = entries.last().map(|entry| entry.value.span.end.max(entry.key_span.end));
                (NodeValue::Map(self.finish_map(entries, merges)?), last)
            }
        };
        let end = end.end.max(frame.start);
        // A block ends where the next token begins; its last value says where it really ends.
        let end = match last {
            Some(last) if !self.text[..end].ends_with(['}', ']']) => last.clamp(frame.start, self.text.len()),
            _ => end,
        };
        let node = Node::new(value, Span::new(frame.start, end));
        if frame.as_key {
            self.key(Key { text: String::new(), span: node.span, merge: false });
            return Ok(());
        }
        let depth = frame.depth + 1;
        if frame.anchor != 0 {
            let nodes = count(&node);
            self.anchors.insert(frame.anchor, Anchored { node: node.clone(), nodes, depth });
        }
        self.attach(node, depth)
    }

    fn finish_map(&mut self, mut entries: Vec<Entry>, merges: Vec<(Span, Node)>) -> Result<Vec<Entry>, Fatal> {
        self.report_duplicates(&entries);
        if merges.is_empty() {
            return Ok(entries);
        }
        let mut known: std::collections::BTreeSet<String> = entries.iter().map(|entry| entry.key.clone()).collect();
        for (key_span, merged) in merges {
            let sources = match merged.value {
                NodeValue::List(items) => items,
                value => vec![Node::new(value, merged.span)],
            };
            for source in sources {
                let NodeValue::Map(more) = source.value else {
                    let message = format!("`<<` merges mappings, found {}", source.describe());
                    self.problems.push(
                        Diagnostic::new("spec::merge", message)
                            .at(source.span, "not a mapping")
                            .hint("write it like `<<: *anchor`, where `&anchor` marks a mapping"),
                    );
                    continue;
                };
                self.spend(more.len(), key_span)?;
                for entry in more {
                    if known.insert(entry.key.clone()) {
                        entries.push(entry);
                    }
                }
            }
        }
        Ok(entries)
    }

    fn report_duplicates(&mut self, entries: &[Entry]) {
        let mut order: Vec<usize> = (0..entries.len()).collect();
        order.sort_by(|a, b| entries[*a].key.cmp(&entries[*b].key).then(a.cmp(b)));
        for pair in order.windows(2) {
            let (first, second) = (&entries[pair[0]], &entries[pair[1]]);
            if first.key == second.key && !first.key.is_empty() {
                self.problems.push(
                    Diagnostic::new("spec::duplicate_key", format!("`{}` is given twice", second.key))
                        .at(second.key_span, "again here")
                        .at(first.key_span, "first given here")
                        .hint("remove one of them, or rename it"),
                );
            }
        }
    }

    fn key(&mut self, new: Key) {
        if let Some(Frame { content: Content::Map { key, .. }, .. }) = self.stack.last_mut() {
            *key = Some(new);
        }
    }

    fn alias(&mut self, id: usize, span: Span) -> Result<(), Fatal> {
        let Some(anchored) = self.anchors.get(&id) else {
            self.problems.push(
                Diagnostic::new("spec::alias", "an alias cannot stand inside the value it refers to")
                    .at(span, "refers to what contains it")
                    .hint("write out what is meant here"),
            );
            return self.put(Node::new(NodeValue::Null, span), 0);
        };
        if self.stack.len() + anchored.depth > MAX_DEPTH {
            self.problems.push(too_deep(span));
            return Err(Fatal);
        }
        let (nodes, depth) = (anchored.nodes, anchored.depth);
        self.spend(nodes, span)?;
        let node = self.anchors.get(&id).map(|anchored| anchored.node.clone());
        let Some(node) = node else { return Ok(()) };
        if self.expects_key() {
            match node.scalar_text() {
                Some(text) => self.key(Key { text, span, merge: false }),
                None => {
                    self.problems.push(
                        Diagnostic::new("spec::key", "a key must be a text")
                            .at(span, "used as a key")
                            .hint("write the key out"),
                    );
                    self.key(Key { text: String::new(), span, merge: false });
                }
            }
            return Ok(());
        }
        self.attach(node, depth)
    }

    fn spend(&mut self, nodes: usize, span: Span) -> Result<(), Fatal> {
        self.aliased += nodes;
        if self.aliased <= MAX_ALIASED_NODES {
            return Ok(());
        }
        let limit = crate::format::count(MAX_ALIASED_NODES as u64);
        self.problems.push(
            Diagnostic::new("spec::alias_budget", format!("the aliases of this file copy more than {limit} values"))
                .at(span, "the limit is passed here")
                .hint("write the values out, or use `params` and `matrix` instead of nested aliases"),
        );
        Err(Fatal)
    }

    /// A finished scalar.
    fn put(&mut self, node: Node, anchor: usize) -> Result<(), Fatal> {
        if anchor != 0 {
            self.anchors.insert(anchor, Anchored { node: node.clone(), nodes: 1, depth: 0 });
        }
        if self.expects_key() {
            let text = node.scalar_text().unwrap_or_default();
            self.key(Key { text, span: node.span, merge: false });
            return Ok(());
        }
        self.attach(node, 0)
    }

    fn attach(&mut self, mut node: Node, depth: usize) -> Result<(), Fatal> {
        let Some(frame) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        frame.depth = frame.depth.max(depth);
        match &mut frame.content {
            Content::List(items) => items.push(node),
            Content::Map { entries, merges, key } => {
                let Some(key) = key.take() else { return Ok(()) };
                if node.is_null() && node.span.start == node.span.end {
                    // A value that is not there is shown at its key.
                    node.span = key.span;
                }
                if key.merge {
                    merges.push((key.span, node));
                } else {
                    entries.push(Entry { key: key.text, key_span: key.span, value: node });
                }
            }
        }
        Ok(())
    }
}

fn too_deep(span: Span) -> Diagnostic {
    Diagnostic::new("spec::depth", format!("lists and mappings are nested deeper than {MAX_DEPTH}"))
        .at(Span::new(span.start, span.start), "the limit is passed here")
        .hint("no stage needs this; look for an unclosed bracket, or write the value flatter")
}

/// Values in a tree. Not recursive beyond [`MAX_DEPTH`].
fn count(node: &Node) -> usize {
    match &node.value {
        NodeValue::List(items) => 1 + items.iter().map(count).sum::<usize>(),
        NodeValue::Map(entries) => 1 + entries.iter().map(|entry| count(&entry.value)).sum::<usize>(),
        _ => 1,
    }
}

fn tagged(tag: &Tag, text: &str) -> Result<NodeValue, String> {
    let mismatch = |what: &str| Err(format!("`{text}` is tagged as {what}, but is not one"));
    match (tag.core_suffix(), scalar::resolve(text)) {
        (Some("str"), _) => Ok(NodeValue::Text(text.to_owned())),
        (None, _) if tag.original() == "!" => Ok(NodeValue::Text(text.to_owned())),
        (Some("int" | "float"), Err(message)) => Err(message),
        (Some("int"), Ok(NodeValue::Number(number))) if !number.is_f64() => Ok(NodeValue::Number(number)),
        (Some("int"), _) => mismatch("an integer"),
        (Some("float"), Ok(NodeValue::Number(number))) => {
            let float = number.as_f64().and_then(serde_json::Number::from_f64);
            Ok(NodeValue::Number(float.unwrap_or(number)))
        }
        (Some("float"), _) => mismatch("a number"),
        (Some("bool"), Ok(NodeValue::Bool(flag))) => Ok(NodeValue::Bool(flag)),
        (Some("bool"), _) => mismatch("true or false"),
        (Some("null"), Ok(NodeValue::Null)) => Ok(NodeValue::Null),
        (Some("null"), _) => mismatch("null"),
        _ => Err(format!("unknown tag `{}`", tag.original())),
    }
}
