//! `tokenize`: rows to token ids with a loss mask, by the model's own tokenizer and chat template.
//!
//! Only what the assistant says is trained, up to and including the token that ends its turn. Rows are encoded in parallel
//! and kept in order, so the output does not depend on threads.

mod config;
mod encode;
mod pack;
mod report;
mod shards;
mod show;
mod template;
mod turns;

use arrow::array::{Array, RecordBatch};
use camino::Utf8Path;
use luthier_core::{
    ArtifactKind, ConfigIssue, InputPort, OutputDecl, PrepareEnv, Prepared, Resources, SourceKind, SourceRef, Stage,
    StageContext, StageError, StageOutcome, StageResult, config_schema, parse_config,
};
use luthier_formats::chat_template::{ChatTemplate, special_tokens};
use luthier_formats::dataset::{DatasetReader, DatasetShape, string_column};
use luthier_formats::decontaminated::Decontaminated;
use luthier_formats::model_files::read_model_config;
use luthier_formats::tokenizer::Tokenizer;
use luthier_formats::tokens::{TokenSample, TokenSet, TokensMeta};
use rayon::prelude::*;
use serde_json::{Value, json};

use config::{OnError, OnLong, TokenizeConfig};
use encode::{EncodedRow, Encoder, Notes, RowText};
use shards::KnownShards;
use template::Choice;

/// Turns a dataset into tokens.
#[derive(Debug, Clone, Copy, Default)]
pub struct TokenizeStage;

const INPUTS: &[InputPort] = &[
    InputPort {
        name: "data",
        accepts: &[ArtifactKind::Dataset],
        required: true,
        many: false,
        about: "chats, prompts with completions, or texts",
    },
    InputPort {
        name: "model",
        accepts: &[ArtifactKind::Model, ArtifactKind::Gguf],
        required: true,
        many: false,
        about: "the model whose tokenizer and chat template are used",
    },
];

impl Stage for TokenizeStage {
    fn kind(&self) -> &'static str {
        "tokenize"
    }

    fn recipe_version(&self) -> u32 {
        1
    }

    fn about(&self) -> &'static str {
        "renders rows by the model's chat template and turns them into token ids with a mask of what is trained"
    }

    fn schema(&self) -> Value {
        config_schema::<TokenizeConfig>()
    }

    fn examples(&self) -> &'static str {
        include_str!("../../examples/tokenize.yaml")
    }

    fn inputs(&self) -> &'static [InputPort] {
        INPUTS
    }

    fn outputs_about(&self) -> &'static str {
        "`tokens`"
    }

    fn prepare(&self, with: &Value, _: PrepareEnv<'_>) -> Result<Prepared, Vec<ConfigIssue>> {
        let config: TokenizeConfig = parse_config(with)?;
        let value = serde_json::to_value(&config).unwrap_or_default();
        let (mut key, mut sources) = (value.clone(), Vec::new());
        if let Choice::File(path) = Choice::of(&config.template) {
            sources.push(SourceRef {
                label: "template".to_owned(),
                path: path.into(),
                kind: SourceKind::File,
                config_path: "template".to_owned(),
            });
            key["template"] = Value::from("file");
        }
        Ok(Prepared {
            config: value,
            key,
            outputs: vec![OutputDecl::new("tokens", ArtifactKind::Tokens)],
            sources,
            resources: Resources::ALL_THREADS,
            numeric_class: None,
        })
    }

    fn run(&self, context: &mut StageContext<'_>) -> StageResult<StageOutcome> {
        let config: TokenizeConfig = context.config()?;
        let model = context.input("model")?.path.clone();
        let reader = DatasetReader::open(&context.input("data")?.path)?;
        if reader.rows() == 0 {
            return Err(StageError::input("tokenize::empty", "the dataset has no rows")
                .hint("the stages before dropped them all; look at their funnel with `luthier show`"));
        }
        let tokenizer = Tokenizer::from_model(&model)?;
        check_model(&model, &config, &tokenizer)?;
        let template = template::load(context, &config, &model, &tokenizer, reader.shape())?;
        if config.on_long == OnLong::Split && reader.shape() != DatasetShape::Text {
            return Err(StageError::input(
                "tokenize::split_chats",
                format!("`on_long: split` is for plain texts, this dataset has the shape `{}`", reader.shape()),
            )
            .hint("set `on_long:` to `drop` or `truncate`"));
        }
        let encoder = Encoder {
            config: &config,
            template: template.as_ref(),
            shape: reader.shape(),
            eos: special_tokens(&model)?.get("eos_token").and_then(|token| tokenizer.token_id(token)),
            ends: ends(&tokenizer, template.as_ref()),
            special: tokenizer.special_ids().iter().filter_map(|id| tokenizer.token(*id)).collect(),
            tokenizer: &tokenizer,
        };
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(context.threads())
            .build()
            .map_err(|error| StageError::new("tokenize::threads", "cannot start threads").caused_by(error))?;
        let special = special_tokens(&model)?;
        let known = KnownShards::new(context.shards(), &encoder, &json!(special), self.recipe_version());
        let (samples, notes) = pool.install(|| encode_all(context, &reader, &encoder, &known))?;
        let mut outcome = finish(context, &encoder, reader.rows(), samples, notes)?;
        known.finish(context, &mut outcome);
        Ok(outcome)
    }
}

