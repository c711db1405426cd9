#!/usr/bin/env python3
"""An executor in fifty lines: each job is a process of this machine that outlives this program.

Replace `submit`, `poll` and `cancel` by calls of Kubernetes, Ray or a queue of your own; PROTOCOL.md defines them.
Use it with `luthier run --executor external:runner/executors/example.py`. Jobs are noted under $EXAMPLE_JOBS.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys

JOBS = pathlib.Path(os.environ.get("EXAMPLE_JOBS", "/tmp/luthier-example-jobs"))


def capabilities(request):
    return {"protocol": 1, "name": "example", "poll_seconds": 0.2, "find": True, "logs": False}


def submit(request):
    order = request["order"]
    # A shell waits for the job and notes its exit code, so that this program need not stay.
    note = JOBS / order["name"]
    script = 'echo $$ > "$0.pid"; "$@"; echo $? > "$0.code"'
    note.with_suffix(".code").unlink(missing_ok=True)
    with open(order["stdout"], "a") as out, open(order["stderr"], "a") as err:
        command = ["sh", "-c", script, str(note), *order["argv"]]
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=order["directory"], start_new_session=True)
    return {"job": order["name"]}


def state(job):
    code, pid = JOBS / f"{job}.code", JOBS / f"{job}.pid"
    if code.exists() and (text := code.read_text().strip()):
        return {"state": "ended", "how": "exited", "detail": f"exit code {text}"}
    try:
        os.kill(int(pid.read_text()), 0)
    except FileNotFoundError:
        return {"state": "waiting", "reason": "starting"}
    except (ValueError, ProcessLookupError):
        return {"state": "unknown"}
    return {"state": "running"}


def poll(request):
    return {"jobs": {job: state(job) for job in request["jobs"]}}


def find(request):
    names = [path.stem for path in JOBS.glob(request["prefix"] + "*.pid")]
    return {"jobs": {name: name for name in names if state(name)["state"] == "running"}}


def cancel(request):
    kill = request["mode"] == "kill"
    for job in request["jobs"]:
        if state(job)["state"] == "running":
            shell = (JOBS / f"{job}.pid").read_text().strip()
            # `stop` is for the stage alone, which then ends what it started; `kill` is for all of its session.
            who = ["-s", shell] if kill else ["-P", shell]
            subprocess.run(["pkill", "-KILL" if kill else "-TERM", *who], check=False)
    return {}


signal.signal(signal.SIGCHLD, signal.SIG_IGN)
JOBS.mkdir(parents=True, exist_ok=True)
for line in sys.stdin:
    request = json.loads(line)
    try:
        answer = {"result": globals()[request["call"]](request)}
    except Exception as error:
        answer = {"error": {"message": f"{type(error).__name__}: {error}", "hint": f"see {__file__}"}}
    print(json.dumps({"id": request["id"], **answer}), flush=True)
