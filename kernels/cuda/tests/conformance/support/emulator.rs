//! Builds the emulated driver: the kernels' sources and `emulator/`, by the C++ compiler that is there.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::sources::{MODULES, headers, home};

/// What the driver is made of beside the kernels.
const EMULATOR: [&str; 10] = [
    "driver/copies.cpp",
    "driver/device.cpp",
    "driver/memory.cpp",
    "driver/module.cpp",
    "driver/stream.cpp",
    "fiber.cpp",
    "scheduler.cpp",
    "shared.cpp",
    "tensor_core.cpp",
    "warp.cpp",
];
const EMULATOR_HEADERS: [&str; 6] =
    ["driver/driver.h", "emulator.h", "fiber.h", "runtime.h", "shared.h", "tensor_core.h"];

/// A text of a kernel that is replaced.
pub struct Edit<'a> {
    pub file: &'a str,
    pub find: &'a str,
    pub replace: &'a str,
}

/// Why there is no driver.
pub fn missing() -> Option<String> {
    match Command::new("g++").arg("--version").output() {
        Ok(output) if output.status.success() => None,
        _ => Some("no C++ compiler (g++)".to_owned()),
    }
}

/// The library with a change of the kernels, under a sanitizer (`address`, `thread`) if one is named. Objects are kept by
/// the digest of all that they follow from.
///
/// # Panics
/// If the compiler fails.
pub fn build(sanitizer: Option<&str>, edit: Option<&Edit<'_>>) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("emulator");
    fs_err::create_dir_all(&root).unwrap();
    let kernels = match edit {
        None => home().join("kernels"),
        Some(edit) => edited(&root, edit),
    };
    let mut objects: Vec<PathBuf> = Vec::new();
    let sources = MODULES.iter().map(|module| kernels.join(format!("{module}.cu")));
    let emulator = EMULATOR.map(|name| home().join("emulator").join(name));
    let sources: Vec<PathBuf> = sources.chain(emulator).collect();
    std::thread::scope(|scope| {
        let half = sources.len().div_ceil(2);
        let threads: Vec<_> = sources
            .chunks(half)
            .map(|part| {
                let (root, kernels) = (&root, &kernels);
                scope.spawn(move || {
                    part.iter().map(|source| object(root, kernels, source, sanitizer)).collect::<Vec<_>>()
                })
            })
            .collect();
        for thread in threads {
            objects.extend(thread.join().unwrap());
        }
    });
    let mut hasher = blake3::Hasher::new();
    for object in &objects {
        hasher.update(object.to_str().unwrap().as_bytes());
    }
    let folder = root.join(&hasher.finalize().to_hex()[..16]);
    let library = folder.join("libcuda.so");
    if !library.exists() {
        fs_err::create_dir_all(&folder).unwrap();
        let temporary = folder.join(format!("{}.so", std::process::id()));
        let mut command = Command::new("g++");
        command.args(["-shared", "-Wl,-soname,libcuda.so", "-o"]).arg(&temporary).args(&objects);
        command.args(sanitizer.map(|name| format!("-fsanitize={name}")));
        run(&mut command);
        fs_err::rename(temporary, &library).unwrap();
    }
    library
}

/// An emulated cuBLAS, under the name of the real one.
///
/// # Panics
/// If the compiler fails.
pub fn build_cublas() -> PathBuf {
    let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("emulator");
    fs_err::create_dir_all(&root).unwrap();
    let source = home().join("emulator/cublas.cpp");
    let digest = blake3::hash(&fs_err::read(&source).unwrap()).to_hex();
    let library = root.join(format!("cublas-{}.so", &digest[..16]));
    if !library.exists() {
        let temporary = root.join(format!("cublas-{}.so", std::process::id()));
        let mut command = Command::new("g++");
        command.args(["-std=c++17", "-O2", "-shared", "-fPIC", "-Wl,-soname,libcublas.so.12", "-o"]);
        run(command.arg(&temporary).arg(source));
        fs_err::rename(temporary, &library).unwrap();
    }
    library
}

fn edited(root: &Path, edit: &Edit<'_>) -> PathBuf {
    let key = blake3::hash([edit.file, edit.find, edit.replace].join("\0").as_bytes());
    let folder = root.join(format!("edit-{}", &key.to_hex()[..16])).join("kernels");
    fs_err::create_dir_all(&folder).unwrap();
    let _ = fs_err::remove_file(folder.join("../emulator"));
    fs_err::os::unix::fs::symlink(home().join("emulator"), folder.join("../emulator")).unwrap();
    for entry in fs_err::read_dir(home().join("kernels")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let mut text = fs_err::read_to_string(&path).unwrap();
        if name == edit.file {
            assert_eq!(text.matches(edit.find).count(), 1, "`{}` must be once in {name}", edit.find);
            text = text.replace(edit.find, edit.replace);
        }
        fs_err::write(folder.join(name), text).unwrap();
    }
    folder
}

fn object(root: &Path, kernels: &Path, source: &Path, sanitizer: Option<&str>) -> PathBuf {
    let mut flags =
        vec!["-std=c++17", "-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-strict-aliasing"];
    // `fmaf` as an instruction; the bits are those of the function.
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("fma") && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c") {
        flags.extend(["-mavx2", "-mfma", "-mf16c"]);
    }
    let sanitize = sanitizer.map(|name| format!("-fsanitize={name}"));
    flags.extend(sanitize.as_deref());
    let mut hasher = blake3::Hasher::new();
    for flag in &flags {
        hasher.update(flag.as_bytes());
    }
    hasher.update(&fs_err::read(source).unwrap());
    // What a file includes: its own kernels' headers as far as their names are in it or in each other, and the emulator.
    for header in included(kernels, source) {
        hasher.update(&fs_err::read(header).unwrap());
    }
    for name in EMULATOR_HEADERS {
        hasher.update(&fs_err::read(home().join("emulator").join(name)).unwrap());
    }
    let object = root.join(format!("{}.o", &hasher.finalize().to_hex()[..24]));
    if !object.exists() {
        let temporary = object.with_extension(format!("{}.tmp", std::process::id()));
        let mut command = Command::new("g++");
        command.args(&flags);
        if source.extension().is_some_and(|extension| extension == "cu") {
            command.arg("-include").arg(home().join("emulator/emulator.h"));
        }
        command.args(["-x", "c++", "-c"]);
        command.arg(source).arg("-o").arg(&temporary);
        run(&mut command);
        fs_err::rename(temporary, &object).unwrap();
    }
    object
}

fn included(kernels: &Path, source: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut open = vec![source.to_owned()];
    while let Some(path) = open.pop() {
        let text = fs_err::read_to_string(&path).unwrap();
        for header in headers(kernels).unwrap() {
            let name = header.file_name().unwrap().to_str().unwrap();
            if text.contains(&format!("#include \"{name}\"")) && !found.contains(&header) {
                found.push(header.clone());
                open.push(header);
            }
        }
    }
    found.sort();
    found
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
