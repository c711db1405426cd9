//! Looking into artifacts from the command line: rows of a dataset, samples of a token set, and what is suspicious about
//! them.

mod doctor;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};

use camino::Utf8Path;
use luthier_core::{StageError, StageResult};
use luthier_formats::dataset::{DatasetReader, column_text};
use luthier_formats::tokenizer::Tokenizer;
use luthier_formats::tokens::{TokenSample, TokenSet};
use serde_json::{Map, Value, json};

pub use doctor::{Example, Finding, Severity, examine};

/// What `data show` prints.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    pub title: String,
    /// One JSON object a row.
    pub rows: Vec<Value>,
    /// The same for people.
    pub text: String,
    /// Samples token by token, where the model that made them is known.
    pub samples: Vec<ShownSample>,
}

/// A sample as its tokens' texts.
#[derive(Debug, Clone, PartialEq)]
pub struct ShownSample {
    pub title: String,
    /// Text and whether it is trained. Tokens that share a character are one piece.
    pub pieces: Vec<(String, bool)>,
}

/// Whether a directory holds a token set.
fn is_tokens(path: &Utf8Path) -> bool {
    path.join("tokens.json").is_file()
}

/// The first `count` rows of a dataset or samples of a token set. With the model that made the tokens, they are shown as
/// text with the trained part in `[[…]]`.
///
/// # Errors
/// The path is neither, or is damaged.
pub fn show(path: &Utf8Path, model: Option<&Utf8Path>, count: usize) -> StageResult<Shown> {
    if !path.exists() {
        return Err(StageError::input("data::missing", format!("`{path}` does not exist"))
            .hint("name a path, or a stage as in `luthier data show tokens -f PIPELINE`"));
    }
    if is_tokens(path) {
        return show_tokens(path, model, count);
    }
    if let Some(shown) = records(path, count)? {
        return Ok(shown);
    }
    check_kind(path)?;
    show_rows(path, count)
}

/// Refuses a file that is no Parquet from its first byte on, such as a model's: nothing of it is damaged.
fn check_kind(path: &Utf8Path) -> StageResult<()> {
    if !path.is_file() || starts_of(path, 4)? == b"PAR1" {
        return Ok(());
    }
    Err(StageError::input("data::kind", format!("`{path}` holds neither a dataset nor tokens"))
        .hint("name a stage that makes one, such as an `ingest` or a `tokenize`: `luthier status` lists the stages"))
}

/// The first bytes of a file; none of a directory.
fn starts_of(path: &Utf8Path, count: u64) -> StageResult<Vec<u8>> {
    let mut start = Vec::new();
    if path.is_file() {
        fs_err::File::open(path)?.take(count).read_to_end(&mut start)?;
    }
    Ok(start)
}

/// The first objects of a file with one a line, such as the rows that ingest set aside; `None` if it is none.
fn records(path: &Utf8Path, count: usize) -> StageResult<Option<Shown>> {
    if starts_of(path, 1)? != b"{" {
        return Ok(None);
    }
    let (mut rows, mut text) = (Vec::new(), String::new());
    for (number, line) in BufReader::new(fs_err::File::open(path)?).lines().take(count).enumerate() {
        let record = line.ok().and_then(|line| serde_json::from_str::<Value>(&line).ok());
        let Some(Value::Object(record)) = record else {
            // What breaks off later was one up to here.
            return if number == 0 { Ok(None) } else { Err(not_a_record(path, number as u64 + 1)) };
        };
        let _ = writeln!(text, "── row {}", number + 1);
        for (name, value) in &record {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let _ = writeln!(text, "{name}: {value}");
        }
        rows.push(Value::Object(record));
    }
    if rows.is_empty() {
        return Ok(None);
    }
    Ok(Some(Shown { title: "records, a line each".to_owned(), rows, text, samples: Vec::new() }))
}

fn not_a_record(path: &Utf8Path, line: u64) -> StageError {
    StageError::input("data::record", "the line is no JSON object, as those before it are")
        .at(path.as_str(), line, 0)
        .hint("`luthier data show` prints datasets, tokens and files of one object a line")
}

