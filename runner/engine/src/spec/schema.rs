//! The JSON Schema of a pipeline file, so that editors complete and check it while it is written.
//!
//! Made from the registry: `uses` decides, by `if`/`then`, what may stand in `with` and `in`. Wherever a kind wants a
//! number, a flag or a list, a `${…}` reference fits too.

use luthier_core::{InputPort, Registry, Stage};
use serde_json::{Map, Value, json};

use super::describe::kinds;
use super::document::FORMAT_VERSION;
use super::examples;

/// The schema beside pipelines that `init` and `import` write, which their first line names.
pub const SCHEMA_FILE: &str = "luthier.schema.json";

const NAME: &str = "^[A-Za-z_][A-Za-z0-9_-]{0,63}$";

/// The schema of the whole format, JSON Schema 2020-12.
#[must_use]
pub fn schema(registry: &Registry) -> Value {
    let rules: Vec<Value> = registry.stages().map(|stage| rule(stage.as_ref())).collect();
    let uses: Vec<Value> =
        registry.stages().map(|stage| json!({"const": stage.kind(), "description": stage.about()})).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Luthier pipeline",
        "description": "A fine-tune as a graph of stages whose results are addressed by content.",
        "type": "object",
        "required": ["luthier", "stages"],
        "additionalProperties": false,
        "properties": {
            "luthier": {"const": FORMAT_VERSION, "description": "Version of the format."},
            "name": {"type": "string", "description": "What reports call the pipeline; the file's name by default.", "examples": ["support-bot"]},
            "about": {"type": "string", "description": "What the pipeline is for.", "examples": ["Answers to customers, from last year's tickets."]},
            "remote": {
                "type": "string",
                "description": "Where results are shared: a bucket or a directory. `--remote` and LUTHIER_REMOTE override it.",
                "examples": ["s3://bucket/prefix", "gs://bucket/prefix", "az://container/prefix", "file:///mnt/share"],
            },
            "params": {
                "type": "object",
                "description": "Values that stages use as `${params.NAME}`, with their defaults; `-p NAME=VALUE` overrides one.",
                "propertyNames": {"pattern": NAME},
                "examples": [{"rank": 16, "seed": 7}],
            },
            "executor": {
                "description": "Where stages execute that do not say so themselves. Never part of a key.",
                "$ref": "#/$defs/executor",
            },
            "stages": {
                "type": "object",
                "description": "The stages by name. Their order in the file means nothing: `in` does.",
                "minProperties": 1,
                "propertyNames": {"pattern": NAME},
                "additionalProperties": {"$ref": "#/$defs/stage"},
            },
        },
        "$defs": {
            "reference": {
                "description": "A value taken from `params`, `matrix` or the environment.",
                "type": "string",
                "pattern": r"\$\{(params|matrix|env)\.",
                "examples": ["${params.rank}"],
            },
            "executor": {
                "type": "string",
                "description": "`local` (in the runner's process), `child` (a process of its own, the default), `slurm`, `slurm:SBATCH-ARGUMENTS`, or `external:COMMAND`.",
                "default": "child",
                "examples": ["local", "slurm:--partition=gpu", "external:./executor.py"],
            },
            "output": {
                "description": "`STAGE`, `STAGE.OUTPUT`, or one member of a matrix: `STAGE@rank=8`.",
                "type": "string",
                "examples": ["raw", "split.train", "adapter@rank=8"],
            },
            "outputs": {
                "anyOf": [{"$ref": "#/$defs/output"}, {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/output"}}],
            },
            "stage": {
                "type": "object",
                "required": ["uses"],
                "additionalProperties": false,
                "properties": {
                    "uses": {"description": "The kind of the stage; `luthier stages` explains each.", "oneOf": uses},
                    "about": {"type": "string", "description": "A note for readers and reports.", "examples": ["Drops rows with links."]},
                    "in": {"description": "The stages whose outputs this one reads."},
                    "with": {"description": "The parameters of the kind.", "type": ["object", "null"]},
                    "matrix": {
                        "description": "A stage per combination of these values, named `STAGE@rank=8`; use them as `${matrix.NAME}`.",
                        "type": "object",
                        "minProperties": 1,
                        "propertyNames": {"pattern": NAME},
                        "additionalProperties": {
                            "anyOf": [
                                {"type": "array", "minItems": 1, "items": {"type": ["string", "number", "boolean"]}},
                                {"$ref": "#/$defs/reference"},
                            ],
                        },
                        "examples": [{"rank": [8, 16, 32]}],
                    },
                    "env": {
                        "description": "Environment variables whose values count as input: names to read, or names with values.",
                        "anyOf": [
                            {"type": "array", "items": {"type": "string"}},
                            {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}},
                        ],
                    },
                    "resources": {
                        "description": "What the stage may use at once; its kind decides otherwise.",
                        "type": "object",
                        "additionalProperties": false,
                        "properties": {
                            "threads": {"type": "integer", "minimum": 0, "description": "Threads; 0 for all that the run has."},
                            "memory": {
                                "description": "Resident memory, in bytes or as `8GB`.",
                                "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9.]+ ?([kKMGT]i?)?B?$"}],
                            },
                            "gpu": {
                                "description": "GPUs that it has to itself; `true` for one.",
                                "anyOf": [{"type": "boolean"}, {"type": "integer", "minimum": 0}],
                                "default": 0,
                            },
                            "time": {
                                "description": "How long it may run, in seconds or as `2h30m`; then it is told to checkpoint and stop.",
                                "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": "^([0-9]+[dhms])+$"}],
                                "examples": ["2h", "90s"],
                            },
                        },
                    },
                    "executor": {
                        "description": "Where this stage executes, whatever the pipeline or the command line says for all. Never part of the key.",
                        "$ref": "#/$defs/executor",
                    },
                    "retries": {"type": "integer", "minimum": 0, "maximum": 100, "description": "Further tries after a failure."},
                },
                "allOf": rules,
            },
        },
    })
}

