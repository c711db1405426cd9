//! Stages as Slurm jobs: `sbatch` submits them, one `squeue` (and one `sacct` for what that no longer knows) follows all
//! of them, `scancel` stops them. Works without accounting.
//!
//! A stage's `resources` become `--cpus-per-task`, `--mem`, `--gres=gpu:N` and `--time`; arguments after `slurm:` are
//! handed to `sbatch` and win. The store, the pipeline's directory and the `luthier` program must be on a file system that
//! the nodes see under the same paths. `LUTHIER_SLURM_POLL` sets the seconds between two questions (2 if unset).

use std::collections::BTreeMap;
use std::time::Duration;

use luthier_core::{
    BatchExecutor, CancelMode, ErrorClass, JobEnd, JobOrder, JobState, StageError, StageResult, quoted,
};

use crate::tool;

/// Slurm's own commands give up on a controller that does not answer after 10 s times a few tries.
const LIMIT: Duration = Duration::from_secs(90);

/// The Slurm that the commands in `PATH` and `SLURM_CONF` lead to.
#[derive(Debug)]
pub struct Slurm {
    arguments: Vec<String>,
    interval: Duration,
}

impl Slurm {
    /// # Errors
    /// Slurm's commands are not in `PATH`.
    pub fn new(arguments: Vec<String>) -> StageResult<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let missing: Vec<&str> = ["sbatch", "squeue", "scancel"]
            .into_iter()
            .filter(|tool| !std::env::split_paths(&path).any(|directory| directory.join(tool).is_file()))
            .collect();
        if !missing.is_empty() {
            return Err(StageError::input(
                "executor::slurm_missing",
                format!("Slurm's {} not in `PATH`", if missing.len() == 1 { format!("{} is", quoted(missing)) } else { format!("{} are", quoted(missing)) }),
            )
            .hint("run on a login node of the cluster, install its client (`apt-get install slurm-client`), or use `--executor child`"));
        }
        let interval = std::env::var("LUTHIER_SLURM_POLL").ok().and_then(|text| text.parse().ok());
        let interval = interval.filter(|seconds: &f64| (0.01..=3600.0).contains(seconds)).unwrap_or(2.0);
        Ok(Self { arguments, interval: Duration::from_secs_f64(interval) })
    }

    /// Everything of a job but its script.
    fn options(&self, order: &JobOrder) -> Vec<String> {
        let resources = order.resources;
        let mut options = vec![
            "--parsable".to_owned(),
            format!("--job-name={}", order.name),
            format!("--comment=luthier stage {}", order.stage),
            format!("--chdir={}", order.directory),
            format!("--output={}", order.stdout),
            format!("--error={}", order.stderr),
            "--open-mode=append".to_owned(),
            "--no-requeue".to_owned(),
            "--nodes=1".to_owned(),
            "--ntasks=1".to_owned(),
            format!("--cpus-per-task={}", resources.threads.max(1)),
        ];
        if resources.memory > 0 {
            options.push(format!("--mem={}K", resources.memory.div_ceil(1024)));
        }
        if resources.gpu > 0 {
            options.push(format!("--gres=gpu:{}", resources.gpu));
        }
        if resources.time > 0 {
            let minutes = resources.time.div_ceil(60);
            options.push(format!("--time={minutes}"));
            // Slurm signals up to a minute early, so shorter jobs would hardly begin.
            if minutes > 2 {
                options.push("--signal=B:TERM@60".to_owned());
            }
        }
        options.extend(self.arguments.iter().cloned());
        options
    }

    fn states(text: &str) -> BTreeMap<String, JobState> {
        text.lines()
            .filter_map(|line| {
                let mut fields = line.trim().splitn(3, '|');
                let (id, state) = (fields.next()?, fields.next()?);
                Some((id.to_owned(), state_of(state, fields.next().unwrap_or_default())))
            })
            .collect()
    }
}

fn user() -> String {
    // SAFETY: getuid takes nothing and cannot fail.
    format!("--user={}", unsafe { libc::getuid() })
}

