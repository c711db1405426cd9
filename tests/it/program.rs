//! The binary as a new user meets it: first commands, wrong words, broken files.

use luthier_test::TestProject;

fn project() -> TestProject {
    TestProject::new(env!("CARGO_BIN_EXE_luthier"))
}

const WORDS: &str = r#"luthier: 1
params: {least: 2}
stages:
  raw:
    uses: ingest
    with: {files: [rows.jsonl]}
  clean:
    uses: filter
    in: raw
    with:
      steps:
        - plugin: builtin:length
          config: {min_chars: "${params.least}"}
        - dedup: exact
  split:
    uses: split
    in: clean
    with: {seed: 1, parts: {test: 1, train: rest}}
"#;

const ROWS: &str = r#"{"prompt": "one", "completion": "uno"}
{"prompt": "two", "completion": "due"}
{"prompt": "three", "completion": "tre"}
{"prompt": "two", "completion": "due"}
"#;

fn words() -> TestProject {
    let project = project();
    project.file("words.yaml", WORDS).file("rows.jsonl", ROWS);
    project
}

#[test]
fn runs_then_reuses_then_reruns_only_the_cone() {
    let project = words();
    let first = project.run(&["run", "words.yaml"]).success();
    assert!(first.stderr.contains("3 ran, 0 reused"), "{}", first.stderr);
    let second = project.run(&["run", "words.yaml"]).success();
    assert!(second.stderr.contains("nothing to do: 3 stages up to date"), "{}", second.stderr);

    project.edit("words.yaml", "params: {least: 2}", "# a comment\nparams: { least: 2 }");
    let cosmetic = project.run(&["run", "words.yaml"]).success();
    assert!(cosmetic.stderr.contains("nothing to do"), "{}", cosmetic.stderr);

    // The filter runs, its output is the same bytes, so nothing after it does.
    project.edit("words.yaml", "least: 2", "least: 3");
    let cut_off = project.run(&["run", "words.yaml"]).success();
    assert!(cut_off.stderr.contains("1 ran, 2 reused"), "{}", cut_off.stderr);

    project.edit("rows.jsonl", "tre", "tres");
    let explained = project.run(&["explain", "words.yaml", "split"]).success();
    assert!(explained.stdout.contains("rows.jsonl"), "{}", explained.stdout);
    let all = project.run(&["run", "words.yaml"]).success();
    assert!(all.stderr.contains("3 ran, 0 reused"), "{}", all.stderr);
}

#[test]
fn a_moved_project_reproduces_its_lock() {
    let project = words();
    let _ = project.run(&["run", "words.yaml"]).success();
    let lock = fs_err::read_to_string(project.path().join("words.lock")).expect("a lock");
    assert!(!lock.contains(project.path().as_str()), "no paths in the lock:\n{lock}");

    let elsewhere = words();
    elsewhere.file("words.lock", &lock);
    let _ = elsewhere.run(&["run", "words.yaml", "--locked", "--threads", "1"]).success();

    elsewhere.edit("rows.jsonl", "uno", "uni");
    let differs = elsewhere.run(&["run", "words.yaml", "--locked"]).failure(3);
    assert!(differs.stderr.contains("--locked"), "{}", differs.stderr);
    assert!(differs.stderr.contains("luthier diff"), "{}", differs.stderr);
}

#[test]
fn overriding_a_parameter_does_not_rewrite_the_lock() {
    let project = words();
    let _ = project.run(&["run", "words.yaml"]).success();
    let before = fs_err::read(project.path().join("words.lock")).expect("a lock");
    let _ = project.run(&["run", "words.yaml", "-p", "least=1"]).success();
    assert_eq!(before, fs_err::read(project.path().join("words.lock")).expect("a lock"));
}

#[test]
fn dry_run_writes_nothing() {
    let project = words();
    let planned = project.run(&["run", "words.yaml", "--dry-run"]).success();
    assert!(planned.stdout.contains("3 of 3 stages would run"), "{}", planned.stdout);
    assert!(!luthier_test::exists(project.path().join("words.lock")));
    let plan = project.run(&["plan", "words.yaml", "--json"]).success().json();
    assert_eq!(plan["stages"].as_array().map(Vec::len), Some(3));
    assert_eq!(plan["up_to_date"], false);
}

#[test]
fn a_broken_row_is_named_by_file_and_line() {
    let project = words();
    project.edit("rows.jsonl", "{\"prompt\": \"three\"", "{\"prompt\": three");
    let failed = project.run(&["run", "words.yaml"]).failure(2);
    assert!(failed.stderr.contains("rows.jsonl:3"), "{}", failed.stderr);
    assert!(failed.stderr.contains("stage `raw`"), "{}", failed.stderr);
    assert!(failed.stderr.contains("hint:"), "{}", failed.stderr);
    assert!(!luthier_test::exists(project.path().join("words.lock")));
}

#[test]
fn a_filter_that_keeps_nothing_says_which_step_dropped_most() {
    let project = words();
    let failed = project.run(&["run", "words.yaml", "-p", "least=1000"]);
    assert_ne!(failed.code, 0);
    assert!(failed.stderr.contains("stage `clean`"), "{}", failed.stderr);
    assert!(failed.stderr.contains("length"), "{}", failed.stderr);
    assert!(failed.stderr.contains("split not run: it needs `clean`"), "{}", failed.stderr);
}

