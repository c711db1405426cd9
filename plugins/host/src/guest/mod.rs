//! A guest as the host sees it, whatever world it was built for.

mod v0_1;
mod v0_2;
mod v0_3;

use wasmtime::Store;
use wasmtime::component::{HasSelf, InstancePre, Linker};

use crate::batch::TextBatch;
use crate::bindings;
use crate::fault::Fault;
use crate::host_state::HostState;
use crate::manifest::RawManifest;
use crate::verdict::RawVerdicts;
use crate::world::World;

/// Ready to be instantiated.
pub(crate) enum GuestPre {
    V0_1(bindings::v0_1::PluginPre<HostState>),
    V0_2(bindings::v0_2::PluginPre<HostState>),
    V0_3(bindings::v0_3::PluginPre<HostState>),
}

/// A live instance with its session.
pub(crate) enum Guest {
    V0_1(v0_1::Live),
    V0_2(v0_2::Live),
    V0_3(v0_3::Live),
}

/// Why a guest did not open, in its own words.
pub(crate) enum Declined {
    /// `(path, message)` pairs.
    Config(Vec<(String, String)>),
    Other(String),
}

/// Adds what the guests of every world may call.
pub(crate) fn add_host(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    bindings::v0_1::luthier::filter::host::add_to_linker::<_, HasSelf<_>>(linker, |state: &mut HostState| state)?;
    bindings::v0_2::luthier::filter::host::add_to_linker::<_, HasSelf<_>>(linker, |state: &mut HostState| state)?;
    bindings::v0_3::luthier::filter::host::add_to_linker::<_, HasSelf<_>>(linker, |state: &mut HostState| state)
}

impl GuestPre {
    pub(crate) fn new(world: World, pre: InstancePre<HostState>) -> wasmtime::Result<Self> {
        Ok(match world {
            World::V0_1 => Self::V0_1(bindings::v0_1::PluginPre::new(pre)?),
            World::V0_2 => Self::V0_2(bindings::v0_2::PluginPre::new(pre)?),
            World::V0_3 => Self::V0_3(bindings::v0_3::PluginPre::new(pre)?),
        })
    }

    pub(crate) fn describe(&self, store: &mut Store<HostState>) -> wasmtime::Result<RawManifest> {
        match self {
            Self::V0_1(pre) => v0_1::describe(pre, store),
            Self::V0_2(pre) => v0_2::describe(pre, store),
            Self::V0_3(pre) => v0_3::describe(pre, store),
        }
    }

    pub(crate) fn open(&self, store: &mut Store<HostState>, config: &str) -> wasmtime::Result<Result<Guest, Declined>> {
        Ok(match self {
            Self::V0_1(pre) => v0_1::open(pre, store, config)?.map(Guest::V0_1),
            Self::V0_2(pre) => v0_2::open(pre, store, config)?.map(Guest::V0_2),
            Self::V0_3(pre) => v0_3::open(pre, store, config)?.map(Guest::V0_3),
        })
    }
}

impl Guest {
    pub(crate) fn process(
        &self,
        store: &mut Store<HostState>,
        rows: u32,
        batch: &TextBatch<'_>,
    ) -> wasmtime::Result<Result<RawVerdicts, Fault>> {
        match self {
            Self::V0_1(live) => live.process(store, rows, batch),
            Self::V0_2(live) => live.process(store, rows, batch),
            Self::V0_3(live) => live.process(store, rows, batch),
        }
    }
}

/// The manifest of any world so far: they have the same fields.
macro_rules! raw_manifest {
    ($raw:expr, $kind:ident) => {{
        let raw = $raw;
        $crate::manifest::RawManifest {
            name: raw.name,
            version: raw.version,
            about: raw.about,
            text: raw.text,
            reads: raw.reads,
            scores: raw
                .scores
                .into_iter()
                .map(|score| $crate::manifest::ScoreColumn {
                    name: score.name,
                    kind: match score.kind {
                        $kind::Real => $crate::manifest::ScoreKind::Real,
                        $kind::Count => $crate::manifest::ScoreKind::Count,
                        $kind::Flag => $crate::manifest::ScoreKind::Flag,
                    },
                })
                .collect(),
            reasons: raw.reasons,
            edits_text: raw.edits_text,
            config_schema: raw.config_schema,
        }
    }};
}
pub(crate) use raw_manifest;
