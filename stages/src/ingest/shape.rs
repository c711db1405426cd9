//! Rows to samples: the text columns of a dataset shape, its id, and the columns carried along.

use luthier_core::{nearest, quoted};
use luthier_formats::chat_template::to_jinja;
use luthier_formats::dataset::{DatasetShape, row_id};
use minijinja::Environment;
use serde_json::{Map, Value, json};

use super::config::{MapConfig, RowShape};
use super::parse::{Row, kind};

/// A row ready to be written.
#[derive(Debug, PartialEq, Eq)]
pub struct Sample {
    pub id: String,
    /// One for each of the shape's columns.
    pub texts: Vec<String>,
    pub kept: Vec<Option<String>>,
}

/// How rows become samples; decided once, before or with the first row.
pub struct Shaper {
    rule: Rule,
    keep: Vec<String>,
}

enum Rule {
    Map(Box<MapRule>),
    Chat,
    Sharegpt,
    PromptCompletion,
    /// Prompt and completion are lists of messages.
    PromptMessages,
    Alpaca {
        chat: bool,
    },
    Text,
}

struct MapRule {
    environment: Environment<'static>,
    names: Vec<&'static str>,
    shape: DatasetShape,
}

impl Shaper {
    /// A shaper for a `map`.
    ///
    /// # Errors
    /// `(path below map, message)` for each template that does not compile.
    pub fn from_map(map: &MapConfig, keep: &[String]) -> Result<Self, Vec<(String, String)>> {
        let mut environment = luthier_formats::chat_template::environment();
        let parts = [
            ("system", &map.system),
            ("prompt", &map.prompt),
            ("completion", &map.completion),
            ("text", &map.text),
            ("messages", &map.messages),
        ];
        let (mut names, mut issues) = (Vec::new(), Vec::new());
        for (name, source) in parts {
            let Some(source) = source else { continue };
            if let Err(error) = environment.add_template_owned(name, source.clone()) {
                let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
                issues.push((format!("map.{name}"), format!("the template does not parse: {what}")));
            }
            names.push(name);
        }
        let shape = match names.as_slice() {
            ["text"] => DatasetShape::Text,
            ["messages"] | ["system", "prompt", "completion"] => DatasetShape::Chat,
            ["prompt", "completion"] => DatasetShape::PromptCompletion,
            _ => {
                let what = format!(
                    "`map` has [{}], expected `prompt` and `completion` (and perhaps `system`), or `text`, or `messages`",
                    names.join(", ")
                );
                issues.push(("map".to_owned(), what));
                DatasetShape::Text
            }
        };
        if issues.is_empty() {
            Ok(Self { rule: Rule::Map(Box::new(MapRule { environment, names, shape })), keep: keep.to_vec() })
        } else {
            Err(issues)
        }
    }

    /// The shaper for a configured shape, or the one that the first row shows.
    ///
    /// # Errors
    /// What was found and expected, and a hint, if the row shows none.
    pub fn from_first(shape: RowShape, first: &Row, keep: &[String]) -> Result<Self, (String, String)> {
        let has = |name: &str| first.contains_key(name);
        let list = |name: &str| first.get(name).is_some_and(Value::is_array);
        let alpaca = Rule::Alpaca { chat: has("system") || has("history") };
        let prompt = if list("prompt") { Rule::PromptMessages } else { Rule::PromptCompletion };
        let rule = match shape {
            RowShape::Chat => Rule::Chat,
            RowShape::Sharegpt => Rule::Sharegpt,
            RowShape::PromptCompletion => prompt,
            RowShape::Alpaca => alpaca,
            RowShape::Text => Rule::Text,
            RowShape::Auto => {
                if has("messages") {
                    Rule::Chat
                } else if has("conversations") {
                    Rule::Sharegpt
                } else if has("prompt") && has("completion") {
                    prompt
                } else if has("instruction") && has("output") {
                    alpaca
                } else if has("text") {
                    Rule::Text
                } else {
                    return Err(unknown_shape(first));
                }
            }
        };
        Ok(Self { rule, keep: keep.to_vec() })
    }

