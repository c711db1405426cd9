//! From a file to a [`Pipeline`], or to all that is wrong with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{ExecutorSpec, Location, Registry, Stage, StageId, nearest, quoted};

use super::connect;
use super::draft::{Draft, Drafts, Group};
use super::graph::{GraphNode, StageGraph};
use super::matrix;
use super::order;
use super::planned::{OutputRef, Pipeline, PlannedStage};
use super::settings::{self, Settings};
use super::sources;
use crate::spec::{
    self, Diagnostic, Diagnostics, Interpolation, Node, NodeValue, ParamValue, PipelineSpec, ReadEnv, Scope,
    SourceText, Span, StageSpec,
};

/// Larger files are not pipelines.
const MAX_BYTES: u64 = 64 << 20;

/// Reads and checks a pipeline file. `overrides` are the `-p NAME=VALUE` of the command line; their values are read as
/// YAML scalars.
///
/// # Errors
/// Everything that is wrong with the file, sorted by place; class `Input`.
pub fn load(file: &Utf8Path, overrides: &[(String, String)], registry: &Registry) -> Result<Pipeline, Diagnostics> {
    let source = Arc::new(read(file)?);
    load_source(source, overrides, registry, &|name| std::env::var(name).ok())
}

fn read(file: &Utf8Path) -> Result<SourceText, Diagnostics> {
    let refuse = |message: String, hint: &str| {
        let problem = Diagnostic::new("spec::unreadable", message).hint(hint);
        Diagnostics::new(Arc::new(SourceText::new(file, "")), vec![problem])
    };
    let size = fs_err::metadata(file).map(|meta| meta.len()).unwrap_or(0);
    if size > MAX_BYTES {
        return Err(refuse(
            format!("`{file}` has {}, too much for a pipeline", crate::format::bytes(size)),
            "name a pipeline file; data belongs into files that stages read",
        ));
    }
    let bytes = fs_err::read(file)
        .map_err(|error| refuse(format!("cannot read the pipeline: {error}"), "check the path and its permissions"))?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(SourceText::new(file, text)),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..valid].iter().filter(|byte| **byte == b'\n').count() + 1;
            Err(refuse(
                format!("`{file}` is not UTF-8: byte {valid}, on line {line}, does not belong to a character"),
                "save the file as UTF-8",
            ))
        }
    }
}

/// Checks a pipeline whose text is at hand; `env` reads environment variables. See [`load`].
///
/// # Errors
/// As [`load`].
pub fn load_source(
    source: Arc<SourceText>,
    overrides: &[(String, String)],
    registry: &Registry,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Pipeline, Diagnostics> {
    let root = spec::parse(&source).map_err(|problems| Diagnostics::new(Arc::clone(&source), problems))?;
    let mut problems = Vec::new();
    let read = spec::read(&root, &mut problems);
    let directory = match source.file().parent() {
        Some(parent) if !parent.as_str().is_empty() => parent.to_owned(),
        _ => Utf8PathBuf::from("."),
    };
    let mut loader = Loader { source: Arc::clone(&source), directory, registry, env, problems };
    let pipeline = loader.pipeline(&read, overrides);
    match pipeline {
        Some(pipeline) if loader.problems.is_empty() => Ok(pipeline),
        _ => Err(Diagnostics::new(source, loader.problems)),
    }
}

struct Loader<'a> {
    source: Arc<SourceText>,
    directory: Utf8PathBuf,
    registry: &'a Registry,
    env: ReadEnv<'a>,
    problems: Vec<Diagnostic>,
}

