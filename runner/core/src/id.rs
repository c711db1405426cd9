//! Checked names. A stage is never a bare `String`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {what} name: use 1 to 64 of a-z, A-Z, 0-9, `_` and `-`, starting with a letter or `_`")]
pub struct IdError {
    what: &'static str,
    text: String,
}

fn check(what: &'static str, text: &str, extra: &str) -> Result<(), IdError> {
    let mut chars = text.chars();
    let first = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let rest = chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-' || extra.contains(c));
    if first && rest && text.len() <= 200 && text.split('@').next().is_some_and(|base| base.len() <= 64) {
        Ok(())
    } else {
        Err(IdError { what, text: text.to_owned() })
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $extra:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, schemars::JsonSchema)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Checks and wraps a name.
            ///
            /// # Errors
            /// Empty, too long, or with a character that is not allowed.
            pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                check($what, &text, $extra)?;
                Ok(Self(text))
            }

            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::new(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name_type!(
    /// The name of a stage in its pipeline; a matrix member is `name@rank=8,lr=0.001`.
    StageId, "a stage", "@=,.+"
);
name_type!(
    /// The name of one output of a stage.
    ArtifactName, "an output", ""
);
name_type!(
    /// What `uses:` names: `fetch`, `ingest`, `train`, …
    StageKind, "a stage kind", ""
);

#[cfg(test)]
mod tests {
    use super::{ArtifactName, StageId};

    #[test]
    fn accepts_matrix_members_only_for_stages() {
        assert!(StageId::new("adapter@rank=8,lr=0.001").is_ok());
        assert!(ArtifactName::new("adapter@rank=8").is_err());
        assert!(StageId::new("").is_err());
        assert!(StageId::new("9lives").is_err());
        assert!(StageId::new("a b").is_err());
    }
}
