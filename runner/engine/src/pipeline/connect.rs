//! `in:` to edges: which stage, which output, which port, and whether the kinds fit.

use std::collections::BTreeSet;

use luthier_core::{ArtifactKind, ArtifactName, InputPort, OutputDecl, nearest, quoted};

use super::draft::{Draft, Drafts, Link};
use super::select::{Pattern, id_values, short_list};
use crate::spec::{Diagnostic, Node, NodeValue, Span, bad_name};

/// Searches among all names are made for so many errors and no more, so that a broken file of ten thousand stages is
/// still answered at once.
const MAX_SUGGESTIONS: usize = 20;

/// Fills `links` of every draft.
pub(super) fn connect(drafts: &mut Drafts<'_>, problems: &mut Vec<Diagnostic>) {
    let mut suggestions = MAX_SUGGESTIONS;
    let mut all = Vec::with_capacity(drafts.list.len());
    for draft in &drafts.list {
        let mut connector = Connector { drafts, draft, problems, links: Vec::new(), suggestions: &mut suggestions };
        connector.inputs();
        all.push(connector.links);
    }
    for (draft, links) in drafts.list.iter_mut().zip(all) {
        draft.links = links;
    }
}

/// A reference taken apart.
struct Found {
    members: Vec<usize>,
    /// As written after the dot.
    output: Option<String>,
}

/// A port to connect to; `None` stands for the free ports of a kind that takes any input.
type Port = Option<&'static InputPort>;

struct Connector<'a, 's> {
    drafts: &'a Drafts<'s>,
    draft: &'a Draft<'s>,
    problems: &'a mut Vec<Diagnostic>,
    links: Vec<Link>,
    suggestions: &'a mut usize,
}

impl Connector<'_, '_> {
    fn inputs(&mut self) {
        let Some(stage) = &self.draft.stage else { return };
        let ports = stage.inputs();
        let free = stage.accepts_any_input();
        let mut given: BTreeSet<&str> = BTreeSet::new();
        match self.draft.inputs.as_ref().map(|node| (&node.value, node)) {
            None => {}
            Some((NodeValue::Null, node)) if self.failed_reference(node) => return,
            Some((NodeValue::Null, _)) => {}
            Some((NodeValue::Map(entries), _)) => {
                for entry in entries {
                    let port = ports.iter().find(|port| port.name == entry.key);
                    if let Some(port) = port {
                        given.insert(port.name);
                    } else if !free {
                        // A misspelt input is not missing as well.
                        given.extend(self.unknown_port(&entry.key, entry.key_span, ports));
                        continue;
                    } else if ArtifactName::new(entry.key.as_str()).is_err() {
                        self.problems.push(bad_name("input", &entry.key, entry.key_span));
                        continue;
                    }
                    self.port(&entry.key, port, &entry.value);
                }
            }
            Some((_, node)) => match ports.iter().find(|port| port.required).or(ports.first()) {
                Some(port) => {
                    given.insert(port.name);
                    self.port(port.name, Some(port), node);
                }
                None if free => self.free_ports(node),
                None => {
                    let message = format!(
                        "stage `{}` takes no inputs: kind `{}` reads nothing",
                        self.draft.spec.id,
                        stage.kind()
                    );
                    self.problems.push(
                        Diagnostic::new("plan::unknown_input", message)
                            .at(self.draft.inputs_span(), "not expected")
                            .hint("remove `in:`"),
                    );
                }
            },
        }
        for port in ports.iter().filter(|port| port.required && !given.contains(port.name)) {
            self.missing(port, ports.len() > 1);
        }
    }

    /// A null that `${…}` left behind was reported.
    fn failed_reference(&self, node: &Node) -> bool {
        self.draft.spec.inputs.as_ref().is_some_and(|written| !written.value.is_null() && node.is_null())
    }

    /// `in: words` of a kind with free ports names each port after its stage.
    fn free_ports(&mut self, node: &Node) {
        let items = match &node.value {
            NodeValue::List(items) => items.as_slice(),
            _ => std::slice::from_ref(node),
        };
        for item in items {
            let Some(text) = self.reference_text(item) else { continue };
            let base = text.split(['@', '.']).next().unwrap_or_default().to_owned();
            self.port(&base, None, item);
        }
    }

