use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{ErrorClass, digest_path};

use super::*;

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn join(&self, name: &str) -> Utf8PathBuf {
        Utf8Path::from_path(self.0.path()).expect("UTF-8").join(name)
    }
}

fn rows(range: std::ops::Range<usize>) -> RecordBatch {
    let text = |prefix: &str| -> ArrayRef {
        Arc::new(
            range.clone().map(|row| Some(format!("{prefix} {row} {}", "x".repeat(row % 37)))).collect::<StringArray>(),
        )
    };
    let schema = DatasetShape::PromptCompletion.schema([Field::new("n", DataType::Int64, true)]);
    let n: ArrayRef = Arc::new(range.clone().map(|row| (row % 5 != 0).then_some(row as i64)).collect::<Int64Array>());
    RecordBatch::try_new(Arc::new(schema), vec![text("id"), text("p"), text("c"), n]).expect("a batch")
}

fn write(path: &Utf8Path, cuts: &[usize], total: usize) -> DatasetSummary {
    let mut writer =
        DatasetWriter::create(path, rows(0..1).schema(), DatasetShape::PromptCompletion).expect("a writer");
    let mut start = 0;
    for cut in cuts.iter().copied().chain([total]) {
        writer.write(&rows(start..cut)).expect("write");
        start = cut;
    }
    writer.finish().expect("finish")
}

#[test]
fn bytes_do_not_depend_on_batches() {
    let dir = Dir::new();
    let (a, b) = (dir.join("a"), dir.join("b"));
    let summary = write(&a, &[], 20_000);
    assert_eq!((summary.rows, summary.shards), (20_000, 1));
    write(&b, &[1, 5000, 8192, 8193, 19_999], 20_000);
    assert_eq!(digest_path(&a).expect("a").0, digest_path(&b).expect("b").0);
}

#[test]
fn reads_back_what_was_written() {
    let dir = Dir::new();
    let path = dir.join("a");
    write(&path, &[7], 9000);
    let reader = DatasetReader::open(&path).expect("open");
    assert_eq!((reader.rows(), reader.shape()), (9000, DatasetShape::PromptCompletion));
    let batches: Vec<RecordBatch> = reader.batches(1000).map(|batch| batch.expect("a batch")).collect();
    let all = arrow::compute::concat_batches(&reader.schema(), &batches).expect("concatenate");
    assert_eq!(all, rows(0..9000));
    assert!(batches.iter().all(|batch| batch.num_rows() <= 1000));
}

#[test]
fn an_empty_dataset_keeps_its_columns() {
    let dir = Dir::new();
    let path = dir.join("a");
    write(&path, &[], 0);
    let reader = DatasetReader::open(&path).expect("open");
    assert_eq!((reader.rows(), reader.schema().fields().len()), (0, 4));
    assert_eq!(reader.batches(10).count(), 0);
}

#[test]
fn another_schema_names_found_and_wanted() {
    let dir = Dir::new();
    let schema = Arc::new(Schema::new(vec![Field::new("question", DataType::Utf8, false)]));
    let mut writer = DatasetWriter::create_table(&dir.join("a"), Arc::clone(&schema), None).expect("a writer");
    let column: ArrayRef = Arc::new(StringArray::from(vec!["q"]));
    writer.write(&RecordBatch::try_new(schema, vec![column]).expect("a batch")).expect("write");
    writer.finish().expect("finish");
    let error = DatasetReader::open(&dir.join("a")).expect_err("no dataset");
    assert_eq!(error.class, ErrorClass::Input);
    assert!(error.message.contains("[`question`: Utf8]"), "{}", error.message);
    assert!(error.message.contains("expected text columns `id` and either `messages`"), "{}", error.message);
    assert!(error.hints[0].contains("`ingest`"));
}

#[test]
fn damaged_files_are_errors() {
    let dir = Dir::new();
    let path = dir.join("a");
    write(&path, &[], 3000);
    let file = path.join("part-00000.parquet");
    let good = fs_err::read(&file).expect("read");
    // The footer is parsed at `open`, the pages when read: both must hold, for every kind of damage.
    for step in 1..40 {
        let cut = good.len() * step / 40;
        fs_err::write(&file, &good[..cut]).expect("write");
        assert_eq!(DatasetReader::open(&path).expect_err("truncated").code, "dataset::damaged");
        let mut flipped = good.clone();
        for byte in &mut flipped[cut..(cut + 8).min(good.len())] {
            *byte ^= 0x5a;
        }
        fs_err::write(&file, &flipped).expect("write");
        if let Ok(reader) = DatasetReader::open(&path) {
            for batch in reader.batches(500) {
                if let Err(error) = batch {
                    assert_eq!(error.code, "dataset::damaged");
                }
            }
        }
    }
    fs_err::remove_file(&file).expect("remove");
    assert_eq!(DatasetReader::open(&path).expect_err("empty").code, "dataset::no_shards");
}

#[test]
fn missing_columns_suggest_the_nearest() {
    let batch = rows(0..3);
    let error = string_column(&batch, "promt").expect_err("no such column");
    assert_eq!(
        error.to_string(),
        "the dataset has no column `promt`; its columns are [`id`, `prompt`, `completion`, `n`]"
    );
    assert_eq!(error.hints, ["did you mean `prompt`?"]);
    assert_eq!(string_column(&batch, "n").expect_err("a number").code, "dataset::column_type");
}

#[test]
fn row_ids_separate_their_parts() {
    assert_ne!(row_id([("a", "bc"), ("d", "")]), row_id([("a", "b"), ("cd", "")]));
    assert_eq!(row_id([("a", "b")]).len(), 32);
}