/// Tokens that end a turn: what the model names, and ChatML's own where that template is used.
fn ends(tokenizer: &Tokenizer, template: Option<&ChatTemplate>) -> Vec<u32> {
    let mut ends = tokenizer.eos_ids();
    if let Some(template) = template {
        let known = ["<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|eom_id|>"];
        let written = known.iter().filter(|token| template.source().contains(**token));
        ends.extend(written.filter_map(|token| tokenizer.token_id(token)).filter(|id| tokenizer.is_special(*id)));
    }
    ends.sort_unstable();
    ends.dedup();
    ends
}

fn check_model(path: &Utf8Path, config: &TokenizeConfig, tokenizer: &Tokenizer) -> StageResult<()> {
    // A directory may hold a tokenizer alone; what its weights can take is then for training to say.
    let Ok(model) = read_model_config(path) else { return Ok(()) };
    let most = model.max_positions;
    if config.max_length > most {
        return Err(StageError::input(
            "tokenize::context",
            format!(
                "`max_length: {}` is more than the {most} positions that the model was made for",
                config.max_length
            ),
        )
        .hint(format!("set `max_length: {most}` or less")));
    }
    if tokenizer.vocab_size() > model.vocab_size {
        return Err(StageError::input(
            "tokenize::vocabulary",
            format!(
                "the tokenizer has {} tokens, the model has embeddings for {}",
                tokenizer.vocab_size(),
                model.vocab_size
            ),
        )
        .hint("tokenizer and weights belong to different models; fetch both from one place"));
    }
    Ok(())
}

/// Encodes all rows in order, shard by shard; what earlier runs made of a shard is taken from the cache.
fn encode_all(
    context: &StageContext<'_>,
    reader: &DatasetReader,
    encoder: &Encoder<'_>,
    known: &KnownShards,
) -> StageResult<(Vec<TokenSample>, Notes)> {
    let (mut samples, mut notes, mut done) = (Vec::new(), Notes::default(), 0u64);
    for shard in reader.shards() {
        context.check_cancelled()?;
        let shard = shard?;
        let encoded = known.get_or_encode(&shard, || {
            let mut all = EncodedRow::default();
            for row in encode_batch(&shard.rows, shard.first, encoder)? {
                all.notes.add(row.notes);
                all.samples.extend(row.samples);
            }
            Ok(all)
        })?;
        notes.add(encoded.notes);
        samples.extend(encoded.samples);
        done += shard.rows.num_rows() as u64;
        context.progress(done, reader.rows(), "rows", format!("{} samples", samples.len()));
    }
    Ok((samples, notes))
}

fn encode_batch(batch: &RecordBatch, first: u64, encoder: &Encoder<'_>) -> StageResult<Vec<EncodedRow>> {
    let ids = string_column(batch, "id")?;
    let texts =
        encoder.shape.columns().iter().map(|name| string_column(batch, name)).collect::<StageResult<Vec<_>>>()?;
    let tools = string_column(batch, "tools").ok();
    let encoded: Vec<StageResult<EncodedRow>> = (0..batch.num_rows())
        .into_par_iter()
        .map(|row| {
            let text = RowText {
                id: ids.value(row),
                texts: [texts[0].value(row), texts.get(1).map_or("", |column| column.value(row))],
                tools: tools.filter(|column| !column.is_null(row)).map(|column| column.value(row)),
            };
            match encoder.encode(text) {
                Err(error) if encoder.config.on_error == OnError::Skip && error.code != "tokenize::too_long" => {
                    Ok(EncodedRow { samples: Vec::new(), notes: Notes { refused: 1, ..Notes::default() } })
                }
                Err(error) => Err(in_row(error, first + row as u64, text.id)),
                Ok(encoded) => Ok(encoded),
            }
        })
        .collect();
    // In order, so that the first broken row is the one that is told, whatever the threads did.
    encoded.into_iter().collect()
}

fn in_row(mut error: StageError, row: u64, id: &str) -> StageError {
    let skip = error.code.starts_with("template::");
    error.message = format!("row {} (`{id}`): {}", row + 1, error.message);
    if skip { error.hint("set `on_error: skip` to leave such rows out") } else { error }
}

fn finish(
    context: &StageContext<'_>,
    encoder: &Encoder<'_>,
    rows: u64,
    samples: Vec<TokenSample>,
    notes: Notes,
) -> StageResult<StageOutcome> {
    if samples.is_empty() {
        return Err(report::nothing_left(rows, encoder.config, notes));
    }
    let lengths: Vec<usize> = samples.iter().map(|sample| sample.ids.len()).collect();
    let bins = if encoder.config.packing {
        pack::pack(&lengths, encoder.config.max_length)
    } else {
        (0..samples.len() as u32).map(|sample| vec![sample]).collect()
    };
    let meta = TokensMeta {
        version: TokensMeta::VERSION,
        max_length: encoder.config.max_length,
        vocab_size: encoder.tokenizer.vocab_size(),
        tokenizer: encoder.tokenizer.digest(),
        template: encoder.template.map(ChatTemplate::digest),
        eos_ids: encoder.ends.clone(),
        packed: encoder.config.packing,
        samples: samples.len(),
        bins: bins.len(),
        tokens: lengths.iter().map(|length| *length as u64).sum(),
        trained_tokens: samples.iter().map(|sample| sample.trained() as u64).sum(),
        longest: lengths.iter().copied().max().unwrap_or(0),
    };
    let set = TokenSet { samples, bins, meta };
    set.write(&context.output("tokens"))?;
    Decontaminated::read(&context.input("data")?.path)?.write(&context.output("tokens"))?;
    Ok(report::outcome(&set, encoder, rows, notes, &lengths))
}

#[cfg(test)]
mod tests;
