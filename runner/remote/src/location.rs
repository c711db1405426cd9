//! Where a remote is: an address of an object store with a prefix, or a directory.

use std::fmt;

use camino::{Utf8Path, Utf8PathBuf};
use object_store::path::Path;
use url::Url;

use crate::error::RemoteError;

/// The kinds of stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    S3,
    Gcs,
    Azure,
    File,
}

/// A checked address. Credentials are never part of it; they come from the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    pub scheme: Scheme,
    text: String,
    /// The address of the bucket or container; unused for directories.
    pub(crate) url: Option<Url>,
    /// Of a directory.
    pub(crate) directory: Option<Utf8PathBuf>,
    /// What every name begins with.
    pub(crate) prefix: Path,
}

impl Location {
    /// Reads `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, `abfss://…`, an `https://` address of
    /// one of these services, `file:///directory`, or a path, which is looked up from `base`.
    ///
    /// # Errors
    /// The text is none of these.
    pub fn parse(text: &str, base: &Utf8Path) -> Result<Self, RemoteError> {
        let text = text.trim();
        let wrong = |problem: &str| RemoteError::Address { text: text.to_owned(), problem: problem.to_owned() };
        if text.is_empty() {
            return Err(wrong("it is empty"));
        }
        if !text.contains("://") {
            return Ok(Self::directory(&base.join(text)));
        }
        let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
        if url.password().is_some() || !url.username().is_empty() && !url.scheme().starts_with("abfs") {
            // Nor may the message repeat them.
            let rest = text.split_once('@').map_or("", |(_, rest)| rest);
            let problem = "it holds a user or a password, which belong into the environment".to_owned();
            return Err(RemoteError::Address { text: format!("{}://…@{rest}", url.scheme()), problem });
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("it holds `?` or `#`"));
        }
        if url.scheme() == "file" {
            let path = url.to_file_path().map_err(|()| wrong("a file address looks like `file:///directory`"))?;
            let path = Utf8PathBuf::from_path_buf(path).map_err(|_| wrong("its path is not UTF-8"))?;
            return Ok(Self::directory(&path));
        }
        let (found, prefix) = object_store::ObjectStoreScheme::parse(&url)
            .map_err(|_| wrong("its scheme is none of `s3`, `gs`, `az`, `abfss`, `https`, `file`"))?;
        let scheme = match found {
            object_store::ObjectStoreScheme::AmazonS3 => Scheme::S3,
            object_store::ObjectStoreScheme::GoogleCloudStorage => Scheme::Gcs,
            object_store::ObjectStoreScheme::MicrosoftAzure => Scheme::Azure,
            _ => return Err(wrong("it names no bucket of S3, Google Cloud Storage or Azure")),
        };
        let text = text.trim_end_matches('/').to_owned();
        Ok(Self { scheme, text, url: Some(url), directory: None, prefix })
    }

    fn directory(path: &Utf8Path) -> Self {
        let absolute = std::path::absolute(path)
            .ok()
            .and_then(|path| Utf8PathBuf::from_path_buf(path).ok())
            .unwrap_or_else(|| path.to_owned());
        // Without the `..` that would make one directory look like several.
        let mut plain = Utf8PathBuf::new();
        for part in absolute.components() {
            match part {
                camino::Utf8Component::ParentDir => drop(plain.pop()),
                other => plain.push(other),
            }
        }
        let text = Url::from_directory_path(&plain).map_or_else(|()| format!("file://{plain}"), |url| url.to_string());
        let text = text.trim_end_matches('/').to_owned();
        Self { scheme: Scheme::File, text, url: None, directory: Some(plain), prefix: Path::default() }
    }

    /// The full name of a blob.
    pub(crate) fn name(&self, relative: &str) -> Path {
        self.prefix.parts().chain(Path::from(relative).parts()).collect()
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Location, RemoteError> {
        Location::parse(text, Utf8Path::new("/home/me/project"))
    }

    #[test]
    fn addresses_of_all_kinds() {
        for (text, scheme, shown, name) in [
            ("s3://bucket/a/b/", Scheme::S3, "s3://bucket/a/b", "a/b/x/y"),
            ("gs://bucket", Scheme::Gcs, "gs://bucket", "x/y"),
            ("az://container/p", Scheme::Azure, "az://container/p", "p/x/y"),
            (
                "https://s3.eu-west-1.amazonaws.com/bucket/p",
                Scheme::S3,
                "https://s3.eu-west-1.amazonaws.com/bucket/p",
                "p/x/y",
            ),
            ("file:///mnt/share/", Scheme::File, "file:///mnt/share", "x/y"),
            ("../share", Scheme::File, "file:///home/me/share", "x/y"),
            ("/mnt/share", Scheme::File, "file:///mnt/share", "x/y"),
        ] {
            let location = parse(text).unwrap();
            assert_eq!((location.scheme, location.to_string().as_str()), (scheme, shown));
            assert_eq!(location.name("x/y").as_ref(), name, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_said() {
        let problem = |text| parse(text).unwrap_err().to_string();
        insta::assert_snapshot!(problem(" "), @"`` is not the address of a remote: it is empty");
        insta::assert_snapshot!(problem("ftp://host/x"), @"`ftp://host/x` is not the address of a remote: its scheme is none of `s3`, `gs`, `az`, `abfss`, `https`, `file`");
        insta::assert_snapshot!(problem("https://example.org/x"), @"`https://example.org/x` is not the address of a remote: it names no bucket of S3, Google Cloud Storage or Azure");
        insta::assert_snapshot!(problem("s3://key:secret@bucket"), @"`s3://…@bucket` is not the address of a remote: it holds a user or a password, which belong into the environment");
        insta::assert_snapshot!(problem("s3://bucket?x=1"), @"`s3://bucket?x=1` is not the address of a remote: it holds `?` or `#`");
    }
}
