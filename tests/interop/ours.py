"""Runs the luthier program and compares what it answers with what another program says."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-3
PROMPTS = [
    "<|im_start|>user\nHow is 'luthier' pronounced?<|im_end|>\n<|im_start|>assistant\n",
    "The luthier planed the spruce until it rang, then strung 4 strings over a maple bridge.",
    "Stringed instruments are",
    "42",
    "  Spaces,\ttabs\n\nand 12345 naïve façades: 你好 👩‍👧 — ok?",
]


def program() -> str:
    found = os.environ.get("LUTHIER") or str(ROOT / "target" / "release" / "luthier")
    if not Path(found).exists():
        sys.exit(f"{found} does not exist: run `cargo build --release`, or set LUTHIER to the program")
    return found


def luthier(*arguments: str, cwd: Path | None = None) -> str:
    command = [program(), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"`{' '.join(command)}` ended with {done.returncode}")
    return done.stdout


@dataclass
class Logits:
    """Token ids of a prompt and the logits after each, [positions, vocabulary]."""

    ids: list[int]
    values: numpy.ndarray


def our_logits(model: Path, prompt: str, adapter: Path | None = None) -> Logits:
    extra = ["--adapter", str(adapter)] if adapter else []
    answer = json.loads(luthier("logits", str(model), *extra, "--prompt", prompt, "--json"))
    return Logits(answer["ids"], numpy.asarray(answer["logits"], dtype=numpy.float32))


@dataclass
class Report:
    """Collects comparisons; `finish` prints nothing new and ends with 1 if any failed."""

    tolerance: float
    failed: int = 0
    worst: float = 0.0

    def compare(self, name: str, ours: Logits, ids: list[int], values: numpy.ndarray):
        problems = []
        if ours.ids != list(ids):
            problems.append(f"token ids differ: ours {ours.ids}, theirs {list(ids)}")
        elif ours.values.shape != values.shape:
            problems.append(f"shapes differ: ours {ours.values.shape}, theirs {values.shape}")
        else:
            difference = float(numpy.abs(ours.values - values).max())
            same = int((ours.values.argmax(-1) == values.argmax(-1)).sum())
            self.worst = max(self.worst, difference)
            print(f"{name}: max abs difference {difference:.2e}, same best token at {same} of {len(ids)} positions")
            if not difference < self.tolerance:
                problems.append(f"the difference is not below {self.tolerance}")
        for problem in problems:
            print(f"{name}: FAILED: {problem}")
        self.failed += bool(problems)

    def finish(self):
        sys.exit(1 if self.failed else 0)
