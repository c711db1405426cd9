//! Files named by address: fetched as the `fetch` stage does it, pinned by digest.
//!
//! An address may end in `#blake3=` and the digest of its content. Pinned content is kept beside other caches, so that it is
//! fetched once, whatever else of the stage changes, and an offline run finds it.

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{ConfigIssue, Digest, StageContext, StageError, StageResult, digest_path};
use serde_json::{Value, json};

use crate::fetch::{self, Source};

const PIN: &str = "#blake3=";

/// An entry of `files:` that is an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Without the pin.
    pub address: String,
    pub pin: Option<Digest>,
}

/// A fetched file.
pub struct Fetched {
    pub path: Utf8PathBuf,
    pub digest: Digest,
    /// What there is to say to the user.
    pub warning: Option<String>,
}

impl Remote {
    /// Reads an entry of `files:`; `None` if it is a path.
    ///
    /// # Errors
    /// An issue without a path.
    pub fn parse(text: &str) -> Option<Result<Self, ConfigIssue>> {
        let is_address = text.contains("://") || text.starts_with("pkg:");
        is_address.then(|| Self::parse_address(text))
    }

    fn parse_address(text: &str) -> Result<Self, ConfigIssue> {
        let (address, pin) = match text.rsplit_once(PIN) {
            None => (text, None),
            Some((address, digest)) => {
                let digest = digest.parse().map_err(|error| {
                    ConfigIssue::new("", format!("`{text}` is pinned to no digest: {error}"))
                        .help("leave `#blake3=…` out once; the run then prints the digest to pin")
                })?;
                (address, Some(digest))
            }
        };
        if address.split(['?', '#']).next().is_some_and(|path| path.contains('*')) {
            return Err(ConfigIssue::new("", format!("`{address}` is an address with a `*`, and nobody can list it"))
                .help("name each file; globs work on local paths"));
        }
        match Source::parse(address) {
            Ok(Source::Local(_)) => Err(ConfigIssue::new("", format!("`{address}` is a path written as an address"))
                .help("write the path alone")),
            Ok(source) if source.is_plain_http() && pin.is_none() => {
                Err(ConfigIssue::new("", "`http://` is neither encrypted nor authenticated")
                    .help(format!("use `https://`, or pin the content: `{address}{PIN}…`")))
            }
            Ok(Source::Hub(hub)) if hub.path.is_none() => {
                Err(ConfigIssue::new("", format!("`{address}` is a whole repository, expected a file of it"))
                    .help(format!("name the file: `{address}/train.jsonl`")))
            }
            Ok(_) => Ok(Self { address: address.to_owned(), pin }),
            Err(issue) if ["s3://", "gs://", "az://"].iter().any(|scheme| address.starts_with(scheme)) => {
                let help = "give its `https://` address (a presigned one if it is private), or copy it first: a stage with \
                            `uses: command`, connected with `in:`";
                Err(ConfigIssue::new("", issue.message).help(help))
            }
            Err(issue) => Err(issue),
        }
    }

    /// What decides the content, for the key.
    pub fn key(&self) -> Value {
        match &self.pin {
            Some(pin) => json!({"blake3": pin.hex()}),
            None => json!({"from": self.address}),
        }
    }

    /// As it stands in the pipeline.
    pub fn written(&self) -> String {
        match &self.pin {
            Some(pin) => format!("{}{PIN}{pin}", self.address),
            None => self.address.clone(),
        }
    }

    /// What messages call it, and what its format is told by: without a query, which may hold a signature.
    pub fn name(&self) -> &str {
        let end = self.address.find('?').unwrap_or(self.address.len());
        &self.address[..end]
    }