#[test]
fn all_errors_of_a_file_come_at_once_with_their_lines() {
    let project = words();
    project.edit("words.yaml", "uses: filter", "uses: fliter").edit("words.yaml", "in: clean", "in: claen");
    let failed = project.run(&["run", "words.yaml"]).failure(2);
    assert!(failed.stderr.contains("words.yaml:8:11"), "{}", failed.stderr);
    assert!(failed.stderr.contains("words.yaml:17:9"), "{}", failed.stderr);
    assert!(failed.stderr.contains("did you mean `filter`?"), "{}", failed.stderr);
    assert!(failed.stderr.contains("did you mean `clean`?"), "{}", failed.stderr);
}

#[test]
fn wrong_words_get_a_way_on() {
    let project = words();
    let missing = project.run(&["run", "wrods.yaml"]).failure(2);
    assert!(missing.stderr.contains("did you mean `words.yaml`?"), "{}", missing.stderr);
    let stage = project.run(&["explain", "words.yaml", "splat"]).failure(2);
    assert!(stage.stderr.contains("did you mean `split`?"), "{}", stage.stderr);
    let kind = project.run(&["stages", "tokenise"]).failure(2);
    assert!(kind.stderr.contains("did you mean `tokenize`?"), "{}", kind.stderr);
    let empty = TestProject::new(env!("CARGO_BIN_EXE_luthier"));
    let none = empty.run(&["status"]).failure(2);
    assert!(none.stderr.contains("luthier init"), "{}", none.stderr);
}

#[test]
fn every_kind_documents_itself() {
    let project = project();
    let listed = project.run(&["stages"]).success();
    for kind in
        ["fetch", "ingest", "filter", "split", "tokenize", "plan", "train", "eval", "merge", "export", "command"]
    {
        assert!(listed.stdout.lines().any(|line| line.starts_with(kind)), "{kind} in:\n{}", listed.stdout);
        let one = project.run(&["stages", kind]).success();
        assert!(one.stdout.contains(kind), "{}", one.stdout);
    }
    let schema = project.run(&["schema"]).success().json();
    assert!(schema.is_object());
}

#[test]
fn init_writes_a_pipeline_that_loads() {
    let project = project();
    let _ = project.run(&["init"]).success();
    let again = project.run(&["init"]).failure(2);
    assert!(again.stderr.contains("--force"), "{}", again.stderr);
    assert!(luthier_test::exists(project.path().join("luthier.yaml")));
}

#[test]
fn data_is_shown_and_examined() {
    let project = words();
    let _ = project.run(&["run", "words.yaml"]).success();
    let shown = project.run(&["data", "show", "clean", "-f", "words.yaml"]).success();
    assert!(shown.stdout.contains("uno"), "{}", shown.stdout);
    let doctor = project.run(&["data", "doctor", "raw", "-f", "words.yaml"]).success();
    assert!(doctor.stdout.contains("exact copies: 1 of 4"), "{}", doctor.stdout);
}

#[test]
fn the_report_of_a_run_opens_anywhere() {
    let project = words();
    let _ = project.run(&["run", "words.yaml"]).success();
    let _ = project.run(&["report", "-o", "out.html"]).success();
    let page = fs_err::read_to_string(project.path().join("out.html")).expect("a report");
    assert!(page.contains("words") && page.contains("dedup-exact"), "{page}");
    assert!(!page.contains("<script"), "no scripts");
}

#[test]
fn damage_in_the_store_is_found_and_mended() {
    let project = words();
    let _ = project.run(&["run", "words.yaml"]).success();
    let _ = project.run(&["verify"]).success();
    let object = project.run(&["show", "words.yaml", "clean", "--path"]).success().stdout.trim().to_owned();
    let shard = project.path().join(object).join("part-00000.parquet");
    let mut bytes = fs_err::read(&shard).expect("a shard");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    // Stored files are read-only; damage does not ask.
    let mut permissions = fs_err::metadata(&shard).expect("metadata").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
    fs_err::set_permissions(&shard, permissions).expect("permissions");
    fs_err::write(&shard, bytes).expect("damage");
    let found = project.run(&["verify"]).failure(4);
    assert!(found.stderr.contains("damaged"), "{}{}", found.stdout, found.stderr);
    let _ = project.run(&["run", "words.yaml"]).success();
    let _ = project.run(&["verify"]).success();
}

#[test]
fn the_committed_schema_is_fresh() {
    let printed = project().run(&["schema"]).success().stdout;
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../pipelines/schema.json");
    let committed = fs_err::read_to_string(path).unwrap_or_default();
    assert!(
        printed == committed,
        "pipelines/schema.json is stale; run: cargo run --release -- schema > pipelines/schema.json"
    );
}

#[test]
fn sampling_says_what_it_takes() {
    let project = project();
    for (arguments, message, hint) in [
        (&["--temperature=200"][..], "`--temperature 200` is not from 0 to 100", "give `--temperature 0.7`"),
        (&["--temperature=1", "--top-p=0"], "`--top-p 0` is not a share above 0 and up to 1", "give `--top-p 0.9`"),
        (&["--top-k=5"], "`--top-k` and `--top-p` are given, but nothing is drawn", "add `--temperature 0.7`"),
    ] {
        let said = project.run(&[&["chat", "model.gguf", "--once", "hello"], arguments].concat()).failure(2);
        assert!(said.stderr.contains(message) && said.stderr.contains(hint), "{}", said.stderr);
    }
}
