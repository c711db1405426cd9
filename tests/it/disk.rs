//! Stores on file systems that are full, read-only, elsewhere or gone. Mounts are made in a namespace of their own, so
//! they need no rights where the system allows user namespaces.

use std::process::Command;

use luthier_test::{Output, TestProject};

const PIPELINE: &str = r#"luthier: 1
stages:
  a:
    uses: command
    with: {run: "head -c 300000 /dev/zero | tr '\\0' a > ${out.a}", outputs: {a: file}}
  b:
    uses: command
    in: {from: a}
    with: {run: "mkdir ${out.b} && wc -c < ${in.from} > ${out.b}/size", outputs: {b: file}}
"#;

fn project() -> TestProject {
    let project = TestProject::new(env!("CARGO_BIN_EXE_luthier"));
    project.file("p.yaml", PIPELINE);
    fs_err::create_dir_all(project.path().join("disk")).expect("a mount point");
    project
}

/// Runs a script in which `luthier` is the program and `disk` an empty file system of `size`; `None` where mounts are
/// not allowed.
fn on_a_small_disk(project: &TestProject, size: &str, script: &str) -> Option<Output> {
    let command = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["-rm", "sh", "-c", script]).current_dir(project.path());
        command.env("NO_COLOR", "1").env("COLUMNS", "100");
        command
    };
    let mount = format!("mount -t tmpfs -o size={size} tmpfs disk");
    if !command(&mount).output().is_ok_and(|output| output.status.success()) {
        luthier_test::skipped("`unshare -rm` and `mount -t tmpfs` are not allowed here");
        return None;
    }
    let script = format!("set -e\n{mount}\nluthier() {{ {} \"$@\"; }}\n{script}", env!("CARGO_BIN_EXE_luthier"));
    let output = command(&script).output().expect("a shell");
    Some(Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Messages with names that differ from run to run replaced.
fn words(project: &TestProject, output: &Output) -> String {
    let text = project.filtered(&output.stderr);
    let run = regex::Regex::new(r"\d{8}-\d{6}-\d{3}-[0-9a-f]{4}").expect("a pattern");
    let text = run.replace_all(&text, "[RUN]").into_owned();
    text.lines().filter(|line| !line.starts_with("report: ")).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_full_disk_is_named_with_a_remedy() {
    let project = project();
    let full = "head -c 10000000 /dev/zero > disk/fill 2> /dev/null || true\nluthier run --store disk/store";
    let Some(output) = on_a_small_disk(&project, "1m", full) else { return };
    let output = output.failure(4);
    insta::assert_snapshot!(words(&project, &output), @r#"
    error: no space left on the device of the store `[PROJECT]/disk/store`
      caused by: failed to write to file `[PROJECT]/disk/store/.gitignore`: No space left on device (os error 28)

    hint: free some space, or run `luthier gc --dry-run` to see what the store can give back
    "#);

    // The disk fills while a stage writes; with room made, the same command goes on.
    let fills = "head -c 900000 /dev/zero > disk/fill\n\
                 luthier run --store disk/store && exit 9\n\
                 echo code $? >&2\n\
                 luthier verify --store disk/store\n\
                 rm disk/fill\n\
                 luthier run --store disk/store 2> /dev/null\n\
                 luthier verify --store disk/store";
    let Some(output) = on_a_small_disk(&project, "1m", fills) else { return };
    let output = output.success();
    insta::assert_snapshot!(words(&project, &output), @r#"
    ▸ a: never run before
    error: stage `a`: no space left on the device of the store `[PROJECT]/disk/store`
      caused by: the command ended with exit code 1
      caused by: tr: write error: No space left on device
    tr: write error

    hint: free some space, or run `luthier gc --dry-run` to see what the store can give back
    hint: its last lines are above; `--verbose` prints all of them
    – b not run: it needs `a`
    ✗ 0 ran, 0 reused, 1 failed, 1 blocked in [TIME]
    code 4
    "#);
    assert!(output.stdout.ends_with("2 objects hashed, 300.0 kB: all as recorded\n"), "{}", output.stdout);
}

#[test]
fn a_read_only_store_serves_what_it_has_and_refuses_the_rest() {
    let project = project();
    let script = "luthier run --store disk/store 2> /dev/null\n\
                  mount -o remount,ro disk\n\
                  luthier run --store disk/store\n\
                  luthier verify --store disk/store\n\
                  sed -i s/300000/200000/ p.yaml\n\
                  luthier run --store disk/store && exit 9\n\
                  echo code $? >&2";
    let Some(output) = on_a_small_disk(&project, "2m", script) else { return };
    let output = output.success();
    insta::assert_snapshot!(words(&project, &output), @r#"
    ✓ nothing to do: 2 stages up to date ([TIME])
    error: the store `[PROJECT]/disk/store/store` cannot be written
      caused by: failed to open file `[PROJECT]/disk/store/store/collect.lock`: Read-only file system (os error 30)

    hint: check the owner and mode of `[PROJECT]/disk/store/store`, or point `--store` at a writable directory
    code 4
    "#);
}

#[test]
fn a_full_remote_stops_no_run_and_says_so() {
    let project = project();
    let script = "luthier run --remote ./disk\n\
                  luthier push --remote ./disk && exit 9\n\
                  echo code $? >&2\n\
                  mount -o remount,size=4m disk\n\
                  luthier push --remote ./disk\n\
                  rm -r .luthier\n\
                  luthier run --locked --remote ./disk 2> again";
    let Some(output) = on_a_small_disk(&project, "200k", script) else { return };
    let output = output.success();
    let text = words(&project, &output);
    // How much arrived before the disk was full is a matter of order.
    let (run, push) = text.split_once("\nerror:").expect("the push fails");
    assert!(run.contains("✓ 2 ran, 0 reused") && run.matches("warning: no space left on").count() == 1, "{text}");
    insta::assert_snapshot!(format!("error:{push}"), @r#"
    error: no space left on the remote file://[PROJECT]/disk
      caused by: Generic LocalFileSystem error: Unable to copy data to file: No space left on device (os error 28)

    hint: free some space there, or name another remote with `--remote`
    code 4
    "#);
    let again = fs_err::read_to_string(project.path().join("again")).expect("the last run");
    assert!(again.contains("nothing to do: 2 stages up to date, equal to the lock"), "{again}");
}

#[test]
fn a_read_only_remote_is_read_and_stops_no_run() {
    let project = project();
    let script = "luthier run --remote ./disk 2> /dev/null\n\
                  mount -o remount,ro disk\n\
                  rm -r .luthier\n\
                  luthier remote --remote ./disk\n\
                  luthier run --locked --remote ./disk 2> again\n\
                  sed -i s/300000/200000/ p.yaml\n\
                  luthier run --quiet --remote ./disk\n\
                  luthier push --remote ./disk && exit 9\n\
                  echo code $? >&2";
    let Some(output) = on_a_small_disk(&project, "4m", script) else { return };
    let output = output.success();
    let again = fs_err::read_to_string(project.path().join("again")).expect("the second run");
    assert!(again.contains("2 results from file://"), "{again}");
    let text = words(&project, &output);
    let name = regex::Regex::new("objects/[0-9a-f]{2}").expect("a pattern");
    insta::assert_snapshot!(name.replace_all(&text, "objects/[..]"), @r#"
    warning: the remote file://[PROJECT]/disk cannot be written
      caused by: Generic LocalFileSystem error: Unable to create dir [PROJECT]/disk/v1/objects/[..]: Read-only file system (os error 30)

    hint: results are still read from it; ask its owner for the right to write, or run with `--no-push`
    error: the remote file://[PROJECT]/disk cannot be written
      caused by: Generic LocalFileSystem error: Unable to create dir [PROJECT]/disk/v1/objects/[..]: Read-only file system (os error 30)

    hint: results are still read from it; ask its owner for the right to write, or run with `--no-push`
    code 4
    "#);
    insta::assert_snapshot!(project.filtered(&output.stdout).trim(), @r#"
    file://[PROJECT]/disk: 2 results in 2 objects, 300.0 kB, read-only
    0 results sent to file://[PROJECT]/disk (0 B in 0 objects), 0 there already
    "#);
}

#[test]
fn a_store_on_another_file_system_gives_the_same_bytes() {
    let project = project();
    let _ = project.run(&["run"]).success();
    let script = "luthier run --locked --store disk/store 2> /dev/null\n\
                  luthier verify --store disk/store\n\
                  luthier push --store disk/store --remote ./share\n\
                  luthier run --locked --store disk/other --remote ./share 2> /dev/null\n\
                  luthier verify --store disk/other";
    let Some(output) = on_a_small_disk(&project, "4m", script) else { return };
    let output = output.success();
    assert_eq!(output.stdout.matches("2 objects hashed, 300.0 kB: all as recorded\n").count(), 2, "{}", output.stdout);
}

#[test]
fn a_store_deleted_under_a_run_is_made_anew() {
    let project = project();
    project.file("p.yaml", PIPELINE.replacen("wc -c", "while [ -e hold ]; do sleep 0.01; done; wc -c", 1));
    project.file("hold", "");
    let child = project
        .command(&["run"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("a run");
    let claims = project.path().join(".luthier/store/claims");
    let records = project.path().join(".luthier/store/records");
    let began = std::time::Instant::now();
    // `a` is stored and `b` is running.
    while !luthier_test::exists(&records) || fs_err::read_dir(&claims).map_or(0, Iterator::count) == 0 {
        assert!(began.elapsed().as_secs() < 60, "the run does not start");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let store = project.path().join(".luthier/store");
    // The run writes into it meanwhile, so that a directory may not be empty when its turn comes.
    while luthier_test::exists(&store) {
        let _ = fs_err::remove_dir_all(&store);
        assert!(began.elapsed().as_secs() < 60, "the store cannot be deleted");
    }
    fs_err::remove_file(project.path().join("hold")).expect("the run goes on");
    let output = child.wait_with_output().expect("an end");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 1 | 4)), "{:?}: {stderr}", output.status);
    assert!(!stderr.contains("panicked"), "{stderr}");
    let _ = project.run(&["run"]).success();
    let _ = project.run(&["verify"]).success();
    let _ = project.run(&["run", "--locked"]).success();
}
