//! The built-in filters, linked natively, or built to WebAssembly from the sources that this program carries.

use camino::Utf8Path;
use luthier_core::{Digest, StageError, StageResult, nearest};
use luthier_filter::{ConfigValue, Filter, Issue, Json, Row, Scores, Verdict};
use serde_json::Value;

use crate::author::{EmbeddedFile, SDK_FILES};
use crate::batch::TextBatch;
use crate::build::{BuildOptions, build_plugin};
use crate::manifest::{Manifest, ScoreColumn, ScoreKind};
use crate::verdict::Verdicts;

/// A built-in filter.
#[derive(Clone, Copy)]
pub struct Builtin {
    name: &'static str,
    /// Its type in `luthier_builtins`.
    kind: &'static str,
    manifest: fn() -> Manifest,
    check: fn(&Value) -> Vec<Issue>,
    open: fn(&Value) -> Result<Box<dyn NativeFilter>, Vec<Issue>>,
    thresholds: &'static [&'static str],
    measured: fn(u8) -> usize,
}

/// Judges rows without a boundary.
pub(crate) trait NativeFilter: Send {
    /// Scores per row.
    fn scores(&self) -> usize;

    /// As [`Builtin::selector`]'s.
    fn select(&self, scores: &[f32], before: u8) -> Option<u8>;

    /// Judges row `row`; `reads` are the further columns, in the order of the manifest.
    fn judge_row(&mut self, row: usize, text: &str, reads: &[&str], verdicts: &mut Verdicts) -> Result<(), String>;

    /// Judges every row; an error names the row.
    fn judge(&mut self, batch: &TextBatch<'_>) -> Result<Verdicts, (usize, String)> {
        let mut verdicts = Verdicts::keep_all(batch.rows(), self.scores());
        let mut reads = vec![""; batch.reads.len()];
        for row in 0..batch.rows() {
            for (slot, column) in reads.iter_mut().zip(&batch.reads) {
                *slot = column.get(row);
            }
            self.judge_row(row, batch.texts.get(row), &reads, &mut verdicts).map_err(|why| (row, why))?;
        }
        Ok(verdicts)
    }
}

macro_rules! table {
    ($($name:literal => $filter:ident,)*) => {{
        use luthier_builtins::*;
        &[$(Builtin {
            name: $name,
            kind: stringify!($filter),
            manifest: manifest::<$filter>,
            check: |config| parse::<$filter>(config).err().unwrap_or_default(),
            open: open::<$filter>,
            thresholds: <$filter as Filter>::THRESHOLDS,
            measured: measured::<$filter>,
        }),*]
    }};
}

const BUILTINS: &[Builtin] = luthier_builtins::for_each_builtin!(table);

impl Builtin {
    /// The built-in of this name.
    ///
    /// # Errors
    /// There is none; message and help.
    pub fn find(name: &str) -> Result<Self, (String, String)> {
        if let Some(found) = BUILTINS.iter().find(|builtin| builtin.name == name) {
            return Ok(*found);
        }
        let names: Vec<&str> = BUILTINS.iter().map(|builtin| builtin.name).collect();
        let help = match nearest(name, names.iter().copied()) {
            Some(near) => format!("did you mean `builtin:{near}`?"),
            None => format!("built-in filters: `{}`", names.join("`, `")),
        };
        Err((format!("there is no built-in filter `{name}`"), help))
    }

