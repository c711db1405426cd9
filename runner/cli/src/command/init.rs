//! `luthier init`.

use camino::{Utf8Path, Utf8PathBuf};
use luthier_engine::spec::{SCHEMA_FILE, templates};

use crate::args::InitArgs;
use crate::exit;
use crate::failure::Failure;
use crate::printer::Printer;

pub fn run(args: &InitArgs, printer: Printer) -> Result<u8, Failure> {
    let templates = templates();
    if args.list {
        for template in &templates {
            printer.result(&format!("{:<12} {}", template.name, template.about));
        }
        return Ok(exit::DONE);
    }
    let name = args.template.as_deref().unwrap_or("chat");
    let Some(template) = templates.iter().find(|template| template.name == name) else {
        let known: Vec<&str> = templates.iter().map(|template| template.name).collect();
        return Err(Failure::input("init::unknown_template", format!("there is no template `{name}`"))
            .hint(format!("templates are {}", known.join(", "))));
    };
    let path = args.output.clone().unwrap_or_else(|| Utf8PathBuf::from("luthier.yaml"));
    if path.exists() && !args.force {
        return Err(Failure::input("init::exists", format!("`{path}` exists already"))
            .hint("name another file with `--output FILE`, or replace it with `--force`"));
    }
    let mut written =
        write_pipeline(&path, &format!("# yaml-language-server: $schema={SCHEMA_FILE}\n{}", template.text))?;
    for (name, text) in template.files {
        let file = beside(&path, name);
        // Data of one's own is never replaced, not even with `--force`.
        if !file.exists() {
            luthier_core::fs::write_atomic(&file, text.as_bytes())?;
            written.push(file);
        }
    }
    let written: Vec<&str> = written.iter().map(|path| path.as_str()).collect();
    let file = if path == "luthier.yaml" { String::new() } else { format!(" {path}") };
    printer.note(&format!("wrote {}; next: `luthier run{file}`", written.join(", ")));
    Ok(exit::DONE)
}

fn beside(pipeline: &Utf8Path, name: &str) -> Utf8PathBuf {
    pipeline.parent().unwrap_or(Utf8Path::new("")).join(name)
}

/// Writes a pipeline, and beside it the schema that its first line names for editors; returns both paths.
pub fn write_pipeline(path: &Utf8Path, text: &str) -> Result<Vec<Utf8PathBuf>, Failure> {
    luthier_core::fs::write_atomic(path, text.as_bytes())?;
    let schema = beside(path, SCHEMA_FILE);
    let mut json = serde_json::to_string_pretty(&luthier_engine::spec::schema(&luthier_stages::registry()))
        .map_err(std::io::Error::from)?;
    json.push('\n');
    luthier_core::fs::write_atomic(&schema, json.as_bytes())?;
    Ok(vec![path.to_owned(), schema])
}
