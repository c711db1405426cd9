"""Loads an adapter that luthier trained in PEFT, over the same base, and compares logits.

    python check_peft.py BASE ADAPTER [--merged DIRECTORY]

BASE is a GGUF file or a Hugging Face directory, ADAPTER a PEFT directory. An adapter that was trained
over NF4 is compared over NF4, as luthier runs it. With --merged the model that luthier merged into
the original weights is also compared: with PEFT's adapter at work over those, and tensor by tensor
with PEFT's merge_and_unload.
"""

import argparse
import json
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import safe_open

from check_transformers import load, theirs
from gpu_nf4 import quantize_projections
from ours import PROMPTS, TOLERANCE, Report, our_logits


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("base", type=Path)
    arguments.add_argument("adapter", type=Path)
    arguments.add_argument("--merged", type=Path)
    arguments.add_argument("--tolerance", type=float, default=TOLERANCE)
    arguments.add_argument("--prompt", action="append")
    options = arguments.parse_args()
    base, _ = load(options.base)
    report = Report(options.tolerance)
    prompts = options.prompt or PROMPTS
    # GGUF files carry a pre-tokenizer name that transformers ignores, so the ids are ours here;
    # check_gguf compares them with llama.cpp's.
    ours = [our_logits(options.base, prompt, options.adapter) for prompt in prompts]
    if trained_over_nf4(options.adapter):
        print("trained over NF4: compared over NF4")
        quantize_projections(base)
    before = theirs(base, ours[0].ids)
    model = PeftModel.from_pretrained(base, options.adapter).eval()
    moved = float(abs(theirs(model, ours[0].ids) - before).max())
    print(f"PEFT: the adapter moves logits by up to {moved:.2e}")
    if not moved > options.tolerance:
        print("FAILED: an adapter that changes nothing proves nothing")
        report.failed += 1
    for number, answer in enumerate(ours):
        report.compare(f"PEFT, prompt {number}", answer, answer.ids, theirs(model, answer.ids))
    if options.merged:
        base, _ = load(options.base)
        before = {name: value.clone() for name, value in base.named_parameters()}
        model = PeftModel.from_pretrained(base, options.adapter).eval()
        for number, prompt in enumerate(prompts):
            answer = our_logits(options.merged, prompt)
            report.compare(f"PEFT against our merge, prompt {number}", answer, answer.ids, theirs(model, answer.ids))
        compare_weights(report, options.merged, model.merge_and_unload(), before)
    report.finish()


def trained_over_nf4(adapter: Path) -> bool:
    with safe_open(adapter / "adapter_model.safetensors", "numpy") as file:
        stamp = (file.metadata() or {}).get("luthier", "{}")
    return json.loads(stamp).get("quantizer") == "bitsandbytes-nf4-64-double"


@torch.no_grad()
def compare_weights(report: Report, merged: Path, model, before: dict):
    other, _ = load(merged)
    expected = dict(model.named_parameters())
    worst, where, changed = 0.0, None, 0
    for name, value in other.named_parameters():
        difference = float((value - expected.pop(name)).abs().max())
        changed += not torch.equal(value, before[name])
        if not difference <= worst:
            worst, where = difference, name
    print(f"merge_and_unload: {changed} tensors changed, ours differ from PEFT's by at most {worst:.2e} ({where})")
    if expected or not changed or not worst < 1e-5:
        print(f"FAILED: merged weights differ; missing: {sorted(expected)}")
        report.failed += 1


if __name__ == "__main__":
    main()
