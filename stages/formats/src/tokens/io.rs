//! Reading and writing token sets.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, BooleanBuilder, ListArray, ListBuilder, RecordBatch, StringArray,
    UInt32Array, UInt32Builder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt32Type};
use camino::Utf8Path;
use luthier_core::{StageError, StageResult};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;

use super::{TokenSample, TokenSet, TokensMeta};
use crate::dataset::{guard, open_parquet, properties, write_error};

const TABLE: &str = "tokens.parquet";
const META: &str = "tokens.json";
/// Samples of a row group.
const GROUP: usize = 4096;

impl TokenSet {
    /// Writes the set into `directory`, which is created. Equal sets make equal bytes.
    ///
    /// # Errors
    /// The set breaks an invariant of the module, or the disk.
    pub fn write(&self, directory: &Utf8Path) -> StageResult<()> {
        self.check().map_err(|what| StageError::new("tokens::invalid", format!("the token set is invalid: {what}")))?;
        fs_err::create_dir_all(directory)?;
        let path = directory.join(TABLE);
        let schema = schema();
        let file = fs_err::OpenOptions::new().write(true).create_new(true).open(&path)?;
        let options = ArrowWriterOptions::new().with_properties(properties(Vec::new())?).with_skip_arrow_metadata(true);
        let fail = |error| write_error(&path, error);
        let mut writer =
            ArrowWriter::try_new_with_options(file.into_parts().0, Arc::clone(&schema), options).map_err(fail)?;
        let rows: Vec<(u32, u32)> = self
            .bins
            .iter()
            .enumerate()
            .flat_map(|(bin, samples)| samples.iter().map(move |sample| (bin as u32, *sample)))
            .collect();
        let mut bin_of = vec![0u32; self.samples.len()];
        for (bin, sample) in rows {
            bin_of[sample as usize] = bin;
        }
        for (group, samples) in self.samples.chunks(GROUP).enumerate() {
            let bins = &bin_of[group * GROUP..group * GROUP + samples.len()];
            let batch = to_batch(&schema, samples, bins)
                .map_err(|error| StageError::new("tokens::write", "samples make no table").caused_by(error))?;
            writer.write(&batch).and_then(|()| writer.flush()).map_err(fail)?;
        }
        writer.finish().map_err(fail)?;
        let mut json = serde_json::to_vec_pretty(&self.meta)
            .map_err(|error| StageError::new("tokens::write", "the description is not JSON").caused_by(error))?;
        json.push(b'\n');
        fs_err::write(directory.join(META), json)?;
        Ok(())
    }

    /// Reads a set and checks every invariant.
    ///
    /// # Errors
    /// No token set, a damaged one, or one of another version.
    pub fn open(directory: &Utf8Path) -> StageResult<Self> {
        let meta = read_meta(directory)?;
        let path = directory.join(TABLE);
        let reader = open_parquet(&path, |builder| builder.with_batch_size(GROUP).build())?;
        let mut reader = Some(reader);
        let (mut samples, mut bins): (Vec<TokenSample>, Vec<Vec<u32>>) = (Vec::new(), Vec::new());
        while let Some(open) = &mut reader {
            let Some(batch) = guard(&path, || open.next().transpose().map_err(Into::into))? else {
                reader = None;
                continue;
            };
            from_batch(&batch, &mut samples, &mut bins, meta.bins).map_err(|what| invalid(&path, &what))?;
        }
        let set = Self { samples, bins, meta };
        set.check().map_err(|what| invalid(&path, &what))?;
        Ok(set)
    }

    fn check(&self) -> Result<(), String> {
        let meta = &self.meta;
        let mut seen = vec![false; self.samples.len()];
        if let Some(bin) = self.bins.iter().position(|bin| bin.is_empty() || !bin.is_sorted()) {
            return Err(format!("bin {bin} is empty or not in ascending order"));
        }
        for sample in self.bins.iter().flatten() {
            match seen.get_mut(*sample as usize) {
                Some(seen) if !*seen => *seen = true,
                Some(_) => return Err(format!("sample {sample} is in two bins")),
                None => return Err(format!("a bin names sample {sample} of {}", self.samples.len())),
            }
        }
        if let Some(lost) = seen.iter().position(|seen| !seen) {
            return Err(format!("sample {lost} is in no bin"));
        }
        for (number, sample) in self.samples.iter().enumerate() {
            let fail = |what: String| Err(format!("sample {number} (`{}`) {what}", sample.id));
            if sample.ids.is_empty() || sample.ids.len() != sample.mask.len() {
                return fail(format!("has {} ids and {} mask entries", sample.ids.len(), sample.mask.len()));
            }
            if sample.mask[0] {
                return fail("trains its first token, which nothing predicts".to_owned());
            }
            if let Some(id) = sample.ids.iter().find(|id| **id as usize >= meta.vocab_size) {
                return fail(format!("has id {id}, but the vocabulary has {} entries", meta.vocab_size));
            }
        }
        let tokens: u64 = self.samples.iter().map(|sample| sample.ids.len() as u64).sum();
        let trained: u64 = self.samples.iter().map(|sample| sample.trained() as u64).sum();
        let counted = (self.samples.len(), self.bins.len(), tokens, trained);
        let stated = (meta.samples, meta.bins, meta.tokens, meta.trained_tokens);
        if counted != stated {
            return Err(format!("{counted:?} (samples, bins, tokens, trained) are there, {META} says {stated:?}"));
        }
        Ok(())
    }
}

