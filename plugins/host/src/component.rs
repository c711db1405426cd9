//! A component, compiled, linked and asked who it is.

use std::sync::Arc;

use luthier_core::{Digest, StageError, StageResult};
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, HasSelf, Linker};

use crate::bindings;
use crate::compiled_cache::CompiledCache;
use crate::engine::{FilterEngine, into_std};
use crate::limits::Limits;
use crate::manifest::{Manifest, ScoreColumn, ScoreKind};
use crate::session::{HostState, Session};

/// The interfaces of a plugin of this world.
const HOST: &str = "luthier:filter/host@0.1.0";
const TYPES: &str = "luthier:filter/types@0.1.0";
const FILTER: &str = "luthier:filter/filter@0.1.0";

/// What the seed of hash tables is in a guest. A constant: a filter has no randomness.
const SEED: u64 = 0x6c75_7468_6965_7221;

/// A plugin that can be opened, once per worker thread.
#[derive(Clone)]
pub struct PluginComponent(Arc<Inner>);

struct Inner {
    engine: FilterEngine,
    pre: bindings::PluginPre<HostState>,
    manifest: Manifest,
    limits: Limits,
    digest: Digest,
    imports: Vec<String>,
    bytes: usize,
}

impl PluginComponent {
    /// Compiles `wasm` (or takes it from `cache`), refuses imports that are neither ours nor WASI's, and reads the
    /// manifest. `name` is for messages.
    ///
    /// # Errors
    /// Not a component for the filter world, or one that fails while it describes itself.
    pub fn load(
        engine: &FilterEngine,
        cache: &CompiledCache,
        name: &str,
        wasm: &[u8],
        limits: Limits,
    ) -> StageResult<Self> {
        let component = cache.compile(engine, name, wasm)?;
        let imports = imports_of(engine, &component);
        check_world(engine, &component, name, &imports)?;
        let linker = link(engine, &component).map_err(|error| {
            StageError::new("plugin::link", format!("plugin `{name}` cannot be linked")).caused_by(into_std(error))
        })?;
        let pre = linker.instantiate_pre(&component).and_then(bindings::PluginPre::new).map_err(|error| {
            StageError::input("plugin::world", format!("plugin `{name}` does not fit the world `luthier:filter@0.1.0`"))
                .hint("build it with the SDK in plugins/sdk, or from plugins/wit/v0.1/filter.wit")
                .caused_by(into_std(error))
        })?;
        let mut inner = Inner {
            engine: engine.clone(),
            pre,
            manifest: empty_manifest(name),
            limits,
            digest: Digest::of(wasm),
            imports,
            bytes: wasm.len(),
        };
        inner.manifest = describe(&inner, name)?;
        Ok(Self(Arc::new(inner)))
    }

    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.0.manifest
    }

    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// BLAKE3 of the component's bytes.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// Names of all that it imports; what is WASI's traps when it is called.
    #[must_use]
    pub fn imports(&self) -> &[String] {
        &self.0.imports
    }

    /// Bytes of the component.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.bytes
    }

    /// A fresh instance, opened with `config` (JSON).
    pub(crate) fn open(&self, config: &str) -> Result<Session, OpenError> {
        Session::open(&self.0.engine, &self.0.pre, &self.0.limits, config)
    }
}

/// Why a plugin could not be opened.
pub(crate) enum OpenError {
    /// `(path, message)` pairs.
    Config(Vec<(String, String)>),
    Fault(crate::fault::Fault),
}

fn empty_manifest(name: &str) -> Manifest {
    Manifest {
        name: name.to_owned(),
        version: String::new(),
        about: String::new(),
        text: String::new(),
        reads: Vec::new(),
        scores: Vec::new(),
        reasons: Vec::new(),
        edits_text: false,
        config_schema: serde_json::Value::Null,
    }
}

fn imports_of(engine: &FilterEngine, component: &Component) -> Vec<String> {
    component.component_type().imports(engine.inner()).map(|(name, _)| name.to_owned()).collect()
}