fn rule(stage: &dyn Stage) -> Value {
    let mut with = stage.schema();
    examples::fill(&mut with, &examples::of(stage));
    if with.get("description").is_none()
        && let Some(object) = with.as_object_mut()
    {
        object.insert("description".to_owned(), json!(format!("Parameters of `{}`: {}", stage.kind(), stage.about())));
    }
    let with = referable(&with, true);
    let required = with.get("required").and_then(Value::as_array).is_some_and(|keys| !keys.is_empty());
    let needs_input = stage.inputs().iter().any(|port| port.required);
    let mut must: Vec<&str> = Vec::new();
    if required {
        must.push("with");
    }
    if needs_input {
        must.push("in");
    }
    json!({
        "if": {"properties": {"uses": {"const": stage.kind()}}, "required": ["uses"]},
        "then": {"properties": {"with": with, "in": inputs(stage)}, "required": must},
    })
}

fn inputs(stage: &dyn Stage) -> Value {
    let ports = stage.inputs();
    let mut properties = Map::new();
    for port in ports {
        let reference = if port.many { "#/$defs/outputs" } else { "#/$defs/output" };
        properties.insert(port.name.to_owned(), json!({"description": about(port), "$ref": reference}));
    }
    let rest = if stage.accepts_any_input() { json!({"$ref": "#/$defs/outputs"}) } else { json!(false) };
    if ports.is_empty() && !stage.accepts_any_input() {
        return json!({"description": "This kind reads nothing.", "type": ["object", "null"], "maxProperties": 0});
    }
    let required: Vec<&str> = ports.iter().filter(|port| port.required).map(|port| port.name).collect();
    json!({
        "description": ports.iter().map(|port| format!("{}: {}", port.name, about(port))).collect::<Vec<_>>().join("\n"),
        "anyOf": [
            {"$ref": "#/$defs/outputs"},
            {"type": "object", "properties": properties, "required": required, "additionalProperties": rest},
        ],
    })
}

fn about(port: &InputPort) -> String {
    format!("{} ({}{})", port.about, kinds(port.accepts), if port.required { "" } else { ", optional" })
}

/// A schema that also takes a reference wherever it wants something other than a plain text.
fn referable(schema: &Value, top: bool) -> Value {
    let Value::Object(object) = schema else { return schema.clone() };
    let mut inner = Map::new();
    for (key, value) in object {
        let value = match (key.as_str(), value) {
            ("properties", Value::Object(properties)) => Value::Object(
                properties.iter().map(|(name, property)| (name.clone(), referable(property, false))).collect(),
            ),
            ("items" | "additionalProperties", value) if value.is_object() => referable(value, false),
            // The union below takes the reference; its options must not repeat it.
            ("anyOf" | "oneOf" | "allOf", Value::Array(options)) => {
                Value::Array(options.iter().map(|option| referable(option, true)).collect())
            }
            _ => value.clone(),
        };
        inner.insert(key.clone(), value);
    }
    if top || takes_any_text(object) {
        return Value::Object(inner);
    }
    let mut outer = Map::new();
    for key in ["description", "default", "examples", "title", "deprecated"] {
        if let Some(value) = inner.shift_remove(key) {
            outer.insert(key.to_owned(), value);
        }
    }
    outer.insert("anyOf".to_owned(), json!([inner, {"$ref": "#/$defs/reference"}]));
    Value::Object(outer)
}

/// Whether any text fits already, so that a reference does.
fn takes_any_text(schema: &Map<String, Value>) -> bool {
    let restricted = ["enum", "const", "pattern", "anyOf", "oneOf", "format", "maxLength"];
    if restricted.iter().any(|key| schema.contains_key(*key)) {
        return false;
    }
    match schema.get("type") {
        None => true,
        Some(Value::String(kind)) => kind == "string",
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "string"),
        _ => false,
    }
}
