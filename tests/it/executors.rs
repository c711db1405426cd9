//! Stages that execute elsewhere: by the example of an external executor, and by a real Slurm of one node.
#![cfg(target_os = "linux")]

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use luthier_test::TestProject;

use crate::processes::{alive, signal, wait_for};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../executors/example.py");
const SLURM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/slurm");

/// A pipeline whose stage `slow` notes that it executes, and runs until `go` exists.
const PIPELINE: &str = r#"luthier: 1
params: {word: b}
stages:
  a: {uses: command, with: {run: "echo a > ${out.x}", outputs: {x: file}}}
  slow:
    uses: command
    in: {a: a}
    with:
      run: "echo $$ >> started; until test -e go; do sleep 0.05; done; cat ${in.a} > ${out.x}; echo ${params.word} >> ${out.x}"
      outputs: {x: file}
  c: {uses: command, in: {a: a}, with: {run: "cat ${in.a} > ${out.x}", outputs: {x: file}}}
"#;

fn project(yaml: &str) -> TestProject {
    let project = TestProject::new(env!("CARGO_BIN_EXE_luthier"));
    project.file("p.yaml", yaml);
    project
}

/// With the example's jobs noted under the project.
fn with_example() -> (TestProject, String) {
    let mut project = project(PIPELINE);
    let jobs = project.path().join("jobs").to_string();
    project.env("EXAMPLE_JOBS", &jobs);
    (project, format!("external:{EXAMPLE}"))
}

