//! `luthier plugin new|build|test|bench|inspect`.

use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::ErrorClass;
use luthier_plugins::author::{self, BenchReport, Workshop};
use luthier_plugins::{Builtin, CompiledCache, FilterEngine, Language, Limits, Manifest, Plugin, PluginComponent};
use owo_colors::OwoColorize;
use serde_json::Value;

use super::workspace;
use crate::args::{Global, PluginArgs, PluginCommand};
use crate::exit;
use crate::failure::Failure;
use crate::printer::Printer;

/// Rows of a benchmark batch, and words in each.
const BENCH_ROWS: usize = 4096;
const BENCH_WORDS: usize = 100;
const BENCH_TIME: Duration = Duration::from_secs(2);

pub fn run(args: &PluginArgs, global: &Global, printer: Printer) -> Result<u8, Failure> {
    let cache = workspace(global).cache_dir();
    match &args.command {
        PluginCommand::New { path, lang } => new(path, lang, printer),
        PluginCommand::Build { path } => build(path, &cache, printer),
        PluginCommand::Test { path, rows, config } => test(path, rows.as_deref(), config, &cache, printer),
        PluginCommand::Bench { path, config, rows } => bench(path, config, rows.as_deref(), &cache, printer),
        PluginCommand::Inspect { path } => inspect(path, &cache, printer),
    }
}

fn workshop(cache: &Utf8Path) -> Workshop<'_> {
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Workshop { cache, offline: false, jobs }
}

fn load(path: &Utf8Path, cache: &Utf8Path, printer: Printer) -> Result<PluginComponent, Failure> {
    if let (Some(language), None) = (Language::of(path), workshop(cache).known_manifest(path)) {
        let once = match language {
            Language::Python | Language::JavaScript => ": its interpreter takes a minute to compile, once",
            Language::C => ": zig compiles its C library first, which takes a minute, once",
            Language::Rust => "",
        };
        printer.note(&format!("building {path}{once}"));
    }
    Ok(workshop(cache).load(path, Limits::DEFAULT)?)
}

/// What `builtin:NAME` or `builtin:*` names; nothing for a path.
fn builtins_named(path: &Utf8Path) -> Result<Vec<Builtin>, Failure> {
    match path.as_str().strip_prefix("builtin:") {
        None => Ok(Vec::new()),
        Some("*") => Ok(Builtin::all().to_vec()),
        Some(name) => match Builtin::find(name) {
            Ok(builtin) => Ok(vec![builtin]),
            Err((message, help)) => Err(Failure::input("plugin::builtin", message).hint(help)),
        },
    }
}

fn parse_config(text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text).map_err(|error| {
        Failure::input("plugin::config", format!("`--config` is not JSON: {error}"))
            .hint(r#"quote it for the shell, as in --config '{"max": 2}'"#)
    })
}

fn new(path: &Utf8Path, lang: &str, printer: Printer) -> Result<u8, Failure> {
    let language = lang
        .parse::<Language>()
        .map_err(|help| Failure::input("plugin::language", format!("there is no scaffold for `{lang}`")).hint(help))?;
    let made = author::scaffold(path, language)?;
    for file in &made.files {
        printer.note(&format!("wrote {}", made.directory.join(file)));
    }
    printer.note("next:");
    for command in &made.next {
        printer.note(&format!("  {command}"));
    }
    Ok(exit::DONE)
}

fn build(path: &Utf8Path, cache: &Utf8Path, printer: Printer) -> Result<u8, Failure> {
    let bytes = workshop(cache).build(path)?;
    let name = path.canonicalize_utf8().ok().and_then(|full| full.file_stem().map(str::to_owned));
    let output = path.join("target").join(format!("{}.wasm", name.unwrap_or_else(|| "plugin".to_owned())));
    let output = if path.is_dir() { output } else { path.to_owned() };
    if path.is_dir() {
        luthier_core::fs::write_atomic(&output, &bytes)?;
    }
    printer.result(&format!("{output}  {}", luthier_engine::format::bytes(bytes.len() as u64)));
    Ok(exit::DONE)
}