    /// All of them, by name.
    #[must_use]
    pub fn all() -> &'static [Self] {
        BUILTINS
    }

    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    #[must_use]
    pub fn manifest(&self) -> Manifest {
        (self.manifest)()
    }

    /// A configuration to measure it with: the defaults, and something to look for where it has nothing by itself.
    #[must_use]
    pub fn sample_config(&self) -> Value {
        match self.name {
            "language" => serde_json::json!({"keep": ["en"]}),
            "regex" => {
                serde_json::json!({"patterns": ["(?i)copyright \\(c\\) \\d{4}"], "action": "drop"})
            }
            _ => serde_json::json!({}),
        }
    }

    /// What is wrong with a configuration, as `(path, message)`.
    #[must_use]
    pub fn check(&self, config: &Value) -> Vec<(String, String)> {
        (self.check)(config).into_iter().map(|issue| (issue.path, issue.message)).collect()
    }

    pub(crate) fn open(&self, config: &Value) -> Result<Box<dyn NativeFilter>, Vec<Issue>> {
        (self.open)(config)
    }

    /// The configuration without what only decides which scores stay.
    #[must_use]
    pub fn measured(&self, config: &Value) -> Value {
        let mut config = config.clone();
        if let Value::Object(values) = &mut config {
            values.retain(|key, _| !self.thresholds.contains(&key.as_str()));
        }
        config
    }

    /// How many scores, from the first on, are set of a row with this verdict: the rest are 0.
    #[must_use]
    pub fn scores_of(&self, drop: u8) -> usize {
        (self.measured)(drop)
    }

    /// What the filter with this configuration says of a row by its scores and by what it said under other thresholds: 0 to
    /// keep it, else 1 + an index into the manifest's reasons; `None` where the row must be judged, as all must if the
    /// configuration is wrong.
    pub fn selector(&self, config: &Value) -> impl Fn(&[f32], u8) -> Option<u8> + use<> {
        let filter = if self.thresholds.is_empty() { None } else { self.open(config).ok() };
        move |scores, before| filter.as_ref()?.select(scores, before)
    }

    /// The filter as a component, built from the carried sources.
    ///
    /// # Errors
    /// As [`build_plugin`].
    pub fn component(&self, cache: &Utf8Path, offline: bool, jobs: usize) -> StageResult<Vec<u8>> {
        let sources = carried_digest();
        let root = cache.join("plugins/builtins-v1").join(sources.short());
        for (directory, files) in [("sdk", SDK_FILES), ("builtins", BUILTIN_FILES)] {
            for file in files {
                place(&root.join(directory).join(file.path), file.text)?;
            }
        }
        let guest = root.join(self.name);
        let features = if self.name == "regex" { "\"regex\"" } else { "" };
        let cargo = GUEST_CARGO.replace("@NAME@", self.name).replace("@FEATURES@", features);
        place(&guest.join("Cargo.toml"), &cargo)?;
        place(&guest.join("src/lib.rs"), &GUEST_LIB.replace("@KIND@", self.kind))?;
        let digests = [sources, Digest::of(self.name.as_bytes())];
        build_plugin(&guest, &BuildOptions { cache, offline, sources: &digests, jobs })
    }
}

const GUEST_CARGO: &str = include_str!("author/template/builtin.toml.txt");
const GUEST_LIB: &str = "luthier_filter::export!(luthier_builtins::@KIND@);\n";

macro_rules! carried {
    ($($path:literal),* $(,)?) => {
        &[$(EmbeddedFile { path: $path, text: include_str!(concat!("../../builtins/", $path)) }),*]
    };
}

/// The sources of the built-in filters.
const BUILTIN_FILES: &[EmbeddedFile] = carried![
    "Cargo.toml",
    "src/c4_paragraphs.rs",
    "src/c4_quality.rs",
    "src/character.rs",
    "src/curator_quality.rs",
    "src/curator_repetition.rs",
    "src/data_juicer.rs",
    "src/fineweb_quality.rs",
    "src/gopher_quality.rs",
    "src/gopher_repetition.rs",
    "src/hash.rs",
    "src/language/mod.rs",
    "src/language/profiles.rs",
    "src/language/profiles.txt",
    "src/language/script.rs",
    "src/length.rs",
    "src/lib.rs",
    "src/lines.rs",
    "src/masks.rs",
    "src/overlap.rs",
    "src/pii/email.rs",
    "src/pii/ip.rs",
    "src/pii/key.rs",
    "src/pii/mod.rs",
    "src/pii/phone.rs",
    "src/pii/tests.rs",
    "src/refusal.rs",
    "src/regex/beginnings.rs",
    "src/regex/mod.rs",
    "src/regex/runner.rs",
    "src/regex/scan.rs",
    "src/regex/search.rs",
    "src/regex/tests.rs",
    "src/regex/windows.rs",
    "src/repetition.rs",
    "src/run_counts.rs",
    "src/select.rs",
    "src/shared.rs",
    "src/special.rs",
    "src/special_characters.rs",
    "src/stop_words.rs",
    "src/url_ratio.rs",
    "src/vector.rs",
    "src/vector/nibbles.rs",
    "src/word_cache.rs",
    "src/words.rs",
    "src/words/address.rs",
    "src/words/affixes.rs",
];

fn carried_digest() -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key("luthier 2026-11 carried sources v1");
    for file in SDK_FILES.iter().chain(BUILTIN_FILES) {
        hasher.update(&(file.text.len() as u64).to_le_bytes());
        hasher.update(file.path.as_bytes());
        hasher.update(file.text.as_bytes());
    }
    Digest::from_bytes(*hasher.finalize().as_bytes())
}

/// Writes a file unless it is there as it should be, so that cargo sees no change.
fn place(path: &Utf8Path, text: &str) -> StageResult<()> {
    if fs_err::read(path).is_ok_and(|bytes| bytes == text.as_bytes()) {
        return Ok(());
    }
    luthier_core::fs::write_atomic(path, text.as_bytes()).map_err(StageError::from)
}

