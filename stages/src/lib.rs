//! The stage kinds. One module per kind; each reads its inputs and writes its outputs through the `StageContext` and
//! knows nothing of the runner.

use luthier_core::Registry;

/// Every stage kind of this build.
#[must_use]
pub fn registry() -> Registry {
    let mut registry = Registry::new();
    // One line per kind, in alphabetical order.
    let _ = &mut registry;
    registry
}
