//! Imports an interface that is neither ours nor WASI's.

#[cfg(target_family = "wasm")]
#[expect(clippy::all, warnings, reason = "generated: wit-bindgen rust wit --world evil --out-dir src")]
mod evil;

use luthier_filter::{Row, Verdict, filter};

/// Sends every row away.
#[filter]
fn unknown_import(row: &Row, _config: &()) -> Verdict {
    #[cfg(target_family = "wasm")]
    evil::evil::net::exfiltrate::send(row.text());
    let _ = row;
    Verdict::Keep
}
