//! A throw-away project to run the program in: a temporary directory, a cleared environment, filtered output.

use std::path::Path;
use std::process::{Command, Stdio};

use camino::{Utf8Path, Utf8PathBuf};
use regex::Regex;

/// A temporary directory that the program runs in. Removed when dropped.
pub struct TestProject {
    directory: tempfile::TempDir,
    binary: Utf8PathBuf,
    environment: Vec<(String, String)>,
}

/// What one call printed and how it ended.
#[must_use = "either snapshot the output or assert on it"]
#[derive(Debug, Clone)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl TestProject {
    /// `binary` is the program under test: `env!("CARGO_BIN_EXE_luthier")`.
    ///
    /// # Panics
    /// If no temporary directory can be made.
    #[must_use]
    pub fn new(binary: &str) -> Self {
        Self {
            directory: tempfile::tempdir().expect("a temporary directory"),
            binary: Utf8PathBuf::from(binary),
            environment: Vec::new(),
        }
    }

    /// # Panics
    /// If the temporary directory is not UTF-8.
    #[must_use]
    pub fn path(&self) -> &Utf8Path {
        Utf8Path::from_path(self.directory.path()).expect("a UTF-8 temporary directory")
    }

    /// Writes a file below the project.
    ///
    /// # Panics
    /// On any I/O error.
    pub fn file(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        let full = self.path().join(path);
        fs_err::create_dir_all(full.parent().expect("a parent")).expect("directories");
        fs_err::write(full, content).expect("a file");
        self
    }

    /// Replaces text in a file that must contain it.
    ///
    /// # Panics
    /// If the file does not contain `from`.
    pub fn edit(&self, path: &str, from: &str, to: &str) -> &Self {
        let text = fs_err::read_to_string(self.path().join(path)).expect("the file to edit");
        assert!(text.contains(from), "`{path}` does not contain `{from}`:\n{text}");
        self.file(path, text.replace(from, to))
    }

    /// Sets a variable for every later call.
    pub fn env(&mut self, name: &str, value: &str) -> &mut Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The command, with a cleared environment; for tests that kill it.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).current_dir(self.path()).env_clear().stdin(Stdio::null());
        for name in ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.env("TMPDIR", self.path()).env("COLUMNS", "100").env("NO_COLOR", "1").env("TZ", "UTC");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs the program to its end.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().expect("the program starts");
        Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Output with the project's path, digests, times and rates replaced, so that it can be compared as a whole.
    #[must_use]
    pub fn filtered(&self, text: &str) -> String {
        let mut text = text.replace(self.path().as_str(), "[PROJECT]");
        for (pattern, replacement) in FILTERS {
            text = Regex::new(pattern).expect("a literal pattern").replace_all(&text, *replacement).into_owned();
        }
        text
    }
}

const FILTERS: &[(&str, &str)] = &[
    (r"\b[0-9a-f]{64}\b", "[DIGEST]"),
    (r"\b[0-9a-f]{12}\b", "[DIGEST]"),
    (r"\b\d+ (min|h) \d\d (s|min)\b", "[TIME]"),
    (r"\b\d+(\.\d+)? (ms|s)\b", "[TIME]"),
    (r"\b[\d,.]+ [kMG]?B/s\b", "[RATE]"),
];

impl Output {
    /// # Panics
    /// If the program did not end with exit code 0.
    #[track_caller]
    pub fn success(self) -> Self {
        assert_eq!(self.code, 0, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// # Panics
    /// If the program ended with another exit code.
    #[track_caller]
    pub fn failure(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// If it is not.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("not JSON ({error}):\n{}", self.stdout))
    }
}

/// Whether `path` exists, for assertions on what must not have been written.
#[must_use]
pub fn exists(path: impl AsRef<Path>) -> bool {
    path.as_ref().exists()
}
