//! The built-in filters over a file of documents: speed of each and of FineWeb's chain on one thread, and, given a Python
//! with datatrove, its speed on the same text in the same run and how many verdicts agree.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::Command;
use std::time::Instant;

use camino::{Utf8Path, Utf8PathBuf};
use luthier_plugins::{Builtin, Chain, ChainInput, OnTrap, Plugin, TextBatch, TextColumn, Verdicts};
use serde_json::{Value, json};

use crate::filter_stage::StageBench;

#[derive(clap::Args)]
pub struct Arguments {
    /// JSON lines with `text`; `filters/corpus.py` makes one.
    #[arg(long)]
    texts: Utf8PathBuf,
    /// Judge the first N documents only.
    #[arg(long)]
    limit: Option<usize>,
    /// A Python that has datatrove.
    #[arg(long)]
    python: Option<Utf8PathBuf>,
    /// Where to read or write datatrove's verdicts and times; with an existing file Python is not run.
    #[arg(long)]
    verdicts: Option<Utf8PathBuf>,
    /// Write every document on which the verdicts differ to this file.
    #[arg(long)]
    differences: Option<Utf8PathBuf>,
    /// Seconds per measurement.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
}

/// FineWeb's order of filters; C4 without the rule on final punctuation.
const CHAIN: [(&str, &str); 4] = [
    ("gopher-repetition", "gopher-repetition"),
    ("gopher-quality", "gopher-quality"),
    ("c4-quality-lines", "c4-quality"),
    ("fineweb-quality", "fineweb-quality"),
];

fn config(name: &str) -> Value {
    if name == "c4-quality-lines" { json!({"terminal_punctuation": false}) } else { json!({}) }
}

fn failed(message: impl std::fmt::Display) -> io::Error {
    io::Error::other(message.to_string())
}

fn find(name: &str) -> io::Result<Builtin> {
    Builtin::find(name).map_err(|(message, _)| failed(message))
}

fn column(texts: &[String]) -> io::Result<TextColumn<'static>> {
    TextColumn::from_texts(texts.iter().map(String::as_str)).ok_or_else(|| failed("more than 4 GiB of text"))
}

/// The least seconds of one call, of as many as fit into the budget but at least three.
fn best(budget: f64, mut call: impl FnMut() -> io::Result<()>) -> io::Result<f64> {
    let (mut least, mut calls) = (f64::INFINITY, 0);
    let start = Instant::now();
    while calls < 3 || start.elapsed().as_secs_f64() < budget {
        let one = Instant::now();
        call()?;
        least = least.min(one.elapsed().as_secs_f64());
        calls += 1;
    }
    Ok(least)
}

pub fn run(arguments: &Arguments, out: &mut impl Write) -> io::Result<()> {
    let file = fs_err::read_to_string(&arguments.texts)?;
    let texts = file
        .lines()
        .take(arguments.limit.unwrap_or(usize::MAX))
        .map(|line| {
            let row: Value = serde_json::from_str(line).map_err(failed)?;
            row["text"].as_str().map(str::to_owned).ok_or_else(|| failed("a row without `text`"))
        })
        .collect::<io::Result<Vec<String>>>()?;
    let bytes: usize = texts.iter().map(String::len).sum();
    let rate = |seconds: f64| bytes as f64 / seconds / 1e6;
    let mean = bytes / texts.len().max(1);
    writeln!(out, "{} documents, {:.2} MB, {mean} bytes on average, one thread", texts.len(), bytes as f64 / 1e6)?;

    writeln!(out, "\n{:24} {:>9} {:>9}", "filter", "MB/s", "dropped")?;
    let reads = |builtin: &Builtin| -> io::Result<Vec<TextColumn<'_>>> {
        let blank = vec![String::new(); texts.len()];
        builtin.manifest().reads.iter().map(|_| column(&blank)).collect()
    };
    for builtin in Builtin::all() {
        let mut worker = Plugin::Native(*builtin).open(&builtin.sample_config()).map_err(failed)?;
        let batch = TextBatch { texts: column(&texts)?, reads: reads(builtin)? };
        let mut dropped = 0;
        let seconds = best(arguments.seconds, || {
            let verdicts = worker.judge(&batch, OnTrap::Fail).map_err(|_| failed("a filter refused a row"))?;
            dropped = verdicts.drop.iter().filter(|drop| **drop != 0).count();
            Ok(())
        })?;
        writeln!(out, "{:24} {:9.1} {:9}", builtin.name(), rate(seconds), dropped)?;
    }

    let parts =
        CHAIN.iter().map(|(name, builtin)| Ok((find(builtin)?, config(name)))).collect::<io::Result<Vec<_>>>()?;
    let mut chain = Chain::open(parts.iter().map(|(builtin, config)| (builtin, config))).map_err(failed)?;
    // All filters judge the same memory, so that a text is cut into words once.
    let shared = column(&texts)?;
    let inputs: Vec<ChainInput<'_>> = CHAIN
        .iter()
        .map(|_| ChainInput { batch: TextBatch { texts: shared.slice(0..texts.len()), reads: vec![] }, text: 0 })
        .collect();
    let refused = |_| failed("a filter refused a row");
    let all = best(arguments.seconds, || chain.judge_all(&inputs).map(drop).map_err(refused))?;
    let stop = best(arguments.seconds, || chain.judge(&inputs).map(drop).map_err(refused))?;
    writeln!(out, "\nFineWeb's chain, every filter on every document: {:.1} MB/s", rate(all))?;
    writeln!(out, "FineWeb's chain, stopping at the first drop:     {:.1} MB/s", rate(stop))?;
    let mut stage = StageBench::new(&texts)?;
    let steps: Vec<Value> = CHAIN
        .iter()
        .map(|(name, builtin)| json!({"plugin": format!("builtin:{builtin}"), "config": config(name)}))
        .collect();
    let whole = best(arguments.seconds, || stage.filter(&steps))?;
    writeln!(out, "the same as a stage, from Parquet to Parquet:    {:.1} MB/s", rate(whole))?;

    let Some(theirs) = datatrove(arguments)? else { return Ok(()) };
    if theirs["documents"] != json!(texts.len()) {
        return Err(failed("the verdicts are of another number of documents"));
    }
    let seconds = |name: &str| theirs["seconds"][name].as_f64().unwrap_or(f64::NAN);
    writeln!(out, "\ndatatrove {}, the same text", theirs["versions"])?;
    for (name, ours) in [("all", all), ("chain", stop)] {
        let theirs = seconds(name);
        writeln!(out, "{name:6} {:8.3} MB/s; ours is {:.0} times as fast", rate(theirs), theirs / ours)?;
    }
    agreement(arguments, &texts, &theirs, out)
}

