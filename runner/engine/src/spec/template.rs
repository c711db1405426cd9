//! Pipelines to start from, written by `luthier init`.

/// A small pipeline that works as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Template {
    pub name: &'static str,
    /// One line for `luthier init --list`.
    pub about: &'static str,
    /// The pipeline file.
    pub text: &'static str,
    /// Further files that it reads, by their paths beside it.
    pub files: &'static [(&'static str, &'static str)],
}

/// All templates, the simplest first.
#[must_use]
pub fn templates() -> Vec<Template> {
    vec![
        Template {
            name: "quickstart",
            about: "spell out pronunciations: fetches its own model and data, about five minutes on two cores",
            text: include_str!("templates/quickstart.yaml"),
            files: &[],
        },
        Template {
            name: "chat",
            about: "instruction tuning on chats: runs on a few of its own in two minutes, then on yours",
            text: include_str!("templates/chat.yaml"),
            files: &[("data/chats.jsonl", include_str!("templates/chats.jsonl"))],
        },
    ]
}