    fn port(&mut self, name: &str, port: Port, node: &Node) {
        let items = match &node.value {
            NodeValue::List(items) => items.as_slice(),
            _ => std::slice::from_ref(node),
        };
        let before = self.links.len();
        for item in items {
            if let Some(text) = self.reference_text(item) {
                self.reference(name, port, text, item.span);
            }
        }
        let count = self.links.len() - before;
        if let Some(port) = port.filter(|port| !port.many && count > 1) {
            self.too_many(port, items, count);
            self.links.truncate(before + 1);
        }
        if items.is_empty() {
            let message = format!("input `{name}` of stage `{}` is an empty list", self.draft.spec.id);
            self.problems.push(
                Diagnostic::new("plan::missing_input", message)
                    .at(node.span, "nothing here")
                    .hint("name at least one stage"),
            );
        }
    }

    fn reference_text<'n>(&mut self, node: &'n Node) -> Option<&'n str> {
        let text = node.text();
        if text.is_none() && !(node.is_null() && self.draft.broken) {
            let message =
                format!("stage `{}` must name the stage that it reads, found {}", self.draft.spec.id, node.describe());
            self.problems.push(
                Diagnostic::new("spec::wrong_type", message)
                    .at(node.span, "expected `STAGE` or `STAGE.OUTPUT`")
                    .hint("write `in: STAGE`, `in: {PORT: STAGE.OUTPUT}` or `in: [STAGE, STAGE]`"),
            );
        }
        text
    }

    fn reference(&mut self, port_name: &str, port: Port, text: &str, span: Span) {
        let Some(found) = self.resolve(text, span) else { return };
        for target in found.members {
            let output = match &self.drafts.list[target].prepared {
                Some(prepared) => {
                    match self.output(target, &prepared.outputs, port, port_name, found.output.as_deref(), span) {
                        Some(output) => Some(output),
                        None => continue,
                    }
                }
                None => None,
            };
            self.links.push(Link { port: port_name.to_owned(), target, output, span });
        }
    }

    /// The stages that a reference means. `None` if there is none, which is then reported, or was.
    fn resolve(&mut self, text: &str, span: Span) -> Option<Found> {
        if let Some(found) = self.lookup(text) {
            return self.narrow(Found { members: found, output: None }, text, span);
        }
        // A stage's name has no dot, but the values of a matrix may.
        let split = if text.contains('@') { text.rsplit_once('.') } else { text.split_once('.') };
        if let Some((stage, output)) = split
            && let Some(found) = self.lookup(stage)
        {
            return self.narrow(Found { members: found, output: Some(output.to_owned()) }, text, span);
        }
        self.unknown_stage(text, span);
        None
    }

    fn lookup(&self, text: &str) -> Option<Vec<usize>> {
        let pattern = Pattern::new(text);
        let mut members = Vec::new();
        let mut known = false;
        let mut take = |group: &super::draft::Group| {
            known = known || group.members.is_empty();
            members.extend(
                group
                    .members
                    .clone()
                    .filter(|member| pattern.fits_values(id_values(self.drafts.list[*member].id.as_str()))),
            );
        };
        if pattern.is_glob() {
            for (name, group) in &self.drafts.groups {
                if pattern.fits_group(name) && *name != self.draft.spec.id.as_str() {
                    take(group);
                }
            }
        } else {
            take(self.drafts.groups.get(pattern.base)?);
        }
        (known || !members.is_empty()).then_some(members)
    }

    /// Two matrices with keys in common meet only where these have equal values.
    fn narrow(&mut self, found: Found, text: &str, span: Span) -> Option<Found> {
        if found.members.is_empty() {
            return None;
        }
        let mine = &self.draft.values;
        let agrees = |member: &usize| {
            let theirs = &self.drafts.list[*member].values;
            theirs.iter().all(|(name, value)| {
                mine.iter().find(|(mine, _)| mine == name).is_none_or(|(_, mine)| mine.value == value.value)
            })
        };
        let members: Vec<usize> = found.members.iter().copied().filter(agrees).collect();
        if !members.is_empty() || text.contains('@') {
            let members = if members.is_empty() { found.members } else { members };
            return Some(Found { members, ..found });
        }
        let message = format!("`{}` reads `{text}`, but no member of `{text}` has the same values", self.draft.id);
        let names: Vec<String> = found.members.iter().map(|member| self.drafts.list[*member].id.to_string()).collect();
        self.problems.push(Diagnostic::new("plan::unknown_stage", message).at(span, "no pair").hint(format!(
            "members are {}; name one, as in `{}`",
            short_list(&names),
            names[0]
        )));
        None
    }

    fn output(
        &mut self,
        target: usize,
        outputs: &[OutputDecl],
        port: Port,
        port_name: &str,
        named: Option<&str>,
        span: Span,
    ) -> Option<ArtifactName> {
        let producer = &self.drafts.list[target];
        let fits = |output: &OutputDecl| port.is_none_or(|port| port.accepts.contains(&output.kind));
        let names = || quoted(outputs.iter().map(|output| output.name.as_str()));
        let chosen = match named {
            Some(name) => match outputs.iter().find(|output| output.name.as_str() == name) {
                Some(output) => output,
                None => {
                    let message = format!(
                        "stage `{}` reads `{}.{name}`, but `{}` has no output `{name}`",
                        self.draft.spec.id, producer.spec.id, producer.spec.id
                    );
                    let near = nearest(name, outputs.iter().map(|output| output.name.as_str()));
                    let meant = near.map(|near| format!("; did you mean `{}.{near}`?", producer.spec.id));
                    self.problems.push(
                        Diagnostic::new("plan::unknown_output", message).at(span, "not an output").hint(format!(
                            "outputs of `{}` are {}{}",
                            producer.spec.id,
                            names(),
                            meant.unwrap_or_default()
                        )),
                    );
                    return None;
                }
            },
            None => match choose(outputs, producer.stage.as_ref().map_or("", |stage| stage.kind()), fits) {
                Some(output) => output,
                None => {
                    let message = format!(
                        "stage `{}` reads `{}`, which has several outputs",
                        self.draft.spec.id, producer.spec.id
                    );
                    let example = outputs.iter().find(|output| fits(output)).or(outputs.first());
                    let example = example.map(|output| format!("; write `{}.{}`", producer.spec.id, output.name));
                    self.problems.push(Diagnostic::new("plan::ambiguous_output", message).at(span, "which one?").hint(
                        format!("outputs of `{}` are {}{}", producer.spec.id, names(), example.unwrap_or_default()),
                    ));
                    return None;
                }
            },
        };
        if let Some(port) = port.filter(|_| !fits(chosen)) {
            self.mismatch(producer, chosen, outputs, port, port_name, span);
            return None;
        }
        Some(chosen.name.clone())
    }

    fn mismatch(
        &mut self,
        producer: &Draft<'_>,
        chosen: &OutputDecl,
        outputs: &[OutputDecl],
        port: &InputPort,
        port_name: &str,
        span: Span,
    ) {
        let wanted = crate::spec::kinds(port.accepts);
        let message = format!(
            "input `{port_name}` of stage `{}` takes {} {wanted}, but `{}` makes {} {}",
            self.draft.spec.id,
            article(&wanted),
            producer.spec.id,
            article(chosen.kind.as_str()),
            chosen.kind
        );
        let hint = outputs
            .iter()
            .find(|output| port.accepts.contains(&output.kind))
            .map(|output| {
                format!("`{}.{}` is {} {}", producer.spec.id, output.name, article(output.kind.as_str()), output.kind)
            })
            .or_else(|| self.makers(port.accepts));
        self.problems.push(
            Diagnostic::new("plan::type_mismatch", message)
                .at(span, format!("{} {}", article(chosen.kind.as_str()), chosen.kind))
                .hint_if(hint),
        );
    }

    fn unknown_stage(&mut self, text: &str, span: Span) {
        let base = text.split(['.', '@']).next().unwrap_or_default();
        let selected = text.contains('@').then(|| self.drafts.groups.get(base)).flatten();
        let message = match selected {
            Some(_) => {
                format!("stage `{}` reads `{text}`, but no member of `{base}` is selected by it", self.draft.spec.id)
            }
            None => format!("stage `{}` reads `{text}`, but there is no stage `{base}`", self.draft.spec.id),
        };
        let hint = match selected {
            Some(group) => {
                let names: Vec<String> =
                    group.members.clone().map(|member| self.drafts.list[member].id.to_string()).collect();
                Some(format!("its members are {}", short_list(&names)))
            }
            None if self.suggest() => Some(
                match nearest(
                    base,
                    self.drafts.groups.keys().copied().filter(|name| *name != self.draft.spec.id.as_str()),
                ) {
                    Some(near) => format!("did you mean `{}`?", text.replacen(base, near, 1)),
                    None => {
                        let own = self.draft.spec.id.as_str();
                        let others: Vec<String> =
                            self.drafts.names.iter().filter(|name| *name != own).cloned().collect();
                        if others.is_empty() {
                            "there is no other stage".to_owned()
                        } else {
                            format!("stages are {}", short_list(&others))
                        }
                    }
                },
            ),
            None => None,
        };
        self.problems.push(Diagnostic::new("plan::unknown_stage", message).at(span, "no such stage").hint_if(hint));
    }

    /// Returns the input that was probably meant.
    fn unknown_port(&mut self, name: &str, span: Span, ports: &'static [InputPort]) -> Option<&'static str> {
        let kind = self.draft.stage.as_ref().map_or("", |stage| stage.kind());
        let meant = nearest(name, ports.iter().map(|port| port.name));
        let hint = match meant {
            Some(near) => format!("did you mean `{near}`?"),
            None if ports.is_empty() => "remove it: this kind reads nothing".to_owned(),
            None => format!("inputs of `{kind}` are {}", quoted(ports.iter().map(|port| port.name))),
        };
        let message = format!("stage `{}` has no input `{name}`: it is not one of kind `{kind}`", self.draft.spec.id);
        self.problems.push(Diagnostic::new("plan::unknown_input", message).at(span, "unknown input").hint(hint));
        meant
    }

    fn missing(&mut self, port: &InputPort, several: bool) {
        let wanted = crate::spec::kinds(port.accepts);
        let message =
            format!("stage `{}` needs input `{}`, {} {wanted}", self.draft.spec.id, port.name, article(&wanted));
        let edit = if several { format!("`{}: STAGE` under `in:`", port.name) } else { "`in: STAGE`".to_owned() };
        let hint = match self.makers(port.accepts) {
            Some(makers) => format!("add {edit}; {makers}"),
            None => format!("add {edit}"),
        };
        self.problems.push(
            Diagnostic::new("plan::missing_input", message)
                .at(self.draft.inputs_span(), format!("`{}` is missing", port.name))
                .hint(hint),
        );
    }

    fn too_many(&mut self, port: &InputPort, items: &[Node], count: usize) {
        let message = format!(
            "input `{}` of stage `{}` takes one artifact, but {count} are given",
            port.name, self.draft.spec.id
        );
        let span = items.first().map_or(Span::default(), |first| {
            Span::new(first.span.start, items.last().map_or(first.span.end, |last| last.span.end))
        });
        let member = (items.len() == 1)
            .then(|| self.links.last().map(|link| self.drafts.list[link.target].id.to_string()))
            .flatten();
        let hint = match member {
            Some(member) => {
                format!("name one member, as in `{member}`, or give this stage the same `matrix:` to pair them")
            }
            None => "name one stage".to_owned(),
        };
        self.problems.push(Diagnostic::new("plan::too_many_inputs", message).at(span, "too many").hint(hint));
    }

    /// Stages that make what is wanted.
    fn makers(&mut self, wanted: &[ArtifactKind]) -> Option<String> {
        if !self.suggest() {
            return None;
        }
        let mut makers: Vec<String> = Vec::new();
        for draft in self.drafts.list.iter().filter(|draft| draft.spec.id != self.draft.spec.id) {
            let outputs = draft.prepared.as_ref().map_or(&[][..], |prepared| &prepared.outputs);
            for output in outputs.iter().filter(|output| wanted.contains(&output.kind)) {
                let name = match outputs.len() {
                    1 => draft.spec.id.to_string(),
                    _ => format!("{}.{}", draft.spec.id, output.name),
                };
                if makers.last() != Some(&name) {
                    makers.push(name);
                }
            }
        }
        (!makers.is_empty()).then(|| {
            let wanted = crate::spec::kinds(wanted);
            format!("{} {wanted} is made by {}", article(&wanted), short_list(&makers))
        })
    }

    fn suggest(&mut self) -> bool {
        let left = *self.suggestions > 0;
        *self.suggestions = self.suggestions.saturating_sub(1);
        left
    }
}

/// Names that say "the one you want" where a kind has several outputs that fit.
const DEFAULT_OUTPUTS: [&str; 4] = ["out", "output", "default", "kept"];

/// The output meant by a stage's name alone: its only one, else the only one that fits the port, else the one with a
/// default name or named as its kind of artifact or of stage.
fn choose<'o>(outputs: &'o [OutputDecl], kind: &str, fits: impl Fn(&OutputDecl) -> bool) -> Option<&'o OutputDecl> {
    if let [only] = outputs {
        return Some(only);
    }
    let fitting: Vec<&OutputDecl> = outputs.iter().filter(|output| fits(output)).collect();
    if let [only] = fitting.as_slice() {
        return Some(only);
    }
    let candidates = if fitting.is_empty() { outputs.iter().collect() } else { fitting };
    let mut defaults = candidates.iter().filter(|output| is_default(output, kind));
    match (defaults.next(), defaults.next()) {
        (Some(only), None) => Some(only),
        _ => None,
    }
}

fn is_default(output: &OutputDecl, kind: &str) -> bool {
    let name = output.name.as_str();
    name == kind || name == output.kind.as_str() || DEFAULT_OUTPUTS.contains(&name)
}

fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}
