//! The same tests with the address sanitizer and with the thread sanitizer in the emulated driver and the kernels.

use std::process::Command;

use crate::support::emulator::{build, missing};

/// The sanitizer's library, which must be loaded first; `None` if the compiler has none.
fn runtime(sanitizer: &str) -> Option<String> {
    let name = if sanitizer == "address" { "libasan.so" } else { "libtsan.so" };
    let output = Command::new("g++").arg(format!("-print-file-name={name}")).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    path.starts_with('/').then_some(path)
}

fn run(sanitizer: &str) {
    let Some(runtime) = (if missing().is_none() { runtime(sanitizer) } else { None }) else {
        eprintln!("skipped: the C++ compiler has no {sanitizer} sanitizer");
        return;
    };
    let driver = build(Some(sanitizer), None);
    // Without it, the thread sanitizer does not find its memory where addresses are random.
    let fixed = Command::new("setarch").args(["-R", "true"]).status().is_ok_and(|status| status.success());
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(if fixed { "setarch".into() } else { program.clone().into_os_string() });
    if fixed {
        command.arg("-R").arg(program);
    }
    let output = command
        .args(["--skip", "mutants::", "--skip", "sanitizers::", "--skip", "generated::"])
        .env("LUTHIER_EMULATED_DRIVER", driver)
        .env("LD_PRELOAD", runtime)
        .env("ASAN_OPTIONS", "detect_leaks=0")
        // What is not built with the sanitizer synchronises in ways that it does not see: the host side of the tests.
        .env("TSAN_OPTIONS", "report_signal_unsafe=0 ignore_noninstrumented_modules=1 exitcode=66")
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && !text.contains("Sanitizer:"), "{text}");
    assert!(text.contains("test result: ok"), "{text}");
}

#[test]
#[ignore = "takes minutes: kernels/cuda/tests/checks.sh"]
fn no_access_is_out_of_bounds() {
    run("address");
}

#[test]
#[ignore = "takes minutes: kernels/cuda/tests/checks.sh"]
fn no_thread_races_with_another() {
    run("thread");
}
