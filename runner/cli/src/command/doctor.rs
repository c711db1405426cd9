//! `luthier doctor`: what the stages may need, and what to do where it is missing.

use std::process::Command;

use serde::Serialize;

use crate::printer::Printer;

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'static str>,
}

pub fn run(printer: Printer) -> u8 {
    let checks = [processor(), memory(), package_client(), cargo(), wasm_target(), npm(), gpu()];
    if printer.json {
        printer.json(&checks);
    } else {
        for check in &checks {
            printer.result(&format!("{} {:<18} {}", if check.ok { "ok  " } else { "note" }, check.name, check.found));
            if let (false, Some(hint)) = (check.ok, check.hint) {
                printer.result(&format!("     hint: {hint}"));
            }
        }
    }
    crate::exit::DONE
}

/// The first line a program prints, if it runs.
fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}

fn processor() -> Check {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    #[cfg(target_arch = "x86_64")]
    let simd = if std::is_x86_feature_detected!("avx512f") {
        "AVX-512"
    } else if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
        "AVX2 and FMA"
    } else {
        "no AVX2: training works and is slow"
    };
    #[cfg(not(target_arch = "x86_64"))]
    let simd = "portable kernels";
    Check { name: "processor", ok: true, found: format!("{threads} threads, {simd}"), hint: None }
}

fn memory() -> Check {
    let text = fs_err::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = |name: &str| -> Option<u64> {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    match (kilobytes("MemTotal:"), kilobytes("MemAvailable:")) {
        (Some(total), Some(available)) => Check {
            name: "memory",
            ok: available > 2_000_000,
            found: format!(
                "{} of {} available",
                luthier_engine::format::bytes(available * 1024),
                luthier_engine::format::bytes(total * 1024)
            ),
            hint: Some("the quickstart's training needs about 2 GB; close something, or lower `batch`"),
        },
        _ => Check { name: "memory", ok: true, found: "not known on this system".to_owned(), hint: None },
    }
}

fn package_client() -> Check {
    let clients: [(&str, &[&str]); 4] = [
        ("pip", &["--version"]),
        ("pip3", &["--version"]),
        ("python3", &["-m", "pip", "--version"]),
        ("uv", &["--version"]),
    ];
    let found = clients.iter().find_map(|(program, arguments)| first_line(program, arguments));
    Check {
        name: "pip or uv",
        ok: found.is_some(),
        found: found.unwrap_or_else(|| "not found: `pkg:pypi` sources cannot be fetched".to_owned()),
        hint: Some("install pip or uv, or give the stage a local path or an https:// source"),
    }
}

fn npm() -> Check {
    let found = first_line("npm", &["--version"]);
    Check {
        name: "npm",
        ok: true,
        found: found.unwrap_or_else(|| "not found: only `pkg:npm` sources need it".to_owned()),
        hint: None,
    }
}

fn cargo() -> Check {
    let found = first_line("cargo", &["--version"]);
    Check {
        name: "cargo",
        ok: found.is_some(),
        found: found.unwrap_or_else(|| "not found: filter plugins cannot be built from source".to_owned()),
        hint: Some("install Rust, or name built .wasm files in the pipeline"),
    }
}

fn wasm_target() -> Check {
    let libdir = first_line("rustc", &["--print", "target-libdir", "--target", "wasm32-wasip2"]);
    let ok = libdir.is_some_and(|path| std::path::Path::new(&path).is_dir());
    Check {
        name: "wasm32-wasip2",
        ok,
        found: if ok { "installed" } else { "not installed: Rust filter plugins cannot be built" }.to_owned(),
        hint: Some("rustup target add wasm32-wasip2"),
    }
}

fn gpu() -> Check {
    let found = first_line("nvidia-smi", &["--query-gpu=name,memory.total", "--format=csv,noheader"]);
    Check {
        name: "gpu",
        ok: true,
        found: match found {
            Some(name) => format!("{name}; not used yet, training runs on the CPU"),
            None => "none found; training runs on the CPU".to_owned(),
        },
        hint: None,
    }
}
