//! The text of every kind of error.

use super::Bench;

/// One snapshot per case; every case must fail.
fn snapshots(cases: &[(&str, &str)]) {
    let bench = Bench::new();
    for (name, text) in cases {
        insta::assert_snapshot!(*name, bench.errors(text));
    }
}

#[test]
fn yaml_that_cannot_be_read() {
    snapshots(&[
        ("yaml_syntax", "luthier: 1\nstages:\n  raw: {uses: ingest\n"),
        ("yaml_tab", "luthier: 1\nstages:\n\traw:\n\t\tuses: ingest\n"),
        ("yaml_colon", "luthier: 1\nstages:\n  raw:\n    uses: ingest: now\n"),
        ("yaml_second_document", "luthier: 1\nstages: {raw: {uses: ingest}}\n---\nluthier: 1\n"),
        ("yaml_empty", "# nothing yet\n"),
        ("yaml_duplicate_key", "luthier: 1\nstages:\n  raw:\n    uses: ingest\n  raw:\n    uses: fetch\n"),
        (
            "yaml_complex_key",
            "luthier: 1\nstages:\n  raw:\n    uses: ingest\n    with:\n      map: {prompt: {{ row.x }}}\n",
        ),
        ("yaml_unknown_alias", "luthier: 1\nstages:\n  raw: {uses: ingest, with: {files: *data}}\n"),
        ("yaml_inner_alias", "luthier: 1\nstages: &all\n  raw: *all\n"),
        (
            "yaml_infinite",
            "luthier: 1\nparams: {rate: .inf, big: 99999999999999999999}\nstages: {raw: {uses: ingest}}\n",
        ),
        (
            "yaml_tag",
            "luthier: 1\nparams: {a: !secret x, b: !!int many, c: !set {x: 1}}\nstages: {raw: {uses: ingest}}\n",
        ),
        ("yaml_merge", "luthier: 1\nstages:\n  raw:\n    <<: ingest\n    uses: ingest\n"),
    ]);
}

#[test]
fn aliases_and_depth_have_a_budget() {
    let bench = Bench::new();
    let mut bomb = "luthier: 1\nparams:\n  a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let before = format!("*a{}", level - 1);
        bomb.push_str(&format!("  a{level}: &a{level} [{}]\n", [before.as_str(); 9].join(", ")));
    }
    insta::assert_snapshot!("yaml_alias_budget", bench.errors(&bomb));
    let deep = format!("luthier: 1\nparams:\n  deep: {}{}\n", "[".repeat(120), "]".repeat(120));
    insta::assert_snapshot!("yaml_depth", bench.errors(&deep));
    let mut ladder = "luthier: 1\nparams:\n  a0: &a0 x\n".to_owned();
    for level in 1..120 {
        ladder.push_str(&format!("  a{level}: &a{level} [*a{}]\n", level - 1));
    }
    insta::assert_snapshot!("yaml_alias_depth", bench.errors(&ladder));
}

#[test]
fn shape_of_the_file() {
    snapshots(&[
        ("shape_not_a_mapping", "- luthier: 1\n- stages: {}\n"),
        ("shape_missing_keys", "name: words\n"),
        ("shape_version", "luthier: 2\nstages: {raw: {uses: ingest}}\n"),
        ("shape_version_text", "luthier: one\nstages: {raw: {uses: ingest}}\n"),
        (
            "shape_unknown_keys",
            "luthier: 1\nstagse: {}\nstages:\n  raw:\n    uses: ingest\n    wiht: {files: [train.jsonl]}\n    colour: red\n",
        ),
        (
            "shape_names",
            "luthier: 1\nparams: {9lives: 1}\nstages:\n  my stage: {uses: ingest}\n  a@b: {uses: ingest}\n",
        ),
        (
            "shape_missing_uses",
            "luthier: 1\nstages:\n  raw:\n    with: {files: [train.jsonl]}\n  clean:\n    in: raw\n    uses:\n",
        ),
        (
            "shape_wrong_types",
            "luthier: 1\nname: [a]\nparams: 3\nstages:\n  raw: ingest\n  clean:\n    uses: filter\n    in: raw\n    with: [1, 2]\n",
        ),
        ("shape_no_stages", "luthier: 1\nstages: {}\n"),
        ("shape_unknown_kind", "luthier: 1\nstages:\n  raw: {uses: ingset}\n  clean: {uses: quantize, in: raw}\n"),
    ]);
}