fn show_rows(path: &Utf8Path, count: usize) -> StageResult<Shown> {
    let reader = DatasetReader::open(path)?;
    let schema = reader.schema();
    let mut rows = Vec::new();
    let mut text = String::new();
    'all: for batch in reader.batches(count.clamp(1, 4096)) {
        let batch = batch?;
        for row in 0..batch.num_rows() {
            if rows.len() == count {
                break 'all;
            }
            let mut object = Map::new();
            let _ = writeln!(text, "── row {}", rows.len() + 1);
            for (field, column) in schema.fields().iter().zip(batch.columns()) {
                let value = column_text(column.as_ref(), row);
                let _ = writeln!(text, "{}: {}", field.name(), value);
                object.insert(field.name().clone(), Value::String(value.into_owned()));
            }
            rows.push(Value::Object(object));
        }
    }
    let title = format!("{} rows, shape {}", reader.rows(), reader.shape().as_str());
    Ok(Shown { title, rows, text, samples: Vec::new() })
}

fn show_tokens(path: &Utf8Path, model: Option<&Utf8Path>, count: usize) -> StageResult<Shown> {
    let set = TokenSet::open(path)?;
    let tokenizer = model.map(Tokenizer::from_model).transpose()?;
    let (mut rows, mut samples) = (Vec::new(), Vec::new());
    let mut text = String::new();
    for sample in set.samples.iter().take(count) {
        let trained = sample.trained();
        let marked = tokenizer.as_ref().map(|tokenizer| mark(sample, tokenizer));
        let title = format!("── {}: {} tokens, {trained} trained", sample.id, sample.ids.len());
        let _ = writeln!(text, "{title}");
        samples.extend(tokenizer.as_ref().map(|tokenizer| ShownSample { title, pieces: pieces(sample, tokenizer) }));
        match &marked {
            Some(marked) => {
                let _ = writeln!(text, "{marked}");
            }
            None => {
                let _ = writeln!(text, "{:?}", sample.ids);
            }
        }
        rows.push(json!({"id": sample.id, "tokens": sample.ids.len(), "trained": trained, "ids": sample.ids, "mask": sample.mask, "text": marked}));
    }
    let title = format!(
        "{} samples in {} bins, {} tokens, {} trained, longest {}",
        set.meta.samples, set.meta.bins, set.meta.tokens, set.meta.trained_tokens, set.meta.longest
    );
    Ok(Shown { title, rows, text, samples })
}

/// The sample as text, trained stretches in `[[…]]`.
fn mark(sample: &TokenSample, tokenizer: &Tokenizer) -> String {
    let mut text = String::new();
    let mut start = 0;
    while start < sample.ids.len() {
        let trained = sample.mask[start];
        let length = sample.mask[start..].iter().take_while(|flag| **flag == trained).count();
        let piece = tokenizer.decode(&sample.ids[start..start + length], false);
        text.push_str(&if trained { format!("[[{piece}]]") } else { piece });
        start += length;
    }
    text
}

/// The text of each token; those that end within a character are joined with what follows.
fn pieces(sample: &TokenSample, tokenizer: &Tokenizer) -> Vec<(String, bool)> {
    let mut pieces = Vec::new();
    let mut start = 0;
    for at in 0..sample.ids.len() {
        let text = tokenizer.decode(&sample.ids[start..=at], false);
        // Four bytes are the longest character, so a replacement character after that is in the data.
        if !text.ends_with('\u{fffd}') || at - start >= 3 || at + 1 == sample.ids.len() {
            pieces.push((text, sample.mask[at]));
            start = at + 1;
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_a_file_are_rows() {
        let directory = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(directory.path()).unwrap().join("rejected");
        fs_err::write(&path, "{\"file\":\"a.jsonl\",\"line\":3}\n{\"line\":4}\nno object\n").unwrap();
        let shown = show(&path, None, 3).unwrap_err();
        assert!(
            shown.to_string().ends_with("rejected:3: the line is no JSON object, as those before it are"),
            "{shown}"
        );
        let shown = show(&path, None, 1).unwrap();
        assert_eq!((shown.rows.len(), shown.text.as_str()), (1, "── row 1\nfile: a.jsonl\nline: 3\n"));
        fs_err::write(&path, "neither\n").unwrap();
        assert_eq!(show(&path, None, 1).unwrap_err().code, "data::kind");
    }
}
