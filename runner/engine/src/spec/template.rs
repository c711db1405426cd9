//! Pipelines to start from, written by `luthier init`.

/// A small pipeline that works as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Template {
    pub name: &'static str,
    /// One line for `luthier init --list`.
    pub about: &'static str,
    /// The file.
    pub text: &'static str,
}

/// All templates, the simplest first.
#[must_use]
pub fn templates() -> Vec<Template> {
    vec![
        Template {
            name: "quickstart",
            about: "spell out pronunciations: fetches its own model and data, about five minutes on two cores",
            text: include_str!("templates/quickstart.yaml"),
        },
        Template {
            name: "chat",
            about: "instruction tuning on your own chat or prompt/completion JSONL",
            text: include_str!("templates/chat.yaml"),
        },
    ]
}