#[test]
fn parameters_of_a_stage() {
    snapshots(&[
        (
            "config_issues",
            "luthier: 1\nstages:\n  raw:\n    uses: ingest\n    with: {files: [train.jsonl]}\n  clean:\n    uses: filter\n    in: raw\n    with:\n      steps:\n        - plugin: ./no-urls\n          config: {max: 200}\n        - plugn: ./other\n",
        ),
        (
            "config_of_matrix_is_said_once",
            "luthier: 1\nstages:\n  base: {uses: fetch, with: {from: x}}\n  raw: {uses: ingest}\n  tokens: {uses: tokenize, in: {model: base, data: raw}}\n  adapter:\n    uses: train\n    in: {model: base, data: tokens}\n    with: {rank: \"${matrix.rank}\", methd: lora}\n    matrix: {rank: [8, 16]}\n",
        ),
        (
            "config_through_a_reference",
            "luthier: 1\nparams: {length: long}\nstages:\n  base: {uses: fetch, with: {from: x}}\n  raw: {uses: ingest}\n  tokens:\n    uses: tokenize\n    in: {model: base, data: raw}\n    with:\n      max_length: ${params.length}\n",
        ),
        (
            "missing_source",
            "luthier: 1\nstages:\n  raw:\n    uses: ingest\n    with:\n      files: [train.jsonl, trian.jsonl, /no/such/directory/x.jsonl, .]\n",
        ),
        (
            "settings",
            "luthier: 1\nstages:\n  raw:\n    uses: ingest\n    env: [CORPUS, NOT_SET]\n    resources: {threads: -1, memory: lots, gpu: maybe, disk: 1GB}\n    retries: often\n",
        ),
    ]);
}

#[test]
fn references() {
    snapshots(&[
        (
            "reference_unknown",
            "luthier: 1\nparams: {rank: 8}\nstages:\n  raw:\n    uses: ingest\n    with:\n      files: [\"${params.rnak}\", \"${matrix.rank}\", \"${env.NOT_SET}\", \"${parms.rank}\", \"${rank}\", \"${HOME}\"]\n",
        ),
        ("reference_open", "luthier: 1\nstages:\n  raw: {uses: ingest, with: {files: [\"data/${params.x\"]}}\n"),
        (
            "reference_to_a_list",
            "luthier: 1\nparams: {files: [a, b]}\nstages:\n  raw: {uses: ingest, with: {files: [\"data/${params.files}\"]}}\n",
        ),
        (
            "reference_in_japanese",
            "luthier: 1\nstages:\n  raw: {uses: ingest, with: {files: [\"データ/${params.名前}\"]}}\n",
        ),
    ]);
}

#[test]
fn overrides() {
    let bench = Bench::new();
    let text = "luthier: 1\nparams: {rank: 8}\nstages: {raw: {uses: ingest}}\n";
    insta::assert_snapshot!("override_unknown", bench.errors_with(text, &[("rnak", "16")]));
    insta::assert_snapshot!("override_unreadable", bench.errors_with(text, &[("rank", "[1, 2")]));
    let without = "luthier: 1\nstages: {raw: {uses: ingest}}\n";
    insta::assert_snapshot!("override_without_params", bench.errors_with(without, &[("rank", "16")]));
}