fn test(
    path: &Utf8Path,
    rows: Option<&Utf8Path>,
    config: &str,
    cache: &Utf8Path,
    printer: Printer,
) -> Result<u8, Failure> {
    let plugin = match builtins_named(path)?.as_slice() {
        [] => Plugin::Component(load(path, cache, printer)?),
        [builtin] => Plugin::Native(*builtin),
        _ => {
            return Err(Failure::input("plugin::builtin", "`plugin test` tries one plugin at a time")
                .hint("`luthier plugin inspect 'builtin:*'` lists the names"));
        }
    };
    if let Some(rows) = rows {
        let verdicts = author::judge_file(&plugin, &parse_config(config)?, rows)?;
        if printer.json {
            printer.json(&verdicts);
            return Ok(exit::DONE);
        }
        for verdict in &verdicts {
            let said = match (&verdict.failure, verdict.keep, &verdict.reason) {
                (Some(failure), ..) => failure.to_string().red().to_string(),
                (None, true, _) if verdict.edited.is_some() => "edit".cyan().to_string(),
                (None, true, _) => "keep".green().to_string(),
                (None, false, reason) => {
                    format!("drop: {}", reason.as_deref().unwrap_or("no reason")).yellow().to_string()
                }
            };
            let text: String = verdict.edited.as_ref().unwrap_or(&verdict.text).chars().take(60).collect();
            printer.result(&format!("{:>5}  {said}  {}", verdict.line, text.replace('\n', "⏎").dimmed()));
        }
        return Ok(exit::DONE);
    }
    let Plugin::Component(plugin) = plugin else {
        return Err(Failure::input("plugin::no_rows", format!("`{path}` has no cases to run: they are Luthier's own"))
            .hint(format!("judge rows of your own: luthier plugin test {path} --rows FILE")));
    };
    let cases: Utf8PathBuf = path.join("cases.jsonl");
    if !cases.is_file() {
        return Err(Failure::input("plugin::no_cases", format!("there is no `{cases}`"))
            .hint("write cases as `luthier plugin new` does, or judge rows of your own with `--rows FILE`"));
    }
    let report = author::run_cases(&plugin, &cases)?;
    if printer.json {
        printer.json(&report);
    } else {
        for case in &report.cases {
            match &case.expected {
                None => printer.note(&format!("{} {cases}:{} {}", "✓".green(), case.line, case.said)),
                Some(expected) => printer.error_line(&format!(
                    "{} {cases}:{} said {}, expected {expected}",
                    "✗".red(),
                    case.line,
                    case.said
                )),
            }
        }
        printer.result(&format!("{} passed, {} failed", report.passed, report.failed));
    }
    Ok(if report.failed == 0 { exit::DONE } else { exit::code(ErrorClass::Expectation) })
}

fn bench(
    path: &Utf8Path,
    config: &str,
    rows: Option<&Utf8Path>,
    cache: &Utf8Path,
    printer: Printer,
) -> Result<u8, Failure> {
    let config = parse_config(config)?;
    let texts = match rows {
        Some(rows) => author::texts_of(rows)?,
        None => author::sample_texts(BENCH_ROWS, BENCH_WORDS),
    };
    if let (true, Some(rows)) = (texts.is_empty(), rows) {
        return Err(Failure::input("plugin::rows", format!("there is no text in `{rows}`"))
            .hint("write one row a line: a text, or in a `.jsonl` file an object with `text`"));
    }
    let builtins = builtins_named(path)?;
    if builtins.is_empty() {
        let report = author::bench(&Plugin::Component(load(path, cache, printer)?), &config, &texts, BENCH_TIME)?;
        if printer.json {
            printer.json(&report);
        } else {
            printer.result(&format!("{}; {} rows a batch", speed(&report), report.rows));
        }
        return Ok(exit::DONE);
    }
    let mut reports = serde_json::Map::new();
    if !printer.json {
        let [native, wasm, share, boundary] = ["native MB/s", "wasm MB/s", "% of native", "boundary µs a batch"];
        let [copy, call] = ["copy µs", "% without"];
        printer.result(&format!(
            "{:<20} {native:>12} {wasm:>10} {share:>12} {boundary:>20} {:>6} {copy:>8} {call:>10}",
            "filter", "%"
        ));
    }
    for builtin in builtins {
        // Some have nothing to look for by themselves.
        let config = if config == serde_json::json!({}) { builtin.sample_config() } else { config.clone() };
        let wasm = builtin.component(cache, false, workshop(cache).jobs)?;
        let engine = FilterEngine::new(false)?;
        let compiled = CompiledCache::new(cache);
        let component = PluginComponent::load(&engine, &compiled, builtin.name(), &wasm, Limits::DEFAULT)?;
        let (native, component) = (Plugin::Native(builtin), Plugin::Component(component));
        let found = author::bench_all(&[&native, &component], &config, &texts, BENCH_TIME)?;
        let percent = 100.0 * found[1].megabytes_per_second / found[0].megabytes_per_second;
        if printer.json {
            let report = serde_json::json!({"native": found[0], "wasm": found[1], "percent_of_native": percent});
            reports.insert(builtin.name().to_owned(), report);
        } else {
            let [native, wasm] = [&found[0], &found[1]];
            printer.result(&format!(
                "{:<20} {:>12.1} {:>10.1} {percent:>12.0} {:>20.0} {:>6.2} {:>8.0} {:>10.2}",
                builtin.name(),
                native.megabytes_per_second,
                wasm.megabytes_per_second,
                wasm.boundary_microseconds,
                wasm.boundary_percent,
                wasm.copy_microseconds,
                wasm.call_percent
            ));
        }
    }
    if printer.json {
        printer.json(&reports);
    }
    Ok(exit::DONE)
}

