//! Host bindings of `plugins/wit/v0.1`. A later world gets its own module beside this one and a conversion to its types.

#![expect(clippy::all, clippy::unwrap_used, reason = "generated from the WIT files")]

wasmtime::component::bindgen!({
    path: "../wit/v0.1",
    world: "plugin",
    ownership: Borrowing { duplicate_if_necessary: true },
});
