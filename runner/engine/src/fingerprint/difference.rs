//! Comparing two fingerprints field by field.

use std::collections::{BTreeMap, BTreeSet};

use camino::Utf8PathBuf;
use luthier_core::{Digest, Location};
use serde_json::Value;

use super::path::{element, member};
use super::{DirtyReason, Fingerprint, InputPrint};

/// Finds where a parameter is written, by its path.
pub type Locate<'a> = &'a dyn Fn(&str) -> Option<Location>;

/// Names for the reasons that a fingerprint does not hold: where a parameter is written, what a source's path is, who
/// feeds a port. Empty where only the two fingerprints are known.
#[derive(Default)]
pub struct Origin<'a> {
    pub location: Option<Locate<'a>>,
    pub source_paths: BTreeMap<String, Utf8PathBuf>,
    /// `stage.output` of each artifact of each port, now.
    pub input_names: BTreeMap<String, Vec<String>>,
}

/// All reasons that lead from `old` to `new`, in the order of the fields; empty if they mean the same.
pub(super) fn diff(old: &Fingerprint, new: &Fingerprint, origin: &Origin<'_>) -> Vec<DirtyReason> {
    let mut reasons = fixed(old, new, origin);
    inputs(old, new, origin, &mut reasons);
    reasons
}

/// As [`diff`], without the inputs.
pub(super) fn fixed(old: &Fingerprint, new: &Fingerprint, origin: &Origin<'_>) -> Vec<DirtyReason> {
    let mut reasons = Vec::new();
    if old.kind != new.kind {
        reasons.push(DirtyReason::KindChanged { old: old.kind.clone(), new: new.kind.clone() });
        // Parameters and ports of two kinds have nothing to do with each other.
        return reasons;
    }
    if old.recipe != new.recipe {
        reasons.push(DirtyReason::RecipeChanged { old: old.recipe, new: new.recipe });
    }
    values("", Some(&old.config), Some(&new.config), origin, &mut reasons);
    for (label, (before, after)) in paired(&old.sources, &new.sources) {
        let path = origin.source_paths.get(label).cloned().unwrap_or_else(|| Utf8PathBuf::from(label));
        reasons.push(DirtyReason::SourceChanged { label: label.to_owned(), path, old: before, new: after });
    }
    for (name, (before, after)) in paired(&old.env, &new.env) {
        reasons.push(DirtyReason::EnvChanged { name: name.to_owned(), old: before, new: after });
    }
    if old.numeric_class != new.numeric_class {
        reasons
            .push(DirtyReason::NumericClassChanged { old: old.numeric_class.clone(), new: new.numeric_class.clone() });
    }
    reasons
}

/// Old and new digest of every name whose digests differ.
type Changed<'a> = BTreeMap<&'a str, (Option<Digest>, Option<Digest>)>;

fn paired<'a>(old: &'a BTreeMap<String, Digest>, new: &'a BTreeMap<String, Digest>) -> Changed<'a> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    names
        .into_iter()
        .map(|name| (name.as_str(), (old.get(name).copied(), new.get(name).copied())))
        .filter(|(_, (before, after))| before != after)
        .collect()
}

fn inputs(old: &Fingerprint, new: &Fingerprint, origin: &Origin<'_>, reasons: &mut Vec<DirtyReason>) {
    if old.kind != new.kind {
        return;
    }
    let none: Vec<InputPrint> = Vec::new();
    let ports: BTreeSet<&String> = old.inputs.keys().chain(new.inputs.keys()).collect();
    for port in ports {
        let before = old.inputs.get(port).unwrap_or(&none);
        let after = new.inputs.get(port).unwrap_or(&none);
        let names = origin.input_names.get(port);
        for index in 0..before.len().max(after.len()) {
            let (was, is) = (before.get(index), after.get(index));
            if was == is {
                continue;
            }
            let from = names
                .and_then(|names| names.get(index).cloned())
                .or_else(|| is.or(was).and_then(|print| print.name.clone()))
                .unwrap_or_else(|| port.clone());
            reasons.push(DirtyReason::InputChanged {
                port: port.clone(),
                from,
                old: was.map(|print| print.digest),
                new: is.map(|print| print.digest),
            });
        }
    }
}

fn values(path: &str, old: Option<&Value>, new: Option<&Value>, origin: &Origin<'_>, reasons: &mut Vec<DirtyReason>) {
    match (old, new) {
        (Some(old), Some(new)) if old == new => {}
        (Some(Value::Object(before)), Some(Value::Object(after))) => {
            let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            for name in names {
                let (was, is) = (before.get(name), after.get(name));
                if was != is {
                    values(&member(path, name), was, is, origin, reasons);
                }
            }
        }
        (Some(Value::Array(before)), Some(Value::Array(after))) => lists(path, before, after, origin, reasons),
        (old, new) => reasons.push(DirtyReason::ConfigChanged {
            path: path.to_owned(),
            old: old.cloned(),
            new: new.cloned(),
            location: origin.location.and_then(|locate| locate(path)),
        }),
    }
}

/// Elements in the middle, between what both lists start and end with, are compared one to one; those left over were
/// added or removed. So a step put in front of others reads as one step added.
fn lists(path: &str, old: &[Value], new: &[Value], origin: &Origin<'_>, reasons: &mut Vec<DirtyReason>) {
    let most = old.len().min(new.len());
    let start = old.iter().zip(new).take_while(|(was, is)| was == is).count();
    let end = old.iter().rev().zip(new.iter().rev()).take(most - start).take_while(|(was, is)| was == is).count();
    let (old_end, new_end) = (old.len() - end, new.len() - end);
    for index in start..old_end.max(new_end) {
        let was = (index < old_end).then(|| &old[index]);
        let is = (index < new_end).then(|| &new[index]);
        values(&element(path, index), was, is, origin, reasons);
    }
}
