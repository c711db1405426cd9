//! Deduplication: the first of rows that are equal, or nearly, stays.

mod clusters;
mod digest_set;
mod exact;
mod known;
mod minhash;
mod normalize;
mod sorter;

use luthier_core::ConfigIssue;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

pub(super) use clusters::KeySorter;
pub(super) use exact::{DigestSorter, ExactDedup};
pub(super) use known::KnownCopies;
pub(super) use minhash::{MinHashShape, MinHasher};
pub(super) use normalize::Normalize;
pub(super) use sorter::SortSpace;

/// How rows are compared: a method, or a mapping with its options.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum DedupConfig {
    Method(DedupMethod),
    Options(DedupOptions),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum DedupMethod {
    Exact,
    Minhash,
}

/// A method and its options.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DedupOptions {
    /// `exact`: equal after normalisation. `minhash`: many runs of words in common; of a cluster the first row stays.
    pub method: DedupMethod,
    /// What is not compared: `none` compares bytes; `space` (default for `exact`) Unicode composition and white space;
    /// `loose` (default for `minhash`) also case, punctuation, accents and the value of numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalize: Option<Normalize>,
    /// MinHash: words of a run; 5 by default.
    #[schemars(range(min = 1, max = 100))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ngrams: Option<usize>,
    /// MinHash: buckets, of which one must be equal; 14 by default.
    #[schemars(range(min = 1, max = 1024))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buckets: Option<usize>,
    /// MinHash: hash functions per bucket, all of which must be equal; 8 by default.
    #[schemars(range(min = 1, max = 256))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hashes: Option<usize>,
    /// MinHash: chooses the hash functions; 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Memory for comparing rows, MiB; what does not fit is sorted on disk, with the same result. 256 by default.
    #[schemars(range(min = 1))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u32>,
}

impl<'de> Deserialize<'de> for DedupConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if value.is_string() {
            serde_json::from_value(value).map(Self::Method).map_err(serde::de::Error::custom)
        } else {
            serde_json::from_value(value).map(Self::Options).map_err(serde::de::Error::custom)
        }
    }
}

impl DedupOptions {
    /// How texts are normalised before they are compared.
    pub fn normalize(&self) -> Normalize {
        self.normalize.unwrap_or(match self.method {
            DedupMethod::Exact => Normalize::Space,
            DedupMethod::Minhash => Normalize::Loose,
        })
    }

    /// Bytes that comparing rows may take.
    pub fn memory(&self) -> usize {
        (self.memory_mib.unwrap_or(256) as usize) << 20
    }

    pub fn shape(&self) -> MinHashShape {
        MinHashShape {
            ngrams: self.ngrams.unwrap_or(5),
            buckets: self.buckets.unwrap_or(14),
            hashes: self.hashes.unwrap_or(8),
            seed: self.seed.unwrap_or(1),
        }
    }
}

impl DedupConfig {
    /// The options as they were given.
    pub fn options(&self) -> DedupOptions {
        match self {
            Self::Method(method) => DedupOptions {
                method: *method,
                normalize: None,
                ngrams: None,
                buckets: None,
                hashes: None,
                seed: None,
                memory_mib: None,
            },
            Self::Options(options) => options.clone(),
        }
    }

    pub fn method(&self) -> &'static str {
        match self.options().method {
            DedupMethod::Exact => "exact",
            DedupMethod::Minhash => "minhash",
        }
    }

    /// Everything that can change which rows stay, defaults filled.
    pub fn filled(&self) -> Value {
        let options = self.options();
        let mut filled = json!({"method": options.method, "normalize": options.normalize()});
        if options.method == DedupMethod::Minhash {
            let shape = options.shape();
            filled["ngrams"] = json!(shape.ngrams);
            filled["buckets"] = json!(shape.buckets);
            filled["hashes"] = json!(shape.hashes);
            filled["seed"] = json!(shape.seed);
        }
        filled
    }

    pub fn check(&self, path: &str, issues: &mut Vec<ConfigIssue>) {
        let options = self.options();
        if options.method == DedupMethod::Minhash {
            options.shape().check(path, issues);
            return;
        }
        let given = [
            ("ngrams", options.ngrams.is_some()),
            ("buckets", options.buckets.is_some()),
            ("hashes", options.hashes.is_some()),
            ("seed", options.seed.is_some()),
        ];
        for (key, _) in given.iter().filter(|(_, given)| *given) {
            issues.push(ConfigIssue {
                path: format!("{path}.{key}"),
                on_key: true,
                message: format!("`{key}` belongs to `method: minhash`, and this is `exact`"),
                help: Some(format!("remove `{key}`, or write `method: minhash`")),
            });
        }
    }
}