fn manifest<F: Filter>() -> Manifest {
    let about = F::ABOUT;
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let kind = |kind| match kind {
        luthier_filter::ScoreKind::Real => ScoreKind::Real,
        luthier_filter::ScoreKind::Count => ScoreKind::Count,
        luthier_filter::ScoreKind::Flag => ScoreKind::Flag,
    };
    Manifest {
        name: about.name.to_owned(),
        version: about.version.to_owned(),
        about: about.about.to_owned(),
        text: about.text.to_owned(),
        reads: owned(about.reads),
        scores: about
            .scores
            .iter()
            .map(|(name, of)| ScoreColumn { name: (*name).to_owned(), kind: kind(*of) })
            .collect(),
        reasons: owned(about.reasons),
        edits_text: about.edits,
        config_schema: serde_json::from_str(&F::Config::schema()).unwrap_or_default(),
    }
}

fn measured<F: Filter>(drop: u8) -> usize {
    let reason = usize::from(drop).checked_sub(1).and_then(|reason| F::ABOUT.reasons.get(reason));
    reason.map_or(F::ABOUT.scores.len(), |reason| F::measured(reason))
}

fn parse<F: Filter>(config: &Value) -> Result<F, Vec<Issue>> {
    let json = Json::parse(&config.to_string()).map_err(|error| vec![Issue::new("", error)])?;
    let mut issues = Vec::new();
    match F::Config::parse(&json, "", &mut issues) {
        Some(config) if issues.is_empty() => F::open(config).map_err(|error| vec![Issue::new("", error)]),
        _ => Err(issues),
    }
}

fn open<F: Filter + Send>(config: &Value) -> Result<Box<dyn NativeFilter>, Vec<Issue>> {
    parse::<F>(config).map(|filter| Box::new(Native(filter)) as Box<dyn NativeFilter>)
}

struct Native<F>(F);

impl<F: Filter + Send> NativeFilter for Native<F> {
    fn scores(&self) -> usize {
        F::ABOUT.scores.len()
    }

    fn select(&self, scores: &[f32], before: u8) -> Option<u8> {
        let before = usize::from(before).checked_sub(1).and_then(|reason| F::ABOUT.reasons.get(reason)).copied();
        match self.0.select(scores, before)? {
            Verdict::Keep => Some(0),
            Verdict::Drop(reason) => {
                let at = F::ABOUT.reasons.iter().position(|known| *known == reason)?;
                Some(1 + at as u8)
            }
            Verdict::Edit(_) | Verdict::Refuse(_) => None,
        }
    }

    fn judge_row(&mut self, row: usize, text: &str, reads: &[&str], verdicts: &mut Verdicts) -> Result<(), String> {
        let about = F::ABOUT;
        let rows = verdicts.drop.len();
        let seen = Row::new(row, text, about.reads, reads);
        let mut scores = Scores::new(about.scores, &mut verdicts.scores, rows, row);
        match self.0.judge(&seen, &mut scores) {
            Verdict::Keep => {}
            Verdict::Drop(reason) => {
                let at = about.reasons.iter().position(|known| *known == reason);
                let at = at.ok_or_else(|| format!("dropped for an undeclared `{reason}`"))?;
                verdicts.drop[row] = 1 + at as u8;
            }
            Verdict::Edit(text) => verdicts.edits.push((row, text)),
            Verdict::Refuse(why) => return Err(why),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use camino::Utf8Path;

    use super::*;

    #[test]
    fn carries_every_source_file() {
        let builtins = Utf8Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../builtins"));
        let mut files = luthier_core::fs::walk_files(builtins).unwrap();
        files.retain(|file| [".rs", ".txt", "Cargo.toml"].iter().any(|end| file.ends_with(end)));
        files.retain(|file| !file.split('/').any(|part| part == "target" || part == "tests"));
        let held: Vec<&str> = BUILTIN_FILES.iter().map(|file| file.path).collect();
        assert_eq!(held, files, "list the files of plugins/builtins in BUILTIN_FILES");
    }

    #[test]
    fn every_manifest_is_valid_and_named_as_the_builtin() {
        for builtin in Builtin::all() {
            let manifest = builtin.manifest();
            assert_eq!(manifest.check(), Ok(()));
            assert_eq!(manifest.name, builtin.name());
            assert!(manifest.config_schema.is_object(), "{}", builtin.name());
            assert_eq!(builtin.check(&builtin.sample_config()), []);
        }
        assert_eq!(
            Builtin::find("gopher-qualty").err().unwrap(),
            (
                "there is no built-in filter `gopher-qualty`".to_owned(),
                "did you mean `builtin:gopher-quality`?".to_owned()
            )
        );
    }
}
