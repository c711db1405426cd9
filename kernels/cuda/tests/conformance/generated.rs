//! What is generated and committed is that of its sources.

#[path = "../../examples/roofline/machine.rs"]
mod machine;
#[path = "../../examples/roofline/model.rs"]
mod model;
#[path = "../../examples/roofline/report.rs"]
mod report;
#[path = "../../examples/roofline/step.rs"]
mod step;

use crate::support::sources::{GENERATIONS, digest, home, modules, path};

#[test]
fn ptx_is_that_of_the_kernels() {
    for generation in GENERATIONS {
        for module in modules(generation) {
            let packed = fs_err::read(path(generation, module)).unwrap();
            let ptx = String::from_utf8(zstd::decode_all(packed.as_slice()).unwrap()).unwrap();
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