impl Loader<'_> {
    fn pipeline(&mut self, spec: &PipelineSpec, overrides: &[(String, String)]) -> Option<Pipeline> {
        let params = self.params(spec, overrides);
        let remote = self.remote(spec, &params);
        let executor = self.executor(spec, &params);
        let mut drafts = self.drafts(spec, &params);
        for draft in &mut drafts.list {
            self.prepare(draft);
        }
        connect::connect(&mut drafts, &mut self.problems);
        let order = order::order(&drafts, &mut self.problems);
        for draft in &drafts.list {
            sources::check(draft, &self.directory, &mut self.problems);
        }
        if !self.problems.is_empty() {
            return None;
        }
        self.assemble(spec, remote, params, executor, drafts, &order?)
    }

    fn remote(&mut self, spec: &PipelineSpec, params: &BTreeMap<String, ParamValue>) -> Option<(String, Location)> {
        let block = spec.remote.as_ref()?;
        let scope = Scope { params, matrix: &[], env: self.env, owner: "`remote`" };
        let value = Interpolation::new(&self.source, scope).node(&block.value, &mut self.problems);
        Some((value.text()?.to_owned(), self.source.location(block.value.span)))
    }

    fn executor(&mut self, spec: &PipelineSpec, params: &BTreeMap<String, ParamValue>) -> Option<ExecutorSpec> {
        let block = spec.executor.as_ref()?;
        let scope = Scope { params, matrix: &[], env: self.env, owner: "the pipeline" };
        let before = self.problems.len();
        let node = Interpolation::new(&self.source, scope).node(&block.value, &mut self.problems);
        if self.problems.len() > before { None } else { settings::read_executor(&node, &mut self.problems) }
    }

    /// Defaults with overrides. A default may use the environment and parameters above it.
    fn params(&mut self, spec: &PipelineSpec, overrides: &[(String, String)]) -> BTreeMap<String, ParamValue> {
        let mut params: BTreeMap<String, ParamValue> = BTreeMap::new();
        for param in &spec.params {
            let written = overrides.iter().rev().find(|(name, _)| *name == param.name);
            let value = match written {
                Some((name, text)) => self.override_value(name, text, param.span),
                None => {
                    let owner = format!("parameter `{}`", param.name);
                    let scope = Scope { params: &params, matrix: &[], env: self.env, owner: &owner };
                    let mut interpolation = Interpolation::new(&self.source, scope);
                    let value = interpolation.node(&param.value, &mut self.problems);
                    ParamValue { value, env: interpolation.env }
                }
            };
            params.insert(param.name.clone(), value);
        }
        for (name, _) in overrides.iter().filter(|(name, _)| !params.contains_key(name)) {
            let known = params.keys().map(String::as_str);
            let hint = match nearest(name, known.clone()) {
                Some(near) => format!("did you mean `-p {near}=…`?"),
                None if params.is_empty() => format!("add `params: {{{name}: DEFAULT}}` to the pipeline"),
                None => format!("parameters are {}", quoted(known)),
            };
            let problem = Diagnostic::new(
                "spec::override",
                format!("`-p {name}=…` sets a parameter that the pipeline does not have"),
            );
            let problem = match spec.params_span {
                Some(span) => problem.at(span, format!("no `{name}` here")),
                None => problem,
            };
            self.problems.push(problem.hint(hint));
        }
        params
    }

    fn override_value(&mut self, name: &str, text: &str, span: Span) -> ParamValue {
        let value = spec::parse_value(text).unwrap_or_else(|message| {
            let problem =
                Diagnostic::new("spec::override", format!("the value of `-p {name}={text}` cannot be read: {message}"));
            self.problems.push(problem.at(span, "overridden").hint("quote it for YAML, as in `-p 'name=\"a: b\"'`"));
            NodeValue::Null
        });
        ParamValue { value: Node::new(value, span).moved_to(span), env: BTreeMap::new() }
    }

    fn drafts<'s>(&mut self, spec: &'s PipelineSpec, params: &BTreeMap<String, ParamValue>) -> Drafts<'s> {
        let mut drafts =
            Drafts { list: Vec::with_capacity(spec.stages.len()), groups: BTreeMap::new(), names: Vec::new() };
        for stage in &spec.stages {
            let kind = self.kind(stage);
            let owner = format!("stage `{}`", stage.id);
            let first = drafts.list.len();
            let mut matrix_env = BTreeMap::new();
            let matrix = stage.matrix.as_ref().map(|block| {
                let scope = Scope { params, matrix: &[], env: self.env, owner: &owner };
                let mut interpolation = Interpolation::new(&self.source, scope);
                let matrix = interpolation.node(&block.value, &mut self.problems);
                matrix_env = interpolation.env;
                matrix
            });
            for member in matrix::expand(stage, matrix.as_ref(), &mut self.problems).unwrap_or_default() {
                let draft = self.draft(stage, member, kind.clone(), params, &owner, &matrix_env);
                drafts.list.push(draft);
            }
            drafts.groups.insert(stage.id.as_str(), Group { members: first..drafts.list.len() });
            drafts.names.push(stage.id.to_string());
        }
        drafts
    }

    fn kind(&mut self, stage: &StageSpec) -> Option<Arc<dyn Stage>> {
        let uses = stage.uses.as_ref()?;
        let found = self.registry.get(&uses.text);
        if found.is_none() {
            let kinds = format!("kinds are {}", quoted(self.registry.kinds()));
            let hint = match nearest(&uses.text, self.registry.kinds()) {
                Some(near) => format!("did you mean `{near}`? {kinds}"),
                None => kinds,
            };
            self.problems.push(
                Diagnostic::new(
                    "spec::unknown_kind",
                    format!("stage `{}` uses `{}`, which is not a stage kind", stage.id, uses.text),
                )
                .at(uses.span, "unknown kind")
                .hint(hint),
            );
        }
        found.cloned()
    }

    fn draft<'s>(
        &mut self,
        stage: &'s StageSpec,
        member: matrix::Member,
        kind: Option<Arc<dyn Stage>>,
        params: &BTreeMap<String, ParamValue>,
        owner: &str,
        matrix_env: &BTreeMap<String, String>,
    ) -> Draft<'s> {
        let scope = Scope { params, matrix: &member.values, env: self.env, owner };
        let mut interpolation = Interpolation::new(&self.source, scope);
        let before = self.problems.len();
        let mut replaced = |block: &spec::Block| interpolation.node(&block.value, &mut self.problems);
        let with = stage.with.as_ref().map(&mut replaced);
        let inputs = stage.inputs.as_ref().map(&mut replaced);
        let declared = stage.env.as_ref().map(&mut replaced);
        // What these are made from cannot change a result, so it stays out of the key.
        let mut aside = Interpolation::new(&self.source, scope);
        let mut replaced = |block: &spec::Block| aside.node(&block.value, &mut self.problems);
        let resources = stage.resources.as_ref().map(&mut replaced);
        let executor = stage.executor.as_ref().map(&mut replaced);
        let retries = stage.retries.as_ref().map(&mut replaced);
        // With a reference missing, a complaint about the value that is not there would only distract.
        let broken = self.problems.len() > before;
        let mut env = interpolation.env;
        env.extend(matrix_env.clone());
        let mut settings = Settings::default();
        if let (Some(block), Some(node), false) = (&stage.resources, &resources, broken) {
            settings.read_resources(owner, block, node, &mut self.problems);
        }
        if let (Some(node), false) = (&executor, broken) {
            settings.read_executor(node, &mut self.problems);
        }
        if let (Some(node), false) = (&retries, broken) {
            settings.read_retries(node, &mut self.problems);
        }
        if let (Some(block), Some(node), false) = (&stage.env, &declared, broken) {
            env.extend(settings::read_env(owner, block, node, self.env, &mut self.problems));
        }
        Draft {
            spec: stage,
            id: member.id,
            values: member.values,
            stage: kind,
            with: with.unwrap_or_else(|| Node::new(NodeValue::Null, stage.span)),
            inputs,
            settings,
            env,
            prepared: None,
            links: Vec::new(),
            broken,
        }
    }

    fn prepare(&mut self, draft: &mut Draft<'_>) {
        let Some(stage) = draft.stage.as_ref().filter(|_| !draft.broken) else { return };
        match stage.prepare(&draft.with.to_value(), self.registry.prepare_env(&self.directory)) {
            Ok(mut prepared) => {
                draft.settings.apply(&mut prepared.resources);
                draft.prepared = Some(prepared);
            }
            Err(issues) => {
                for issue in issues {
                    let span = draft.config_span(&issue.path, issue.on_key);
                    self.problems.push(Diagnostic::of_config(draft.spec.id.as_str(), stage.kind(), &issue, span));
                }
            }
        }
    }

    fn assemble(
        &self,
        spec: &PipelineSpec,
        remote: Option<(String, Location)>,
        params: BTreeMap<String, ParamValue>,
        executor: Option<ExecutorSpec>,
        drafts: Drafts<'_>,
        order: &[usize],
    ) -> Option<Pipeline> {
        let ids: Vec<StageId> = drafts.list.iter().map(|draft| draft.id.clone()).collect();
        let mut list: Vec<Option<Draft<'_>>> = drafts.list.into_iter().map(Some).collect();
        let mut stages = Vec::with_capacity(order.len());
        for index in order {
            let draft = list.get_mut(*index)?.take()?;
            let mut inputs: BTreeMap<String, Vec<OutputRef>> = BTreeMap::new();
            for link in &draft.links {
                let output = OutputRef { stage: ids[link.target].clone(), output: link.output.clone()? };
                inputs.entry(link.port.clone()).or_default().push(output);
            }
            stages.push(PlannedStage {
                group: draft.spec.id.clone(),
                matrix: draft.values.iter().map(|(name, value)| (name.clone(), value.to_value())).collect(),
                about: draft.spec.about.clone(),
                stage: draft.stage.clone()?,
                inputs,
                retries: draft.settings.retries,
                asked_at: draft.settings.asked_at.clone(),
                executor: draft.settings.executor.clone(),
                location: self.source.location(draft.spec.span),
                source: Arc::clone(&self.source),
                with_span: draft.with_span(),
                id: draft.id,
                env: draft.env,
                with: draft.with,
                prepared: draft.prepared?,
            });
        }
        let graph = graph(&stages);
        let file = self.source.file().to_owned();
        let name =
            spec.name.clone().or_else(|| file.file_stem().map(str::to_owned)).unwrap_or_else(|| "pipeline".to_owned());
        Some(Pipeline {
            name,
            file,
            directory: self.directory.clone(),
            source: Arc::clone(&self.source),
            remote,
            executor,
            params: params.into_iter().map(|(name, param)| (name, param.value.to_value())).collect(),
            stages,
            graph,
        })
    }
}

fn graph(stages: &[PlannedStage]) -> StageGraph {
    let several: std::collections::BTreeSet<&StageId> =
        stages.iter().filter(|stage| stage.prepared.outputs.len() > 1).map(|stage| &stage.id).collect();
    let nodes = stages.iter().map(|stage| {
        (GraphNode { id: stage.id.clone(), group: stage.group.clone(), kind: stage.stage.kind() }, &stage.inputs)
    });
    StageGraph::build(nodes, |id| several.contains(id))
}