fn check_world(engine: &FilterEngine, component: &Component, name: &str, imports: &[String]) -> StageResult<()> {
    let foreign: Vec<String> = imports
        .iter()
        .filter(|import| !import.starts_with("wasi:") && *import != HOST && *import != TYPES)
        .map(|import| format!("`{import}`"))
        .collect();
    if !foreign.is_empty() {
        return Err(StageError::input(
            "plugin::imports",
            format!("plugin `{name}` imports {}, which filters have no access to", foreign.join(", ")),
        )
        .hint(format!("a filter may import `{HOST}` only: remove the others from its world")));
    }
    let exports: Vec<String> =
        component.component_type().exports(engine.inner()).map(|(name, _)| name.to_owned()).collect();
    if exports.iter().any(|export| export == FILTER) {
        return Ok(());
    }
    let found = match exports.iter().find(|export| export.starts_with("luthier:filter/filter@")) {
        Some(other) => format!("it exports `{other}`, and this build knows `{FILTER}`"),
        None if exports.is_empty() => format!("it exports nothing, expected `{FILTER}`"),
        None => format!("it exports `{}`, expected `{FILTER}`", exports.join("`, `")),
    };
    Err(StageError::input("plugin::world", format!("plugin `{name}` is not a filter: {found}"))
        .hint("`luthier plugin new NAME` makes a crate that is one"))
}

fn link(engine: &FilterEngine, component: &Component) -> wasmtime::Result<Linker<HostState>> {
    let mut linker = Linker::new(engine.inner());
    bindings::luthier::filter::host::add_to_linker::<_, HasSelf<_>>(&mut linker, |state: &mut HostState| state)?;
    for (name, item) in component.component_type().imports(engine.inner()) {
        if !name.starts_with("wasi:random/") {
            continue;
        }
        let ComponentItem::ComponentInstance(interface) = item.ty else { continue };
        let mut instance = linker.instance(name)?;
        for (function, _) in interface.exports(engine.inner()) {
            match function {
                "get-random-u64" | "get-insecure-random-u64" => {
                    instance.func_wrap(function, |_, ()| Ok((SEED,)))?;
                }
                "get-random-bytes" | "get-insecure-random-bytes" => {
                    instance.func_wrap(function, |_, (length,): (u64,)| {
                        let length = usize::try_from(length.min(1 << 16)).unwrap_or_default();
                        Ok((SEED.to_le_bytes().iter().copied().cycle().take(length).collect::<Vec<u8>>(),))
                    })?;
                }
                "insecure-seed" => instance.func_wrap(function, |_, ()| Ok(((SEED, SEED),)))?,
                _ => {}
            }
        }
    }
    linker.define_unknown_imports_as_traps(component)?;
    Ok(linker)
}

fn describe(inner: &Inner, name: &str) -> StageResult<Manifest> {
    let wrong = |what: String| {
        StageError::input("plugin::manifest", format!("plugin `{name}` describes itself wrongly: {what}"))
            .hint("rebuild the plugin with the SDK in plugins/sdk")
    };
    let raw = Session::describe(&inner.engine, &inner.pre, &inner.limits)
        .map_err(|fault| StageError::input("plugin::describe", format!("plugin `{name}` {fault}")))?;
    let manifest = Manifest {
        name: raw.name,
        version: raw.version,
        about: raw.about,
        text: raw.text,
        reads: raw.reads,
        scores: raw
            .scores
            .into_iter()
            .map(|score| ScoreColumn {
                name: score.name,
                kind: match score.kind {
                    bindings::luthier::filter::types::ScoreKind::Real => ScoreKind::Real,
                    bindings::luthier::filter::types::ScoreKind::Count => ScoreKind::Count,
                    bindings::luthier::filter::types::ScoreKind::Flag => ScoreKind::Flag,
                },
            })
            .collect(),
        reasons: raw.reasons,
        edits_text: raw.edits_text,
        config_schema: Manifest::parse_schema(&raw.config_schema).map_err(wrong)?,
    };
    manifest.check().map_err(wrong)?;
    Ok(manifest)
}
