//! An executor that is a program of the user's: one JSON object per line, requests on its standard input, answers on its
//! standard output. So anyone can add Kubernetes, Ray or a queue of their own in some fifty lines of any language.
//!
//! The program is started once per run, and again if it ended. `PROTOCOL.md` beside this crate's sources defines the
//! calls; `example.py` there is a whole executor.
//!
//! ```text
//! → {"id": 1, "call": "capabilities", "protocol": 1}
//! ← {"id": 1, "result": {"protocol": 1, "name": "example", "poll_seconds": 1}}
//! → {"id": 2, "call": "submit", "order": {"name": "luthier-…", "stage": "train", "argv": […], "directory": "…",
//!                                         "stdout": "…", "stderr": "…", "resources": {"threads": 4, …}}}
//! ← {"id": 2, "result": {"job": "17"}}
//! → {"id": 3, "call": "poll", "jobs": ["17"]}
//! ← {"id": 3, "result": {"jobs": {"17": {"state": "running"}}}}
//! ← {"id": 3, "error": {"message": "the queue is down", "hint": "start it with `queue start`"}}
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use luthier_core::{BatchExecutor, CancelMode, JobOrder, JobState, StageError, StageResult};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The version of the protocol.
const PROTOCOL: u64 = 1;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Lines of the program's standard error that an error repeats.
const TAIL: usize = 10;

/// Bytes of a wrong answer that an error repeats.
const SHOWN: usize = 200;

const HINT: &str = "it must answer each line of its standard input with one line of JSON on its standard output, and print anything else to standard error; `runner/executors/PROTOCOL.md` defines the calls and `example.py` beside it is one";

type Ask = (Value, mpsc::Sender<StageResult<Value>>);

/// What a program says of itself.
#[derive(Debug, Deserialize)]
struct Capabilities {
    protocol: u64,
    #[serde(default = "one_second")]
    poll_seconds: f64,
    /// It answers `find`.
    #[serde(default)]
    find: bool,
    /// It answers `logs`.
    #[serde(default)]
    logs: bool,
}

fn one_second() -> f64 {
    1.0
}

/// A program that executes stages.
pub struct External {
    asks: Mutex<mpsc::Sender<Ask>>,
    name: String,
    capabilities: Capabilities,
}

impl External {
    /// Starts the program and asks what it can do.
    ///
    /// # Errors
    /// It cannot be started, or does not speak the protocol.
    pub fn new(command: Vec<String>) -> StageResult<Self> {
        Self::with_limit(command, LIMIT)
    }

    fn with_limit(command: Vec<String>, limit: Duration) -> StageResult<Self> {
        let name = command.join(" ");
        let (asks, asked) = mpsc::channel::<Ask>();
        // One thread starts the program and talks to it: a parent-death signal is bound to the thread that forked.
        std::thread::spawn(move || serve(&command, limit, &asked));
        let mut external = Self {
            asks: Mutex::new(asks),
            name,
            capabilities: Capabilities { protocol: PROTOCOL, poll_seconds: 1.0, find: false, logs: false },
        };
        let capabilities: Capabilities = external.call("capabilities", json!({"protocol": PROTOCOL}))?;
        if capabilities.protocol != PROTOCOL {
            return Err(StageError::input(
                "executor::protocol",
                format!(
                    "executor `{}` speaks protocol {}, and this luthier speaks {PROTOCOL}",
                    external.name, capabilities.protocol
                ),
            )
            .hint("use a version of it that speaks this protocol"));
        }
        external.capabilities = capabilities;
        Ok(external)
    }

