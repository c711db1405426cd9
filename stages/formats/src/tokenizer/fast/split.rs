//! The expressions of known pre-tokenizers as hand-written scanners.
//!
//! Each follows its expression (in `pre.rs`) alternative by alternative, with the backtracking that the expression would do
//! made explicit.

use super::class::CharClass::{Letter, Number, Other, Space};
use super::class::{CharClass, class_at};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    Gpt2,
    /// Every digit stands alone; what lies between is cut by GPT-2's expression.
    DigitsThenGpt2,
    Llama3,
    Qwen2,
}

/// Calls `word` with every piece in order, until it answers `None`.
pub fn words(rules: Rules, text: &str, word: &mut dyn FnMut(&[u8]) -> Option<()>) -> Option<()> {
    match rules {
        Rules::Gpt2 => all(text, gpt2, word),
        Rules::Llama3 => all(text, |text, at| modern(text, at, 3), word),
        Rules::Qwen2 => all(text, |text, at| modern(text, at, 1), word),
        Rules::DigitsThenGpt2 => {
            let mut start = 0;
            let mut at = 0;
            while at < text.len() {
                let (class, length) = class_at(text, at);
                if class == Number {
                    all(&text[start..at], gpt2, word)?;
                    word(&text.as_bytes()[at..at + length])?;
                    start = at + length;
                }
                at += length;
            }
            all(&text[start..], gpt2, word)
        }
    }
}

#[inline]
fn all(text: &str, next: impl Fn(&str, usize) -> usize, word: &mut dyn FnMut(&[u8]) -> Option<()>) -> Option<()> {
    let mut at = 0;
    while at < text.len() {
        let end = next(text, at);
        word(&text.as_bytes()[at..end])?;
        at = end;
    }
    Some(())
}

/// The end of the run of one class.
#[inline]
fn run(text: &str, mut at: usize, class: CharClass) -> usize {
    while at < text.len() {
        let (found, length) = class_at(text, at);
        if found != class {
            break;
        }
        at += length;
    }
    at
}

/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
fn gpt2(text: &str, at: usize) -> usize {
    let bytes = text.as_bytes();
    if bytes[at] == b'\'' {
        match (bytes.get(at + 1), bytes.get(at + 2)) {
            (Some(b's' | b't' | b'm' | b'd'), _) => return at + 2,
            (Some(b'r' | b'v'), Some(b'e')) | (Some(b'l'), Some(b'l')) => return at + 3,
            _ => {}
        }
    }
    let start = at + usize::from(bytes[at] == b' ');
    if start < text.len() {
        let (class, length) = class_at(text, start);
        if class != Space {
            return run(text, start + length, class);
        }
    }
    spaces(text, at)
}

/// `\s+(?!\S)|\s+`: a run of white space leaves its last character to the word behind it, unless it is the only one.
fn spaces(text: &str, at: usize) -> usize {
    let (mut last, mut end) = (at, at);
    while end < text.len() {
        let (class, length) = class_at(text, end);
        if class != Space {
            return if last == at { end } else { last };
        }
        last = end;
        end += length;
    }
    end
}

/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,DIGITS}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
fn modern(text: &str, at: usize, digits: usize) -> usize {
    let bytes = text.as_bytes();
    if bytes[at] == b'\''
        && let Some(end) = contraction(text, at)
    {
        return end;
    }
    let (class, length) = class_at(text, at);
    match class {
        Letter => return run(text, at + length, Letter),
        Number => return numbers(text, at + length, digits - 1),
        Space | Other => {}
    }
    let next = at + length;
    let line_end = matches!(bytes[at], b'\r' | b'\n');
    let follows = (next < text.len()).then(|| class_at(text, next));
    if !line_end && let Some((Letter, length)) = follows {
        return run(text, next + length, Letter);
    }
    if class == Other {
        return line_ends(bytes, run(text, next, Other));
    }
    if bytes[at] == b' '
        && let Some((Other, length)) = follows
    {
        return line_ends(bytes, run(text, next + length, Other));
    }
    let end = run(text, at, Space);
    match bytes[at..end].iter().rposition(|byte| matches!(byte, b'\r' | b'\n')) {
        Some(last) => at + last + 1,
        None => spaces(text, at),
    }
}

fn numbers(text: &str, mut at: usize, more: usize) -> usize {
    for _ in 0..more {
        if at == text.len() {
            break;
        }
        let (class, length) = class_at(text, at);
        if class != Number {
            break;
        }
        at += length;
    }
    at
}

fn line_ends(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() && matches!(bytes[at], b'\r' | b'\n') {
        at += 1;
    }
    at
}

/// The end of a contraction in either case; `ſ` is a small s to an expression that ignores case.
fn contraction(text: &str, at: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    if text[at + 1..].starts_with('ſ') {
        return Some(at + 1 + 'ſ'.len_utf8());
    }
    let second = bytes.get(at + 2).map(u8::to_ascii_lowercase);
    match (bytes.get(at + 1)?.to_ascii_lowercase(), second) {
        (b's' | b't' | b'm' | b'd', _) => Some(at + 2),
        (b'r' | b'v', Some(b'e')) | (b'l', Some(b'l')) => Some(at + 3),
        _ => None,
    }
}