/// `CANCELLED by 0` is a state too.
fn state_of(state: &str, reason: &str) -> JobState {
    let word = state.split([' ', '+']).next().unwrap_or_default();
    let known =
        |reason: &str| if matches!(reason, "None" | "(null)" | "0:0") { String::new() } else { reason.to_owned() };
    let how = match word {
        "PENDING" | "CONFIGURING" | "REQUEUED" | "REQUEUE_FED" | "REQUEUE_HOLD" | "SPECIAL_EXIT" | "SUSPENDED"
        | "RESV_DEL_HOLD" => return JobState::Waiting { reason: known(reason) },
        "RUNNING" | "COMPLETING" | "RESIZING" | "SIGNALING" | "STAGE_OUT" | "STOPPED" => return JobState::Running,
        "OUT_OF_MEMORY" => JobEnd::OutOfMemory,
        "TIMEOUT" | "DEADLINE" => JobEnd::OutOfTime,
        "CANCELLED" | "PREEMPTED" | "REVOKED" => JobEnd::Cancelled,
        "NODE_FAIL" | "BOOT_FAIL" => JobEnd::NodeFailed,
        _ => JobEnd::Exited,
    };
    let reason = known(reason);
    JobState::Ended { how, detail: if reason.is_empty() { word.to_owned() } else { format!("{word}, {reason}") } }
}

fn call(program: &str, arguments: &[String], input: &str) -> StageResult<String> {
    let answer = tool::run(program, arguments, input, LIMIT).map_err(|error| {
        StageError::new("executor::slurm", format!("`{program}` cannot be run"))
            .hint("see that Slurm answers: `sinfo`")
            .caused_by(error)
    })?;
    if answer.success {
        return Ok(answer.stdout);
    }
    let said = answer.stderr.trim().to_owned();
    Err(StageError::new("executor::slurm", format!("`{program}` failed"))
        .hint("see that Slurm answers: `sinfo`")
        .caused_by(std::io::Error::other(if said.is_empty() { "it said nothing".to_owned() } else { said })))
}

/// Words of Slurm that mean: later, perhaps.
const PASSING: [&str; 5] = ["Unable to contact", "Socket timed out", "Connection refused", "Zero Bytes", "temporarily"];

fn refused(order: &JobOrder, error: StageError) -> StageError {
    let said = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    if PASSING.iter().any(|word| said.contains(word)) {
        return error;
    }
    let resources = order.resources;
    let several = |count: u64, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let mut asks = vec![several(resources.threads.max(1) as u64, "CPU")];
    if resources.memory > 0 {
        asks.push(format!("{} MB of memory", resources.memory.div_ceil(1_000_000)));
    }
    if resources.gpu > 0 {
        asks.push(several(resources.gpu.into(), "GPU"));
    }
    StageError::new("executor::slurm_refused", format!("Slurm refuses the job, which asks for {}", asks.join(", ")))
        .class(ErrorClass::Input)
        .hint("`sinfo --format='%P %c %m %G %l'` lists partitions with CPUs, memory in MB, GPUs and time limit; change the stage's `resources:` or choose another partition with `--executor 'slurm:--partition=NAME'`")
        .caused_by(std::io::Error::other(said))
}

