use std::time::{Duration, Instant};

use luthier_core::{BatchExecutor, CancelMode, JobEnd, JobOrder, JobState, Resources, StageError};

use super::External;

/// An executor whose program is a line of Python or shell.
fn shell(line: &str) -> Vec<String> {
    ["sh", "-c", line].map(str::to_owned).to_vec()
}

const LIMIT: Duration = Duration::from_secs(20);

fn refused(line: &str) -> StageError {
    match External::with_limit(shell(line), Duration::from_millis(300)) {
        Ok(_) => panic!("`{line}` is no executor"),
        Err(error) => error,
    }
}

fn say(error: &StageError) -> String {
    let mut text = format!("{}: {error}\n", error.code);
    if let Some(cause) = std::error::Error::source(error) {
        text.push_str(&format!("caused by: {cause}\n"));
    }
    for hint in &error.hints {
        text.push_str(&format!("hint: {hint}\n"));
    }
    text
}

#[test]
fn programs_that_misbehave_are_told_apart() {
    let said: Vec<String> = [
        "echo no such cluster >&2; exit 3",
        "read line; echo Traceback",
        "read line; echo '{\"id\": 9, \"result\": {}}'",
        "read line; echo '{\"id\": 1, \"result\": {\"protocol\": 2}}'",
        "read line; echo '{\"id\": 1, \"result\": {\"protocl\": 1}}'",
        "read line; echo '{\"id\": 1, \"error\": {\"message\": \"not logged in\", \"hint\": \"run `login`\"}}'",
        "read line; echo still thinking >&2; sleep 30",
    ]
    .map(|line| say(&refused(line)))
    .to_vec();
    insta::assert_snapshot!("misbehaviour", said.join("\n"));
    let missing = External::new(vec!["./no-such-executor".to_owned()]).map(drop).expect_err("it is not there");
    insta::assert_snapshot!("missing", say(&missing));
}

#[test]
fn a_program_that_ends_is_started_again() {
    let once = r#"read line; echo '{"id": 1, "result": {"protocol": 1}}'; read line; exit 1"#;
    let external = External::with_limit(shell(once), LIMIT).expect("it introduces itself");
    let error = external.poll(&["a".to_owned()]).expect_err("it ends");
    assert_eq!(error.code, "executor::ended");
    // The new one answers its first request with id 1, which is not asked any more.
    assert_eq!(external.poll(&["a".to_owned()]).expect_err("out of order").code, "executor::order");
}

fn example(jobs: &std::path::Path) -> External {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/example.py");
    let line = format!("EXAMPLE_JOBS='{}' exec python3 '{script}'", jobs.display());
    External::with_limit(shell(&line), LIMIT).expect("the example speaks the protocol")
}

fn order(directory: &camino::Utf8Path, name: &str, line: &str) -> JobOrder {
    JobOrder {
        name: name.to_owned(),
        stage: "a".to_owned(),
        argv: ["sh", "-c", line].map(str::to_owned).to_vec(),
        directory: directory.to_owned(),
        stdout: directory.join(format!("{name}.out")),
        stderr: directory.join(format!("{name}.err")),
        resources: Resources::ONE_THREAD,
    }
}

/// Asks until the state is one that is wanted.
fn wait(external: &External, job: &str, wanted: impl Fn(&JobState) -> bool) -> JobState {
    let began = Instant::now();
    loop {
        let state = external.poll(&[job.to_owned()]).expect("it answers").remove(job).expect("it knows the job");
        if wanted(&state) {
            return state;
        }
        assert!(began.elapsed() < LIMIT, "job {job} stays {state:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_example_runs_follows_and_cancels_jobs() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = camino::Utf8Path::from_path(directory.path()).expect("UTF-8");
    let external = example(directory.path());

    let job = external.submit(&order(root, "luthier-well", "echo done; exit 3")).expect("submitted");
    let state = wait(&external, &job, JobState::is_over);
    assert_eq!(state, JobState::Ended { how: JobEnd::Exited, detail: "exit code 3".to_owned() });
    assert_eq!(fs_err::read_to_string(root.join("luthier-well.out")).expect("its output"), "done\n");

    for (name, mode) in [("luthier-stop", CancelMode::Stop), ("luthier-kill", CancelMode::Kill)] {
        let line = "trap 'echo stopping; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
        let job = external.submit(&order(root, name, line)).expect("submitted");
        wait(&external, &job, |state| *state == JobState::Running);
        let out = root.join(format!("{name}.out"));
        while fs_err::read_to_string(&out).expect("its output").is_empty() {
            std::thread::sleep(Duration::from_millis(10));
        }
        // Another process finds the job by its name.
        assert_eq!(
            example(directory.path()).find("luthier-").expect("it answers"),
            [(name.into(), job.clone())].into()
        );
        external.cancel(std::slice::from_ref(&job), mode).expect("cancelled");
        wait(&external, &job, JobState::is_over);
        let said = fs_err::read_to_string(&out).expect("its output");
        assert_eq!(said.contains("stopping"), mode == CancelMode::Stop, "{said}");
    }
}
