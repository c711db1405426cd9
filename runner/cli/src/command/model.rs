//! `luthier chat`, `sample` and `logits`.

use std::io::{BufRead, IsTerminal, Write};

use luthier_stages::converse::{Conversation, ConversationOptions, Sampler, Sampling};
use luthier_stages::device::DeviceChoice;
use serde_json::{Value, json};

use super::show;
use crate::args::{ChatArgs, Global, LogitsArgs, ModelArgs, SampleArgs, SamplingArgs};
use crate::exit;
use crate::failure::Failure;
use crate::printer::Printer;

/// The longest conversation that memory is set aside for.
const MAX_TOKENS: usize = 4096;

fn sampler(args: &SamplingArgs) -> Result<Option<Sampler>, Failure> {
    let SamplingArgs { temperature, top_k, top_p, seed } = *args;
    if !(0.0..=100.0).contains(&temperature) {
        return Err(Failure::input(
            "model::temperature",
            format!("`--temperature {temperature}` is not from 0 to 100"),
        )
        .hint("give `--temperature 0.7`, or leave it out for the likeliest token"));
    }
    if !(top_p > 0.0 && top_p <= 1.0) {
        return Err(Failure::input("model::top_p", format!("`--top-p {top_p}` is not a share above 0 and up to 1"))
            .hint("give `--top-p 0.9`, or leave it out to draw among all tokens"));
    }
    if temperature == 0.0 && (top_k > 0 || top_p < 1.0) {
        return Err(Failure::input("model::temperature", "`--top-k` and `--top-p` are given, but nothing is drawn")
            .hint("add `--temperature 0.7`"));
    }
    Ok((temperature > 0.0).then_some(Sampler { sampling: Sampling { temperature, top_k, top_p }, seed }))
}

fn open(
    args: &ModelArgs,
    sampler: Option<Sampler>,
    global: &Global,
    printer: Printer,
) -> Result<Conversation, Failure> {
    let file = args.pipeline.as_deref();
    let model = show::resolve(&args.model, file, global, printer)?;
    let adapter = args.adapter.as_ref().map(|word| show::resolve(word, file, global, printer)).transpose()?;
    let threads =
        args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let device = DeviceChoice::parse(&args.device).ok_or_else(|| {
        Failure::input("model::device", format!("there is no device `{}`", args.device))
            .hint("give `--device auto`, `--device cpu`, `--device cuda` or `--device cuda:1`")
    })?;
    Ok(Conversation::open(&ConversationOptions { model, adapter, threads, device, sampler, max_tokens: MAX_TOKENS })?)
}

pub fn chat(args: &ChatArgs, global: &Global, printer: Printer) -> Result<u8, Failure> {
    let mut conversation = open(&args.model, sampler(&args.sampling)?, global, printer)?;
    let mut messages: Vec<Value> = Vec::new();
    if let Some(system) = &args.system {
        messages.push(json!({"role": "system", "content": system}));
    }
    if let Some(text) = &args.once {
        messages.push(json!({"role": "user", "content": text}));
        let answer = conversation.reply(&Value::Array(messages), args.max_new_tokens)?;
        if printer.json {
            printer.json(&json!({"answer": answer}));
        } else {
            printer.result(&answer);
        }
        return Ok(exit::DONE);
    }
    let stdin = std::io::stdin();
    let prompt = stdin.is_terminal();
    if prompt {
        printer.note("an empty line ends the conversation");
    }
    loop {
        if prompt {
            let mut err = std::io::stderr();
            // Without a terminal to show it, the prompt is not needed.
            let _ = write!(err, "> ").and_then(|()| err.flush());
        }
        let mut line = String::new();
        if stdin.lock().read_line(&mut line)? == 0 || line.trim().is_empty() {
            return Ok(exit::DONE);
        }
        messages.push(json!({"role": "user", "content": line.trim()}));
        let answer = conversation.reply(&Value::Array(messages.clone()), args.max_new_tokens)?;
        printer.result(&answer);
        messages.push(json!({"role": "assistant", "content": answer}));
    }
}

pub fn sample(args: &SampleArgs, global: &Global, printer: Printer) -> Result<u8, Failure> {
    let prompts: Vec<String> = match &args.prompts {
        Some(path) => fs_err::read_to_string(path)?.lines().map(str::to_owned).collect(),
        None => std::io::stdin().lock().lines().collect::<Result<_, _>>()?,
    };
    let prompts: Vec<String> = prompts.into_iter().filter(|prompt| !prompt.trim().is_empty()).collect();
    let mut conversation = open(&args.model, sampler(&args.sampling)?, global, printer)?;
    let answers = conversation.complete(&prompts, args.system.as_deref(), args.raw, args.max_new_tokens)?;
    if printer.json {
        let rows: Vec<Value> = prompts
            .iter()
            .zip(&answers)
            .map(|(prompt, completion)| json!({"prompt": prompt, "completion": completion}))
            .collect();
        printer.json(&rows);
    } else {
        for answer in &answers {
            printer.result(&answer.replace('\n', "\\n"));
        }
    }
    Ok(exit::DONE)
}

pub fn logits(args: &LogitsArgs, global: &Global, printer: Printer) -> Result<u8, Failure> {
    let mut conversation = open(&args.model, None, global, printer)?;
    let found = conversation.logits(&args.prompt)?;
    if printer.json {
        // Compact: a prompt's logits are megabytes.
        match serde_json::to_string(&found) {
            Ok(text) => printer.result(&text),
            Err(error) => return Err(Failure::input("logits::json", format!("the logits are not finite: {error}"))),
        }
        return Ok(exit::DONE);
    }
    let last = found.logits.last().map(Vec::as_slice).unwrap_or_default();
    let mut ranked: Vec<(usize, f32)> = last.iter().copied().enumerate().collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    for (id, logit) in ranked.iter().take(20) {
        printer.result(&format!("{id:>8}  {logit:.6}"));
    }
    Ok(exit::DONE)
}
