//! A stage per combination of the values of `matrix:`.

use luthier_core::{StageId, quoted};

use crate::spec::{Diagnostic, Node, NodeValue, StageSpec, bad_name, is_name};

/// More members than this are a mistake.
const MAX_MEMBERS: usize = 10_000;

/// One stage of a group.
pub(super) struct Member {
    pub id: StageId,
    /// In written order; empty outside a matrix.
    pub values: Vec<(String, Node)>,
}

/// The members of a stage; one without values if it has no matrix. `matrix` is the block with references replaced.
/// `None` if the block is wrong, which is then reported.
pub(super) fn expand(spec: &StageSpec, matrix: Option<&Node>, problems: &mut Vec<Diagnostic>) -> Option<Vec<Member>> {
    let Some(matrix) = matrix else {
        return Some(vec![Member { id: spec.id.clone(), values: Vec::new() }]);
    };
    let before = problems.len();
    let axes = axes(spec, matrix, problems);
    if problems.len() > before {
        return None;
    }
    let count = axes.iter().try_fold(1usize, |count, (_, values)| count.checked_mul(values.len()));
    if count.is_none_or(|count| count > MAX_MEMBERS) {
        problems.push(
            Diagnostic::new(
                "spec::matrix",
                format!(
                    "the matrix of stage `{}` has more than {} combinations",
                    spec.id,
                    crate::format::count(MAX_MEMBERS as u64)
                ),
            )
            .at(key_span(spec), "too many")
            .hint("take fewer values, or split the stage into several"),
        );
        return None;
    }
    let mut members: Vec<Vec<(String, Node)>> = vec![Vec::new()];
    for (name, values) in &axes {
        members = members
            .iter()
            .flat_map(|member| {
                values.iter().map(move |value| {
                    let mut longer = member.clone();
                    longer.push((name.clone(), value.clone()));
                    longer
                })
            })
            .collect();
    }
    let named: Option<Vec<Member>> = members.into_iter().map(|values| name(spec, values, problems)).collect();
    let named = named?;
    let mut ids: Vec<&StageId> = named.iter().map(|member| &member.id).collect();
    ids.sort();
    if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
        problems.push(
            Diagnostic::new("spec::matrix", format!("two combinations of the matrix are both named `{}`", pair[0]))
                .at(key_span(spec), "same values")
                .hint("remove the value that is given twice"),
        );
        return None;
    }
    Some(named)
}

fn key_span(spec: &StageSpec) -> crate::spec::Span {
    spec.matrix.as_ref().map_or(spec.span, |matrix| matrix.key_span)
}

fn axes(spec: &StageSpec, matrix: &Node, problems: &mut Vec<Diagnostic>) -> Vec<(String, Vec<Node>)> {
    let wrong = |message: String, span, label: &str| {
        Diagnostic::new("spec::matrix", message).at(span, label).hint("write it like `matrix: {rank: [8, 16]}`")
    };
    let Some(entries) = matrix.entries() else {
        let message = format!("`matrix` must be a mapping of names to lists, found {}", matrix.describe());
        problems.push(wrong(message, key_span(spec), "expected a mapping"));
        return Vec::new();
    };
    if entries.is_empty() {
        problems.push(wrong(format!("the matrix of stage `{}` is empty", spec.id), key_span(spec), "no values"));
    }
    let mut axes = Vec::new();
    for entry in entries {
        if !is_name(&entry.key) {
            problems.push(bad_name("matrix", &entry.key, entry.key_span));
            continue;
        }
        match &entry.value.value {
            NodeValue::List(values) if !values.is_empty() => {
                for value in values.iter().filter(|value| !value.is_scalar() || value.is_null()) {
                    let message = format!("values of a matrix are numbers, texts or flags, found {}", value.describe());
                    problems.push(wrong(message, value.span, "not a single value"));
                }
                axes.push((entry.key.clone(), values.clone()));
            }
            NodeValue::List(_) => {
                problems.push(wrong(format!("`{}` has no values", entry.key), entry.key_span, "an empty list"));
            }
            // A reference that could not be replaced was reported.
            NodeValue::Null if entry.value.span != entry.key_span => axes.push((entry.key.clone(), Vec::new())),
            _ => {
                let message = format!("`{}` must be a list of values, found {}", entry.key, entry.value.describe());
                problems.push(wrong(message, entry.value.span, "expected a list"));
            }
        }
    }
    axes
}

fn name(spec: &StageSpec, values: Vec<(String, Node)>, problems: &mut Vec<Diagnostic>) -> Option<Member> {
    let parts: Vec<String> = values
        .iter()
        .map(|(name, value)| format!("{name}={}", plain(&value.scalar_text().unwrap_or_default())))
        .collect();
    let text = format!("{}@{}", spec.id, parts.join(","));
    match StageId::new(text) {
        Ok(id) => Some(Member { id, values }),
        Err(_) => {
            problems.push(
                Diagnostic::new(
                    "spec::matrix",
                    format!("a combination of the matrix of `{}` has too long a name", spec.id),
                )
                .at(key_span(spec), quoted(parts.iter().map(String::as_str)))
                .hint("use short values, such as names that the stage's parameters spell out"),
            );
            None
        }
    }
}

/// A value as an id can hold it.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+') { c } else { '-' })
        .collect()
}
