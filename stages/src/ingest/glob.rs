//! Globs over the files beside a pipeline: `*` and `?` within a name, `**` for any number of directories.

use std::io;

use camino::{Utf8Path, Utf8PathBuf};

/// Whether the text is a pattern rather than a path.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// The files that match, sorted by path, relative to `root` as the pattern is.
///
/// # Errors
/// An unreadable directory.
pub fn expand(root: &Utf8Path, pattern: &str) -> io::Result<Vec<Utf8PathBuf>> {
    let parts: Vec<&str> = pattern.split('/').filter(|part| *part != ".").collect();
    let fixed = parts.iter().take_while(|part| !is_pattern(part)).count().min(parts.len().saturating_sub(1));
    let start: Utf8PathBuf = if pattern.starts_with('/') { Utf8PathBuf::from("/") } else { Utf8PathBuf::new() }
        .join(parts[..fixed].join("/"));
    let directory = root.join(&start);
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let names = luthier_core::fs::walk_files(&directory)?;
    let rest = &parts[fixed..];
    let matching = names.iter().filter(|name| {
        let name: Vec<&str> = name.split('/').collect();
        match_parts(rest, &name)
    });
    Ok(matching.map(|name| start.join(name)).collect())
}

fn match_parts(pattern: &[&str], name: &[&str]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((&"**", rest)), _) => {
            match_parts(rest, name) || name.split_first().is_some_and(|(_, tail)| match_parts(pattern, tail))
        }
        (Some((part, rest)), Some((first, tail))) => match_name(part, first) && match_parts(rest, tail),
        _ => false,
    }
}

/// A leading dot matches only a written one.
fn match_name(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() {
        if p < pattern.len() && pattern[p] == '*' {
            star = Some((p, n));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == '?' || pattern[p] == name[n]) {
            (p, n) = (p + 1, n + 1);
        } else if let Some((star_p, star_n)) = star {
            (p, n) = (star_p + 1, star_n + 1);
            star = Some((star_p, star_n + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_names_and_directories() {
        assert!(match_name("*.jsonl", "a.jsonl") && !match_name("*.jsonl", ".a.jsonl") && !match_name("a?", "a"));
        assert!(match_name("a*b*c", "axxbxbxc") && !match_name("a*b", "axc"));
        assert!(match_parts(&["**", "x.txt"], &["x.txt"]) && match_parts(&["**", "x.txt"], &["a", "b", "x.txt"]));
        assert!(!match_parts(&["*", "x.txt"], &["a", "b", "x.txt"]));
    }

    #[test]
    fn expands_in_sorted_order() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = Utf8Path::from_path(dir.path()).expect("UTF-8");
        for name in ["d/b.txt", "d/a.txt", "d/sub/c.txt", "d/x.md"] {
            fs_err::create_dir_all(root.join(name).parent().expect("a parent")).expect("a directory");
            fs_err::write(root.join(name), "").expect("write");
        }
        assert_eq!(expand(root, "d/*.txt").expect("expand"), ["d/a.txt", "d/b.txt"]);
        assert_eq!(expand(root, "./d/**/*.txt").expect("expand"), ["d/a.txt", "d/b.txt", "d/sub/c.txt"]);
        let absolute = format!("{root}/d/?.md");
        assert_eq!(expand(Utf8Path::new("/elsewhere"), &absolute).expect("expand"), [root.join("d/x.md")]);
        assert!(expand(root, "none/*.txt").expect("expand").is_empty());
    }
}
