//! `export`: writes a model as one GGUF file, and checks it by reading it back.
//!
//! Tensor by tensor: read as `f32` in Hugging Face order, put the rows of q and k into the file's order, encode, write.
//! Afterwards the file is opened like any other and compared with the source.

mod config;
mod metadata;
mod modelfile;
mod probe;
mod recipe;
mod tensor_check;

use camino::Utf8Path;
use luthier_core::{
    ArtifactKind, ConfigIssue, InputPort, OutputDecl, PrepareEnv, Prepared, Resources, Stage, StageContext, StageError,
    StageOutcome, StageResult, config_schema, parse_config,
};
use luthier_formats::chat_template::ChatTemplate;
use luthier_formats::gguf::{GgufFile, GgufWriter, TensorDecl};
use luthier_formats::model_files::{ModelFiles, RopeScaling, RowOrder, TensorSpec};
use luthier_formats::quant::{self, TensorType};
use luthier_kernels::NUMERIC_CLASS;
use rayon::prelude::*;
use serde_json::Value;

use config::ExportConfig;
use modelfile::Modelfile;

/// The frequencies' divisors, where the rotation is scaled as Llama 3's is.
const ROPE_DIVISORS: &str = "rope_freqs.weight";

/// Writes a GGUF file.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExportStage;

impl Stage for ExportStage {
    fn kind(&self) -> &'static str {
        "export"
    }

    fn recipe_version(&self) -> u32 {
        1
    }

    fn about(&self) -> &'static str {
        "writes a model as one GGUF file of any type from f32 to q2_k, with its tokenizer, and checks it by reading it back"
    }

    fn schema(&self) -> Value {
        config_schema::<ExportConfig>()
    }

    fn examples(&self) -> &'static str {
        include_str!("../../examples/export.yaml")
    }

    fn inputs(&self) -> &'static [InputPort] {
        &[InputPort {
            name: "model",
            accepts: &[ArtifactKind::Model],
            required: true,
            many: false,
            about: "a Hugging Face model directory or a GGUF file",
        }]
    }

    fn outputs_about(&self) -> &'static str {
        "`gguf`: the file; `modelfile` (unless `modelfile: false`): an Ollama Modelfile for it"
    }

    fn prepare(&self, with: &Value, _env: PrepareEnv<'_>) -> Result<Prepared, Vec<ConfigIssue>> {
        let config: ExportConfig = parse_config(with)?;
        let issues = config.check();
        if !issues.is_empty() {
            return Err(issues);
        }
        let mut outputs = vec![OutputDecl::new("gguf", ArtifactKind::Gguf)];
        if config.modelfile {
            outputs.push(OutputDecl::new("modelfile", ArtifactKind::File));
        }
        let config = serde_json::to_value(&config).unwrap_or_default();
        Ok(Prepared {
            key: config.clone(),
            config,
            outputs,
            sources: Vec::new(),
            resources: Resources::ALL_THREADS,
            numeric_class: Some(NUMERIC_CLASS.to_owned()),
        })
    }

    fn run(&self, context: &mut StageContext<'_>) -> StageResult<StageOutcome> {
        let config: ExportConfig = context.config()?;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(context.threads()).build().map_err(|error| {
            StageError::new("export::threads", "could not start the worker threads").caused_by(error)
        })?;
        let input = context.input("model")?;
        let output = context.output("gguf");
        let mut outcome = StageOutcome::new();
        let parameters = pool.install(|| export(context, &config, &mut outcome))?;
        if config.check.tokens {
            probe::compare_tokens(&input.path, &output, &mut outcome)?;
        }
        if config.check.logits {
            probe::compare_logits(context, &config.check, &input.path, &output, parameters, &mut outcome)?;
        }
        Ok(outcome)
    }
}