    /// Tells shapers apart that shape rows otherwise; what a map says is in the configuration.
    pub fn rule_name(&self) -> &'static str {
        match &self.rule {
            Rule::Map(_) => "map",
            Rule::Chat => "chat",
            Rule::Sharegpt => "sharegpt",
            Rule::PromptCompletion => "prompt-completion",
            Rule::PromptMessages => "prompt-messages",
            Rule::Alpaca { chat: true } => "alpaca-chat",
            Rule::Alpaca { chat: false } => "alpaca",
            Rule::Text => "text",
        }
    }

    pub fn shape(&self) -> DatasetShape {
        match &self.rule {
            Rule::Map(map) => map.shape,
            Rule::Chat | Rule::Sharegpt | Rule::PromptMessages | Rule::Alpaca { chat: true } => DatasetShape::Chat,
            Rule::PromptCompletion | Rule::Alpaca { chat: false } => DatasetShape::PromptCompletion,
            Rule::Text => DatasetShape::Text,
        }
    }

    /// # Errors
    /// Why the row does not fit, as a lowercase fragment.
    pub fn sample(&self, row: &Row) -> Result<Sample, String> {
        let texts = match &self.rule {
            Rule::Map(map) => map.texts(row)?,
            Rule::Chat => vec![messages_text(field(row, "messages")?)?],
            Rule::Sharegpt => vec![sharegpt(row)?],
            Rule::PromptCompletion => vec![text(row, "prompt")?, text(row, "completion")?],
            Rule::PromptMessages => vec![prompt_messages(row)?],
            Rule::Alpaca { chat } => alpaca(row, *chat)?,
            Rule::Text => vec![text(row, "text")?],
        };
        let kept = self.keep.iter().map(|name| kept(row, name)).collect::<Result<Vec<_>, _>>()?;
        let id = row_id(self.shape().columns().iter().copied().zip(texts.iter().map(String::as_str)));
        Ok(Sample { id, texts, kept })
    }
}

impl MapRule {
    fn texts(&self, row: &Row) -> Result<Vec<String>, String> {
        let context = minijinja::Value::from_pairs([(
            "row",
            minijinja::Value::from_pairs(row.iter().map(|(name, value)| (name.as_str(), to_jinja(value)))),
        )]);
        let mut rendered = Vec::with_capacity(self.names.len());
        for name in &self.names {
            let text = self
                .environment
                .get_template(name)
                .and_then(|template| template.render(context.clone()))
                .map_err(|error| map_error(name, &error, row))?;
            rendered.push(text);
        }
        match self.names.as_slice() {
            ["messages"] => {
                let json: Value = serde_json::from_str(&rendered[0])
                    .map_err(|error| format!("cannot be mapped: `map.messages` did not make JSON: {error}"))?;
                Ok(vec![messages_text(&json)?])
            }
            ["system", ..] => {
                let roles = ["system", "user", "assistant"];
                let turns: Vec<Value> = roles
                    .iter()
                    .zip(&rendered)
                    .filter(|(role, text)| **role != "system" || !text.is_empty())
                    .map(|(role, text)| json!({"role": role, "content": text}))
                    .collect();
                Ok(vec![Value::Array(turns).to_string()])
            }
            _ => Ok(rendered),
        }
    }
}

fn map_error(name: &str, error: &minijinja::Error, row: &Row) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    let columns = columns(row);
    if error.kind() == minijinja::ErrorKind::UndefinedError {
        return format!("lacks what `map.{name}` names ({what}); its columns are [{columns}]");
    }
    format!("cannot be mapped: `map.{name}` fails: {what}")
}

fn columns(row: &Row) -> String {
    quoted(row.keys().take(20))
}

fn field<'a>(row: &'a Row, name: &str) -> Result<&'a Value, String> {
    row.get(name).ok_or_else(|| {
        let near = nearest(name, row.keys().map(String::as_str));
        let near = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
        format!("has no `{name}`; its columns are [{}]{near}", columns(row))
    })
}

