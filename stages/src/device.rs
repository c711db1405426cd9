//! Which device a stage computes on: `device: auto|cpu|cuda[:i]`.

use std::sync::Arc;

use luthier_core::{ConfigIssue, StageError, StageResult};
use luthier_cuda::{CudaCosts, CudaDevice, CudaOptions};
use luthier_model::device::{CpuDevice, Device};
use luthier_model::{NUMERIC_CLASS, device_error};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a CUDA device keeps activations in and computes products with; sums are f32. The CPU computes in f32 always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ComputeType {
    /// What the device's tensor cores take: bf16 from compute capability 8.0 on, f16 on 7.5.
    #[default]
    Auto,
    /// bfloat16; a device of capability 7.5 does not have it.
    Bf16,
    /// Half precision, with a loss that is scaled so that gradients stay in its range; for capability 7.5 only, as bf16 is
    /// as fast and has more range.
    F16,
    /// Single precision, in twice the memory.
    F32,
}

impl ComputeType {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Refuses a type that a device of this capability does not compute in.
    fn check(self, device: &str, (major, minor): (i32, i32)) -> Result<(), ConfigIssue> {
        let (wanted, help) = match (self, major >= 8) {
            (Self::Bf16, false) => {
                ("bf16", "write `compute_type: f16`, or leave it out: `auto` takes what a device has")
            }
            (Self::F16, true) => ("f16", "write `compute_type: bf16`, or leave it out: `auto` takes what a device has"),
            _ => return Ok(()),
        };
        let message = format!("`{device}`, of compute capability {major}.{minor}, does not compute in {wanted}");
        Err(ConfigIssue::new("compute_type", message).help(help))
    }
}

/// Whether NVIDIA's library of products is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Cublas {
    /// For large products where it is found.
    #[default]
    Auto,
    /// Nowhere.
    Never,
}

impl Cublas {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How a CUDA device computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compute {
    pub factors: ComputeType,
    pub cublas: Cublas,
}

impl Compute {
    fn on(self, ordinal: u8) -> CudaOptions {
        CudaOptions { ordinal, precision: self.factors.into(), cublas: self.cublas == Cublas::Auto }
    }

    /// What a CUDA device takes for itself, on a machine that has cuBLAS: one with bf16, if `f16` is not asked for.
    pub(crate) fn costs(self) -> CudaCosts {
        CudaCosts { bf16: self.factors != ComputeType::F16, ..CudaCosts::new(self.on(0)) }
    }
}

impl From<ComputeType> for luthier_cuda::Precision {
    fn from(compute: ComputeType) -> Self {
        match compute {
            ComputeType::F32 => Self::F32,
            ComputeType::Auto | ComputeType::Bf16 | ComputeType::F16 => Self::Bf16,
        }
    }
}

/// A device by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first CUDA device if there is one.
    Auto,
    #[default]
    Cpu,
    Cuda(u8),
}

impl Opened {
    /// Refuses a driver that only tests have: nothing about speed follows from it.
    ///
    /// # Errors
    /// It is emulated.
    pub fn check_real(&self) -> StageResult<()> {
        if self.model.contains("emulation") {
            return Err(StageError::input("bench::emulated", format!("`{}` has no speed to measure", self.model))
                .hint("set `device: cpu`, or run where an NVIDIA driver is"));
        }
        Ok(())
    }
}

/// An opened device.
pub struct Opened {
    pub device: Arc<dyn Device>,
    /// Bytes that were free; `None` where the system lends more than it has.
    pub free: Option<usize>,
    /// The card, or `cpu`.
    pub model: String,
}

impl DeviceChoice {
    /// `auto`, `cpu`, `cuda` (the first) or `cuda:1`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(0)),
            _ => name.strip_prefix("cuda:")?.parse().ok().map(Self::Cuda),
        }
    }

    /// `cpu` or `cuda:0`; of `auto`, what this machine has.
    #[must_use]
    pub fn resolve(self) -> Self {
        match self {
            Self::Auto if CudaDevice::class_of(CudaOptions::default()).is_ok() => Self::Cuda(0),
            Self::Auto => Self::Cpu,
            named => named,
        }
    }

    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Auto => "auto".to_owned(),
            Self::Cpu => "cpu".to_owned(),
            Self::Cuda(ordinal) => format!("cuda:{ordinal}"),
        }
    }

    /// What enters the key of a stage whose floats are computed there.
    fn numeric_class(self, compute: Compute) -> StageResult<String> {
        match self.resolve() {
            Self::Cuda(ordinal) => CudaDevice::class_of(compute.on(ordinal)).map_err(device_error),
            _ => Ok(NUMERIC_CLASS.to_owned()),
        }
    }

    /// Takes the device; `threads` are those of the CPU.
    ///
    /// # Errors
    /// It is not there.
    pub fn open(self, compute: Compute, threads: usize) -> StageResult<Opened> {
        match self.resolve() {
            Self::Cuda(ordinal) => {
                let device = CudaDevice::open(compute.on(ordinal)).map_err(device_error)?;
                let (free, _) = device.memory().map_err(device_error)?;
                let model = device.model().to_owned();
                Ok(Opened { device: Arc::new(device), free: Some(free), model })
            }
            _ => {
                let device = CpuDevice::new(threads.max(1)).map_err(device_error)?;
                Ok(Opened { device: Arc::new(device), free: None, model: "cpu".to_owned() })
            }
        }
    }
}

