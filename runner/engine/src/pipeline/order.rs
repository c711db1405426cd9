//! Topological order, or the rings that have none.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, NodeIndex};

use super::draft::Drafts;
use crate::spec::Diagnostic;

/// Indices of drafts, each after those it reads, otherwise in the order of the file. `None` if there is a ring, which
/// is then reported.
pub(super) fn order(drafts: &Drafts<'_>, problems: &mut Vec<Diagnostic>) -> Option<Vec<usize>> {
    let count = drafts.list.len();
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); count];
    let mut waiting: Vec<usize> = vec![0; count];
    for (reader, draft) in drafts.list.iter().enumerate() {
        for link in &draft.links {
            readers[link.target].push(reader);
            waiting[reader] += 1;
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> = (0..count).filter(|node| waiting[*node] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(count);
    while let Some(Reverse(node)) = ready.pop() {
        order.push(node);
        for reader in &readers[node] {
            waiting[*reader] -= 1;
            if waiting[*reader] == 0 {
                ready.push(Reverse(*reader));
            }
        }
    }
    if order.len() == count {
        return Some(order);
    }
    for ring in rings(drafts, &waiting) {
        report(drafts, &ring, problems);
    }
    None
}

/// One ring for each knot of stages that need each other: the shortest through its first stage.
fn rings(drafts: &Drafts<'_>, waiting: &[usize]) -> Vec<Vec<usize>> {
    let mut graph: DiGraph<usize, ()> = DiGraph::new();
    let mut node_of: BTreeMap<usize, NodeIndex> = BTreeMap::new();
    for (index, _) in waiting.iter().enumerate().filter(|(_, waiting)| **waiting > 0) {
        node_of.insert(index, graph.add_node(index));
    }
    for (index, node) in &node_of {
        for link in &drafts.list[*index].links {
            if let Some(target) = node_of.get(&link.target) {
                graph.add_edge(*node, *target, ());
            }
        }
    }
    let mut rings: Vec<Vec<usize>> = Vec::new();
    for knot in kosaraju_scc(&graph) {
        let mut members: Vec<usize> = knot.iter().map(|node| graph[*node]).collect();
        members.sort_unstable();
        rings.extend(shortest_ring(drafts, &members));
    }
    rings.sort();
    rings
}

/// From the first member along what each reads, back to the first.
fn shortest_ring(drafts: &Drafts<'_>, members: &[usize]) -> Option<Vec<usize>> {
    let first = *members.first()?;
    let mut came_from: BTreeMap<usize, usize> = BTreeMap::new();
    let mut pending = VecDeque::from([first]);
    while let Some(node) = pending.pop_front() {
        for link in &drafts.list[node].links {
            if link.target == first {
                let mut ring = vec![node];
                let mut step = node;
                while step != first {
                    step = *came_from.get(&step)?;
                    ring.push(step);
                }
                ring.reverse();
                return Some(ring);
            }
            if members.binary_search(&link.target).is_ok() && !came_from.contains_key(&link.target) {
                came_from.insert(link.target, node);
                pending.push_back(link.target);
            }
        }
    }
    None
}

fn report(drafts: &Drafts<'_>, ring: &[usize], problems: &mut Vec<Diagnostic>) {
    const NAMED: usize = 8;
    let name = |index: usize| drafts.list[index].spec.id.as_str();
    let next = |position: usize| ring[(position + 1) % ring.len()];
    let mut path: Vec<String> = ring.iter().take(NAMED).map(|index| format!("`{}`", name(*index))).collect();
    if ring.len() > NAMED {
        path.push(format!("… {} more", ring.len() - NAMED));
    }
    path.push(format!("`{}`", name(ring[0])));
    let message = match ring {
        [only] => format!("stage `{}` reads its own output", name(*only)),
        _ => format!("stages need each other in a ring: {}", path.join(" needs ")),
    };
    let mut problem = Diagnostic::new("plan::cycle", message);
    for (position, index) in ring.iter().enumerate() {
        let target = next(position);
        let span = drafts.list[*index].links.iter().find(|link| link.target == target).map(|link| link.span);
        if let Some(span) = span {
            problem = problem.at(span, format!("`{}` needs `{}`", name(*index), name(target)));
        }
    }
    problems.push(problem.hint("remove one of these references; a stage can only read what is made before it"));
}
