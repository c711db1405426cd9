//! What looks like an address and stays whole.

use crate::character::is_lower;

/// `scheme://…`, or a host name that ends in a domain of lower-case letters, with what may follow it.
pub fn is_address(text: &str) -> bool {
    if !text.bytes().any(|byte| byte == b'.') {
        return false;
    }
    let scheme = text.bytes().position(|byte| byte == b':').filter(|at| text[*at..].starts_with("://"));
    let rest = match scheme.or_else(|| text.contains(':').then(|| text.find("://")).flatten()) {
        Some(at)
            if at >= 2 && text[..at].chars().all(|c| c.is_alphanumeric() || matches!(c, '+' | '-' | '.' | '_')) =>
        {
            &text[at + 3..]
        }
        _ => text,
    };
    // Somebody at a host: only the host counts.
    let host = rest.rfind('@').filter(|at| *at > 0).map_or(rest, |at| &rest[at + 1..]);
    is_host(host) || (host.len() != rest.len() && is_host(rest))
}

fn is_host(text: &str) -> bool {
    let name_end = text.find(['/', '?', '#', ':']).unwrap_or(text.len());
    let (name, tail) = text.split_at(name_end);
    let tail = match tail.strip_prefix(':') {
        None => tail,
        Some(port) => {
            let digits = port.bytes().take_while(u8::is_ascii_digit).count();
            if !(2..=5).contains(&digits) {
                return false;
            }
            &port[digits..]
        }
    };
    if !(tail.is_empty() || tail.starts_with(['/', '?', '#'])) {
        return false;
    }
    let Some((labels, domain)) = name.rsplit_once('.') else { return false };
    let letter = |c: char| c.is_ascii_alphanumeric() || ('\u{a1}'..='\u{ffff}').contains(&c);
    let label = |label: &str| {
        label.chars().count() <= 64
            && label.starts_with(letter)
            && label.ends_with(letter)
            && label.chars().all(|c| letter(c) || matches!(c, '-' | '_'))
    };
    let is_domain = domain.chars().count() >= 2 && domain.chars().count() <= 63 && domain.chars().all(is_lower);
    let is_number = name.split('.').count() == 4
        && name.split('.').all(|part| part.len() <= 3 && part.parse::<u8>().is_ok())
        && !name.starts_with('0');
    (is_domain && labels.split('.').all(label)) || is_number
}
