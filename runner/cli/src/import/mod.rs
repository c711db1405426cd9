//! `luthier import`: another trainer's configuration as a pipeline, and a list of what could not be carried over.
//!
//! Each trainer has a module that takes every key of its file in turn and fills a [`Recipe`], which is written as YAML.
//! No key is passed over in silence: it is carried, said to be needless here, or said to be lost, and why.

mod axolotl;
mod llama_factory;
mod note;
mod recipe;
mod settings;
mod shared;
#[cfg(test)]
mod tests;

use luthier_core::Registry;
use luthier_engine::spec::{Diagnostic, SourceText, parse};

pub use note::{Fate, Note};
use recipe::Recipe;
use settings::Settings;

use crate::args::ImportFrom;

/// A pipeline made from a foreign configuration.
#[derive(Debug)]
pub struct Imported {
    /// The pipeline file.
    pub yaml: String,
    /// Keys that are in the pipeline now.
    pub carried: usize,
    /// What became of the other keys, by line.
    pub notes: Vec<Note>,
}

/// Converts a configuration. `registry` decides which parameters this build has.
///
/// # Errors
/// What is wrong with the file: it does not parse, lacks the model or the data, or holds values of a wrong type.
pub fn convert(from: ImportFrom, source: &SourceText, registry: &Registry) -> Result<Imported, Vec<Diagnostic>> {
    let root = parse(source)?;
    let mut settings = Settings::new(source, &root, registry)?;
    let mut recipe = Recipe::default();
    match from {
        ImportFrom::Axolotl => axolotl::read(&mut settings, &mut recipe),
        ImportFrom::LlamaFactory => llama_factory::read(&mut settings, &mut recipe),
    }
    settings.leftover();
    let (carried, mut notes, problems) = settings.finish();
    if !problems.is_empty() {
        return Err(problems);
    }
    notes.sort_by(|a, b| (a.line, &a.key).cmp(&(b.line, &b.key)));
    Ok(Imported { yaml: recipe.to_yaml(source.file(), &notes), carried, notes })
}