fn started(project: &TestProject) -> Vec<String> {
    let text = fs_err::read_to_string(project.path().join("started")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn start(project: &TestProject, executor: &str) -> Child {
    let mut command = project.command(&["run", "p.yaml", "--executor", executor]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the runner starts")
}

/// Starts a run and kills its runner once the stage `slow` executes.
fn orphan(project: &TestProject, executor: &str) {
    let mut runner = start(project, executor);
    wait_for("the stage starts", || !started(project).is_empty());
    wait_for("the other stage ends", || project.run(&["show", "p.yaml", "c", "--path"]).code == 0);
    runner.kill().expect("SIGKILL");
    runner.wait().expect("it is dead");
}

/// What every executor of jobs must do.
fn checks(project: &TestProject, executor: &str) {
    // The runner dies, the job goes on, the next run follows it.
    orphan(project, executor);
    let pid = started(project)[0].clone();
    assert!(alive(&pid), "the job outlives the runner");
    let kept = project.run(&["gc", "--dry-run", "--json"]).success();
    assert!(!kept.stdout.contains("checkpoint"), "what a job works on is kept:\n{}", kept.stdout);
    project.file("go", "");
    let second = project.run(&["run", "p.yaml", "--executor", executor, "--verbose"]).success();
    assert!(second.stderr.contains("which an earlier run submitted"), "{}", second.stderr);
    assert_eq!(started(project).len(), 1, "the stage was executed once");
    let lock = fs_err::read_to_string(project.path().join("p.lock")).expect("a lock");
    let _ = project.run(&["run", "p.yaml", "--locked"]).success();

    // The runner dies, and the stage is wanted with another key, on another executor: the job is ended.
    for (word, other) in [("c", executor), ("d", "child")] {
        fs_err::remove_file(project.path().join("go")).expect("removed");
        fs_err::remove_file(project.path().join("started")).expect("removed");
        project.edit("p.yaml", "params: {word: b}", &format!("params: {{word: {word}{word}}}"));
        let mut runner = start(project, executor);
        wait_for("the stage starts", || !started(project).is_empty());
        runner.kill().expect("SIGKILL");
        runner.wait().expect("it is dead");
        let pid = started(project)[0].clone();
        project.edit("p.yaml", &format!("word: {word}{word}"), "word: b").edit(
            "p.yaml",
            "word: b",
            &format!("word: {word}"),
        );
        if other == "child" {
            // The same key on this machine.
            project.edit("p.yaml", "word: d", "word: dd");
        }
        let mut runner = start(project, other);
        wait_for("the old job ends", || !alive(&pid));
        wait_for("the stage starts again", || started(project).len() == 2);
        project.file("go", "");
        assert_eq!(runner.wait().expect("it ends").code(), Some(0));
        let text = fs_err::read_to_string(project.path().join("p.yaml")).expect("the pipeline");
        let now = if other == "child" { "word: dd" } else { "word: c" };
        project.file("p.yaml", text.replace(now, "word: b"));
    }
    let _ = project.run(&["run", "p.yaml"]).success();
    assert_eq!(fs_err::read_to_string(project.path().join("p.lock")).expect("a lock"), lock);

    // An interruption stops the job.
    fs_err::remove_file(project.path().join("go")).expect("removed");
    fs_err::remove_file(project.path().join("started")).expect("removed");
    project.edit("p.yaml", "word: b", "word: e");
    let mut runner = start(project, executor);
    wait_for("the stage starts", || !started(project).is_empty());
    let pid = started(project)[0].clone();
    signal(&runner.id().to_string(), "INT");
    assert_eq!(runner.wait().expect("it ends").code(), Some(130));
    wait_for("the end of the job", || !alive(&pid));

    // A stage that fails and one that is killed say so with their last lines.
    project.file("p.yaml", "luthier: 1\nstages:\n  fails: {uses: command, with: {run: \"echo its last words; exit 3\", outputs: {x: file}}}\n");
    let failed = project.run(&["run", "p.yaml", "--executor", executor]).failure(1);
    assert!(failed.stderr.contains("the command ended with exit code 3"), "{}", failed.stderr);
    assert!(failed.stderr.contains("its last words"), "{}", failed.stderr);
    project.file(
        "p.yaml",
        "luthier: 1\nstages:\n  dies: {uses: command, with: {run: \"kill -9 $PPID\", outputs: {x: file}}}\n",
    );
    let died = project.run(&["run", "p.yaml", "--executor", executor]).failure(1);
    assert!(died.stderr.contains("ended without a result"), "{}", died.stderr);
    if executor == "slurm" {
        assert!(died.stderr.contains("log: Slurm: JobState=FAILED"), "{}", died.stderr);
    }
}

#[test]
fn the_example_executes_stages_and_its_jobs_outlive_the_runner() {
    let (project, executor) = with_example();
    checks(&project, &executor);
}

#[test]
fn an_external_executor_that_breaks_is_a_failure_with_a_way_on() {
    let broken = |answers: &str| {
        let project = project(
            "luthier: 1\nstages:\n  a: {uses: command, with: {run: \"echo a > ${out.x}\", outputs: {x: file}}}\n",
        );
        project.file(
            "executor.sh",
            format!(
                "read line; echo '{{\"id\": 1, \"result\": {{\"protocol\": 1, \"poll_seconds\": 0.02}}}}'; {answers}"
            ),
        );
        let failed = project.run(&["run", "p.yaml", "--executor", "external:sh executor.sh"]).failure(1);
        let lines = failed.stderr.lines().filter(|line| !line.contains("report:") && !line.contains('▸'));
        lines.collect::<Vec<_>>().join("\n")
    };
    let said = [
        "read line; echo not json",
        "read line; echo '{\"id\": 2, \"error\": {\"message\": \"the queue is full\", \"hint\": \"wait, or run `queue drain`\"}}'",
        "read line; echo '{\"id\": 2, \"result\": {\"job\": \"17\"}}'; read line; echo the network is down >&2; exit 1",
        "read line; echo '{\"id\": 2, \"result\": {\"job\": \"17\"}}'; read line; echo '{\"id\": 3, \"result\": {\"jobs\": {\"17\": {\"state\": \"ended\", \"how\": \"out_of_memory\", \"detail\": \"137\"}}}}'; cat",
    ]
    .map(broken);
    insta::with_settings!({filters => vec![(r"\b\d+(\.\d+)? m?s\b", "[TIME]")]}, {
        insta::assert_snapshot!("broken_executors", said.join("\n---\n"));
    });
}

/// A Slurm of one node that ends with the test.
struct Slurm {
    directory: tempfile::TempDir,
    configuration: String,
}

impl Slurm {
    /// `None`, said and counted, where it cannot run. `LUTHIER_REQUIRE_SLURM` turns that into a failure.
    fn start() -> Option<Self> {
        let installed = |program: &str| {
            ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"]
                .iter()
                .any(|directory| Utf8Path::new(directory).join(program).exists())
        };
        let missing: Vec<&str> =
            ["slurmctld", "slurmd", "munged", "sbatch"].into_iter().filter(|name| !installed(name)).collect();
        let root = fs_err::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0);
        if !missing.is_empty() || !root {
            let why = if root { format!("{} not installed", missing.join(", ")) } else { "not root".to_owned() };
            assert!(std::env::var_os("LUTHIER_REQUIRE_SLURM").is_none(), "Slurm is required: {why}");
            luthier_test::skipped(&format!("no Slurm: {why} (Debian: apt-get install slurm-wlm munge)"));
            return None;
        }
        let directory = tempfile::Builder::new().prefix("slurm").tempdir().expect("a directory");
        let output =
            Command::new(format!("{SLURM}/start.sh")).arg(directory.path()).output().expect("the script starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let configuration = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Some(Self { directory, configuration })
    }

    fn command(&self, line: &str) -> String {
        let output =
            Command::new("sh").arg("-c").arg(line).env("SLURM_CONF", &self.configuration).output().expect("sh runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        let _ = Command::new(format!("{SLURM}/stop.sh")).arg(self.directory.path()).status();
    }
}

#[test]
fn slurm_executes_stages_and_its_jobs_outlive_the_runner() {
    let Some(slurm) = Slurm::start() else { return };
    let mut project = project(PIPELINE);
    project.env("SLURM_CONF", &slurm.configuration).env("LUTHIER_SLURM_POLL", "0.2");
    project.env("PATH", &format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()));
    checks(&project, "slurm");
    assert_eq!(slurm.command("squeue --noheader"), "", "no job is left");

    // Declared resources reach Slurm, and what it cannot give is refused with its own words.
    project.file(
        "p.yaml",
        r#"luthier: 1
executor: "slurm:--comment=mine"
stages:
  sized:
    uses: command
    with: {run: "env | grep ^SLURM_ | sort > ${out.x}; scontrol -o show job $SLURM_JOB_ID >> ${out.x}", outputs: {x: file}, env: {SLURM_CONF: "${env.SLURM_CONF}"}}
    resources: {threads: 2, memory: 100MiB, time: 2h}
"#,
    );
    let shown = {
        let _ = project.run(&["run", "p.yaml"]);
        let job = slurm.command("scontrol -o show job | tail -n 1");
        assert!(
            job.contains("NumCPUs=2") && job.contains("MinMemoryNode=100M") && job.contains("TimeLimit=02:00:00"),
            "{job}"
        );
        job
    };
    assert!(shown.contains("Comment=mine"), "{shown}");
    project.file(
        "p.yaml",
        "luthier: 1\nexecutor: slurm\nstages:\n  huge: {uses: command, with: {run: \"echo > ${out.x}\", outputs: {x: file}}, resources: {threads: 1, memory: 900TB}}\n",
    );
    let refused = project.run(&["run", "p.yaml"]).failure(2);
    let lines = refused.stderr.lines().filter(|line| !line.contains("report:") && !line.contains('▸'));
    insta::with_settings!({filters => vec![(r"\b\d+(\.\d+)? m?s\b", "[TIME]")]}, {
        insta::assert_snapshot!("slurm_refuses", lines.collect::<Vec<_>>().join("\n"));
    });

    // Somebody else cancels the job.
    project.file("p.yaml", "luthier: 1\nexecutor: slurm\nstages:\n  a: {uses: command, with: {run: \"echo $$ > mine; sleep 60\", outputs: {x: file}}}\n");
    let runner =
        project.command(&["run", "p.yaml"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
    wait_for("the job starts", || project.path().join("mine").exists());
    let _ = slurm.command("scancel $(squeue --noheader --format=%i)");
    let output = runner.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("CANCELLED AT"), "{said}");

    // All jobs of a run are asked about in one question.
    let many: String = (0..6).map(|n| format!("  s{n}: {{uses: command, with: {{run: \"sleep 1; echo {n} > ${{out.x}}\", outputs: {{x: file}}}}, resources: {{threads: 1}}}}\n")).collect();
    project.file("p.yaml", format!("luthier: 1\nexecutor: slurm\nstages:\n{many}"));
    let counter = wrap(project.path(), "squeue");
    project.env(
        "PATH",
        &format!("{}:{}", counter.parent().expect("a directory"), std::env::var("PATH").unwrap_or_default()),
    );
    let began = std::time::Instant::now();
    let _ = project.run(&["run", "p.yaml"]).success();
    let questions = fs_err::read_to_string(project.path().join("asked")).expect("questions").lines().count();
    let polls = (began.elapsed() + Duration::from_secs(1)).as_secs_f64() / 0.2;
    assert!((questions as f64) < polls, "{questions} questions in {polls} intervals for six jobs");
}

/// Puts a script before a program in a directory of its own, that counts how often it is called.
fn wrap(root: &Utf8Path, program: &str) -> Utf8PathBuf {
    let path = root.join("bin").join(program);
    fs_err::create_dir_all(path.parent().expect("a directory")).expect("made");
    fs_err::write(&path, format!("#!/bin/sh\necho >> {root}/asked\nexec /usr/bin/{program} \"$@\"\n"))
        .expect("written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs_err::set_permissions(&path, mode).expect("executable");
    path
}
