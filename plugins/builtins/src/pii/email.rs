//! E-mail addresses (RFC 5321 as far as people use it): `local@label.label`.

use std::ops::Range;

fn is_local(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'%' | b'+' | b'-')
}

pub fn find(bytes: &[u8], mut found: impl FnMut(Range<usize>)) {
    let mut from = 0;
    while let Some(next) = bytes[from..].iter().position(|byte| *byte == b'@') {
        let at = from + next;
        from = at + 1;
        let local = bytes[..at].iter().rev().take_while(|byte| is_local(**byte)).take(64).count();
        let mut start = at - local;
        // A dot or hyphen before an address belongs to the sentence.
        while start < at && !bytes[start].is_ascii_alphanumeric() && bytes[start] != b'_' {
            start += 1;
        }
        let name = &bytes[start..at];
        if name.is_empty() || name.ends_with(b".") || name.windows(2).any(|pair| pair == b"..") {
            continue;
        }
        if let Some(length) = domain(&bytes[at + 1..]) {
            found(start..at + 1 + length);
            from = at + 1 + length;
        }
    }
}

/// Bytes of the domain that starts here: labels of letters, digits and hyphens, the last of at least two letters.
fn domain(bytes: &[u8]) -> Option<usize> {
    let (mut end, mut at, mut labels) = (None, 0, 0);
    loop {
        let label =
            bytes[at..].iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'-').take(64).count();
        let text = &bytes[at..at + label];
        if label == 0 || label > 63 || text[0] == b'-' || text[label - 1] == b'-' {
            break;
        }
        at += label;
        labels += 1;
        let top = label >= 2 && text.iter().all(u8::is_ascii_alphabetic);
        if labels > 1 && top && !super::is_word(bytes.get(at).copied()) {
            end = Some(at);
        }
        if bytes.get(at) != Some(&b'.') {
            break;
        }
        at += 1;
    }
    end
}
