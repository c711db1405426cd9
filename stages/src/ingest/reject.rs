//! Broken records: the end of the run, or a line each in the output `rejected`.

use std::io::{BufWriter, Write};

use camino::Utf8PathBuf;
use luthier_core::{StageContext, StageError, StageResult};
use serde::Serialize;

use super::config::{IngestConfig, OnError};

/// One broken record as `rejected` lists it.
#[derive(Debug, Serialize)]
pub struct Rejected {
    file: String,
    line: u64,
    reason: String,
    /// The record, cut at 4,096 bytes.
    text: String,
}

impl Rejected {
    pub fn new(file: &str, line: u64, reason: String, excerpt: String) -> Self {
        Self { file: file.to_owned(), line, reason, text: excerpt }
    }
}

/// What is wrong with more than the one row, going by the reason.
fn remedy(Rejected { file, reason, .. }: &Rejected) -> Option<String> {
    if reason.contains("`map.") {
        return Some("correct `map:`; where a column may be missing: `{{ row.x | default('') }}`".to_owned());
    }
    // Bytes that no UTF-8 has are what other encodings have for letters.
    reason.starts_with("is not UTF-8").then(|| {
        format!("if the file has another encoding, convert it: iconv -f WINDOWS-1252 -t UTF-8 {file} > converted")
    })
}

pub struct Rejects {
    path: Option<Utf8PathBuf>,
    out: Option<BufWriter<fs_err::File>>,
    most: u64,
    count: u64,
}

impl Rejects {
    /// # Errors
    /// The disk.
    pub fn new(context: &StageContext<'_>, config: &IngestConfig) -> StageResult<Self> {
        let path = (config.on_error == OnError::Skip).then(|| context.output("rejected"));
        let mut rejects = Self { path, out: None, most: config.max_errors.unwrap_or(u64::MAX), count: 0 };
        rejects.restart()?;
        Ok(rejects)
    }

    /// Begins again with nothing.
    ///
    /// # Errors
    /// The disk.
    pub fn restart(&mut self) -> StageResult<()> {
        self.count = 0;
        self.out = match &self.path {
            Some(path) => Some(BufWriter::new(fs_err::File::create(path)?)),
            None => None,
        };
        Ok(())
    }

    /// # Errors
    /// With `on_error: fail` always, else when there are too many; names file and line.
    pub fn add(&mut self, rejected: Rejected) -> StageResult<()> {
        let Some(out) = &mut self.out else {
            let error = StageError::input("ingest::broken_row", format!("the row {}", rejected.reason)).at(
                rejected.file.as_str(),
                rejected.line,
                0,
            );
            let error = match remedy(&rejected) {
                Some(remedy) => error.hint(remedy),
                None => error,
            };
            return Err(error
                .hint("mend the row, or set `on_error: skip` to leave broken rows out and list them in `rejected`"));
        };
        self.count += 1;
        if self.count > self.most {
            return Err(StageError::input(
                "ingest::too_many_errors",
                format!("more than {} rows are broken; this one {}", self.most, rejected.reason),
            )
            .at(rejected.file, rejected.line, 0)
            .hint("mend the rows, or raise `max_errors:`"));
        }
        let mut line = serde_json::to_vec(&rejected)
            .map_err(|error| StageError::new("ingest::rejected", "a rejected row makes no JSON").caused_by(error))?;
        line.push(b'\n');
        out.write_all(&line)?;
        Ok(())
    }

    /// The number of rejected rows.
    ///
    /// # Errors
    /// The disk.
    pub fn finish(self) -> StageResult<u64> {
        if let Some(mut out) = self.out {
            out.flush()?;
        }
        Ok(self.count)
    }
}