fn speed(report: &BenchReport) -> String {
    format!(
        "{:7.1} MB/s, {:5.0} ns a row, boundary {:.0} µs a batch ({:.2} %), of which {:.0} µs are one copy of it",
        report.megabytes_per_second,
        report.nanoseconds_per_row,
        report.boundary_microseconds,
        report.boundary_percent,
        report.copy_microseconds
    )
}

fn inspect(path: &Utf8Path, cache: &Utf8Path, printer: Printer) -> Result<u8, Failure> {
    let builtins = builtins_named(path)?;
    if !builtins.is_empty() {
        let manifests: Vec<Manifest> = builtins.iter().map(Builtin::manifest).collect();
        match manifests.as_slice() {
            manifests if printer.json => printer.json(&manifests),
            [manifest] => printer.result(&describe(manifest).join("\n")),
            manifests => {
                for manifest in manifests {
                    printer.result(&format!("{:<28} {}", format!("builtin:{}", manifest.name), manifest.about));
                }
            }
        }
        return Ok(exit::DONE);
    }
    let found = author::inspect(&load(path, cache, printer)?);
    if printer.json {
        printer.json(&found);
        return Ok(exit::DONE);
    }
    printer.result(&format!("world     {}", found.world));
    printer.result(&format!("digest    {}", found.digest));
    printer.result(&format!("size      {}", luthier_engine::format::bytes(found.size as u64)));
    printer.result(&describe(&found.manifest).join("\n"));
    printer.result(&format!("granted   {}", list(&found.granted)));
    printer.result(&format!("denied    {}", list(&found.denied)));
    Ok(exit::DONE)
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// What a plugin says about itself, a line each.
fn describe(manifest: &Manifest) -> Vec<String> {
    let scores: Vec<String> = manifest.scores.iter().map(|score| score.name.clone()).collect();
    let mut lines = vec![
        format!("name      {} {}", manifest.name, manifest.version),
        format!("about     {}", manifest.about),
        format!("judges    {}", if manifest.text.is_empty() { "the text of the dataset" } else { &manifest.text }),
        format!("reads     {}", list(&manifest.reads)),
        format!("rewrites  {}", if manifest.edits_text { "the text" } else { "nothing" }),
        format!("scores    {}", list(&scores)),
        format!("reasons   {}", list(&manifest.reasons)),
    ];
    let options = manifest.config_schema["properties"].as_object().filter(|options| !options.is_empty());
    let Some(options) = options else {
        lines.push("config    none".to_owned());
        return lines;
    };
    lines.push("config".to_owned());
    let width = options.keys().map(String::len).max().unwrap_or(0);
    for (name, schema) in options {
        let mut facts = vec![type_of(schema)];
        let bounds = [("minimum", "least"), ("maximum", "most"), ("default", "default")];
        let bound = |(key, word): (&str, &str)| Some(format!("{word} {}", schema.get(key)?));
        facts.extend(bounds.into_iter().filter_map(bound));
        let required = manifest.config_schema["required"].as_array().into_iter().flatten();
        facts.extend(required.into_iter().any(|required| required == name).then(|| "required".to_owned()));
        lines.push(format!("  {name:<width$}  {}", facts.join(", ")));
        let about = schema["description"].as_str().unwrap_or_default();
        lines.extend(about.lines().map(|line| format!("  {:width$}  {line}", "")));
    }
    lines
}

fn type_of(schema: &Value) -> String {
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().map(Value::to_string).collect::<Vec<_>>().join(" or ");
    }
    if let Some(kinds) = schema["anyOf"].as_array() {
        return kinds.iter().map(type_of).collect::<Vec<_>>().join(" or ");
    }
    match (schema["type"].as_str(), &schema["items"]) {
        (Some("array"), items) if items.is_object() => format!("list of {}", type_of(items)),
        (Some(kind), _) => kind.to_owned(),
        (None, _) => "any value".to_owned(),
    }
}