pub(crate) fn cpu() -> String {
    DeviceChoice::Cpu.name()
}

pub(crate) fn is_cpu(name: &String) -> bool {
    name == "cpu"
}

/// A `device` of a stage's `with`: the choice of this machine, and the numeric class that it has there.
pub(crate) fn prepared(name: &str, compute: Compute) -> Result<(DeviceChoice, String), ConfigIssue> {
    let choice = DeviceChoice::parse(name).ok_or_else(|| {
        ConfigIssue::new("device", format!("there is no device `{name}`"))
            .help("write `auto`, `cpu`, `cuda` or `cuda:1`")
    })?;
    let class = choice.numeric_class(compute).map_err(|error| {
        ConfigIssue::new("device", error.to_string()).help("run `luthier doctor`, or set `device: auto`")
    })?;
    let choice = choice.resolve();
    if let DeviceChoice::Cuda(ordinal) = choice
        && let Some(device) = luthier_cuda::list().ok().and_then(|(all, _)| all.into_iter().nth(ordinal.into()))
    {
        compute.factors.check(&choice.name(), device.capability)?;
    }
    Ok((choice, class))
}

/// As [`prepared`], for a stage: `name` becomes that of the choice, and what is wrong joins the issues.
pub(crate) fn settle(
    name: &mut String,
    compute: Compute,
    issues: &mut Vec<ConfigIssue>,
) -> Option<(DeviceChoice, String)> {
    match prepared(name, compute) {
        Ok((choice, class)) => {
            *name = choice.name();
            Some((choice, class))
        }
        Err(issue) => {
            issues.push(issue);
            None
        }
    }
}

/// The device of a configuration that was prepared.
pub(crate) fn open(name: &str, compute: Compute, threads: usize) -> StageResult<Opened> {
    let choice = DeviceChoice::parse(name).ok_or_else(|| {
        StageError::input("model::device", format!("there is no device `{name}`"))
            .hint("name `auto`, `cpu`, `cuda` or `cuda:1`")
    })?;
    choice.open(compute, threads)
}

/// The cuBLAS of this machine, for `luthier doctor`.
///
/// # Errors
/// Why there is none.
pub fn describe_cublas() -> Result<String, String> {
    luthier_cuda::cublas_version().map(|version| format!("cuBLAS {version}"))
}

/// The NVIDIA devices of this machine, a line for each, for `luthier doctor`.
///
/// # Errors
/// Why there are none.
pub fn describe() -> Result<Vec<String>, String> {
    let (devices, version) = luthier_cuda::list()?;
    if devices.is_empty() {
        return Err("the NVIDIA driver has no device".to_owned());
    }
    let line = |(index, device): (usize, &luthier_cuda::Properties)| {
        let (major, minor) = device.capability;
        format!(
            "cuda:{index} {}, {:.1} GiB, compute capability {major}.{minor} ({}), driver for CUDA {}.{}",
            device.name,
            device.memory as f64 / f64::from(1 << 30),
            if major < 8 { "computes in f16" } else { "computes in bf16" },
            version / 1000,
            version % 1000 / 10,
        )
    };
    Ok(devices.iter().enumerate().map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_refused_the_type_it_does_not_compute_in() {
        for (factors, capability, fits) in [
            (ComputeType::Auto, (7, 5), true),
            (ComputeType::Auto, (8, 9), true),
            (ComputeType::F32, (7, 5), true),
            (ComputeType::Bf16, (7, 5), false),
            (ComputeType::Bf16, (8, 0), true),
            (ComputeType::F16, (7, 5), true),
            (ComputeType::F16, (9, 0), false),
        ] {
            assert_eq!(factors.check("cuda:0", capability).is_ok(), fits, "{factors:?} {capability:?}");
        }
        let issue = ComputeType::Bf16.check("cuda:0", (7, 5)).unwrap_err();
        assert_eq!(issue.message, "`cuda:0`, of compute capability 7.5, does not compute in bf16");
    }

    #[test]
    fn names_are_read_and_written() {
        for (name, choice) in [
            ("auto", DeviceChoice::Auto),
            ("cpu", DeviceChoice::Cpu),
            ("cuda:0", DeviceChoice::Cuda(0)),
            ("cuda:7", DeviceChoice::Cuda(7)),
        ] {
            assert_eq!(DeviceChoice::parse(name), Some(choice));
            assert_eq!(choice.name(), name);
        }
        assert_eq!(DeviceChoice::parse("cuda"), Some(DeviceChoice::Cuda(0)));
        for name in ["", "gpu", "cuda:", "cuda:x", "cuda:256", "CPU"] {
            assert_eq!(DeviceChoice::parse(name), None, "{name}");
        }
    }
}
