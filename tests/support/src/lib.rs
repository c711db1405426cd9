//! What tests of several crates share.

mod project;
mod tiny_model;
mod tiny_tokenizer;
mod tiny_tokens;

pub use project::{Output, TestProject, exists};
pub use tiny_model::{TinyAdapter, TinyModel, write_safetensors};
pub use tiny_tokens::token_set;

/// Says that a test could not do its work here, and how to let it; shown with `--nocapture` and counted.
#[expect(clippy::print_stdout, reason = "a test that does nothing must not look like one that passed")]
pub fn skipped(why: &str) {
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
    println!("skipped ({count}): {why}");
}
