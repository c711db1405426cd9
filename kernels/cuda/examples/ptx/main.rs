//! Compiles the kernels to PTX with NVRTC: `cargo run --release -p luthier-cuda --example ptx`.
//!
//! The library is `$LUTHIER_NVRTC`, or `libnvrtc.so.12` where the system finds it, or that of the wheel
//! `nvidia-cuda-nvrtc-cu12` in the active virtual environment. No GPU and no driver are needed.

#[path = "../../tests/conformance/support/sources.rs"]
mod sources;

use std::error::Error;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::PathBuf;

use libloading::{Library, Symbol};
use sources::{GENERATIONS, MODULES, OPTIONS, digest, home, path, text};

/// The highest that costs readers no extra memory.
const LEVEL: i32 = 19;

type Create = unsafe extern "C" fn(
    *mut *mut c_void,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(*mut c_void, c_int, *const *const c_char) -> c_int;
type Size = unsafe extern "C" fn(*mut c_void, *mut usize) -> c_int;
type Text = unsafe extern "C" fn(*mut c_void, *mut c_char) -> c_int;

fn main() -> Result<(), Box<dyn Error>> {
    let library = library()?;
    for generation in GENERATIONS {
        fs_err::create_dir_all(home().join("ptx").join(generation))?;
        for module in MODULES {
            let head = format!("// sources {}\n", digest(generation, module)?);
            // The compiler numbers registers anew each time.
            if text(generation, module).is_ok_and(|ptx| ptx.starts_with(&head)) {
                continue;
            }
            let ptx = for_older_drivers(&compile(&library, generation, module)?);
            fs_err::write(path(generation, module), zstd::encode_all((head + &ptx).as_bytes(), LEVEL)?)?;
        }
    }
    Ok(())
}

/// What drivers of CUDA 12.0 can read. A newer compiler says its own version and leaves hints that came later; the kernels
/// use nothing else that did, which the assembler checks.
fn for_older_drivers(ptx: &str) -> String {
    let mut text = String::with_capacity(ptx.len());
    for line in ptx.lines().filter(|line| !line.contains("used_bytes_mask")) {
        text.push_str(if line.starts_with(".version ") { ".version 8.0" } else { line });
        text.push('\n');
    }
    text
}

fn library() -> Result<Library, Box<dyn Error>> {
    let mut places: Vec<PathBuf> = std::env::var_os("LUTHIER_NVRTC").into_iter().map(PathBuf::from).collect();
    places.push("libnvrtc.so.12".into());
    if let Some(environment) = std::env::var_os("VIRTUAL_ENV") {
        for python in fs_err::read_dir(PathBuf::from(environment).join("lib"))? {
            places.push(python?.path().join("site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12"));
        }
    }
    for place in &places {
        // SAFETY: loading NVRTC runs its initialisers.
        if let Ok(library) = unsafe { Library::new(place) } {
            return Ok(library);
        }
    }
    Err("NVRTC was not found\nhint: `pip install nvidia-cuda-nvrtc-cu12` in an active virtual environment".into())
}

fn compile(library: &Library, generation: &str, module: &str) -> Result<String, Box<dyn Error>> {
    let source = CString::new(fs_err::read_to_string(home().join("kernels").join(format!("{module}.cu")))?)?;
    let name = CString::new(format!("{module}.cu"))?;
    let mut options =
        vec![format!("--gpu-architecture={generation}"), format!("-I{}", home().join("kernels").display())];
    options.extend(OPTIONS.iter().map(|option| (*option).to_owned()));
    let options: Vec<CString> = options.into_iter().map(CString::new).collect::<Result<_, _>>()?;
    let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
    // SAFETY: the signatures are those of nvrtc.h; all strings end with a zero byte and outlive the calls.
    unsafe {
        let create: Symbol<'_, Create> = library.get(b"nvrtcCreateProgram")?;
        let run: Symbol<'_, Compile> = library.get(b"nvrtcCompileProgram")?;
        let mut program = std::ptr::null_mut();
        let none = std::ptr::null();
        if create(&raw mut program, source.as_ptr(), name.as_ptr(), 0, none, none) != 0 {
            return Err(format!("NVRTC took no program of `{module}.cu`").into());
        }
        let code = run(program, pointers.len() as c_int, pointers.as_ptr());
        if code != 0 {
            let log = answer(library, program, b"nvrtcGetProgramLogSize", b"nvrtcGetProgramLog")?;
            return Err(format!("`{module}.cu` for {generation}: {log}").into());
        }
        answer(library, program, b"nvrtcGetPTXSize", b"nvrtcGetPTX")
    }
}

/// # Safety
/// `program` is NVRTC's, and the functions are a pair of size and text.
unsafe fn answer(library: &Library, program: *mut c_void, size: &[u8], get: &[u8]) -> Result<String, Box<dyn Error>> {
    // SAFETY: as the caller says; the buffer is as long as the size says.
    unsafe {
        let size: Symbol<'_, Size> = library.get(size)?;
        let get: Symbol<'_, Text> = library.get(get)?;
        let mut length = 0;
        size(program, &raw mut length);
        let mut bytes = vec![0_u8; length.max(1)];
        get(program, bytes.as_mut_ptr().cast());
        Ok(CStr::from_bytes_until_nul(&bytes)?.to_str()?.to_owned())
    }
}
