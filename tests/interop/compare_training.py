"""Times training steps of luthier and of transformers + PEFT (+ bitsandbytes), in turn, on the same tokens.

    python compare_training.py BASE.gguf --bench luthier-bench [--threads 2] [--steps 4] [--data TOKENS] [--only NAME]

Run it with a Python that has requirements.txt installed, on a machine that does nothing else.
Both sides: rank 16 on all seven projections, f32, AdamW, clipping, the same samples a step. PEFT's
base is the GGUF dequantised to f32, as luthier's `lora` sees it; `nf4` is bitsandbytes with double
quantisation beside luthier's `qlora`. The sequences are random tokens, all of one length, so nothing
is padded and no prefix is shared; `--data` adds a tokens artifact of a pipeline, with luthier's
prefix sharing off and on. Rates are tokens of the best and of the median step; memory is the peak of
the resident set of the whole process on luthier's side, and on PEFT's side both that and the peak
since its model was loaded. Prints a line per case, then one JSON object.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent

# name, batch, length, prompt without loss, checkpointing, base
CASES = [
    ("f32 1x512", 1, 512, 0, False, "f32"),
    ("f32 1x512 checkpointing", 1, 512, 0, True, "f32"),
    ("f32 4x512", 4, 512, 0, False, "f32"),
    ("f32 4x512 checkpointing", 4, 512, 0, True, "f32"),
    ("f32 4x512 prompt 384", 4, 512, 384, False, "f32"),
    ("nf4 1x512", 1, 512, 0, False, "nf4"),
    ("nf4 4x512 checkpointing", 4, 512, 0, True, "nf4"),
]


def run(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def peft(options, tokens, batch, checkpointing, base):
    command = [sys.executable, HERE / "baseline_peft.py", options.model, tokens, "--base", base]
    command += ["--batch", batch, "--steps", options.steps + 1, "--threads", options.threads]
    found = run(command + (["--checkpointing"] if checkpointing else []))
    step = found["tokens"] / found["steps"]
    return {
        "best": step / found["best_seconds_per_step"],
        "median": step / found["median_seconds_per_step"],
        "peak_mib": found["peak_memory_mib"],
        "training_peak_mib": found["peak_memory_mib_training"],
    }


def ours(options, tokens, batch, checkpointing, base, share=False):
    command = [options.bench, "train", options.model, "--json", "--data", tokens, "--batch", batch]
    command += ["--method", "qlora" if base == "nf4" else "lora", "--steps", options.steps, "--threads", options.threads]
    command += ["--checkpointing"] if checkpointing else []
    command += ["--share-prefix"] if share else []
    found = run(command)
    return {
        "best": found["tokens_per_second_best"],
        "median": found["tokens_per_second"],
        "peak_mib": found["resident_peak"] / 2**20,
        "planned_mib": found["planned_bytes"] / 2**20,
        "measured_mib": found["measured_bytes"] / 2**20,
        "share_of_gemm": found["flops_per_second"] / found["gemm_crate_flops_per_second"],
        "product_share_of_gemm": found["peak_flops_per_second"] / found["gemm_crate_flops_per_second"],
    }


def line(name, mine, theirs):
    print(
        f"{name:<28} luthier {mine['median']:7.1f} tokens/s (best {mine['best']:7.1f}), {mine['peak_mib']:6.0f} MiB   "
        f"PEFT {theirs['median']:7.1f} (best {theirs['best']:7.1f}), {theirs['peak_mib']:6.0f} MiB "
        f"({theirs['training_peak_mib']:6.0f} after loading)   "
        f"{mine['median'] / theirs['median']:.2f}x the tokens (best {mine['best'] / theirs['best']:.2f}x), "
        f"{100 * mine['peak_mib'] / theirs['peak_mib']:.0f} % of the memory, "
        f"{100 * mine['share_of_gemm']:.0f} % of gemm's rate",
        flush=True,
    )


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model", type=Path)
    arguments.add_argument("--bench", type=Path, required=True, help="the built luthier-bench")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--steps", type=int, default=4, help="steps under the clock, after a first one")
    arguments.add_argument("--data", type=Path, help="also a tokens artifact, such as instruction data")
    arguments.add_argument("--data-batch", type=int, default=8)
    arguments.add_argument("--only", action="append", help="cases whose name contains this")
    options = arguments.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, batch, length, prompt, checkpointing, base in CASES:
            if options.only and not any(part in name for part in options.only):
                continue
            tokens = Path(folder) / name.replace(" ", "-")
            shape = ["--batch", batch, "--length", length, "--prompt", prompt, "--steps", options.steps]
            command = [options.bench, "train", options.model, "--write-tokens", tokens, *shape]
            subprocess.run([str(part) for part in command], check=True, stderr=subprocess.DEVNULL)
            mine = ours(options, tokens, batch, checkpointing, base)
            theirs = peft(options, tokens, batch, checkpointing, base)
            line(name, mine, theirs)
            results[name] = {"luthier": mine, "peft": theirs}
        if options.data and not options.only:
            batch = options.data_batch
            theirs = peft(options, options.data, batch, False, "f32")
            for name, share in [("data", False), ("data, prefix shared", True)]:
                mine = ours(options, options.data, batch, False, "f32", share)
                line(name, mine, theirs)
                results[name] = {"luthier": mine, "peft": theirs}
    print(json.dumps(results))


if __name__ == "__main__":
    main()
