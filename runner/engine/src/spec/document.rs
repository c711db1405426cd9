//! What a pipeline file says, checked for shape and not yet for sense: names, kinds and references come later.

use luthier_core::{StageId, nearest, quoted};

use super::diagnostic::Diagnostic;
use super::node::{Entry, Node, NodeValue};
use super::source::Span;

/// The version of the format that this build reads.
pub const FORMAT_VERSION: i64 = 1;

/// Keys of a pipeline, in the order they are usually written.
pub const PIPELINE_KEYS: [&str; 7] = ["luthier", "name", "about", "remote", "params", "executor", "stages"];
/// Keys of a stage, in the order they are usually written.
pub const STAGE_KEYS: [&str; 9] = ["uses", "about", "in", "with", "matrix", "env", "resources", "executor", "retries"];

const FIRST_STAGE: &str = "add a stage, as in `stages: {raw: {uses: ingest, with: {files: [data.jsonl]}}}`";

/// A text with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spanned {
    pub text: String,
    pub span: Span,
}

/// A parameter with its default.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamSpec {
    pub name: String,
    pub span: Span,
    pub value: Node,
}

/// A block of a stage: its key's place and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    pub key_span: Span,
    pub value: Node,
}

/// A stage as written.
#[derive(Debug, Clone, PartialEq)]
pub struct StageSpec {
    pub id: StageId,
    pub span: Span,
    /// `None` if missing or not a text, which has been reported.
    pub uses: Option<Spanned>,
    pub about: Option<String>,
    pub inputs: Option<Block>,
    pub with: Option<Block>,
    pub matrix: Option<Block>,
    pub env: Option<Block>,
    pub resources: Option<Block>,
    pub executor: Option<Block>,
    pub retries: Option<Block>,
}

/// A pipeline as written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PipelineSpec {
    pub name: Option<String>,
    /// Where results are shared, with references not yet replaced.
    pub remote: Option<Block>,
    pub params: Vec<ParamSpec>,
    /// The key `params`, if it is there.
    pub params_span: Option<Span>,
    /// Where stages execute that do not say so themselves.
    pub executor: Option<Block>,
    pub stages: Vec<StageSpec>,
}

/// Reads a document; what can be read is returned even if there are problems.
pub fn read(root: &Node, problems: &mut Vec<Diagnostic>) -> PipelineSpec {
    let mut spec = PipelineSpec::default();
    let Some(entries) = root.entries() else {
        problems.push(
            Diagnostic::new("spec::wrong_type", format!("a pipeline is a mapping, found {}", root.describe()))
                .at(first_byte(root.span), "expected `luthier: 1` and `stages:`"),
        );
        return spec;
    };
    let mut version = false;
    let mut stages = false;
    for entry in entries {
        match entry.key.as_str() {
            "luthier" => {
                version = true;
                check_version(entry, problems);
            }
            "name" => spec.name = text(entry, problems).map(|name| name.text),
            "about" => drop(text(entry, problems)),
            "remote" => {
                if text(entry, problems).is_some() {
                    spec.remote = Some(Block { key_span: entry.key_span, value: entry.value.clone() });
                }
            }
            "params" => {
                spec.params_span = Some(entry.key_span);
                read_params(entry, &mut spec.params, problems);
            }
            "executor" => spec.executor = Some(Block { key_span: entry.key_span, value: entry.value.clone() }),
            "stages" => {
                stages = true;
                read_stages(entry, &mut spec.stages, problems);
            }
            _ => problems.push(unknown_key(entry, "a pipeline", &PIPELINE_KEYS)),
        }
    }
    let start = entries.first().map_or(root.span, |entry| entry.key_span);
    if !version {
        problems.push(
            Diagnostic::new("spec::missing_key", "missing key `luthier`, the version of the format")
                .at(start, "expected before this")
                .hint(format!("begin the file with `luthier: {FORMAT_VERSION}`")),
        );
    }
    if !stages {
        problems.push(
            Diagnostic::new("spec::missing_key", "missing key `stages`").at(start, "in this pipeline").hint(
                "add `stages:` with at least one stage, such as `raw: {uses: ingest, with: {files: [data.jsonl]}}`",
            ),
        );
    }
    spec
}

fn check_version(entry: &Entry, problems: &mut Vec<Diagnostic>) {
    let found = match &entry.value.value {
        NodeValue::Number(number) => number.as_i64(),
        _ => None,
    };
    if found == Some(FORMAT_VERSION) {
        return;
    }
    let problem = match found {
        Some(newer) if newer > FORMAT_VERSION => Diagnostic::new(
            "spec::version",
            format!("format version {newer} is newer than this build, which reads {FORMAT_VERSION}"),
        )
        .hint("use a newer luthier"),
        _ => Diagnostic::new(
            "spec::version",
            format!("expected `luthier: {FORMAT_VERSION}`, found {}", entry.value.describe()),
        )
        .hint(format!("write `luthier: {FORMAT_VERSION}`")),
    };
    problems.push(problem.at(entry.value.span, "unknown version"));
}

