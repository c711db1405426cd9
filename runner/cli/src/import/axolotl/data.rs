//! Axolotl's `datasets`: where the rows are, and what they look like.

use luthier_engine::spec::{Node, NodeValue};
use serde_json::{Value, json};

use crate::import::note::Fate;
use crate::import::recipe::{Recipe, dataset_url, is_local};
use crate::import::settings::Settings;

/// Keys of one dataset that are read, or told of where its rows are.
const DATASET_KEYS: &[&str] = &[
    "path",
    "name",
    "split",
    "revision",
    "data_files",
    "ds_type",
    "type",
    "field",
    "field_messages",
    "message_property_mappings",
    "message_field_role",
    "message_field_content",
    "message_field_training",
    "message_field_training_detail",
    "field_system",
    "field_tools",
    "drop_system_message",
    "trust_remote_code",
];

pub fn datasets(settings: &mut Settings<'_>, recipe: &mut Recipe) {
    let key = if settings.has("datasets") { "datasets" } else { "pretraining_dataset" };
    let Some(node) = settings.take(key) else {
        settings.missing("datasets", "the data to train on", "datasets: [{path: data.jsonl, type: alpaca}]");
        return;
    };
    let NodeValue::List(items) = &node.value else {
        settings.wrong(key, node, "a list of datasets");
        return;
    };
    let mut first: Option<Vec<(&'static str, Value)>> = None;
    for (index, item) in items.iter().enumerate() {
        let at = format!("{key}[{index}]");
        let Some(path) = field(item, "path").and_then(Node::text) else {
            settings.wrong(&at, item, "a mapping with `path`");
            continue;
        };
        let rows = rows(settings, &at, item);
        if first.as_ref().is_some_and(|first| *first != rows) {
            settings.note(&at, Fate::NotCarried, format!("`{path}` has rows of another shape than the first dataset, and one `ingest` reads one shape; add a stage of its own"));
            continue;
        }
        first.get_or_insert_with(|| rows.clone());
        source(settings, recipe, &at, item, path);
    }
    recipe.rows.extend(first.unwrap_or_default());
}

fn source(settings: &mut Settings<'_>, recipe: &mut Recipe, at: &str, item: &Node, path: &str) {
    let text = |name: &str| field(item, name).and_then(Node::text);
    let files: Vec<String> = match field(item, "data_files").map(|node| &node.value) {
        Some(NodeValue::Text(file)) => vec![file.clone()],
        Some(NodeValue::List(files)) => files.iter().filter_map(Node::text).map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    if is_local(path) {
        let inside = |file: &String| if is_local(file) { file.clone() } else { format!("{path}/{file}") };
        recipe.files.extend(if files.is_empty() { vec![path.to_owned()] } else { files.iter().map(inside).collect() });
    } else if files.is_empty() {
        recipe.urls.push(dataset_url(path, text("name"), text("split")));
        settings.note(at, Fate::NotNeeded, format!("`{path}` is fetched as the hub's first Parquet file of its split; a larger one has further files, 0001.parquet and on"));
    } else {
        let revision = text("revision").unwrap_or("main");
        recipe.urls.extend(
            files.iter().map(|file| format!("https://huggingface.co/datasets/{path}/resolve/{revision}/{file}")),
        );
    }
    for entry in item.entries().into_iter().flatten().filter(|entry| !entry.value.is_null()) {
        let (fate, why) = match entry.key.as_str() {
            key if DATASET_KEYS.contains(&key) => continue,
            "shards" | "preprocess_shards" => {
                (Fate::NotCarried, "all rows are read; `limit` and `sample` of the ingest take fewer")
            }
            "roles" => (Fate::NotNeeded, "`human` and `gpt` are known, other roles are read as they are written"),
            "roles_to_train" | "train_on_eos" | "train_on_eot" => {
                (Fate::NotCarried, "set it on the tokenize stages, for all data")
            }
            "chat_template" | "chat_template_jinja" => {
                (Fate::NotCarried, "set `template` on the tokenize stages, for all data")
            }
            _ => (Fate::NotCarried, "not a key that this importer knows"),
        };
        settings.note(&format!("{at}.{}", entry.key), fate, why);
    }
}

/// What an `ingest` says of the rows of one dataset.
fn rows(settings: &mut Settings<'_>, at: &str, item: &Node) -> Vec<(&'static str, Value)> {
    let name = |key: &str| field(item, key).and_then(Node::text);
    let shape = |shape: &str| vec![("shape", json!(shape))];
    let kind = field(item, "type");
    if let Some(custom) = kind.filter(|kind| kind.entries().is_some()) {
        return custom_rows(settings, at, custom);
    }
    let kind = kind.and_then(Node::text).unwrap_or("alpaca");
    // `alpaca:phi` and the like choose a prompt format, which here is the model's chat template.
    let base = kind.split([':', '.']).next().unwrap_or(kind);
    match (base, kind) {
        ("completion" | "pretrain", _) => match name("field") {
            Some(field) if field != "text" => vec![("map", json!({"text": format!("{{{{ row.{field} }}}}")}))],
            _ => shape("text"),
        },
        ("chat_template", _) => messages(settings, at, item),
        ("sharegpt", _) => shape("sharegpt"),
        (_, "alpaca_chat.load_qa" | "alpaca_w_system.load_qa") => {
            vec![("map", json!({"prompt": "{{ row.question }}", "completion": "{{ row.answer }}"}))]
        }
        ("alpaca" | "alpaca_chat" | "gpteacher" | "alpaca_w_system", _) => shape("alpaca"),
        ("context_qa", _) => {
            vec![("map", json!({"prompt": "{{ row.context }}\n{{ row.question }}", "completion": "{{ row.answer }}"}))]
        }
        ("summarizetldr", _) => {
            vec![("map", json!({"prompt": "{{ row.article }}", "completion": "{{ row.summary }}"}))]
        }
        _ => {
            settings.note(
                &format!("{at}.type"),
                Fate::NotCarried,
                format!(
                    "`{kind}` is not known here; the shape is found from the columns of the first row, or give a `map`"
                ),
            );
            shape("auto")
        }
    }
}

/// `type: chat_template`, by the names of its columns.
fn messages(settings: &mut Settings<'_>, at: &str, item: &Node) -> Vec<(&'static str, Value)> {
    let name = |key: &str| field(item, key).and_then(Node::text);
    let property = |new: &str, old: &str| {
        field(item, "message_property_mappings")
            .and_then(|map| field(map, new))
            .and_then(Node::text)
            .or(name(old))
            .map(str::to_owned)
    };
    let list = name("field_messages").unwrap_or("messages");
    let role = property("role", "message_field_role").unwrap_or_else(|| "role".to_owned());
    let content = property("content", "message_field_content").unwrap_or_else(|| "content".to_owned());
    for key in [
        "message_field_training",
        "message_field_training_detail",
        "field_system",
        "field_tools",
        "drop_system_message",
    ] {
        if field(item, key).is_some_and(|node| !node.is_null()) {
            settings.note(
                &format!("{at}.{key}"),
                Fate::NotCarried,
                "rename the columns, or give a `map` that makes messages",
            );
        }
    }
    match (list, role.as_str(), content.as_str()) {
        ("messages", "role", "content") => vec![("shape", json!("chat"))],
        ("conversations", "from", "value") => vec![("shape", json!("sharegpt"))],
        _ => {
            // The same renaming of roles that ShareGPT's rows get.
            let turn = format!(
                "{{\"role\": {{'human': 'user', 'gpt': 'assistant'}}.get(turn['{role}'], turn['{role}']), \"content\": turn['{content}']}}"
            );
            let template = format!(
                "{{% set ns = namespace(turns=[]) %}}{{% for turn in row['{list}'] %}}{{% set ns.turns = ns.turns + [{turn}] %}}{{% endfor %}}{{{{ ns.turns | tojson }}}}"
            );
            vec![("map", json!({"messages": template}))]
        }
    }
}

/// `type` as a mapping with its own fields and format.
fn custom_rows(settings: &mut Settings<'_>, at: &str, custom: &Node) -> Vec<(&'static str, Value)> {
    let name = |key: &str| field(custom, key).and_then(Node::text);
    for key in ["format", "no_input_format", "system_format", "system_prompt"] {
        if name(key).is_some_and(|text| !text.is_empty()) {
            settings.note(
                &format!("{at}.type.{key}"),
                Fate::NotCarried,
                "the model's chat template makes the text; change the `map` of the ingest for another",
            );
        }
    }
    let instruction = name("field_instruction").unwrap_or("instruction");
    let completion = format!("{{{{ row['{}'] }}}}", name("field_output").unwrap_or("output"));
    let prompt = match name("field_input").filter(|field| !field.is_empty()) {
        Some(input) => {
            format!("{{{{ row['{instruction}'] }}}}{{% if row['{input}'] %}}\n{{{{ row['{input}'] }}}}{{% endif %}}")
        }
        None => format!("{{{{ row['{instruction}'] }}}}"),
    };
    let mut map = json!({"prompt": prompt, "completion": completion});
    if let Some(system) = name("field_system").filter(|field| !field.is_empty()) {
        map["system"] = json!(format!("{{{{ row['{system}'] }}}}"));
    }
    vec![("map", map)]
}

fn field<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    node.entries()?.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
}
