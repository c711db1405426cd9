//! What a plugin can be written in.

use std::fmt;
use std::str::FromStr;

use camino::Utf8Path;
use luthier_core::{nearest, quoted};

/// A language with a scaffold and a toolchain that Luthier calls. Any other that makes a component for a world in
/// `plugins/wit` works too, as a `.wasm` file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    Rust,
    Python,
    JavaScript,
    C,
}

impl Language {
    pub const ALL: [Self; 4] = [Self::Rust, Self::Python, Self::JavaScript, Self::C];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Python => "python",
            Self::JavaScript => "javascript",
            Self::C => "c",
        }
    }

    /// The file by which a directory is known to hold a plugin in this language.
    #[must_use]
    pub fn marker(self) -> &'static str {
        match self {
            Self::Rust => "Cargo.toml",
            Self::Python => "judge.py",
            Self::JavaScript => "judge.js",
            Self::C => "judge.c",
        }
    }

    /// The language of the plugin in `directory`, if there is one.
    #[must_use]
    pub fn of(directory: &Utf8Path) -> Option<Self> {
        Self::ALL.into_iter().find(|language| directory.join(language.marker()).is_file())
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rust => "Rust",
            Self::Python => "Python",
            Self::JavaScript => "JavaScript",
            Self::C => "C",
        })
    }
}

impl FromStr for Language {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.into_iter().map(Self::name);
        Self::ALL.into_iter().find(|language| language.name() == text).ok_or_else(|| match nearest(text, names()) {
            Some(near) => format!("did you mean `--lang {near}`?"),
            None => format!("languages are {}; others may build a `.wasm` for plugins/wit", quoted(names())),
        })
    }
}
