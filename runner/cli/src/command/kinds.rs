//! `luthier schema` and `luthier stages`.

use serde_json::json;

use crate::args::{SchemaArgs, SchemaOf, StagesArgs};
use crate::exit;
use crate::failure::Failure;
use crate::printer::Printer;

pub fn schema(args: &SchemaArgs, printer: Printer) -> Result<u8, Failure> {
    printer.json(&match args.of {
        SchemaOf::Pipeline => luthier_engine::spec::schema(&luthier_stages::registry()),
        SchemaOf::Events => luthier_engine::run::event_schema(),
    });
    Ok(exit::DONE)
}

pub fn stages(args: &StagesArgs, printer: Printer) -> Result<u8, Failure> {
    let registry = luthier_stages::registry();
    let Some(kind) = &args.kind else {
        if printer.json {
            let kinds: Vec<_> = registry
                .stages()
                .map(|stage| json!({"kind": stage.kind(), "about": stage.about(), "recipe": stage.recipe_version(), "with": stage.schema()}))
                .collect();
            printer.json(&kinds);
        } else {
            for stage in registry.stages() {
                printer.result(&format!("{:<10} {}", stage.kind(), stage.about()));
            }
        }
        return Ok(exit::DONE);
    };
    let Some(stage) = registry.get(kind) else {
        let failure = Failure::input("cli::unknown_kind", format!("there is no stage kind `{kind}`"));
        return Err(match luthier_core::nearest(kind, registry.kinds()) {
            Some(near) => failure.hint(format!("did you mean `{near}`?")),
            None => failure.hint("`luthier stages` lists the kinds"),
        });
    };
    if printer.json {
        printer.json(&json!({"kind": stage.kind(), "about": stage.about(), "recipe": stage.recipe_version(), "with": stage.schema()}));
    } else {
        printer.result(&luthier_engine::spec::describe_kind(stage.as_ref()));
    }
    Ok(exit::DONE)
}