fn text(row: &Row, name: &str) -> Result<String, String> {
    match field(row, name)? {
        Value::String(text) => Ok(text.clone()),
        other => Err(format!("has {} in `{name}`, expected text", kind(other))),
    }
}

fn optional_text(row: &Row, name: &str) -> Result<Option<String>, String> {
    match row.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(_) => text(row, name).map(Some),
    }
}

fn kept(row: &Row, name: &str) -> Result<Option<String>, String> {
    Ok(match field(row, name)? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    })
}

/// Checks a list of messages and writes it as JSON.
fn messages_text(messages: &Value) -> Result<String, String> {
    // Some files hold the list as a string of JSON.
    if let Value::String(text) = messages {
        let parsed: Value =
            serde_json::from_str(text).map_err(|_| "has text in `messages`, expected a list".to_owned())?;
        return if parsed.is_array() { messages_text(&parsed) } else { Err("has no list in `messages`".to_owned()) };
    }
    let Value::Array(list) = messages else {
        return Err(format!("has {} in `messages`, expected a list of {{role, content}}", kind(messages)));
    };
    if list.is_empty() {
        return Err("has an empty list of messages".to_owned());
    }
    for (at, message) in list.iter().enumerate() {
        check_message(message).map_err(|what| format!("is wrong in message {at}, which {what}"))?;
    }
    let is_plain = |message: &Value| !message.get("content").is_some_and(Value::is_array);
    if list.iter().all(is_plain) {
        return Ok(messages.to_string());
    }
    // The templates of text models join a content to strings.
    let mut plain = list.clone();
    for content in plain.iter_mut().filter_map(|message| message.get_mut("content")) {
        if let Value::Array(parts) = content {
            *content = Value::String(parts.iter().filter_map(|part| part.get("text")?.as_str()).collect());
        }
    }
    Ok(Value::Array(plain).to_string())
}

fn check_message(message: &Value) -> Result<(), String> {
    let Value::Object(message) = message else {
        return Err(format!("is {}, expected an object", kind(message)));
    };
    match message.get("role") {
        Some(Value::String(role)) if !role.is_empty() => {}
        Some(other) => return Err(format!("has {} as `role`, expected a name such as `user`", kind(other))),
        None => return Err(format!("has no `role`; it has [{}]", columns(message))),
    }
    match message.get("content") {
        Some(Value::String(_)) => Ok(()),
        None | Some(Value::Null) if message.get("tool_calls").is_some_and(Value::is_array) => Ok(()),
        Some(Value::Array(parts)) if parts.iter().all(is_text_part) => Ok(()),
        Some(Value::Array(_)) => Err("has parts other than text in `content`; only text can be trained".to_owned()),
        Some(other) => Err(format!("has {} as `content`, expected text", kind(other))),
        None => Err(format!("has no `content`; it has [{}]", columns(message))),
    }
}

fn is_text_part(part: &Value) -> bool {
    part.get("type").and_then(Value::as_str) == Some("text") && part.get("text").is_some_and(Value::is_string)
}

fn sharegpt(row: &Row) -> Result<String, String> {
    let Value::Array(turns) = field(row, "conversations")? else {
        return Err("has no list in `conversations`".to_owned());
    };
    let mut messages = Vec::with_capacity(turns.len() + 1);
    if let Some(system) = optional_text(row, "system")? {
        messages.push(json!({"role": "system", "content": system}));
    }
    for (at, turn) in turns.iter().enumerate() {
        // Files of this shape exist with either pair of names.
        let part = |first: &str, second: &str| {
            let value = turn.get(first).or_else(|| turn.get(second));
            value
                .and_then(Value::as_str)
                .ok_or_else(|| format!("is wrong in turn {at}, which has no text in `{first}`"))
        };
        let from = part("from", "role")?;
        let role = match from {
            "human" | "user" | "prompter" => "user",
            "gpt" | "assistant" | "chatgpt" | "bing" | "bard" | "model" => "assistant",
            "system" => "system",
            "tool" | "function" | "observation" | "function_response" => "tool",
            other => {
                let what = "expected `human`, `gpt`, `system` or `tool`";
                return Err(format!("is wrong in turn {at}, which is from `{other}`: {what}"));
            }
        };
        messages.push(json!({"role": role, "content": part("value", "content")?}));
    }
    messages_text(&Value::Array(messages))
}

