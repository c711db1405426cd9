//! The SDK and the world, carried in the program so that a plugin can be made anywhere.

/// One file of the SDK.
#[derive(Debug, Clone, Copy)]
pub struct EmbeddedFile {
    /// Relative to the SDK's directory.
    pub path: &'static str,
    pub text: &'static str,
}

macro_rules! embedded {
    ($($path:literal),* $(,)?) => {
        &[$(EmbeddedFile { path: $path, text: include_str!(concat!("../../../sdk/", $path)) }),*]
    };
}

/// Everything that building a plugin needs of the SDK.
pub const SDK_FILES: &[EmbeddedFile] = embedded![
    "Cargo.toml",
    "macros/Cargo.toml",
    "macros/src/config.rs",
    "macros/src/filter.rs",
    "macros/src/lib.rs",
    "macros/src/tokens.rs",
    "src/bindings.rs",
    "src/config.rs",
    "src/filter.rs",
    "src/guest.rs",
    "src/json.rs",
    "src/lib.rs",
    "src/runtime.rs",
    "src/testing.rs",
];

#[cfg(test)]
mod tests {
    use camino::Utf8Path;

    use super::SDK_FILES;

    #[test]
    fn holds_every_file_of_the_sdk() {
        let sdk = Utf8Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../sdk"));
        let mut files = luthier_core::fs::walk_files(sdk).unwrap();
        files.retain(|file| file.ends_with(".rs") || file.ends_with("Cargo.toml"));
        files.retain(|file| !file.split('/').any(|part| part == "target" || part == "tests"));
        let held: Vec<&str> = SDK_FILES.iter().map(|file| file.path).collect();
        assert_eq!(held, files, "list the files of plugins/sdk in SDK_FILES");
    }
}