fn invalid(path: &Utf8Path, what: &str) -> StageError {
    StageError::input("tokens::invalid", format!("`{path}` is no valid token set: {what}"))
        .hint("make it again with a `tokenize` stage; `luthier verify` finds damaged artifacts")
}

fn read_meta(directory: &Utf8Path) -> StageResult<TokensMeta> {
    let path = directory.join(META);
    if !path.is_file() {
        return Err(StageError::input(
            "tokens::missing",
            format!("`{directory}` has no {META}, so it is no token set"),
        )
        .hint("connect the output of a `tokenize` stage"));
    }
    let bytes = fs_err::read(&path)?;
    #[derive(serde::Deserialize)]
    struct Version {
        version: u32,
    }
    let bad = |error: serde_json::Error| {
        StageError::input("tokens::bad_meta", format!("{META} is not a token set's description"))
            .at(path.clone(), error.line() as u64, error.column() as u64)
            .hint("make it again with a `tokenize` stage")
            .caused_by(error)
    };
    let Version { version } = serde_json::from_slice(&bytes).map_err(bad)?;
    if version != TokensMeta::VERSION {
        return Err(StageError::input(
            "tokens::version",
            format!("`{path}` is version {version}, this build reads {}", TokensMeta::VERSION),
        )
        .hint("run the `tokenize` stage again with this build"));
    }
    serde_json::from_slice(&bytes).map_err(bad)
}

fn schema() -> SchemaRef {
    let list =
        |name: &str, kind: DataType| Field::new(name, DataType::List(Arc::new(Field::new("item", kind, false))), false);
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Utf8, false),
        list("input_ids", DataType::UInt32),
        list("loss_mask", DataType::Boolean),
        Field::new("bin", DataType::UInt32, false),
    ]))
}

fn to_batch(
    schema: &SchemaRef,
    samples: &[TokenSample],
    bins: &[u32],
) -> Result<RecordBatch, arrow::error::ArrowError> {
    let item = |kind| Arc::new(Field::new("item", kind, false));
    let mut ids = ListBuilder::new(UInt32Builder::new()).with_field(item(DataType::UInt32));
    let mut masks = ListBuilder::new(BooleanBuilder::new()).with_field(item(DataType::Boolean));
    for sample in samples {
        ids.values().append_slice(&sample.ids);
        ids.append(true);
        masks.values().append_slice(&sample.mask);
        masks.append(true);
    }
    let names: ArrayRef = Arc::new(samples.iter().map(|sample| Some(sample.id.as_str())).collect::<StringArray>());
    let columns: Vec<ArrayRef> =
        vec![names, Arc::new(ids.finish()), Arc::new(masks.finish()), Arc::new(UInt32Array::from(bins.to_vec()))];
    RecordBatch::try_new(Arc::clone(schema), columns)
}

fn from_batch(
    batch: &RecordBatch,
    samples: &mut Vec<TokenSample>,
    bins: &mut Vec<Vec<u32>>,
    bin_count: usize,
) -> Result<(), String> {
    let column = |name: &str| {
        batch.column_by_name(name).filter(|column| column.null_count() == 0).ok_or_else(|| {
            let schema = batch.schema();
            let found: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            format!("the columns are {found:?}, wanted `id`, `input_ids`, `loss_mask` and `bin` without nulls")
        })
    };
    let wrong = |name: &str| format!("column `{name}` has another type than expected");
    let names = column("id")?.as_string_opt::<i32>().ok_or_else(|| wrong("id"))?;
    let ids: &ListArray = column("input_ids")?.as_list_opt().ok_or_else(|| wrong("input_ids"))?;
    let masks: &ListArray = column("loss_mask")?.as_list_opt().ok_or_else(|| wrong("loss_mask"))?;
    let numbers = column("bin")?.as_primitive_opt::<UInt32Type>().ok_or_else(|| wrong("bin"))?;
    for row in 0..batch.num_rows() {
        let (ids, mask) = (ids.value(row), masks.value(row));
        let ids = ids.as_primitive_opt::<UInt32Type>().ok_or_else(|| wrong("input_ids"))?;
        let mask: &BooleanArray = mask.as_boolean_opt().ok_or_else(|| wrong("loss_mask"))?;
        let bin = numbers.value(row) as usize;
        if bin >= bin_count {
            return Err(format!("row {} is in bin {bin}, but there are {bin_count} bins", samples.len()));
        }
        if bins.len() <= bin {
            bins.resize(bin + 1, Vec::new());
        }
        bins[bin].push(samples.len() as u32);
        samples.push(TokenSample {
            id: names.value(row).to_owned(),
            ids: ids.values().to_vec(),
            mask: mask.values().iter().collect(),
        });
    }
    Ok(())
}