fn shell_word(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

impl BatchExecutor for Slurm {
    fn interval(&self) -> Duration {
        self.interval
    }

    /// A controller may be away for a restart.
    fn patience(&self) -> u32 {
        20
    }

    fn submit(&self, order: &JobOrder) -> StageResult<String> {
        let words: Vec<String> = order.argv.iter().map(|word| shell_word(word)).collect();
        let script = format!("#!/bin/sh\nunset LUTHIER_LEASH\nexec {}\n", words.join(" "));
        let answer = call("sbatch", &self.options(order), &script).map_err(|error| refused(order, error))?;
        // `ID` or `ID;CLUSTER`, after whatever a submission plugin prints.
        let id = answer.lines().last().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_owned();
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(StageError::new(
                "executor::slurm",
                format!("`sbatch` answered `{}` instead of a job's number", answer.trim()),
            )
            .hint("see that `sbatch --parsable` prints nothing but the number"));
        }
        Ok(id)
    }

    fn poll(&self, jobs: &[String]) -> StageResult<BTreeMap<String, JobState>> {
        // Asking for all of the user's jobs is one question whose answer does not fail for one unknown number.
        let listing = call("squeue", &words(&["--noheader", "--states=all", "--format=%i|%T|%r", &user()]), "")?;
        let mut all = Self::states(&listing);
        let mut states: BTreeMap<String, JobState> =
            jobs.iter().filter_map(|id| Some((id.clone(), all.remove(id)?))).collect();
        let missing: Vec<&str> = jobs.iter().filter(|id| !states.contains_key(*id)).map(String::as_str).collect();
        if !missing.is_empty() {
            let arguments = words(&[
                "--noheader",
                "--parsable2",
                "--allocations",
                "--format=JobIDRaw,State,ExitCode",
                &format!("--jobs={}", missing.join(",")),
            ]);
            // Without accounting nobody knows more.
            if let Ok(listing) = call("sacct", &arguments, "") {
                states.extend(Self::states(&listing).into_iter().filter(|(id, _)| missing.contains(&id.as_str())));
            }
        }
        Ok(states)
    }

    fn find(&self, prefix: &str) -> StageResult<BTreeMap<String, String>> {
        let listing = call("squeue", &words(&["--noheader", "--format=%i|%j", &user()]), "")?;
        let pairs = listing.lines().filter_map(|line| line.trim().split_once('|'));
        Ok(pairs
            .filter(|(_, name)| name.starts_with(prefix))
            .map(|(id, name)| (name.to_owned(), id.to_owned()))
            .collect())
    }

    fn cancel(&self, jobs: &[String], mode: CancelMode) -> StageResult<()> {
        let cancel = |options: &[&str]| {
            let mut arguments = words(&["--quiet"]);
            arguments.extend(words(options));
            arguments.extend(jobs.iter().cloned());
            call("scancel", &arguments, "").map(drop)
        };
        // One that waits has nothing to checkpoint.
        cancel(&["--state=PENDING"])?;
        match mode {
            CancelMode::Stop => cancel(&["--batch", "--signal=TERM"]),
            CancelMode::Kill => cancel(&["--full", "--signal=KILL"]).and(cancel(&[])),
        }
    }

    fn logs(&self, job: &str) -> StageResult<Vec<String>> {
        let listing = call("scontrol", &words(&["--oneliner", "show", "job", job]), "")?;
        let wanted = ["JobState=", "Reason=", "ExitCode=", "RunTime=", "TimeLimit=", "BatchHost="];
        let told = listing.split_whitespace().filter(|word| wanted.iter().any(|start| word.starts_with(start)));
        Ok(vec![format!("Slurm: {}", told.collect::<Vec<_>>().join(" "))])
    }
}

fn words(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use luthier_core::Resources;

    use super::*;

    fn ended(how: JobEnd, detail: &str) -> JobState {
        JobState::Ended { how, detail: detail.to_owned() }
    }

    #[test]
    fn states_are_read_as_slurm_writes_them() {
        let states = Slurm::states(
            "1|PENDING|Resources\n2|RUNNING|None\n3|COMPLETED|None\n4|OUT_OF_MEMORY|OutOfMemory\n5|CANCELLED by 0|0:0\n6|TIMEOUT|TimeLimit\n7|NODE_FAIL|\n8|FAILED|NonZeroExitCode\n9|COMPLETING|None\n",
        );
        let expected = [
            ("1", JobState::Waiting { reason: "Resources".to_owned() }),
            ("2", JobState::Running),
            ("3", ended(JobEnd::Exited, "COMPLETED")),
            ("4", ended(JobEnd::OutOfMemory, "OUT_OF_MEMORY, OutOfMemory")),
            ("5", ended(JobEnd::Cancelled, "CANCELLED")),
            ("6", ended(JobEnd::OutOfTime, "TIMEOUT, TimeLimit")),
            ("7", ended(JobEnd::NodeFailed, "NODE_FAIL")),
            ("8", ended(JobEnd::Exited, "FAILED, NonZeroExitCode")),
            ("9", JobState::Running),
        ];
        assert_eq!(states, expected.map(|(id, state)| (id.to_owned(), state)).into());
    }

    #[test]
    fn resources_become_options_and_the_users_come_last() {
        let slurm = Slurm { arguments: vec!["--mem=1G".to_owned()], interval: Duration::from_secs(1) };
        let order = JobOrder {
            name: "luthier-a".to_owned(),
            stage: "train".to_owned(),
            argv: Vec::new(),
            directory: "/w".into(),
            stdout: "/s/out".into(),
            stderr: "/s/err".into(),
            resources: Resources { threads: 4, memory: 1_000_000_001, gpu: 2, time: 3_601 },
        };
        assert_eq!(
            slurm.options(&order).join(" "),
            "--parsable --job-name=luthier-a --comment=luthier stage train --chdir=/w --output=/s/out --error=/s/err \
             --open-mode=append --no-requeue --nodes=1 --ntasks=1 --cpus-per-task=4 --mem=976563K --gres=gpu:2 --time=61 \
             --signal=B:TERM@60 --mem=1G"
        );
    }

    #[test]
    fn words_reach_the_script_whole() {
        assert_eq!(shell_word("it's"), r"'it'\''s'");
    }
}
