//! A component, compiled, linked and asked who it is.

use std::sync::Arc;

use luthier_core::{Digest, StageError, StageResult};
use wasmtime::StoreContextMut;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker, LinkerInstance, Resource, Val};

use crate::compiled_cache::CompiledCache;
use crate::core_module::as_component;
use crate::engine::{FilterEngine, into_std};
use crate::guest::{GuestPre, add_host};
use crate::host_state::HostState;
use crate::limits::Limits;
use crate::manifest::Manifest;
use crate::session::Session;
use crate::world::World;

/// What the seed of hash tables is in a guest. A constant: a filter has no randomness.
const SEED: u64 = 0x6c75_7468_6965_7221;

/// A plugin that can be opened, once per worker thread.
#[derive(Clone)]
pub struct PluginComponent(Arc<Inner>);

struct Inner {
    engine: FilterEngine,
    world: World,
    pre: GuestPre,
    manifest: Manifest,
    limits: Limits,
    digest: Digest,
    imports: Vec<String>,
    bytes: usize,
}

impl PluginComponent {
    /// Compiles `wasm`, a component or a core module with the exports of one (or takes it from `cache`), refuses imports
    /// that are neither ours nor WASI's, and reads the manifest. `name` is for messages.
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
        let component = cache.compile(engine, name, &as_component(name, wasm)?)?;
        let (imports, exports) = names_of(engine, &component);
        let world = World::of(name, &imports, &exports)?;
        let linker = link(engine, &component).map_err(|error| {
            StageError::new("plugin::link", format!("plugin `{name}` cannot be linked")).caused_by(into_std(error))
        })?;
        let pre = linker.instantiate_pre(&component).and_then(|pre| GuestPre::new(world, pre)).map_err(|error| {
            StageError::input(
                "plugin::world",
                format!("plugin `{name}` does not fit the world `{world}` that it names"),
            )
            .hint("build it with the SDK in plugins/sdk, or from the filter.wit of that world in plugins/wit")
            .caused_by(into_std(error))
        })?;
        let mut inner = Inner {
            engine: engine.clone(),
            world,
            pre,
            manifest: empty_manifest(name),
            limits,
            digest: Digest::of(wasm),
            imports,
            bytes: wasm.len(),
        };
        inner.manifest = describe(&inner, name)?;
        cache.keep_manifest(&inner.digest, &inner.manifest);
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

    /// What it was built for.
    #[must_use]
    pub fn world(&self) -> World {
        self.0.world
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

fn names_of(engine: &FilterEngine, component: &Component) -> (Vec<String>, Vec<String>) {
    let kind = component.component_type();
    let owned = |name: &str| name.to_owned();
    (
        kind.imports(engine.inner()).map(|(name, _)| owned(name)).collect(),
        kind.exports(engine.inner()).map(|(name, _)| owned(name)).collect(),
    )
}

fn link(engine: &FilterEngine, component: &Component) -> wasmtime::Result<Linker<HostState>> {
    let mut linker = Linker::new(engine.inner());
    add_host(&mut linker)?;
    for (name, item) in component.component_type().imports(engine.inner()) {
        let ComponentItem::ComponentInstance(interface) = item.ty else { continue };
        if name.starts_with("wasi:") {
            let mut instance = linker.instance(name)?;
            for (function, _) in interface.exports(engine.inner()) {
                answer(&mut instance, name, function)?;
            }
        }
    }
    linker.define_unknown_imports_as_traps(component)?;
    Ok(linker)
}

/// Defines what the libraries of compiled languages ask WASI for. While they start there are no directories, variables or
/// arguments; later, when the filter itself asks, that traps, as everything else does. The seed is a constant. The standard
/// streams can be had, but not be read or written.
fn answer(instance: &mut LinkerInstance<'_, HostState>, name: &str, function: &str) -> wasmtime::Result<()> {
    let interface = name.split('@').next().unwrap_or_default();
    // As the linker words it for what it has no definition of.
    let unknown = format!("unknown import: `{name}#{function}` has not been defined");
    match (interface, function) {
        (_, "get-random-u64" | "get-insecure-random-u64") => instance.func_wrap(function, |_, ()| Ok((SEED,))),
        (_, "get-random-bytes" | "get-insecure-random-bytes") => {
            instance.func_wrap(function, |_, (length,): (u64,)| {
                let length = usize::try_from(length.min(1 << 16)).unwrap_or_default();
                Ok((SEED.to_le_bytes().iter().copied().cycle().take(length).collect::<Vec<u8>>(),))
            })
        }
        (_, "insecure-seed") => instance.func_wrap(function, |_, ()| Ok(((SEED, SEED),))),
        ("wasi:filesystem/preopens", "get-directories")
        | ("wasi:cli/environment", "get-environment" | "get-arguments") => {
            instance.func_new(function, move |store, _, _, results| {
                if store.data().has_started() {
                    return Err(wasmtime::Error::msg(unknown.clone()));
                }
                results[0] = Val::List(Vec::new());
                Ok(())
            })
        }
        (_, "get-terminal-stdin" | "get-terminal-stdout" | "get-terminal-stderr") => {
            instance.func_new(function, |_, _, _, results| {
                results[0] = Val::Option(None);
                Ok(())
            })
        }
        // The type of all resources that are defined below as what traps.
        (_, "get-stdin" | "get-stdout" | "get-stderr") => {
            instance.func_wrap(function, move |store: StoreContextMut<'_, HostState>, ()| {
                if store.data().has_started() {
                    return Err(wasmtime::Error::msg(unknown.clone()));
                }
                Ok((Resource::<()>::new_own(0),))
            })
        }
        _ => Ok(()),
    }
}

fn describe(inner: &Inner, name: &str) -> StageResult<Manifest> {
    let wrong = |what: String| {
        StageError::input("plugin::manifest", format!("plugin `{name}` describes itself wrongly: {what}"))
            .hint("rebuild the plugin with the SDK in plugins/sdk")
    };
    let raw = Session::describe(&inner.engine, &inner.pre, &inner.limits).map_err(|fault| {
        StageError::input("plugin::describe", format!("plugin `{name}` {fault}")).hint(fault.hint(&inner.limits))
    })?;
    raw.check().map_err(wrong)
}
