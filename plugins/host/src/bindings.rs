//! Host bindings of `plugins/wit/v0.1`. A later world gets its own module beside this one and a conversion to its types.

wasmtime::component::bindgen!({
    path: "../wit/v0.1",
    world: "plugin",
    ownership: Borrowing { duplicate_if_necessary: true },
});
