//! The compiled kernels, by the generation of devices they are for: PTX, compressed by zstd.

use std::collections::BTreeMap;

macro_rules! modules {
    ($generation:literal) => {
        modules!($generation:
            "adapters", "attention", "attention_backward", "attention_backward_mma", "attention_decode", "attention_mma",
            "blocks", "cross_entropy", "dora", "elementwise", "embedding", "matmul", "matmul_mma", "nf4", "optimizer",
            "random", "rms_norm", "rope", "sampling", "swiglu")
    };
    ($generation:literal: $($name:literal),*) => {
        &[$(($name, include_bytes!(concat!("../ptx/", $generation, "/", $name, ".ptx.zst")))),*]
    };
}

/// Names and compressed texts.
type Packed = &'static [(&'static str, &'static [u8])];

const COMPUTE_75: Packed = modules!("compute_75");
const COMPUTE_80: Packed = modules!("compute_80");
const COMPUTE_90: Packed = modules!("compute_90");

/// One file of kernels.
pub struct Module {
    pub name: &'static str,
    pub ptx: String,
}

/// The newest PTX that a device can run.
///
/// # Errors
/// What is embedded cannot be read.
pub fn of(capability: (i32, i32)) -> Result<Vec<Module>, String> {
    let packed = match capability.0 {
        ..=7 => COMPUTE_75,
        8 => COMPUTE_80,
        _ => COMPUTE_90,
    };
    packed
        .iter()
        .map(|(name, bytes)| {
            let unpacked = zstd::decode_all(*bytes).map_err(|error| format!("module `{name}`: {error}"))?;
            let ptx = String::from_utf8(unpacked).map_err(|error| format!("module `{name}`: {error}"))?;
            Ok(Module { name, ptx })
        })
        .collect()
}

/// Which module each kernel is in.
pub fn kernels(modules: &[Module]) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for (index, module) in modules.iter().enumerate() {
        all.extend(entries(&module.ptx).map(|name| (name.to_owned(), index)));
    }
    all
}

/// The kernels of a PTX file.
pub fn entries(ptx: &str) -> impl Iterator<Item = &str> {
    ptx.split(".entry ").skip(1).filter_map(|rest| rest.split('(').next()).map(str::trim)
}