    /// Brings the file here; `index` tells it from others.
    ///
    /// # Errors
    /// Those of a fetch.
    pub fn fetch(&self, context: &StageContext<'_>, index: usize) -> StageResult<Fetched> {
        let kept = self.pin.map(|pin| kept_path(context.cache(), &pin));
        if let (Some(path), Some(pin)) = (&kept, self.pin)
            && path.is_file()
            && digest_path(path)?.0 == pin
        {
            return Ok(Fetched { path: path.clone(), digest: pin, warning: None });
        }
        let path = kept.unwrap_or_else(|| context.temporary().join(format!("fetched-{index}")));
        if let Some(parent) = path.parent() {
            fs_err::create_dir_all(parent)?;
        }
        let fetched = context.temporary().join(format!("fetching-{index}"));
        let brought = fetch::fetch_one(context, index, &self.address, self.pin, &fetched);
        let (digest, _) = brought.map_err(|error| self.advise(error))?;
        // The cache may be on another disk.
        if fs_err::rename(&fetched, &path).is_err() {
            fs_err::copy(&fetched, &path)?;
        }
        let warning = self.pin.is_none().then(|| {
            let name = self.name();
            format!("`{name}` is not pinned, so another run may read other content; add `{PIN}{digest}` to its end")
        });
        Ok(Fetched { path, digest, warning })
    }

    /// The hints of a fetch, as they are for an entry of `files:`.
    fn advise(&self, mut error: StageError) -> StageError {
        let hint = match (error.code, self.pin) {
            ("fetch::offline", _) => {
                "run once without `--offline`; what is pinned with `#blake3=…` is then kept".to_owned()
            }
            ("fetch::digest_mismatch", Some(pin)) => {
                let found = error.message.split("digest ").nth(1).and_then(|rest| rest.get(..64)).unwrap_or("…");
                format!("if the new content is what you want, write `{PIN}{found}` for `{PIN}{pin}`")
            }
            _ => return error,
        };
        error.hints.clear();
        error.hint(hint)
    }
}

fn kept_path(cache: &Utf8Path, pin: &Digest) -> Utf8PathBuf {
    cache.join("downloads-v1").join(pin.hex())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Remote, String> {
        Remote::parse(text)
            .expect("an address")
            .map_err(|issue| format!("{} | {}", issue.message, issue.help.unwrap_or_default()))
    }

    #[test]
    fn addresses_are_told_from_paths_and_pins_from_addresses() {
        let pin = Digest::of(b"x");
        for path in ["data/a.jsonl", "/a/b.jsonl", "*.jsonl", "C:/x", "pkgs/x"] {
            assert!(Remote::parse(path).is_none(), "{path}");
        }
        let remote = parsed(&format!("https://h/a.jsonl.gz?sig=1#blake3={pin}")).unwrap();
        assert_eq!((remote.name(), remote.pin), ("https://h/a.jsonl.gz", Some(pin)));
        assert_eq!(remote.key(), parsed(&format!("https://mirror/a.gz#blake3={pin}")).unwrap().key());
        let package = parsed(&format!("pkg:pypi/x@1#a/b.csv#blake3={pin}")).unwrap();
        assert_eq!(package.address, "pkg:pypi/x@1#a/b.csv");
        assert_ne!(parsed("https://h/a").unwrap().key(), parsed("https://h/b").unwrap().key());
    }

    #[test]
    fn what_cannot_be_fetched_is_said_with_what_can() {
        let all: Vec<String> = [
            "http://h/a.jsonl",
            "https://h/*.jsonl",
            "https://h/a.jsonl#blake3=12",
            "s3://bucket/a.jsonl",
            "ftp://h/a",
            "hf://org/set@main",
            "file:///a/b",
        ]
        .map(|text| parsed(text).unwrap_err())
        .to_vec();
        insta::assert_snapshot!(all.join("\n"), @"
        `http://` is neither encrypted nor authenticated | use `https://`, or pin the content: `http://h/a.jsonl#blake3=…`
        `https://h/*.jsonl` is an address with a `*`, and nobody can list it | name each file; globs work on local paths
        `https://h/a.jsonl#blake3=12` is pinned to no digest: `12` is not a BLAKE3 digest (64 hex digits) | leave `#blake3=…` out once; the run then prints the digest to pin
        `s3://` is not a scheme that `fetch` knows | give its `https://` address (a presigned one if it is private), or copy it first: a stage with `uses: command`, connected with `in:`
        `ftp://` is not a scheme that `fetch` knows | use `pkg:pypi/…`, `pkg:npm/…`, `https://…`, `hf://…` or a path
        `hf://org/set@main` is a whole repository, expected a file of it | name the file: `hf://org/set@main/train.jsonl`
        `file:///a/b` is a path written as an address | write the path alone
        ");
    }
}
