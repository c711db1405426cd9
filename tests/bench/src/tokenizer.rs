//! Text to token ids, beside the `tokenizers` library as Python calls it (`tests/interop/bench_tokenizer.py` runs both).

use std::io::{self, Write};
use std::time::Instant;

use camino::Utf8PathBuf;
use clap::Args;
use luthier_formats::tokenizer::Tokenizer;
use rayon::prelude::*;

#[derive(Args)]
pub struct Arguments {
    /// A model directory or GGUF file.
    model: Utf8PathBuf,
    /// A JSON list of texts.
    texts: Utf8PathBuf,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// The best of so many passes is printed.
    #[arg(long, default_value_t = 5)]
    passes: usize,
    /// With byte offsets, as a tokenization with masks needs.
    #[arg(long)]
    offsets: bool,
}

pub fn run(arguments: &Arguments, out: &mut dyn Write) -> io::Result<()> {
    let tokenizer = Tokenizer::from_model(&arguments.model).map_err(io::Error::other)?;
    let texts: Vec<String> = serde_json::from_slice(&fs_err::read(&arguments.texts)?)?;
    let bytes: usize = texts.iter().map(String::len).sum();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(arguments.threads).build().map_err(io::Error::other)?;
    let encode = |text: &String| {
        if arguments.offsets {
            tokenizer.encode_with_offsets(text, false).map(|encoded| encoded.ids)
        } else {
            tokenizer.encode(text, false)
        }
    };
    let (mut best, mut tokens, mut sum) = (f64::INFINITY, 0, 0u64);
    for _ in 0..arguments.passes.max(1) {
        let start = Instant::now();
        let encoded = pool.install(|| texts.par_iter().map(encode).collect::<Result<Vec<_>, _>>());
        best = best.min(start.elapsed().as_secs_f64());
        let encoded = encoded.map_err(io::Error::other)?;
        tokens = encoded.iter().map(Vec::len).sum();
        sum = encoded.iter().flatten().fold(0, |sum, id| sum.wrapping_mul(31).wrapping_add(u64::from(*id)));
    }
    let rate = bytes as f64 / best / 1e6;
    writeln!(
        out,
        "{} texts, {bytes} bytes, {tokens} tokens (checksum {sum}): {rate:.1} MB/s on {} threads",
        texts.len(),
        arguments.threads
    )
}
