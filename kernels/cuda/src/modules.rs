//! The compiled kernels, by the generation of devices they are for.

use std::collections::BTreeMap;

macro_rules! modules {
    ($generation:literal: $($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../ptx/", $generation, "/", $name, ".ptx")))),*]
    };
}

type Modules = &'static [(&'static str, &'static str)];

const COMPUTE_75: Modules = modules!("compute_75":
    "attention", "attention_backward", "attention_decode", "blocks", "cross_entropy", "dora", "elementwise", "embedding",
    "matmul", "matmul_mma", "nf4", "optimizer", "random", "rms_norm", "rope", "sampling", "swiglu");
const COMPUTE_80: Modules = modules!("compute_80":
    "attention", "attention_backward", "attention_backward_mma", "attention_decode", "attention_mma", "blocks",
    "cross_entropy", "dora", "elementwise", "embedding", "matmul", "matmul_mma", "nf4", "optimizer", "random", "rms_norm",
    "rope", "sampling", "swiglu");
const COMPUTE_90: Modules = modules!("compute_90":
    "attention", "attention_backward", "attention_backward_mma", "attention_decode", "attention_mma", "blocks",
    "cross_entropy", "dora", "elementwise", "embedding", "matmul", "matmul_mma", "nf4", "optimizer", "random", "rms_norm",
    "rope", "sampling", "swiglu");

/// The newest PTX that a device can run.
pub fn of(capability: (i32, i32)) -> Modules {
    match capability.0 {
        ..=7 => COMPUTE_75,
        8 => COMPUTE_80,
        _ => COMPUTE_90,
    }
}

/// Which module each kernel is in.
pub fn kernels(modules: Modules) -> BTreeMap<&'static str, usize> {
    let mut all = BTreeMap::new();
    for (index, (_, ptx)) in modules.iter().enumerate() {
        all.extend(entries(ptx).map(|name| (name, index)));
    }
    all
}

/// The kernels of a PTX file.
pub fn entries(ptx: &str) -> impl Iterator<Item = &str> {
    ptx.split(".entry ").skip(1).filter_map(|rest| rest.split('(').next()).map(str::trim)
}
