//! NVIDIA's assembler and disassembler.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is known of an assembled kernel.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    pub registers: u32,
    pub shared: u32,
    /// Stores and loads.
    pub spilled: u32,
    /// Tensor-core instructions.
    pub tensor: u32,
}

pub struct Assembler {
    ptxas: PathBuf,
    nvdisasm: PathBuf,
    directory: tempfile::TempDir,
}

/// A tool by its variable, on the path, or among the wheels of the virtual environment that is active.
fn tool(name: &str, variable: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Some(path.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    if let Some(environment) = std::env::var_os("VIRTUAL_ENV") {
        for python in fs_err::read_dir(Path::new(&environment).join("lib")).into_iter().flatten().flatten() {
            let wheels = python.path().join("site-packages/nvidia");
            places.extend(["cuda_nvcc", "cu13", "cu12"].map(|part| wheels.join(part).join("bin")));
        }
    }
    places.into_iter().map(|directory| directory.join(name)).find(|path| path.is_file())
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

fn number(text: &str, before: &str) -> u32 {
    let Some((head, _)) = text.split_once(before) else { return 0 };
    head.rsplit(|char: char| !char.is_ascii_digit()).next().unwrap().parse().unwrap_or(0)
}

impl Assembler {
    pub fn find() -> Option<Self> {
        let ptxas = tool("ptxas", "LUTHIER_PTXAS")?;
        let nvdisasm = tool("nvdisasm", "LUTHIER_NVDISASM")?;
        Some(Self { ptxas, nvdisasm, directory: tempfile::tempdir().unwrap() })
    }

    /// `ptxas 12.9.86`.
    pub fn version(&self) -> String {
        let text = output(Command::new(&self.ptxas).arg("--version"));
        let version = text.split_once(", V").map_or("", |(_, rest)| rest.split_whitespace().next().unwrap_or_default());
        format!("ptxas {version}")
    }

    /// Figures of the kernels of a PTX file on `sm`.
    pub fn assemble(&self, module: &str, ptx: &str, sm: u32) -> BTreeMap<String, Figures> {
        let directory = self.directory.path();
        let (source, cubin) =
            (directory.join(format!("{module}.{sm}.ptx")), directory.join(format!("{module}.{sm}.cubin")));
        fs_err::write(&source, ptx).unwrap();
        let arch = format!("sm_{sm}");
        let said = output(Command::new(&self.ptxas).args(["-v", "-arch", &arch, "-o"]).arg(&cubin).arg(&source));
        let mut all = BTreeMap::new();
        for part in said.split("Compiling entry function '").skip(1) {
            let (name, rest) = part.split_once('\'').unwrap();
            let figures = Figures {
                registers: number(rest, " registers"),
                shared: number(rest, " bytes smem"),
                spilled: number(rest, " bytes spill stores") + number(rest, " bytes spill loads"),
                tensor: 0,
            };
            all.insert(name.to_owned(), figures);
        }
        let listing = output(Command::new(&self.nvdisasm).arg("-c").arg(&cubin));
        for part in listing.split(".section\t.text.").skip(1) {
            let name = part.split([',', '\n']).next().unwrap();
            if let Some(figures) = all.get_mut(name) {
                figures.tensor = part.matches(" HMMA.").count() as u32;
            }
        }
        all
    }
}