#[test]
fn edges() {
    const BASE: &str = "luthier: 1\nstages:\n  base: {uses: fetch, with: {from: x}}\n  raw: {uses: ingest, with: {files: [train.jsonl]}}\n  clean: {uses: filter, in: raw, with: {steps: []}}\n  split: {uses: split, in: clean, with: {parts: {test: 10, train: rest}}}\n";
    let bench = Bench::new();
    for (name, stage) in [
        ("edge_unknown_stage", "tokens: {uses: tokenize, in: {model: bse, data: split.train}}"),
        ("edge_unknown_stage_far", "tokens: {uses: tokenize, in: {model: somewhere, data: split.train}}"),
        ("edge_unknown_output", "tokens: {uses: tokenize, in: {model: base, data: split.trian}}"),
        ("edge_ambiguous_output", "tokens: {uses: tokenize, in: {model: base, data: split}}"),
        ("edge_type_mismatch", "tokens: {uses: tokenize, in: {model: raw, data: base}}"),
        ("edge_missing_input", "tokens: {uses: tokenize, in: base}"),
        ("edge_missing_in", "clean2: {uses: filter, with: {steps: []}}"),
        ("edge_unknown_port", "tokens: {uses: tokenize, in: {modle: base, data: split.train, extra: raw}}"),
        ("edge_not_expected", "again: {uses: fetch, with: {from: x}, in: base}"),
        ("edge_too_many", "clean2: {uses: filter, in: [raw, clean], with: {steps: []}}"),
        ("edge_not_a_name", "tokens: {uses: tokenize, in: {model: 3, data: [{a: b}, []]}}"),
        ("edge_empty_list", "clean2: {uses: filter, in: [], with: {steps: []}}"),
        ("edge_self", "again: {uses: filter, in: again, with: {steps: []}}"),
        (
            "edge_bad_port_name",
            "sort: {uses: command, in: {my words: raw}, with: {run: sort, outputs: {sorted: file}}}",
        ),
    ] {
        insta::assert_snapshot!(name, bench.errors(&format!("{BASE}  {stage}\n")));
    }
}

#[test]
fn rings() {
    snapshots(&[(
        "cycle",
        "luthier: 1\nstages:\n  a: {uses: filter, in: c, with: {steps: []}}\n  b: {uses: filter, in: a, with: {steps: []}}\n  c: {uses: filter, in: b, with: {steps: []}}\n  d: {uses: filter, in: c, with: {steps: []}}\n  x: {uses: filter, in: y, with: {steps: []}}\n  y: {uses: filter, in: x, with: {steps: []}}\n",
    )]);
}

#[test]
fn matrices() {
    const BASE: &str = "luthier: 1\nstages:\n  base: {uses: fetch, with: {from: x}}\n  raw: {uses: ingest}\n  tokens: {uses: tokenize, in: {model: base, data: raw}}\n";
    const SWEEP: &str = "  adapter:\n    uses: train\n    in: {model: base, data: tokens}\n    with: {rank: \"${matrix.rank}\", learning_rate: 1e-3}\n    matrix: {rank: [8, 16]}\n";
    let bench = Bench::new();
    for (name, text) in [
        ("matrix_not_a_list", "  adapter: {uses: train, in: {model: base, data: tokens}, with: {learning_rate: 1}, matrix: {rank: 8, lr: [], alpha: [[1]], \"a b\": [1]}}\n".to_owned()),
        ("matrix_twice", "  adapter: {uses: train, in: {model: base, data: tokens}, with: {learning_rate: 1}, matrix: {rank: [8, 8]}}\n".to_owned()),
        ("matrix_wrong_shape", "  adapter: {uses: train, in: {model: base, data: tokens}, with: {learning_rate: 1}, matrix: [8, 16]}\n".to_owned()),
        ("matrix_too_large", format!("  adapter: {{uses: train, matrix: {{a: &n [{}], b: *n, c: *n}}}}\n", (0..30).map(|n| n.to_string()).collect::<Vec<_>>().join(", "))),
        ("matrix_one_port", format!("{SWEEP}  many:\n    uses: merge\n    in: {{model: base, adapters: adapter}}\n    matrix: {{rank: [8, 16]}}\n  again: {{uses: tokenize, in: {{model: many, data: raw}}}}\n")),
        ("matrix_no_member", format!("{SWEEP}  merged: {{uses: merge, in: {{model: base, adapters: adapter@rank=32}}}}\n")),
        ("matrix_no_pair", format!("{SWEEP}  merged: {{uses: merge, in: {{model: base, adapters: adapter}}, matrix: {{rank: [32]}}}}\n")),
    ] {
        insta::assert_snapshot!(name, bench.errors(&format!("{BASE}{text}")));
    }
}

