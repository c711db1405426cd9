//! The worlds that this build can run, told apart by the version in the name of the exported interface.

use std::fmt;

use luthier_core::{StageError, StageResult, quoted};

/// A version of the contract in `plugins/wit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum World {
    V0_1,
    V0_2,
    V0_3,
}

impl World {
    pub const ALL: [Self; 3] = [Self::V0_1, Self::V0_2, Self::V0_3];
    pub const NEWEST: Self = Self::V0_3;

    #[must_use]
    pub fn version(self) -> &'static str {
        match self {
            Self::V0_1 => "0.1.0",
            Self::V0_2 => "0.2.0",
            Self::V0_3 => "0.3.0",
        }
    }

    /// Its text.
    #[must_use]
    pub fn wit(self) -> &'static str {
        match self {
            Self::V0_1 => include_str!("../../wit/v0.1/filter.wit"),
            Self::V0_2 => include_str!("../../wit/v0.2/filter.wit"),
            Self::V0_3 => include_str!("../../wit/v0.3/filter.wit"),
        }
    }

    /// The interface that a plugin of this world exports.
    #[must_use]
    pub fn filter(self) -> String {
        format!("luthier:filter/filter@{}", self.version())
    }

    /// The interface of the host that a plugin of this world may call.
    fn host(self) -> String {
        format!("luthier:filter/host@{}", self.version())
    }

    fn types(self) -> String {
        format!("luthier:filter/types@{}", self.version())
    }

    /// The world of a component with these imports and exports; `plugin` is its name in messages.
    ///
    /// # Errors
    /// It exports no filter, one of a world that this build does not know, or imports what filters have no access to.
    pub(crate) fn of(plugin: &str, imports: &[String], exports: &[String]) -> StageResult<Self> {
        let Some(world) = Self::ALL.into_iter().rev().find(|world| exports.contains(&world.filter())) else {
            return Err(unknown(plugin, exports));
        };
        let (host, types) = (world.host(), world.types());
        let mut foreign =
            imports.iter().filter(|import| !import.starts_with("wasi:") && **import != host && **import != types);
        if foreign.clone().next().is_none() {
            return Ok(world);
        }
        let names = quoted(foreign.clone().map(String::as_str));
        let error = StageError::input(
            "plugin::imports",
            format!("plugin `{plugin}` imports {names}, which filters have no access to"),
        );
        Err(if foreign.any(|import| import.starts_with("luthier:filter/")) {
            error.hint(format!("it exports a filter of {world} and may import `{host}` only: build it from one world"))
        } else {
            error.hint(format!("a filter may import `{host}` only: remove the others from its world"))
        })
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "luthier:filter@{}", self.version())
    }
}

fn unknown(plugin: &str, exports: &[String]) -> StageError {
    const PREFIX: &str = "luthier:filter/filter@";
    let newest = World::NEWEST.filter();
    let Some(version) = exports.iter().find_map(|export| export.strip_prefix(PREFIX)) else {
        let found =
            if exports.is_empty() { "nothing".to_owned() } else { quoted(exports.iter().take(5).map(String::as_str)) };
        return StageError::input(
            "plugin::world",
            format!("plugin `{plugin}` is not a filter: it exports {found}, expected `{newest}`"),
        )
        .hint("`luthier plugin new NAME` makes one");
    };
    let known = World::ALL.map(World::version);
    let error = StageError::input(
        "plugin::world",
        format!(
            "plugin `{plugin}` was built for the world `luthier:filter@{version}`, and this build knows {}",
            quoted(known)
        ),
    );
    if parts(version) > parts(World::NEWEST.version()) {
        error.hint("update Luthier, or rebuild the plugin with the SDK that comes with this build")
    } else {
        error.hint("rebuild the plugin with the SDK in plugins/sdk, or from a world in plugins/wit")
    }
}

/// `0.10.2` as numbers; what is no number counts as 0.
fn parts(version: &str) -> Vec<u64> {
    version.split(['.', '-', '+']).map(|part| part.parse().unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(imports: &[&str], exports: &[&str]) -> String {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        match World::of("x", &owned(imports), &owned(exports)) {
            Ok(world) => world.to_string(),
            Err(error) => format!("{error}\nhint: {}", error.hints.join("\nhint: ")),
        }
    }

    #[test]
    fn is_picked_by_the_exported_version() {
        let (old, new) = ("luthier:filter/filter@0.1.0", "luthier:filter/filter@0.2.0");
        assert_eq!(said(&["luthier:filter/host@0.1.0", "wasi:io/error@0.2.6"], &[old]), "luthier:filter@0.1.0");
        assert_eq!(said(&["luthier:filter/types@0.2.0"], &[new]), "luthier:filter@0.2.0");
        insta::assert_snapshot!(said(&["luthier:filter/host@0.2.0"], &[old]), @"
        plugin `x` imports `luthier:filter/host@0.2.0`, which filters have no access to
        hint: it exports a filter of luthier:filter@0.1.0 and may import `luthier:filter/host@0.1.0` only: build it from one world
        ");
        insta::assert_snapshot!(said(&[], &["luthier:filter/filter@0.10.0"]), @"
        plugin `x` was built for the world `luthier:filter@0.10.0`, and this build knows `0.1.0`, `0.2.0`, `0.3.0`
        hint: update Luthier, or rebuild the plugin with the SDK that comes with this build
        ");
        insta::assert_snapshot!(said(&[], &["luthier:filter/filter@0.0.9"]), @"
        plugin `x` was built for the world `luthier:filter@0.0.9`, and this build knows `0.1.0`, `0.2.0`, `0.3.0`
        hint: rebuild the plugin with the SDK in plugins/sdk, or from a world in plugins/wit
        ");
        insta::assert_snapshot!(said(&["evil:net/send", "wasi:io/error@0.2.6"], &[new]), @"
        plugin `x` imports `evil:net/send`, which filters have no access to
        hint: a filter may import `luthier:filter/host@0.2.0` only: remove the others from its world
        ");
        insta::assert_snapshot!(said(&[], &["run"]), @"
        plugin `x` is not a filter: it exports `run`, expected `luthier:filter/filter@0.3.0`
        hint: `luthier plugin new NAME` makes one
        ");
    }
}
