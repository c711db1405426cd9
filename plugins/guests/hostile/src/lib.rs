//! Does on a row what its text asks for, each of which the host must survive and pin to that row.

use std::collections::HashMap;

use luthier_filter::{Config, Row, Verdict, filter};

#[derive(Config)]
struct Mood {
    /// Which texts are obeyed; all if empty.
    #[config(default = Vec::new())]
    obey: Vec<String>,
}

/// Obeys the text of a row.
#[filter(reasons = ["asked"], edits = true)]
fn hostile(row: &Row, config: &Mood) -> Verdict {
    let text = row.text();
    if !config.obey.is_empty() && !config.obey.iter().any(|known| known == text) {
        return Verdict::Keep;
    }
    match text {
        "drop" => Verdict::Drop("asked"),
        "undeclared" => Verdict::Drop("never declared"),
        "edit" => Verdict::Edit("edited".to_owned()),
        "flood" => Verdict::Edit("x".repeat(8 << 20)),
        "refuse" => Verdict::Refuse("no such row".to_owned()),
        "panic" => panic!("the row says so"),
        "index" => {
            let empty: Vec<u8> = Vec::with_capacity(text.len());
            Verdict::Edit(empty[text.len()].to_string())
        }
        "loop" => loop {
            std::hint::black_box(text);
        },
        "bomb" => {
            let mut hoard: Vec<Vec<u8>> = Vec::new();
            loop {
                hoard.push(vec![1; 1 << 20]);
                std::hint::black_box(&hoard);
            }
        }
        "recurse" => Verdict::Edit(recurse(0).to_string()),
        "file" => Verdict::Edit(std::fs::read_to_string("/etc/hostname").unwrap_or_default()),
        "clock" => Verdict::Edit(format!("{:?}", std::time::SystemTime::now())),
        "network" => Verdict::Edit(format!("{:?}", std::net::TcpStream::connect("127.0.0.1:1"))),
        "environment" => Verdict::Edit(format!("{:?}", std::env::vars().count())),
        "exit" => std::process::exit(0),
        "print" => {
            println!("to nowhere");
            Verdict::Keep
        }
        "log" => {
            for line in 0..1_000 {
                luthier_filter::log(&format!("{line} {}", "é".repeat(4_000)));
            }
            Verdict::Keep
        }
        "hash" => {
            let mut counts: HashMap<char, usize> = HashMap::new();
            for c in "a hash table has a constant seed".chars() {
                *counts.entry(c).or_default() += 1;
            }
            let order: String = counts.keys().collect();
            Verdict::Edit(order)
        }
        _ => Verdict::Keep,
    }
}

#[inline(never)]
fn recurse(depth: u64) -> u64 {
    if std::hint::black_box(depth) == u64::MAX { depth } else { recurse(depth + 1) + std::hint::black_box(1) }
}
