//! The keys of a foreign file, each taken once.

use luthier_core::Registry;
use luthier_engine::spec::{Diagnostic, Entry, Node, NodeValue, SourceText, Span};
use serde_json::Value;

use super::note::{Fate, Note};

/// Reads keys and remembers what became of each.
pub struct Settings<'a> {
    source: &'a SourceText,
    root: Span,
    entries: Vec<(&'a Entry, bool)>,
    /// The schema of `with` of a training, as far as this build has it.
    train: Value,
    carried: usize,
    notes: Vec<Note>,
    problems: Vec<Diagnostic>,
}

/// Why keys are of no consequence here, by their beginnings or whole.
pub type Needless = &'static [(&'static str, &'static [&'static str])];

impl<'a> Settings<'a> {
    pub fn new(source: &'a SourceText, root: &'a Node, registry: &Registry) -> Result<Self, Vec<Diagnostic>> {
        let Some(entries) = root.entries() else {
            return Err(vec![
                Diagnostic::new(
                    "import::no_mapping",
                    format!("a configuration is a mapping, found {}", root.describe()),
                )
                .at(root.span, "here")
                .hint("name the YAML file that the trainer is started with"),
            ]);
        };
        let train = registry.get("train").map(|stage| stage.schema()).unwrap_or_default();
        Ok(Self {
            source,
            root: root.span,
            entries: entries.iter().map(|entry| (entry, false)).collect(),
            train,
            carried: 0,
            notes: Vec::new(),
            problems: Vec::new(),
        })
    }

    fn line(&self, span: Span) -> u64 {
        self.source.location(span).line
    }

    /// Whether the key is written, with a value that says anything.
    pub fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(entry, _)| entry.key == key && !entry.value.is_null())
    }

    /// The value of a key, which counts as carried; nothing for one that is absent or empty.
    pub fn take(&mut self, key: &str) -> Option<&'a Node> {
        let (entry, taken) = self.entries.iter_mut().find(|(entry, _)| entry.key == key)?;
        let entry = *entry;
        if std::mem::replace(taken, true) || entry.value.is_null() {
            return None;
        }
        self.carried += 1;
        Some(&entry.value)
    }

    pub fn text(&mut self, key: &str) -> Option<&'a str> {
        let node = self.take(key)?;
        let text = node.text();
        if text.is_none() {
            self.wrong(key, node, "a text");
        }
        text
    }

    pub fn flag(&mut self, key: &str) -> Option<bool> {
        let node = self.take(key)?;
        match &node.value {
            NodeValue::Bool(flag) => Some(*flag),
            _ => {
                self.wrong(key, node, "`true` or `false`");
                None
            }
        }
    }

    /// A number, also one in quotes, as `"1e-4"` is in YAML 1.1.
    pub fn number(&mut self, key: &str) -> Option<f64> {
        let node = self.take(key)?;
        let number = match &node.value {
            NodeValue::Number(number) => number.as_f64(),
            NodeValue::Text(text) => text.trim().parse().ok().filter(|number: &f64| number.is_finite()),
            _ => None,
        };
        if number.is_none() {
            self.wrong(key, node, "a number");
        }
        number
    }

    pub fn integer(&mut self, key: &str) -> Option<u64> {
        let number = self.number(key)?;
        if number >= 0.0 && number.fract() == 0.0 && number < 9e15 {
            return Some(number as u64);
        }
        let span =
            self.entries.iter().find(|(entry, _)| entry.key == key).map_or(self.root, |(entry, _)| entry.value.span);
        self.problems.push(
            Diagnostic::new("import::value", format!("`{key}` is `{number}`, expected a whole number"))
                .at(span, "not a whole number")
                .hint(format!("write a whole number, or remove `{key}`")),
        );
        None
    }

    pub fn wrong(&mut self, key: &str, node: &Node, expected: &str) {
        self.problems.push(
            Diagnostic::new("import::value", format!("`{key}` is {}, expected {expected}", node.describe()))
                .at(node.span, format!("expected {expected}"))
                .hint(format!("give {expected}, or remove `{key}`")),
        );
    }

    /// A key that must be there.
    pub fn missing(&mut self, key: &str, what: &str, example: &str) {
        self.problems.push(
            Diagnostic::new("import::missing", format!("there is no `{key}`, {what}"))
                .at(Span::new(self.root.start, self.root.start), "nothing to make a pipeline from")
                .hint(format!("add it, as in `{example}`")),
        );
    }

    /// A value that was taken and could not be carried, or not as it was.
    pub fn lost(&mut self, key: &str, why: impl Into<String>) {
        self.carried = self.carried.saturating_sub(1);
        self.note(key, Fate::NotCarried, why);
    }

    pub fn note(&mut self, key: &str, fate: Fate, why: impl Into<String>) {
        let head = key.split(['.', '[']).next().unwrap_or(key);
        let line =
            self.entries.iter().find(|(entry, _)| entry.key == head).map_or(0, |(entry, _)| self.line(entry.key_span));
        self.notes.push(Note { line, key: key.to_owned(), fate, why: why.into() });
    }

    /// Takes keys that say what is always so here, or nothing to the result.
    pub fn needless(&mut self, groups: Needless) {
        for (why, names) in groups {
            for index in 0..self.entries.len() {
                let (entry, taken) = self.entries[index];
                let fits = |name: &&str| match name.strip_suffix('*') {
                    Some(start) => entry.key.starts_with(start),
                    None => entry.key == **name,
                };
                if !taken && names.iter().any(fits) {
                    self.entries[index].1 = true;
                    if !off(&entry.value) {
                        self.note(&entry.key.clone(), Fate::NotNeeded, *why);
                    }
                }
            }
        }
    }

    /// Takes keys whose loss may change the result, unless they are switched off.
    pub fn unsupported(&mut self, groups: Needless) {
        for (why, names) in groups {
            for index in 0..self.entries.len() {
                let (entry, taken) = self.entries[index];
                if !taken && names.contains(&entry.key.as_str()) {
                    self.entries[index].1 = true;
                    if !off(&entry.value) {
                        self.note(&entry.key.clone(), Fate::NotCarried, *why);
                    }
                }
            }
        }
    }

    /// Whether `train` of this build has a parameter, and takes this value where it is one of several words.
    pub fn offers(&self, parameter: &str, value: &Value) -> bool {
        let Some(schema) = self.train["properties"].get(parameter) else { return false };
        let words = schema.to_string();
        match value.as_str() {
            Some(word) if words.contains("\"const\"") || words.contains("\"enum\"") => {
                words.contains(&format!("\"{word}\""))
            }
            _ => true,
        }
    }

    /// What nobody took.
    pub fn leftover(&mut self) {
        for index in 0..self.entries.len() {
            let (entry, taken) = self.entries[index];
            if !taken && !off(&entry.value) {
                self.note(&entry.key.clone(), Fate::NotCarried, "not a key that this importer knows");
            }
        }
    }

    pub fn finish(self) -> (usize, Vec<Note>, Vec<Diagnostic>) {
        (self.carried, self.notes, self.problems)
    }
}

/// Whether a value asks for nothing.
fn off(node: &Node) -> bool {
    match &node.value {
        NodeValue::Null | NodeValue::Bool(false) => true,
        NodeValue::Number(number) => number.as_f64() == Some(0.0),
        NodeValue::Text(text) => text.is_empty() || text == "none" || text == "no",
        NodeValue::List(items) => items.is_empty(),
        NodeValue::Map(entries) => entries.is_empty(),
        NodeValue::Bool(true) => false,
    }
}