fn prompt_messages(row: &Row) -> Result<String, String> {
    let mut messages = Vec::new();
    for name in ["prompt", "completion"] {
        match field(row, name)? {
            Value::Array(turns) => messages.extend(turns.iter().cloned()),
            other => {
                return Err(format!(
                    "has {} in `{name}`, expected a list of messages as in the first row",
                    kind(other)
                ));
            }
        }
    }
    messages_text(&Value::Array(messages))
}

/// Source: the data format of the Stanford Alpaca project, with `system` and `history` as later tools added them.
fn alpaca(row: &Row, chat: bool) -> Result<Vec<String>, String> {
    let (instruction, output) = (text(row, "instruction")?, text(row, "output")?);
    let prompt = match optional_text(row, "input")? {
        Some(input) => format!("{instruction}\n{input}"),
        None => instruction,
    };
    let system = optional_text(row, "system")?;
    let history = match row.get("history") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(turns)) => turns.clone(),
        Some(other) => return Err(format!("has {} in `history`, expected a list of pairs", kind(other))),
    };
    if !chat {
        return if system.is_none() && history.is_empty() {
            Ok(vec![prompt, output])
        } else {
            Err("has `system` or `history`, which the first row has not; put an empty one there".to_owned())
        };
    }
    let mut messages: Vec<Value> = system.iter().map(|system| json!({"role": "system", "content": system})).collect();
    for pair in &history {
        let Some([Value::String(question), Value::String(answer)]) = pair.as_array().map(Vec::as_slice) else {
            return Err("has something else than pairs of texts in `history`".to_owned());
        };
        messages.push(json!({"role": "user", "content": question}));
        messages.push(json!({"role": "assistant", "content": answer}));
    }
    messages.push(json!({"role": "user", "content": prompt}));
    messages.push(json!({"role": "assistant", "content": output}));
    Ok(vec![Value::Array(messages).to_string()])
}

/// A hint that can be pasted, from the names that question and answer usually have.
fn unknown_shape(row: &Map<String, Value>) -> (String, String) {
    let pick =
        |candidates: &[&str]| candidates.iter().find(|name| row.contains_key(**name)).map(|name| (*name).to_owned());
    let prompt = pick(&["question", "prompt", "input", "query", "instruction", "problem", "source"]);
    let completion = pick(&["answer", "response", "output", "completion", "solution", "target", "reply"]);
    let what = format!(
        "the columns of the first row are [{}]; expected `messages`, `conversations`, `prompt` and `completion`, \
         `instruction` and `output`, or `text`",
        columns(row)
    );
    if let (Some(only), 1) = (row.keys().next(), row.len()) {
        let hint = match only.chars().find(|c| ";|\t".contains(*c)) {
            Some(separator) => format!(
                "if `{}` separates the columns, say so: `delimiter: {}`",
                separator.escape_default(),
                Value::from(separator.to_string())
            ),
            None => format!("say that it is plain text: `map: {{text: \"{{{{ {} }}}}\"}}`", column(only)),
        };
        return (what, hint);
    }
    let mut others = row.keys().map(String::as_str);
    let prompt = prompt.unwrap_or_else(|| others.next().unwrap_or("question").to_owned());
    let completion = completion.unwrap_or_else(|| others.next().unwrap_or("answer").to_owned());
    let (prompt, completion) = (column(&prompt), column(&completion));
    let hint =
        format!("say what to train: `map: {{prompt: \"{{{{ {prompt} }}}}\", completion: \"{{{{ {completion} }}}}\"}}`");
    (what, hint)
}

/// A column as templates name it; quotes fit into those around the template.
fn column(name: &str) -> String {
    let is_word = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if is_word { format!("row.{name}") } else { format!("row['{name}']") }
}
