"""Loads a model directory that luthier wrote in transformers and compares token ids and logits.

python check_transformers.py DIRECTORY
"""

import argparse
from pathlib import Path

import torch
import transformers

from ours import PROMPTS, TOLERANCE, Report, our_logits


def load(path: Path):
    """A model and tokenizer from a Hugging Face directory or a GGUF file, in f32."""
    if path.is_dir():
        folder, extra = path, {}
    else:
        folder, extra = path.parent, {"gguf_file": path.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **extra)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True, **extra
    )
    missing = [key for key in info["missing_keys"] if key != "lm_head.weight"]
    if missing or info["unexpected_keys"] or info["mismatched_keys"]:
        raise SystemExit(f"{path} does not fit its configuration: {info}")
    return model.eval(), tokenizer


def theirs(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].numpy()


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model", type=Path)
    arguments.add_argument("--tolerance", type=float, default=TOLERANCE)
    arguments.add_argument("--prompt", action="append")
    options = arguments.parse_args()
    model, tokenizer = load(options.model)
    report = Report(options.tolerance)
    for number, prompt in enumerate(options.prompt or PROMPTS):
        ids = tokenizer.encode(prompt, add_special_tokens=False)
        report.compare(f"transformers, prompt {number}", our_logits(options.model, prompt), ids, theirs(model, ids))
    report.finish()


if __name__ == "__main__":
    main()
