"""Runs pipeline.yaml with luthier, then every check on what it made.

    python check_all.py

Takes a few minutes the first time; a second run finds everything made and only compares.
"""

import subprocess
import sys
from pathlib import Path

from ours import ROOT, luthier

HERE = Path(__file__).parent
PIPELINE = HERE / "pipeline.yaml"


def artifact(stage: str) -> str:
    return luthier("show", str(PIPELINE), stage, "--path", cwd=ROOT).strip()


def main():
    luthier("run", str(PIPELINE), cwd=ROOT)
    base, adapter, merged, gguf = map(artifact, ("base", "adapter", "merged", "gguf"))
    checks = [
        ["check_peft.py", base, adapter, "--merged", merged],
        ["check_transformers.py", merged],
        ["check_gguf.py", gguf],
    ]
    failed = []
    for check in checks:
        print(f"== {check[0]}", flush=True)
        if subprocess.run([sys.executable, *check], cwd=HERE, check=False).returncode:
            failed.append(check[0])
    print("all agree" if not failed else f"FAILED: {', '.join(failed)}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