#[test]
fn unreadable_files() {
    let bench = Bench::new();
    let registry = super::kinds::registry();
    let missing = bench.file().with_file_name("missing.yaml");
    let errors = super::super::load(&missing, &[], &registry).expect_err("no such file");
    insta::assert_snapshot!("file_missing", bench.plain(&errors.render(false, 100)));
    fs_err::write(bench.file(), b"luthier: 1\nname: caf\xe9\n").expect("written");
    let errors = super::super::load(&bench.file(), &[], &registry).expect_err("not UTF-8");
    insta::assert_snapshot!("file_not_utf8", bench.plain(&errors.render(false, 100)));
}

#[test]
fn colour_repeats_what_the_text_says_and_json_has_the_bytes() {
    let bench = Bench::new();
    let text = "luthier: 1\nstages:\n  raw: {uses: ingset}\n";
    let errors = bench.load_with(text, &[]).expect_err("unknown kind");
    let colored = errors.render(true, 100);
    let mut stripped = String::new();
    let mut escape = false;
    for c in colored.chars() {
        match (escape, c) {
            (false, '\u{1b}') => escape = true,
            (true, 'm') => escape = false,
            (false, c) => stripped.push(c),
            _ => {}
        }
    }
    assert_ne!(stripped, colored);
    assert_eq!(stripped, errors.render(false, 100));
    let json = errors.to_json();
    let label = &json["errors"][0]["labels"][0];
    assert_eq!(label["line"], 3);
    assert_eq!(label["column"], 15);
    let (offset, length) = (label["offset"].as_u64().expect("offset"), label["length"].as_u64().expect("length"));
    assert_eq!(&text[offset as usize..(offset + length) as usize], "ingset");
    assert_eq!(errors.class(), luthier_core::ErrorClass::Input);
}

#[test]
fn long_lines_are_cut_around_what_is_marked() {
    let bench = Bench::new();
    let padding = "x".repeat(300);
    let text = format!(
        "luthier: 1\nstages:\n  raw: {{uses: ingest, about: {padding}, in: nowhere, retries: 1}} # {padding}\n"
    );
    insta::assert_snapshot!("long_line", bench.errors(&text));
}

#[test]
fn source_lines_and_their_labels_fit_the_terminal() {
    let bench = Bench::new();
    let padding = "y".repeat(60);
    let texts = [
        format!("luthier: 1\nstages:\n  raw: {{uses: ingest, about: {padding}, in: nowhere, retries: 1000}}\n"),
        format!("luthier: 1\nstages:\n  raw:\n    uses: ingest\n    about: {padding}\n    retries: no # {padding}\n"),
        format!("luthier: 1\nstages:\n  raw: {{uses: ingest, about: {padding}, with: [{padding}\n"),
    ];
    for text in &texts {
        let errors = bench.load_with(text, &[]).expect_err("wrong");
        for width in 40..130 {
            let shown = errors.render(false, width);
            let beside =
                |line: &&str| line.trim_start_matches([' ', '0', '1', '2', '3', '4', '5', '6']).starts_with(['|', ':']);
            let long: Vec<&str> = shown.lines().filter(beside).filter(|line| line.chars().count() > width).collect();
            assert!(long.is_empty(), "{width}: {long:#?}");
        }
    }
    let errors = bench.load_with(&texts[0], &[]).expect_err("wrong");
    insta::assert_snapshot!("narrow", bench.plain(&errors.render(false, 48)));
}

#[test]
fn many_errors_are_counted() {
    let bench = Bench::new();
    let mut text = "luthier: 1\nstages:\n".to_owned();
    for index in 0..60 {
        text.push_str(&format!("  s{index}: {{uses: nothing}}\n"));
    }
    let shown = bench.errors(&text);
    assert!(shown.ends_with("and 10 more errors\n\npipeline.yaml: 60 errors"), "{shown}");
    assert_eq!(shown.matches("luthier::spec::unknown_kind").count(), 50);
}
