//! The stages and who reads whom.
//!
//! Nodes are added in topological order and edges in the order of ports, so every walk over the graph is the same for
//! the same file.

use std::collections::{BTreeMap, BTreeSet};

use luthier_core::{ArtifactName, StageId};
use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::{EdgeRef, IntoEdgeReferences};

use super::planned::OutputRef;

/// A stage as the graph knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphNode {
    pub id: StageId,
    pub group: StageId,
    pub kind: &'static str,
}

/// An artifact on its way from one stage to the port of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphEdge {
    pub port: String,
    pub output: ArtifactName,
    /// The producer has other outputs too, so the name says something.
    pub named: bool,
}

/// A directed acyclic graph; edges point from producer to reader.
#[derive(Debug, Clone, Default)]
pub struct StageGraph {
    graph: StableDiGraph<GraphNode, GraphEdge>,
    index: BTreeMap<StageId, NodeIndex>,
}

impl StageGraph {
    /// Nodes must come in topological order; each with its inputs by port, and whether the producer has several outputs.
    pub(super) fn build<'a>(
        nodes: impl Iterator<Item = (GraphNode, &'a BTreeMap<String, Vec<OutputRef>>)>,
        several_outputs: impl Fn(&StageId) -> bool,
    ) -> Self {
        let mut built = Self::default();
        for (node, inputs) in nodes {
            let id = node.id.clone();
            let reader = built.graph.add_node(node);
            built.index.insert(id, reader);
            for (port, outputs) in inputs {
                for output in outputs {
                    let Some(producer) = built.index.get(&output.stage) else { continue };
                    let edge = GraphEdge {
                        port: port.clone(),
                        output: output.output.clone(),
                        named: several_outputs(&output.stage),
                    };
                    built.graph.add_edge(*producer, reader, edge);
                }
            }
        }
        built
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.graph.node_count()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.graph.node_count() == 0
    }

    #[must_use]
    pub fn contains(&self, id: &StageId) -> bool {
        self.index.contains_key(id)
    }

    /// The stage's place in topological order, which is its index in `Pipeline::stages`.
    #[must_use]
    pub fn position(&self, id: &StageId) -> Option<usize> {
        self.index.get(id).map(|node| node.index())
    }

    /// All stages in topological order.
    pub fn nodes(&self) -> impl Iterator<Item = &GraphNode> {
        self.graph.node_weights()
    }

    /// All stages, each after those it reads; otherwise in the order of the file.
    pub fn topological(&self) -> impl Iterator<Item = &StageId> {
        self.nodes().map(|node| &node.id)
    }

    /// All edges as producer, edge, reader: by reader in topological order, then by port in the order written.
    pub fn edges(&self) -> impl Iterator<Item = (&StageId, &GraphEdge, &StageId)> {
        (&self.graph)
            .edge_references()
            .map(|edge| (&self.graph[edge.source()].id, edge.weight(), &self.graph[edge.target()].id))
    }

    /// The edges into a stage, by port in the order written.
    pub fn inputs(&self, id: &StageId) -> Vec<(&StageId, &GraphEdge)> {
        let Some(node) = self.index.get(id) else { return Vec::new() };
        let mut edges: Vec<_> = self.graph.edges_directed(*node, Direction::Incoming).collect();
        edges.sort_by_key(|edge| edge.id());
        edges.into_iter().map(|edge| (&self.graph[edge.source()].id, edge.weight())).collect()
    }

    /// The stages that a stage reads.
    #[must_use]
    pub fn dependencies(&self, id: &StageId) -> BTreeSet<StageId> {
        self.neighbors(id, Direction::Incoming)
    }

    /// The stages that read a stage.
    #[must_use]
    pub fn dependents(&self, id: &StageId) -> BTreeSet<StageId> {
        self.neighbors(id, Direction::Outgoing)
    }

    /// The stage and everything that depends on it, directly or not. Empty if there is no such stage.
    #[must_use]
    pub fn cone_down(&self, id: &StageId) -> BTreeSet<StageId> {
        self.cone(id, Direction::Outgoing)
    }

    /// The stage and everything it needs, directly or not. Empty if there is no such stage.
    #[must_use]
    pub fn cone_up(&self, id: &StageId) -> BTreeSet<StageId> {
        self.cone(id, Direction::Incoming)
    }

    fn neighbors(&self, id: &StageId, direction: Direction) -> BTreeSet<StageId> {
        let Some(node) = self.index.get(id) else { return BTreeSet::new() };
        self.graph.neighbors_directed(*node, direction).map(|node| self.graph[node].id.clone()).collect()
    }

    fn cone(&self, id: &StageId, direction: Direction) -> BTreeSet<StageId> {
        let mut found = BTreeSet::new();
        let mut pending: Vec<NodeIndex> = self.index.get(id).copied().into_iter().collect();
        let mut seen = vec![false; self.graph.node_count()];
        while let Some(node) = pending.pop() {
            if !std::mem::replace(&mut seen[node.index()], true) {
                found.insert(self.graph[node].id.clone());
                pending.extend(self.graph.neighbors_directed(node, direction));
            }
        }
        found
    }
}
