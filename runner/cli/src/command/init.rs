//! `luthier init`.

use camino::Utf8PathBuf;
use luthier_engine::spec::templates;

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
    luthier_core::fs::write_atomic(&path, template.text.as_bytes())?;
    printer.note(&format!("wrote {path}; next: luthier plan {path}"));
    Ok(exit::DONE)
}