fn read_params(entry: &Entry, params: &mut Vec<ParamSpec>, problems: &mut Vec<Diagnostic>) {
    if entry.value.is_null() {
        return;
    }
    let Some(entries) = mapping(entry, "parameter names and their defaults", problems) else { return };
    for entry in entries {
        if is_name(&entry.key) {
            params.push(ParamSpec { name: entry.key.clone(), span: entry.key_span, value: entry.value.clone() });
        } else {
            problems.push(bad_name("parameter", &entry.key, entry.key_span));
        }
    }
}

fn read_stages(entry: &Entry, stages: &mut Vec<StageSpec>, problems: &mut Vec<Diagnostic>) {
    let Some(entries) = mapping(entry, "stage names and what they do", problems) else { return };
    if entries.is_empty() {
        problems.push(
            Diagnostic::new("spec::missing_key", "a pipeline needs at least one stage")
                .at(entry.key_span, "no stages")
                .hint(FIRST_STAGE),
        );
    }
    stages.reserve(entries.len());
    for entry in entries {
        match StageId::new(entry.key.as_str()) {
            Ok(id) if is_name(&entry.key) => {
                if let Some(stage) = read_stage(id, entry, problems) {
                    stages.push(stage);
                }
            }
            _ => problems.push(bad_name("stage", &entry.key, entry.key_span)),
        }
    }
}

fn read_stage(id: StageId, entry: &Entry, problems: &mut Vec<Diagnostic>) -> Option<StageSpec> {
    let what = format!("stage `{id}`");
    let mut stage = StageSpec {
        id,
        span: entry.key_span,
        uses: None,
        about: None,
        inputs: None,
        with: None,
        matrix: None,
        env: None,
        resources: None,
        executor: None,
        retries: None,
    };
    let Some(keys) = entry.value.entries() else {
        problems.push(
            Diagnostic::new("spec::wrong_type", format!("{what} must be a mapping, found {}", entry.value.describe()))
                .at(first_line(entry), "expected `uses: KIND`"),
        );
        return Some(stage);
    };
    let mut uses = false;
    for key in keys {
        let block = || Some(Block { key_span: key.key_span, value: key.value.clone() });
        match key.key.as_str() {
            "uses" => {
                uses = true;
                stage.uses = text(key, problems);
            }
            "about" => stage.about = text(key, problems).map(|about| about.text),
            "in" => stage.inputs = block(),
            "with" => {
                if mapping_or_null(key, "the parameters of the stage", problems) {
                    stage.with = block();
                } else {
                    // Without its parameters nothing more can be said about the stage.
                    stage.uses = None;
                    uses = true;
                }
            }
            "matrix" => stage.matrix = block(),
            "env" => stage.env = block(),
            "resources" => stage.resources = block(),
            "executor" => stage.executor = block(),
            "retries" => stage.retries = block(),
            _ => problems.push(unknown_key(key, &what, &STAGE_KEYS)),
        }
    }
    if !uses {
        problems.push(
            Diagnostic::new("spec::missing_key", format!("{what} does not say which kind it is"))
                .at(entry.key_span, "missing key `uses`")
                .hint("add `uses: KIND`; `luthier stages` lists the kinds"),
        );
    }
    Some(stage)
}

/// Whether a text may name a stage or a parameter. Stages of a matrix get `@…` from the runner.
#[must_use]
pub fn is_name(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

pub(crate) fn bad_name(what: &str, name: &str, span: Span) -> Diagnostic {
    Diagnostic::new("spec::name", format!("`{name}` is not {} {what} name", if what == "input" { "an" } else { "a" }))
        .at(span, "not a name")
        .hint("use 1 to 64 of a-z, A-Z, 0-9, `_` and `-`, starting with a letter or `_`")
}

pub(crate) fn unknown_key(entry: &Entry, owner: &str, known: &[&str]) -> Diagnostic {
    let hint = match nearest(&entry.key, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known keys are {}", quoted(known.iter().copied())),
    };
    Diagnostic::new("spec::unknown_key", format!("{owner} has no key `{}`", entry.key))
        .at(entry.key_span, "unknown key")
        .hint(hint)
}

fn text(entry: &Entry, problems: &mut Vec<Diagnostic>) -> Option<Spanned> {
    match entry.value.text() {
        Some(text) => Some(Spanned { text: text.to_owned(), span: entry.value.span }),
        None => {
            let message = format!("`{}` must be a text, found {}", entry.key, entry.value.describe());
            problems.push(Diagnostic::new("spec::wrong_type", message).at(first_line(entry), "expected a text"));
            None
        }
    }
}

fn mapping<'a>(entry: &'a Entry, of: &str, problems: &mut Vec<Diagnostic>) -> Option<&'a [Entry]> {
    let entries = entry.value.entries();
    if entries.is_none() {
        let message = format!("`{}` must be a mapping of {of}, found {}", entry.key, entry.value.describe());
        problems.push(Diagnostic::new("spec::wrong_type", message).at(first_line(entry), "expected a mapping"));
    }
    entries
}

fn mapping_or_null(entry: &Entry, of: &str, problems: &mut Vec<Diagnostic>) -> bool {
    entry.value.is_null() || mapping(entry, of, problems).is_some()
}

/// Where to point for a value of the wrong type: a scalar itself, a block at its key.
fn first_line(entry: &Entry) -> Span {
    if entry.value.is_scalar() { entry.value.span } else { entry.key_span }
}

fn first_byte(span: Span) -> Span {
    Span::new(span.start, span.start)
}
