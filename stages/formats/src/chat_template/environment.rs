//! The template environment: settings, filters and functions that transformers adds to Jinja2's own.

use luthier_core::StageError;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};

use super::python;

/// The one template of an environment.
pub(super) const NAME: &str = "chat_template";
/// Steps a template may take; the largest real one, with tools and fifty turns, takes about 20,000.
const FUEL: u64 = 50_000_000;

/// Marks an error that the template itself raised.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Raised(pub String);

/// An environment for templates over rows: Python's string methods, Python's way of printing, `tojson` as `json.dumps`
/// writes it, and an error for every name that is not there.
#[must_use]
pub fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_unknown_method_callback(|state, value, method, arguments| match (method, value.as_str()) {
        ("title", Some(text)) if arguments.is_empty() => Ok(Value::from(python::title(text))),
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments),
    });
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    environment.set_formatter(|out, _, value| {
        // Undefined prints as nothing where the environment lets it come this far.
        if value.is_undefined() { Ok(()) } else { out.write_str(&python::text(value)).map_err(Error::from) }
    });
    environment.set_fuel(Some(FUEL));
    environment.add_filter("tojson", tojson);
    environment.add_filter("string", |value: &Value| python::text(value));
    // `none` is an empty sequence to minijinja, and no sequence to Python.
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
    });
    environment
}

/// As [`environment`], with the settings of chat templates: undefined names print as nothing.
pub(super) fn chat_environment() -> Environment<'static> {
    let mut environment = environment();
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    super::render::add_generation_filter(&mut environment);
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().unwrap_or_default());
    environment
}

fn tojson(value: &Value, indent: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<Value>>("indent")?,
    };
    let indent = match indent {
        Some(indent) if !indent.is_none() => Some(usize::try_from(indent)?),
        _ => None,
    };
    let style = python::JsonStyle {
        indent,
        ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sorted: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        separators: match options.get::<Option<Vec<String>>>("separators")?.as_deref() {
            Some([item, key]) => Some((item.clone(), key.clone())),
            Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "`separators` are two strings")),
            None => None,
        },
    };
    options.assert_all_used()?;
    python::json(value, &style).map(Value::from)
}

/// Turns an error of a template into ours: where it happened and what the template said.
#[must_use]
pub fn template_error(error: &Error, origin: &str) -> StageError {
    if let Some(message) = raised(error) {
        return StageError::input("template::raised", format!("the chat template refuses the conversation: {message}"))
            .hint("change the rows so that the template accepts them, or use another one: `template: chatml`");
    }
    let line = error.line().unwrap_or(0) as u64;
    let what = match error.kind() {
        ErrorKind::SyntaxError => "has a syntax error",
        ErrorKind::OutOfFuel => "does not come to an end",
        _ => "fails",
    };
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    StageError::input("template::failed", format!("the template {what}: {detail}")).at(origin, line, 0).hint(
        "mend the template, or use another one: `template: auto` is the model's own, `template: chatml` the usual one",
    )
}

fn raised(error: &Error) -> Option<String> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(Raised(message)) = error.downcast_ref::<Raised>() {
            return Some(message.clone());
        }
        cause = error.source();
    }
    None
}
