//! Which modules there are, and whether their PTX is that of their sources.

use std::path::{Path, PathBuf};

pub const GENERATIONS: [&str; 3] = ["compute_75", "compute_80", "compute_90"];
/// What every module is compiled with.
pub const OPTIONS: [&str; 4] = [
    "-std=c++17",
    "-default-device",
    "-DKERNEL_REGISTER(name)=",
    "-DDYN_SHARED(type,name)=extern __shared__ __align__(16) unsigned char name##_bytes[]; type *name = (type *)name##_bytes",
];
/// Every module, in order.
pub const MODULES: [&str; 20] = [
    "adapters",
    "attention",
    "attention_backward",
    "attention_backward_mma",
    "attention_decode",
    "attention_mma",
    "blocks",
    "cross_entropy",
    "dora",
    "elementwise",
    "embedding",
    "matmul",
    "matmul_mma",
    "nf4",
    "optimizer",
    "random",
    "rms_norm",
    "rope",
    "sampling",
    "swiglu",
];

pub fn home() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where the compressed PTX of a module is.
pub fn path(generation: &str, module: &str) -> PathBuf {
    home().join("ptx").join(generation).join(format!("{module}.ptx.zst"))
}

/// The committed PTX of a module.
///
/// # Errors
/// It cannot be read.
pub fn text(generation: &str, module: &str) -> std::io::Result<String> {
    let packed = fs_err::read(path(generation, module))?;
    String::from_utf8(zstd::decode_all(packed.as_slice())?).map_err(std::io::Error::other)
}

/// A digest of all that the PTX of a module follows from.
///
/// # Errors
/// A source cannot be read.
pub fn digest(generation: &str, module: &str) -> std::io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(generation.as_bytes());
    for option in OPTIONS {
        hasher.update(option.as_bytes());
    }
    let folder = home().join("kernels");
    for path in headers(&folder)?.into_iter().chain([folder.join(format!("{module}.cu"))]) {
        hasher.update(&fs_err::read(path)?);
    }
    Ok(hasher.finalize().to_hex()[..16].to_owned())
}

/// The `.cuh` files of a folder, in order.
///
/// # Errors
/// The folder cannot be read.
pub fn headers(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "cuh") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}
