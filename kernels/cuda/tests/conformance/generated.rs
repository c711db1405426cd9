//! What is generated and committed is that of its sources.

#[path = "../../examples/roofline/launches.rs"]
mod launches;
#[path = "../../examples/roofline/machine.rs"]
mod machine;
#[path = "../../examples/roofline/model.rs"]
mod model;
#[path = "../../examples/roofline/report.rs"]
mod report;
#[path = "../../examples/roofline/step.rs"]
mod step;

use crate::support::sources::{GENERATIONS, MODULES, digest, home, text};

#[test]
fn ptx_is_that_of_the_kernels() {
    for generation in GENERATIONS {
        for module in MODULES {
            let ptx = text(generation, module).unwrap();
            assert!(!ptx.contains("used_bytes_mask"), "a hint that drivers of CUDA 12.0 refuse");
            let expected = format!("// sources {}", digest(generation, module).unwrap());
            let hint = "run `cargo run --release -p luthier-cuda --example ptx`";
            assert_eq!(
                ptx.lines().next(),
                Some(expected.as_str()),
                "ptx/{generation}/{module}.ptx.zst is stale: {hint}"
            );
        }
    }
}

#[test]
fn the_roofline_is_that_of_the_shapes() {
    let found = fs_err::read_to_string(home().join("ROOFLINE.md")).unwrap();
    let hint = "run `cargo run --release -p luthier-cuda --example roofline`";
    assert!(found == report::report(), "ROOFLINE.md is stale: {hint}");
}