    fn call<T: DeserializeOwned>(&self, call: &str, mut request: Value) -> StageResult<T> {
        request["call"] = json!(call);
        let (send, answer) = mpsc::channel();
        let asked = self.asks.lock().unwrap_or_else(PoisonError::into_inner).send((request, send));
        let gone = || StageError::new("executor::external", format!("executor `{}` is gone", self.name)).hint(HINT);
        asked.map_err(|_| gone())?;
        let value = answer.recv().map_err(|_| gone())??;
        T::deserialize(&value).map_err(|error| {
            StageError::new(
                "executor::answer",
                format!(
                    "executor `{}` answered `{call}` with `{}`, which is not what it should",
                    self.name,
                    cut(&value.to_string())
                ),
            )
            .hint(HINT)
            .caused_by(error)
        })
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// The program while it runs.
struct Session {
    child: Child,
    stdin: ChildStdin,
    lines: mpsc::Receiver<std::io::Result<Vec<u8>>>,
    said: Arc<Mutex<VecDeque<String>>>,
}

impl Session {
    fn start(command: &[String]) -> StageResult<Self> {
        let name = command.join(" ");
        let fail = |error: std::io::Error| {
            StageError::input("executor::start", format!("executor `{name}` cannot be started"))
                .hint(format!("check that the program is there and executable: `command -v {}`", command[0]))
                .caused_by(error)
        };
        let mut program = Command::new(&command[0]);
        program.args(&command[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        #[cfg(unix)]
        {
            use std::os::unix::process::CommandExt;
            // A Ctrl-C of the terminal is the runner's to answer.
            program.process_group(0);
            #[cfg(target_os = "linux")]
            // SAFETY: the closure makes one async-signal-safe call and touches no memory.
            unsafe {
                program.pre_exec(|| {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    Ok(())
                });
            }
        }
        let mut child = program.spawn().map_err(fail)?;
        let missing = || fail(std::io::Error::other("its standard streams are not connected"));
        let stdin = child.stdin.take().ok_or_else(missing)?;
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let stderr = child.stderr.take().ok_or_else(missing)?;
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n') {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let said: Arc<Mutex<VecDeque<String>>> = Arc::default();
        let heard = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                if heard.len() == TAIL {
                    heard.pop_front();
                }
                heard.push_back(String::from_utf8_lossy(&line).into_owned());
            }
        });
        Ok(Self { child, stdin, lines, said })
    }

    fn said(&self) -> String {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// One request, one answer.
    fn ask(&mut self, name: &str, request: &Value, limit: Duration) -> StageResult<Value> {
        let call = request["call"].as_str().unwrap_or_default().to_owned();
        let fail = |code, message: String, said: String| {
            let error = StageError::new(code, message).hint(HINT);
            if said.is_empty() { error } else { error.caused_by(std::io::Error::other(said)) }
        };
        let written = self.stdin.write_all(format!("{request}\n").as_bytes()).and_then(|()| self.stdin.flush());
        let answer = match (written, self.lines.recv_timeout(limit)) {
            (_, Ok(Ok(line))) => line,
            (_, Err(mpsc::RecvTimeoutError::Timeout)) => {
                let message = format!("executor `{name}` did not answer `{call}` within {} s", limit.as_secs_f64());
                return Err(fail("executor::silent", message, self.said()));
            }
            _ => {
                let status = self.child.wait().map_or_else(|_| "it ended".to_owned(), |status| status.to_string());
                // What it said last may still be on its way.
                std::thread::sleep(Duration::from_millis(50));
                let message = format!("executor `{name}` ended ({status}) instead of answering `{call}`");
                return Err(fail("executor::ended", message, self.said()));
            }
        };
        let text = String::from_utf8_lossy(&answer).trim().to_owned();
        let value: Value = serde_json::from_str(&text).map_err(|error| {
            StageError::new(
                "executor::json",
                format!("executor `{name}` answered `{call}` with `{}`, which is not JSON", cut(&text)),
            )
            .hint(HINT)
            .caused_by(error)
        })?;
        if value["id"] != request["id"] {
            let message = format!("executor `{name}` answered request {} when asked {}", value["id"], request["id"]);
            return Err(fail("executor::order", message, self.said()));
        }
        if let Some(error) = value.get("error") {
            let message = error["message"].as_str().or(error.as_str()).unwrap_or("it does not say why");
            let failure =
                StageError::new("executor::refused", format!("executor `{name}` refuses `{call}`: {message}"));
            let hint = error["hint"].as_str().map_or_else(|| format!("see what `{name}` needs"), str::to_owned);
            return Err(failure.hint(hint));
        }
        Ok(value["result"].clone())
    }

    fn end(mut self) {
        // A program in its right mind ends with its input; one that does not is not waited for.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// Answers until the last [`External`] is gone.
fn serve(command: &[String], limit: Duration, asked: &mpsc::Receiver<Ask>) {
    let name = command.join(" ");
    let mut session: Option<Session> = None;
    let mut number = 0_u64;
    while let Ok((mut request, answer)) = asked.recv() {
        number += 1;
        request["id"] = json!(number);
        let result = match session.take().map_or_else(|| Session::start(command), Ok) {
            Ok(mut open) => {
                let result = open.ask(&name, &request, limit);
                // One that refuses is well; one that broke the protocol is started anew.
                if result.as_ref().is_err_and(|error| error.code != "executor::refused") {
                    open.end();
                } else {
                    session = Some(open);
                }
                result
            }
            Err(error) => Err(error),
        };
        let _ = answer.send(result);
    }
    if let Some(session) = session {
        let Session { mut child, stdin, .. } = session;
        drop(stdin);
        for _ in 0..100 {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill().and_then(|()| child.wait());
    }
}

#[derive(Deserialize)]
struct Submitted {
    job: String,
}

#[derive(Deserialize)]
struct Polled {
    jobs: BTreeMap<String, JobState>,
}

#[derive(Deserialize)]
struct Found {
    jobs: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Logs {
    lines: Vec<String>,
}

impl BatchExecutor for External {
    fn interval(&self) -> Duration {
        Duration::from_secs_f64(self.capabilities.poll_seconds.clamp(0.02, 3600.0))
    }

    fn patience(&self) -> u32 {
        3
    }

    fn submit(&self, order: &JobOrder) -> StageResult<String> {
        Ok(self.call::<Submitted>("submit", json!({"order": order}))?.job)
    }

    fn poll(&self, jobs: &[String]) -> StageResult<BTreeMap<String, JobState>> {
        Ok(self.call::<Polled>("poll", json!({"jobs": jobs}))?.jobs)
    }

    fn find(&self, prefix: &str) -> StageResult<BTreeMap<String, String>> {
        if !self.capabilities.find {
            return Ok(BTreeMap::new());
        }
        Ok(self.call::<Found>("find", json!({"prefix": prefix}))?.jobs)
    }

    fn cancel(&self, jobs: &[String], mode: CancelMode) -> StageResult<()> {
        self.call::<Value>("cancel", json!({"jobs": jobs, "mode": mode})).map(drop)
    }

    fn logs(&self, job: &str) -> StageResult<Vec<String>> {
        if !self.capabilities.logs {
            return Ok(Vec::new());
        }
        Ok(self.call::<Logs>("logs", json!({"job": job}))?.lines)
    }
}

#[cfg(test)]
mod tests;
