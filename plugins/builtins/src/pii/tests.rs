use luthier_filter::{Verdict, judge};

use super::Pii;

fn masked(config: &str, text: &str) -> String {
    match judge::<Pii>(config, text, &[]).verdict {
        Verdict::Edit(text) => text,
        Verdict::Keep => text.to_owned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn email_addresses_are_masked() {
    for (text, wanted) in [
        ("Write to jane.doe+list@mail.example.co.uk, or call.", "Write to <email>, or call."),
        ("<a@b.io>", "<<email>>"),
        ("mailto:x_1@y-z.org?subject=hi", "mailto:<email>?subject=hi"),
        ("me@here", "me@here"),
        ("@handle and a@.com, b@c..d, e@f.1", "@handle and a@.com, b@c..d, e@f.1"),
        (".lead@dot.net.", ".<email>."),
        ("ü@example.org", "ü@example.org"),
        ("two@ex.com,three@ex.com", "<email>,<email>"),
    ] {
        assert_eq!(masked("{}", text), wanted, "{text}");
    }
}

#[test]
fn addresses_are_told_from_versions() {
    for (text, wanted) in [
        ("ping 8.8.8.8 and http://93.184.216.34:8080/x", "ping <ip> and http://<ip>:8080/x"),
        ("from 81.2.69.142.", "from <ip>."),
        ("net 81.2.69.0/24", "net <ip>/24"),
        ("192.168.0.1, 10.1.2.3, 127.0.0.1, 203.0.113.9", "192.168.0.1, 10.1.2.3, 127.0.0.1, 203.0.113.9"),
        ("version 8.8.8.8, v8.8.8.8, build: 8.8.4.4", "version 8.8.8.8, v8.8.8.8, build: 8.8.4.4"),
        ("pip install a==8.8.8.8 'b>=8.8.4.4'", "pip install a==8.8.8.8 'b>=8.8.4.4'"),
        ("Firefox/115.8.8.8 8.8.8.8-rc1 8.8.8.8.8", "Firefox/115.8.8.8 8.8.8.8-rc1 8.8.8.8.8"),
        ("4.2.1.3 Joining the ribs", "4.2.1.3 Joining the ribs"),
        ("256.8.8.8 8.8.8.08 8.8.8", "256.8.8.8 8.8.8.08 8.8.8"),
        ("2a00:1450:4001:82a::200e is up", "<ip> is up"),
        ("2001:db8::1 ::1 fe80::1:2:3", "2001:db8::1 ::1 fe80::1:2:3"),
        ("at 12:30:45, std::cafe::bed, de:ad:be:ef:00:01", "at 12:30:45, std::cafe::bed, de:ad:be:ef:00:01"),
    ] {
        assert_eq!(masked("{}", text), wanted, "{text}");
    }
    assert_eq!(masked(r#"{"private_ips": true}"#, "10.1.2.3 fe80::1:2:3"), "<ip> <ip>");
}

#[test]
fn telephone_numbers_are_told_from_other_numbers() {
    for (text, wanted) in [
        ("Call +49 30 901820 or +1 (212) 555-0123.", "Call <phone> or <phone>."),
        ("(212) 555-0123, 212-555-0123, 1-212-555-0123", "<phone>, <phone>, <phone>"),
        ("212.555.0123", "<phone>"),
        ("+442079460958", "<phone>"),
        ("2024-01-15 112-555-0123 212-155-0123 911-555-0123", "2024-01-15 112-555-0123 212-155-0123 911-555-0123"),
        ("ISBN 978-3-16-148410-0, +12345678, x+1 234 567 890", "ISBN 978-3-16-148410-0, +12345678, x+1 234 567 890"),
        ("212-555-01234 a212-555-0123 212-555-0123-4", "212-555-01234 a212-555-0123 212-555-0123-4"),
        ("555-0123 and (1) 2", "555-0123 and (1) 2"),
    ] {
        assert_eq!(masked("{}", text), wanted, "{text}");
    }
}

#[test]
fn keys_are_masked_and_words_are_not() {
    let token = "Zm9vYmFy0123456789QwErTyUiOpAsDfGhJk";
    for (text, wanted) in [
        ("id AKIAIOSFODNN7EXAMPLE end".to_owned(), "id <key> end"),
        (format!("ghp_{token}"), "<key>"),
        (format!("api_key = \"{token}\""), "api_key = \"<key>\""),
        (format!("{{\"access_token\": \"{token}\"}}"), "{\"access_token\": \"<key>\"}"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dBjftJeZ4CVP-mB92K27uhbUJU1p1r".to_owned(), "<key>"),
        ("a\n-----BEGIN RSA PRIVATE KEY-----\nMIIB\n-----END RSA PRIVATE KEY-----\nb".to_owned(), "a\n<key>\nb"),
    ] {
        assert_eq!(masked("{}", &text), wanted, "{text}");
    }
    for text in [
        "key: the-quick-brown-fox-jumps",
        "password = aaaaaaaaaaaaaaaaaaaa1",
        "a monkey: 12",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "sk-learn is a library, AKIAI is short",
        "commit 2fd4e1c67a2d28fced849ee1bb76e7391b93eb12",
    ] {
        assert_eq!(masked("{}", text), text);
    }
}

#[test]
fn kinds_can_be_left_and_named() {
    let config = r#"{"email": "", "ip": "[IP]", "phone": "", "key": ""}"#;
    assert_eq!(masked(config, "a@b.io 8.8.8.8 212-555-0123"), "a@b.io [IP] 212-555-0123");
    let judged = judge::<Pii>("{}", "a@b.io c@d.io 8.8.8.8 212-555-0123", &[]);
    assert_eq!(judged.scores, [2.0, 1.0, 1.0, 0.0]);
}

#[test]
fn any_text_survives() {
    let alphabet: Vec<char> = "a1.@:-+(/=é \n\"eyJ🎻".chars().collect();
    let mut state = 5u64;
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..(state >> 58) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text.push(alphabet[(state >> 33) as usize % alphabet.len()]);
        }
        state = state.wrapping_add(1);
        let _ = masked("{}", &text);
    }
}