/// Writes the outputs and compares the tensors; returns the number of parameters.
fn export(context: &StageContext<'_>, config: &ExportConfig, outcome: &mut StageOutcome) -> StageResult<u64> {
    let input = context.input("model")?;
    let source = ModelFiles::open(&input.path)?;
    let output = context.output("gguf");
    let metadata = metadata::build(&source, config, input.digest)?;
    let bytes = write(context, config, &source, &metadata, &output)?;

    let exported = ModelFiles::open(&output)?;
    let report = tensor_check::compare(context, &source, &exported)?;
    outcome
        .metric("bytes", bytes as f64, "bytes")
        .metric("bits_per_weight", report.bits_per_weight(), "bits")
        .metric("relative_error", report.relative_error(), "")
        .metric("tensors", source.names().len() as f64, "")
        .section(report.table());
    let template = ChatTemplate::from_model(&output)?;
    if template.is_none() {
        outcome.warn("the model has no chat template; programs that chat with it will guess one");
    }
    if config.modelfile {
        let modelfile =
            Modelfile::of(&GgufFile::open(&output)?, template.as_ref(), source.config().max_positions, config);
        fs_err::write(context.output("modelfile"), &modelfile.text)?;
        if let Some(warning) = modelfile.warning {
            outcome.warn(warning);
        }
    }
    Ok(metadata::parameters(&source))
}

fn write(
    context: &StageContext<'_>,
    config: &ExportConfig,
    source: &ModelFiles,
    metadata: &metadata::Metadata,
    output: &Utf8Path,
) -> StageResult<u64> {
    let model = source.config();
    let mut declarations: Vec<TensorDecl> = source
        .specs()
        .values()
        .map(|spec| TensorDecl {
            name: spec.gguf_name.clone(),
            shape: spec.shape.clone(),
            tensor_type: recipe::tensor_type(config.file_type, model, &spec.gguf_name, &spec.shape),
        })
        .collect();
    let divisors = rope_divisors(source);
    if let Some(divisors) = &divisors {
        let shape = vec![divisors.len()];
        declarations.push(TensorDecl { name: ROPE_DIVISORS.to_owned(), shape, tensor_type: TensorType::F32 });
    }
    let total: usize = declarations.iter().filter_map(TensorDecl::bytes).sum();
    let mut writer = GgufWriter::create(output, metadata, &declarations)?;
    let mut done = 0;
    for ((name, spec), declaration) in source.specs().iter().zip(&declarations) {
        context.check_cancelled()?;
        let bytes = encode(source, name, spec, declaration.tensor_type)?;
        writer.write(&declaration.name, &bytes)?;
        done += bytes.len();
        context.progress(done as u64, total as u64, "bytes", format!("{name} as {}", declaration.tensor_type));
    }
    if let Some(divisors) = divisors {
        let bytes: Vec<u8> = divisors.iter().flat_map(|divisor| divisor.to_le_bytes()).collect();
        writer.write(ROPE_DIVISORS, &bytes)?;
    }
    writer.finish()
}

fn encode(source: &ModelFiles, name: &str, spec: &TensorSpec, tensor_type: TensorType) -> StageResult<Vec<u8>> {
    let rows = spec.shape.first().copied().unwrap_or(1);
    let mut values = vec![0.0; spec.shape.iter().product()];
    source.read_f32(name, &mut values)?;
    let columns = values.len() / rows.max(1);
    if spec.row_order != RowOrder::Same {
        let mut permuted = vec![0.0; values.len()];
        permuted.par_chunks_mut(columns).enumerate().for_each(|(row, out)| {
            let from = spec.row_order.hugging_face_row(row);
            out.copy_from_slice(&values[from * columns..(from + 1) * columns]);
        });
        values = permuted;
    }
    let row_length = spec.shape.last().copied().unwrap_or(1);
    quant::quantize(tensor_type, &values, row_length, None).map_err(|error| error.in_tensor(source.path(), name))
}

fn rope_divisors(source: &ModelFiles) -> Option<Vec<f32>> {
    let config = source.config();
    match config.rope_scaling.as_ref()? {
        RopeScaling::Linear { .. } => None,
        scaling => {
            let divisors = scaling.divisors(config.head_dim, config.rope_theta);
            Some(divisors.into_iter().map(|divisor| divisor as f32).collect())
        }
    }
}

#[cfg(test)]
mod tests;
