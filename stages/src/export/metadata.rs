//! The header of an exported file. Source: the standardised keys of the GGUF specification.

use indexmap::IndexMap;
use luthier_core::{Digest, StageError, StageResult};
use luthier_formats::gguf::MetaValue;
use luthier_formats::model_files::{Architecture, ModelFiles, RopeScaling, read_config_json, tokenizer_metadata};
use serde_json::Value;

use super::config::ExportConfig;

pub(super) type Metadata = IndexMap<String, MetaValue>;

/// What `quantization_version` every current reader expects.
const QUANTIZATION_VERSION: u32 = 2;

/// Keys of a GGUF source that stay true of a file made from it.
const INHERITED: [&str; 9] = [
    "general.author",
    "general.organization",
    "general.finetune",
    "general.basename",
    "general.description",
    "general.license",
    "general.tags",
    "general.languages",
    "general.url",
];

/// All metadata, in a fixed order. `source` is the digest of the exported model, for provenance.
///
/// # Errors
/// A tokenizer that GGUF cannot name, or a number too large for its key.
pub(super) fn build(files: &ModelFiles, config: &ExportConfig, source: Digest) -> StageResult<Metadata> {
    let mut metadata = Metadata::new();
    put_general(&mut metadata, files, config, source);
    put_architecture(&mut metadata, files)?;
    metadata.extend(tokenizer_metadata(files, config.pre.as_deref())?);
    for (key, value) in &config.metadata {
        metadata.insert(key.clone(), MetaValue::from(value.as_str()));
    }
    Ok(metadata)
}

fn put_general(metadata: &mut Metadata, files: &ModelFiles, config: &ExportConfig, source: Digest) {
    let mut put = |key: &str, value: MetaValue| {
        metadata.insert(format!("general.{key}"), value);
    };
    put("architecture", MetaValue::from(files.config().architecture.gguf_name()));
    put("type", MetaValue::from("model"));
    put("name", MetaValue::from(config.name.clone().unwrap_or_else(|| source_name(files))));
    put("size_label", MetaValue::from(size_label(parameters(files))));
    put("file_type", MetaValue::U32(config.file_type.number()));
    put("quantization_version", MetaValue::U32(QUANTIZATION_VERSION));
    if let Some(license) = card_license(files) {
        put("license", MetaValue::from(license));
    }
    if let Some(file) = files.gguf() {
        for key in INHERITED {
            if let Some(value) = file.metadata(key) {
                metadata.insert(key.to_owned(), value.clone());
            }
        }
    }
    metadata.insert("luthier.source.blake3".to_owned(), MetaValue::from(source.hex()));
}

/// `license:` of the front matter of the directory's model card.
fn card_license(files: &ModelFiles) -> Option<String> {
    let text = fs_err::read_to_string(files.directory()?.join("README.md")).ok()?;
    let mut lines = text.lines();
    if lines.next()?.trim() != "---" {
        return None;
    }
    let license = lines.take_while(|line| line.trim() != "---").find_map(|line| line.strip_prefix("license:"))?;
    let license = license.trim().trim_matches(['"', '\'']);
    (!license.is_empty()).then(|| license.to_owned())
}

fn source_name(files: &ModelFiles) -> String {
    if let Some(file) = files.gguf() {
        return file.metadata("general.name").and_then(MetaValue::as_str).unwrap_or("model").to_owned();
    }
    let config = files.directory().and_then(|directory| read_config_json(directory).ok());
    let name = config.as_ref().and_then(|(json, _)| json.get("_name_or_path")).and_then(Value::as_str);
    match name.and_then(|name| name.trim_end_matches('/').rsplit('/').next()) {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => format!("{} {}", files.config().architecture.model_type(), size_label(parameters(files))),
    }
}

pub(super) fn parameters(files: &ModelFiles) -> u64 {
    files.specs().values().map(|spec| spec.shape.iter().map(|dimension| *dimension as u64).product::<u64>()).sum()
}

/// `135M`, `1.1B`, `70B`: as model names write sizes.
fn size_label(parameters: u64) -> String {
    let (value, unit) = match parameters {
        0..1_000_000 => (parameters as f64 / 1e3, "K"),
        1_000_000..1_000_000_000 => (parameters as f64 / 1e6, "M"),
        _ => (parameters as f64 / 1e9, "B"),
    };
    if value < 9.95 && unit == "B" { format!("{value:.1}{unit}") } else { format!("{value:.0}{unit}") }
}

fn put_architecture(metadata: &mut Metadata, files: &ModelFiles) -> StageResult<()> {
    let config = files.config();
    let name = config.architecture.gguf_name();
    let number = |value: usize| {
        u32::try_from(value).map(MetaValue::U32).map_err(|_| {
            StageError::input("export::too_large", format!("{value} does not fit a key of the file's header"))
                .hint("compare config.json with the model's original one")
        })
    };
    let mut put = |key: &str, value: MetaValue| {
        metadata.insert(format!("{name}.{key}"), value);
    };
    put("block_count", number(config.layers)?);
    put("context_length", number(config.max_positions)?);
    put("embedding_length", number(config.hidden_size)?);
    put("feed_forward_length", number(config.intermediate_size)?);
    put("attention.head_count", number(config.heads)?);
    put("attention.head_count_kv", number(config.kv_heads)?);
    put("attention.key_length", number(config.head_dim)?);
    put("attention.value_length", number(config.head_dim)?);
    put("attention.layer_norm_rms_epsilon", MetaValue::F32(config.rms_eps as f32));
    put("rope.freq_base", MetaValue::F32(config.rope_theta as f32));
    put("rope.dimension_count", number(config.head_dim)?);
    put("vocab_size", number(config.vocab_size)?);
    if let Some(RopeScaling::Linear { factor }) = config.rope_scaling {
        put("rope.scaling.type", MetaValue::from("linear"));
        put("rope.scaling.factor", MetaValue::F32(factor as f32));
    }
    if let (Some(window), Architecture::Mistral) = (config.sliding_window, config.architecture) {
        put("attention.sliding_window", number(window)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::size_label;

    #[test]
    fn sizes_read_as_in_names() {
        let labels = [134_515_008, 1_100_048_384, 8_030_261_248, 70_553_706_496, 100_000].map(size_label);
        assert_eq!(labels, ["135M", "1.1B", "8.0B", "71B", "100K"]);
    }
}
