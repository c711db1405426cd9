//! Writes ROOFLINE.md.

mod launches;
mod machine;
mod model;
mod report;
mod step;

fn main() -> std::io::Result<()> {
    fs_err::write(concat!(env!("CARGO_MANIFEST_DIR"), "/ROOFLINE.md"), report::report())
}
