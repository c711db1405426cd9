//! One training step of a 7B-shaped random model in NF4 whose blocks stay on disk.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Instant;

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{StageError, StageResult};
use luthier_formats::model_files::ModelConfig;
use luthier_kernels::nf4::{AbsMax, BLOCK, NESTED_BLOCK, Nf4View};
use luthier_kernels::random::Stream;
use luthier_model::adapter::{Initialization, LoraSpec, Targets};
use luthier_model::device::{Component, CpuDevice, Device, Storage};
use luthier_model::memory::{MemoryPlan, RunShape, WeightTypes};
use luthier_model::profile::{resident_peak, synthetic_tokens};
use luthier_model::train::{Duration, OptimizerSpec, Schedule, StateFormat, TrainSpec, Trainer};
use luthier_model::{
    BaseFormat, Decoder, Projection, ShardTensor, device_error, layer_file, rest_file, rest_tensors, write_layer,
    write_shard,
};
use serde_json::json;

#[derive(clap::Args)]
pub struct Arguments {
    /// Where to put the shards, 4 GB; a new directory inside is removed afterwards.
    #[arg(long, default_value = ".")]
    directory: Utf8PathBuf,
    #[arg(long, default_value_t = 256)]
    length: usize,
    #[arg(long, default_value_t = 1)]
    batch: usize,
    #[arg(long, default_value_t = 16)]
    rank: usize,
    /// Blocks; the model has 32.
    #[arg(long, default_value_t = 32)]
    layers: usize,
    /// All processors if not given.
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

pub fn run(arguments: &Arguments, out: &mut (dyn Write + Send)) -> io::Result<()> {
    let directory = tempfile::tempdir_in(&arguments.directory)?;
    let Some(path) = Utf8Path::from_path(directory.path()) else {
        return Err(io::Error::other("the directory's name is not UTF-8"));
    };
    stream(arguments, path, out).map_err(io::Error::other)?;
    directory.close()
}

fn stream(arguments: &Arguments, directory: &Utf8Path, out: &mut (dyn Write + Send)) -> StageResult<()> {
    // The shape of Llama 2 7B.
    let config = ModelConfig::from_json(&json!({
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
        "num_hidden_layers": arguments.layers, "num_attention_heads": 32, "num_key_value_heads": 32,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 4096, "tie_word_embeddings": false,
        "hidden_act": "silu",
    }))?;
    let start = Instant::now();
    let written = write_random(&config, directory)?;
    writeln!(out, "random shards: {:.2} GB in {:.1} s", written as f64 / 1e9, start.elapsed().as_secs_f64())?;

    let available = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = if arguments.threads == 0 { available } else { arguments.threads };
    let device: Arc<dyn Device> = Arc::new(CpuDevice::new(threads).map_err(device_error)?);
    let data = synthetic_tokens(config.vocab_size, arguments.batch, arguments.length, 0, 1);
    let spec = spec(arguments);
    let plan = MemoryPlan::new(
        &config,
        WeightTypes::new(Storage::Bf16, BaseFormat::Nf4),
        &spec,
        RunShape::of_data(&data, &spec),
    )?;
    let resident_plan = plan.total();
    let plan = plan.streamed(&config, false);
    let decoder = Decoder::stream(&device, &config, directory, arguments.length)?;
    let mut trainer = Trainer::new(&decoder, &data, None, spec)?;
    let start = Instant::now();
    let report = trainer.compute()?;
    trainer.apply()?;
    let seconds = start.elapsed().as_secs_f64();
    writeln!(
        out,
        "one step of {} tokens on {threads} threads: {seconds:.1} s, loss {:.3} (ln 32000 = 10.373), gradient norm {:.3}",
        report.tokens, report.loss, report.grad_norm
    )?;
    writeln!(out, "{:<24}{:>16}{:>16}", "bytes", "predicted", "measured")?;
    for component in Component::ALL.into_iter().filter(|component| plan.bytes(*component) > 0) {
        let measured = device.ledger().peak(component);
        writeln!(out, "{:<24}{:>16}{measured:>16}", component.as_str(), plan.bytes(component))?;
    }
    writeln!(out, "{:<24}{:>16}{:>16}", "total", plan.total(), device.ledger().total_peak())?;
    writeln!(out, "{:<24}{:>16}", "total, all resident", resident_plan)?;
    if let Some(resident) = resident_peak() {
        writeln!(out, "{:<24}{:>16}{resident:>16}", "process (VmHWM)", "")?;
    }
    let parts = Component::ALL
        .into_iter()
        .map(|component| (component.as_str(), plan.bytes(component), device.ledger().peak(component)));
    crate::plan::hold(parts, plan.total(), device.ledger().total_peak())
        .map_err(|problem| StageError::new("bench::plan", problem))
}

fn spec(arguments: &Arguments) -> TrainSpec {
    TrainSpec {
        lora: LoraSpec {
            rank: arguments.rank,
            alpha: 32.0,
            dropout: 0.0,
            targets: Targets::AllLinear,
            layers: None,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            rslora: false,
            dora: false,
            initialization: Initialization::Kaiming,
        },
        optimizer: OptimizerSpec {
            learning_rate: 1e-4,
            schedule: Schedule::Constant,
            decay_steps: None,
            warmup: 0.0,
            weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            max_grad_norm: 1.0,
            b_ratio: 1.0,
            states: StateFormat::F32,
        },
        batch: arguments.batch,
        accumulate: 1,
        duration: Duration::Steps(1),
        seed: 1,
        checkpointing: true,
        share_prefix: false,
        neftune: 0.0,
        pages: None,
        offload: false,
    }
}

/// Writes shards of random codes, scaled so that activations keep their size; returns the bytes.
fn write_random(config: &ModelConfig, directory: &Utf8Path) -> StageResult<u64> {
    for layer in 0..config.layers {
        let matrices: Vec<(Projection, usize, usize, Vec<u8>, Vec<u8>, Vec<f32>)> = Projection::ALL
            .into_iter()
            .map(|projection| {
                let (rows, cols) = projection.shape(config);
                let blocks = (rows * cols).div_ceil(BLOCK);
                let stream = Stream::new(7, &projection.module(layer));
                let scales = vec![0.2 / (cols as f32).sqrt(); blocks.div_ceil(NESTED_BLOCK)];
                (projection, rows, cols, bytes(&stream, 0, rows * cols / 2), bytes(&stream, 1 << 40, blocks), scales)
            })
            .collect();
        let views: Vec<(Projection, Nf4View<'_>)> = matrices
            .iter()
            .map(|(projection, rows, cols, packed, codes, scales)| {
                // A code of NF4 drawn evenly has a mean square of about 0.36.
                let absmax = AbsMax::Nested { codes, scales, offset: 1.5 / (*cols as f32).sqrt() };
                (*projection, Nf4View { packed, absmax, rows: *rows, cols: *cols })
            })
            .collect();
        write_layer(&layer_file(directory, layer), &views)?;
    }
    let tensors = rest_tensors(config)
        .into_iter()
        .map(|(name, shape)| {
            let storage = if shape.len() == 2 { Storage::Bf16 } else { Storage::F32 };
            let (count, stream) = (shape.iter().product::<usize>(), Stream::new(7, &name));
            let make = move || match storage {
                Storage::Bf16 => random_bf16(&stream, count),
                _ => (0..count).flat_map(|_| 1f32.to_le_bytes()).collect(),
            };
            (name, ShardTensor::lazy(storage, shape, make))
        })
        .collect();
    write_shard(&rest_file(directory), tensors)?;
    let mut written = 0;
    for entry in fs_err::read_dir(directory)? {
        written += entry?.metadata()?.len();
    }
    Ok(written)
}

fn bytes(stream: &Stream, first: u64, count: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count + 16);
    let mut block = first;
    while bytes.len() < count {
        bytes.extend(stream.block(block).iter().flat_map(|word| word.to_le_bytes()));
        block += 1;
    }
    bytes.truncate(count);
    bytes
}

/// Evenly within ±0.0625.
fn random_bf16(stream: &Stream, count: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 * count + 8);
    let mut block = 0;
    while out.len() < 2 * count {
        for word in stream.block(block) {
            let value = ((word >> 8) as f32 / 16_777_216.0 - 0.5) * 0.125;
            // The upper half of an `f32` is a bf16, rounded toward zero.
            out.extend_from_slice(&value.to_le_bytes()[2..]);
        }
        block += 1;
    }
    out.truncate(2 * count);
    out
}
