//! The graph as a drawing: text for the terminal, DOT, Mermaid and JSON. All four are equal for equal graphs.

use serde_json::{Value, json};

use super::graph::{GraphEdge, StageGraph};

/// Deeper levels of the text drawing are not indented further.
const MAX_INDENT: usize = 24;

impl StageGraph {
    /// A tree in which every stage stands once, below the last of the stages it reads; other inputs are written beside
    /// it.
    #[must_use]
    pub fn to_text(&self) -> String {
        let nodes: Vec<_> = self.nodes().collect();
        let mut children: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
        let mut parents: Vec<Option<usize>> = vec![None; nodes.len()];
        let mut notes: Vec<String> = Vec::with_capacity(nodes.len());
        for (position, node) in nodes.iter().enumerate() {
            let inputs = self.inputs(&node.id);
            let parent = inputs.iter().filter_map(|(producer, _)| self.position(producer)).max();
            parents[position] = parent;
            if let Some(parent) = parent {
                children[parent].push(position);
            }
            notes.push(note(&inputs, parent.map(|parent| nodes[parent].id.as_str())));
        }
        let mut lines = Vec::with_capacity(nodes.len());
        // Depth first without recursion: a chain may be ten thousand stages long.
        let mut pending: Vec<(usize, String, bool)> = (0..nodes.len())
            .rev()
            .filter(|position| parents[*position].is_none())
            .map(|root| (root, String::new(), true))
            .collect();
        let mut depths: Vec<usize> = vec![0; nodes.len()];
        while let Some((position, prefix, last)) = pending.pop() {
            let node = nodes[position];
            let depth = parents[position].map_or(0, |parent| depths[parent] + 1);
            depths[position] = depth;
            let branch = match (depth, last) {
                (0, _) => "",
                (_, true) => "`- ",
                (_, false) => "|- ",
            };
            lines.push(format!("{prefix}{branch}{}  {}{}", node.id, node.kind, notes[position]));
            let below = match (depth, last) {
                (0, _) => prefix,
                _ if depth >= MAX_INDENT => prefix,
                (_, true) => format!("{prefix}   "),
                (_, false) => format!("{prefix}|  "),
            };
            let count = children[position].len();
            for (order, child) in children[position].iter().enumerate().rev() {
                pending.push((*child, below.clone(), order + 1 == count));
            }
        }
        lines.join("\n")
    }

    /// For Graphviz.
    #[must_use]
    pub fn to_dot(&self) -> String {
        let mut text = "digraph pipeline {\n  rankdir=LR;\n  node [shape=box, style=rounded];\n".to_owned();
        for node in self.nodes() {
            text.push_str(&format!("  \"{}\" [label=\"{}\\n{}\"];\n", node.id, node.id, node.kind));
        }
        for (producer, edge, reader) in self.edges() {
            text.push_str(&format!("  \"{producer}\" -> \"{reader}\" [label=\"{}\"];\n", label(edge)));
        }
        text.push('}');
        text
    }

    /// For Markdown that draws Mermaid.
    #[must_use]
    pub fn to_mermaid(&self) -> String {
        let mut text = "flowchart LR\n".to_owned();
        for (position, node) in self.nodes().enumerate() {
            text.push_str(&format!("  s{position}[\"{}<br/><i>{}</i>\"]\n", node.id, node.kind));
        }
        for (producer, edge, reader) in self.edges() {
            if let (Some(from), Some(to)) = (self.position(producer), self.position(reader)) {
                text.push_str(&format!("  s{from} -->|{}| s{to}\n", label(edge)));
            }
        }
        text.truncate(text.trim_end().len());
        text
    }

    /// `{"version": 1, "stages": [{id, group, kind}], "edges": [{from, output, to, port}]}`, stages in topological order.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let stages: Vec<Value> =
            self.nodes().map(|node| json!({"id": node.id, "group": node.group, "kind": node.kind})).collect();
        let edges: Vec<Value> = self
            .edges()
            .map(|(producer, edge, reader)| {
                json!({"from": producer, "output": edge.output, "to": reader, "port": edge.port})
            })
            .collect();
        json!({"version": 1, "stages": stages, "edges": edges})
    }
}

fn label(edge: &GraphEdge) -> String {
    if edge.named { format!("{}: {}", edge.port, edge.output) } else { edge.port.clone() }
}

/// The inputs besides the parent's, as `(model: base)`.
fn note(inputs: &[(&luthier_core::StageId, &GraphEdge)], parent: Option<&str>) -> String {
    let others: Vec<String> = inputs
        .iter()
        .filter(|(producer, edge)| Some(producer.as_str()) != parent || edge.named)
        .map(|(producer, edge)| {
            if edge.named {
                format!("{}: {producer}.{}", edge.port, edge.output)
            } else {
                format!("{}: {producer}", edge.port)
            }
        })
        .collect();
    if others.is_empty() { String::new() } else { format!("  ({})", others.join(", ")) }
}
