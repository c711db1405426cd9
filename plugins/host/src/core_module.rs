//! Core modules as components.
//!
//! Compilers for C and its like make a module whose exports are named by the canonical ABI. What a component adds are
//! types, which the world gives: a module that exports a filter is wrapped with those of its world. Calls of WASI
//! preview 1, which such compilers link in, are led to preview 2, where they trap with their name.

use std::borrow::Cow;

use luthier_core::{StageError, StageResult};
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::world::World;

/// The start of a core module, as against that of a component.
const MODULE: &[u8] = b"\0asm\x01\0\0\0";

/// `wasm`, or the component around it if it is a core module that exports a filter. What is neither comes back as it is
/// and is refused by those who compile it. `name` is for messages.
///
/// # Errors
/// The module's exports do not fit the world that they name.
pub(crate) fn as_component<'a>(name: &str, wasm: &'a [u8]) -> StageResult<Cow<'a, [u8]>> {
    if !wasm.starts_with(MODULE) {
        return Ok(Cow::Borrowed(wasm));
    }
    let exported = |world: &World| {
        let export = format!("{}#describe", world.filter());
        wasm.windows(export.len()).any(|window| window == export.as_bytes())
    };
    let Some(world) = World::ALL.into_iter().rev().find(exported) else { return Ok(Cow::Borrowed(wasm)) };
    wrap(wasm, world).map(Cow::Owned).map_err(|error| {
        StageError::input("plugin::module", format!("plugin `{name}` is a core module that does not fit `{world}`"))
            .hint("export what plugins/wit asks for, as `luthier plugin new NAME --lang c` does")
            .caused_by(format!("{error:#}"))
    })
}

fn wrap(wasm: &[u8], world: World) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    let mut resolve = Resolve::default();
    let package = resolve.push_source("filter.wit", world.wit())?;
    let id = resolve.select_world(&[package], Some("plugin"))?;
    let mut module = wasm.to_vec();
    embed_component_metadata(&mut module, &resolve, id, StringEncoding::UTF8)?;
    let encoder = ComponentEncoder::default()
        .module(&module)?
        .adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER)?;
    Ok(encoder.validate(true).encode()?)
}
