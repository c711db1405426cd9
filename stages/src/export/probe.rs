//! Holds an exported file to its source by use: the same token ids for hostile texts, and nearly the same logits.

use camino::Utf8Path;
use luthier_core::{Section, StageContext, StageError, StageOutcome, StageResult};
use luthier_formats::tokenizer::Tokenizer;
use luthier_kernels::divergence;
use luthier_model::{BaseFormat, LanguageModel, LanguageModelOptions};

use super::config::CheckConfig;

/// Tokens of a prompt that are compared at most.
const PROMPT_TOKENS: usize = 256;

/// Parameters up to which logits are compared: both models are loaded, one after the other, as `f32`.
const COMPARABLE_PARAMETERS: u64 = 3_000_000_000;

/// Texts on which wrong rules of cutting show: digits, contractions, runs of white space, scripts, bytes, specials.
const TEXTS: [&str; 24] = [
    "",
    " ",
    "Hello, world!",
    "  leading and trailing  ",
    "tabs\tand\nnewlines\r\n\r\n\r\nand   runs",
    "I'm sure they'll say it's what we've DON'T'S",
    "1 12 123 1234 12345 3.14159 1,000,000 0x1F",
    "snake_case camelCase kebab-case SCREAMING_CASE",
    "def f(x):\n    return x ** 2  # square\n",
    "<div class=\"a\">&amp;</div>",
    "naïve café résumé coöperate",
    "e\u{301} against \u{e9}",
    "Ünïcödé ẞ ß ﬁ ﬀ",
    "日本語のテキスト。中文文本，한국어",
    "Привет мир, γειά σου κόσμε",
    "مرحبا بالعالم שלום עולם",
    "हिन्दी ไทย",
    "emoji 🎻👩‍🚀🏳️‍🌈 and \u{200b}zero width",
    "math ∀x∈ℝ: ⌈x⌉ = −⌊−x⌋ ½ ² ₃",
    "!!!??? ... --- *** ((())) [[]] {{}}",
    "How is 'luthier' pronounced?\nL UW1 TH IY0 ER0",
    "https://example.org/a/b?c=d&e=f#g",
    "\u{feff}byte order mark \u{a0} no-break",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

/// Compares the token ids of source and file on [`TEXTS`] and on every special token.
///
/// # Errors
/// The first text with other ids: with this file, programs would feed the model something else than it was trained on.
pub(super) fn compare_tokens(source: &Utf8Path, exported: &Utf8Path, outcome: &mut StageOutcome) -> StageResult<()> {
    let (before, after) = (Tokenizer::from_model(source)?, Tokenizer::from_model(exported)?);
    let specials = before.special_ids().iter().filter_map(|id| before.token(*id));
    let specials: Vec<String> = specials.map(|token| format!("a{token}b {token}\n{token}{token}")).collect();
    let mut count = 0;
    for text in TEXTS.iter().copied().chain(specials.iter().map(String::as_str)) {
        for add_special in [false, true] {
            let (expected, found) = (before.encode(text, add_special)?, after.encode(text, add_special)?);
            if expected != found {
                return Err(token_mismatch(text, &expected, &found));
            }
        }
        count += 1;
    }
    if before.bos_id() != after.bos_id() {
        let show = |id: Option<u32>| id.map_or("none".to_owned(), |id| id.to_string());
        outcome.warn(format!(
            "the source's BOS token is {}, the file's {}: prompts may begin differently",
            show(before.bos_id()),
            show(after.bos_id())
        ));
    }
    outcome.metric("probe_texts", f64::from(count), "texts");
    Ok(())
}

fn token_mismatch(text: &str, expected: &[u32], found: &[u32]) -> StageError {
    let at = expected.iter().zip(found).position(|(a, b)| a != b).unwrap_or(expected.len().min(found.len()));
    let show = |ids: &[u32]| {
        let shown: Vec<String> = ids.iter().skip(at).take(4).map(u32::to_string).collect();
        if shown.is_empty() { "the end".to_owned() } else { shown.join(" ") }
    };
    StageError::new(
        "export::tokens",
        format!(
            "the file gives {text:?} other token ids than the source: from token {at} on {}, expected {}",
            show(found),
            show(expected)
        ),
    )
    .hint("set `pre: NAME` to llama.cpp's name for the source's pre-tokenizer")
    .hint("set `check: {tokens: false}` only if the difference is known and meant")
}

/// Logits of some prompts, one row per token.
struct Logits(Vec<Vec<f32>>);

impl Logits {
    fn of(context: &StageContext<'_>, model: &Utf8Path, prompts: &[Vec<u32>]) -> StageResult<Self> {
        context.check_cancelled()?;
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(1);
        let mut model = LanguageModel::load(LanguageModelOptions {
            model,
            adapter: None,
            base: BaseFormat::Stored,
            max_tokens: longest,
            threads: context.threads(),
        })?;
        let rows = prompts.iter().map(|prompt| {
            context.check_cancelled()?;
            model.logits(prompt)
        });
        Ok(Self(rows.collect::<StageResult<_>>()?))
    }
}

/// Compares the next-token distributions of source and file on the prompts.
///
/// # Errors
/// A divergence above the configured limit, or logits that are not finite.
pub(super) fn compare_logits(
    context: &StageContext<'_>,
    config: &CheckConfig,
    source: &Utf8Path,
    exported: &Utf8Path,
    parameters: u64,
    outcome: &mut StageOutcome,
) -> StageResult<()> {
    if parameters > COMPARABLE_PARAMETERS {
        outcome.warn(format!(
            "logits were not compared: {parameters} parameters are more than the {COMPARABLE_PARAMETERS} that are loaded \
             for a check"
        ));
        return Ok(());
    }
    let tokenizer = Tokenizer::from_model(exported)?;
    let mut prompts = Vec::new();
    for prompt in config.prompts.iter().filter(|prompt| !prompt.trim().is_empty()) {
        let mut ids = tokenizer.encode(prompt, true)?;
        ids.truncate(PROMPT_TOKENS);
        prompts.push(ids);
    }
    context.progress(0, 2, "models", "comparing logits");
    let before = Logits::of(context, source, &prompts)?;
    context.progress(1, 2, "models", "comparing logits");
    let after = Logits::of(context, exported, &prompts)?;
    context.progress(2, 2, "models", "comparing logits");

    let mut all = Comparison::default();
    let mut rows = Vec::new();
    for ((prompt, ids), (before, after)) in config.prompts.iter().zip(&prompts).zip(before.0.iter().zip(&after.0)) {
        let vocabulary = before.len() / ids.len().max(1);
        let mut one = Comparison::default();
        for (before, after) in before.chunks_exact(vocabulary.max(1)).zip(after.chunks_exact(vocabulary.max(1))) {
            one.add(before, after);
        }
        rows.push(vec![
            prompt.chars().take(60).collect::<String>(),
            one.tokens.to_string(),
            format!("{:.3e}", one.mean()),
            format!("{:.3e}", one.largest),
            format!("{:.1} %", 100.0 * one.agreement()),
        ]);
        all = all.plus(one);
    }
    outcome
        .metric("mean_divergence", all.mean(), "nats")
        .metric("largest_logit_difference", f64::from(all.largest), "")
        .metric("top_token_agreement", all.agreement(), "")
        .section(Section::Table {
            title: "Next-token distributions against the source".to_owned(),
            columns: ["prompt", "tokens", "mean divergence", "largest logit difference", "same top token"]
                .map(str::to_owned)
                .to_vec(),
            rows,
        });
    if !all.mean().is_finite() {
        return Err(StageError::new("export::logits", "the exported model's logits are not finite")
            .hint("check the source with `eval` first; if it is sound, export as `f32`"));
    }
    if let Some(limit) = config.max_divergence.filter(|limit| all.mean() > *limit) {
        return Err(StageError::new(
            "export::divergence",
            format!("the file's mean divergence from the source is {:.3e} nats per token, above {limit:e}", all.mean()),
        )
        .class(luthier_core::ErrorClass::Expectation)
        .hint("choose a `type` with more bits, or raise `check.max_divergence`"));
    }
    Ok(())
}

/// Differences over a number of tokens.
#[derive(Debug, Clone, Copy, Default)]
struct Comparison {
    tokens: u64,
    divergence: f64,
    largest: f32,
    agreed: u64,
}

impl Comparison {
    fn add(&mut self, before: &[f32], after: &[f32]) {
        self.tokens += 1;
        self.divergence += divergence::between(before, after).kl;
        self.largest = before.iter().zip(after).fold(self.largest, |most, (a, b)| most.max((a - b).abs()));
        self.agreed += u64::from(top(before) == top(after));
    }

    fn plus(self, other: Self) -> Self {
        Self {
            tokens: self.tokens + other.tokens,
            divergence: self.divergence + other.divergence,
            largest: self.largest.max(other.largest),
            agreed: self.agreed + other.agreed,
        }
    }

    fn mean(self) -> f64 {
        if self.tokens == 0 { 0.0 } else { self.divergence / self.tokens as f64 }
    }

    fn agreement(self) -> f64 {
        if self.tokens == 0 { 1.0 } else { self.agreed as f64 / self.tokens as f64 }
    }
}

/// The position of the largest value; of equal ones the first.
fn top(row: &[f32]) -> usize {
    row.iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (at, value)| if *value > best.1 { (at, *value) } else { best })
        .0
}