fn datatrove(arguments: &Arguments) -> io::Result<Option<Value>> {
    let fallback = Utf8PathBuf::from("datatrove-verdicts.json");
    let path = match (&arguments.verdicts, &arguments.python) {
        (Some(path), _) => path,
        (None, Some(_)) => &fallback,
        (None, None) => return Ok(None),
    };
    if !path.exists() {
        let Some(python) = &arguments.python else { return Err(failed(format!("`{path}` is missing"))) };
        let script = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("filters/datatrove_chain.py");
        let mut command = Command::new(python);
        command.arg(script).arg(&arguments.texts).arg(path);
        if let Some(limit) = arguments.limit {
            command.arg("--limit").arg(limit.to_string());
        }
        let status = command.status()?;
        if !status.success() {
            return Err(failed(format!("datatrove's program ended with {status}")));
        }
    }
    serde_json::from_slice(&fs_err::read(path)?).map(Some).map_err(failed)
}

fn reasons(builtin: &Builtin, verdicts: &Verdicts) -> Vec<Option<String>> {
    let known = builtin.manifest().reasons;
    verdicts.drop.iter().map(|drop| usize::from(*drop).checked_sub(1).map(|at| known[at].clone())).collect()
}

fn agreement(arguments: &Arguments, texts: &[String], theirs: &Value, out: &mut impl Write) -> io::Result<()> {
    let mut differences = String::new();
    writeln!(
        out,
        "\n{:20} {:>9} {:>9} {:>12} {:>13} {:>11}",
        "filter", "dropped", "theirs", "equal keep %", "equal reason %", "equal text %"
    )?;
    let also = [("c4-quality", "c4-quality"), ("c4-paragraphs", "c4-paragraphs")];
    for (name, builtin) in CHAIN.into_iter().chain(also) {
        let builtin = find(builtin)?;
        let batch = TextBatch { texts: column(texts)?, reads: vec![] };
        let mut worker = Plugin::Native(builtin).open(&config(name)).map_err(failed)?;
        let verdicts = worker.judge(&batch, OnTrap::Fail).map_err(|_| failed("a filter refused a row"))?;
        let edits: BTreeMap<usize, &str> = verdicts.edits.iter().map(|(row, text)| (*row, text.as_str())).collect();
        let (mut keep, mut reason, mut text, mut kept) = (0, 0, 0, 0);
        let (mut dropped, mut theirs_dropped) = (0, 0);
        let ours = reasons(&builtin, &verdicts);
        for (row, ours) in ours.iter().enumerate() {
            let found = theirs["verdicts"][name][row].as_str();
            let coarse = name == "c4-paragraphs";
            dropped += usize::from(ours.is_some());
            theirs_dropped += usize::from(found.is_some());
            let same = ours.is_some() == found.is_some();
            keep += usize::from(same);
            let same_reason = if coarse { same } else { ours.as_deref() == found };
            reason += usize::from(same_reason);
            let mut same_text = true;
            if same && ours.is_none() {
                let left = theirs["left"][name][row.to_string()].as_str().unwrap_or(&texts[row]);
                same_text = edits.get(&row).copied().unwrap_or(&texts[row]) == left;
                kept += 1;
                text += usize::from(same_text);
            }
            if !same_reason || !same_text {
                let what = json!({"filter": name, "row": row, "ours": ours, "theirs": found, "same_text": same_text});
                differences.push_str(&format!("{what}\n"));
            }
        }
        let percent = |part: usize, whole: usize| 100.0 * part as f64 / whole.max(1) as f64;
        writeln!(
            out,
            "{name:20} {dropped:9} {theirs_dropped:9} {:12.3} {:13.3} {:11.3}",
            percent(keep, texts.len()),
            percent(reason, texts.len()),
            percent(text, kept)
        )?;
    }
    if let Some(path) = &arguments.differences {
        fs_err::write(path, differences)?;
    }
    Ok(())
}
