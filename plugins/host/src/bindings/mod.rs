//! Host bindings of each world in `plugins/wit`. A world that was released is never changed: a later one gets its own
//! directory there, its own module here, and a conversion in [`crate::guest`].

pub(crate) mod v0_1 {
    wasmtime::component::bindgen!({
        path: "../wit/v0.1",
        world: "plugin",
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

pub(crate) mod v0_2 {
    wasmtime::component::bindgen!({
        path: "../wit/v0.2",
        world: "plugin",
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

pub(crate) mod v0_3 {
    wasmtime::component::bindgen!({
        path: "../wit/v0.3",
        world: "plugin",
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}
