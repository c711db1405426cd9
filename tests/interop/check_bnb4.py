"""Loads a 4-bit model directory that luthier wrote (`merge` with `dtype: nf4`) in transformers and bitsandbytes.

Compares logits over the weights as bitsandbytes dequantises them: its CPU product of 4-bit weights computes in bf16.

python check_bnb4.py DIRECTORY
"""

import argparse
from pathlib import Path

import torch
import transformers
from bitsandbytes import functional

from ours import PROMPTS, TOLERANCE, Report, our_logits


def load(path: Path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, device_map="cpu", attn_implementation="eager", output_loading_info=True
    )
    missing = [key for key in info["missing_keys"] if key != "lm_head.weight"]
    if missing or info["unexpected_keys"] or info["mismatched_keys"]:
        raise SystemExit(f"{path} does not fit its configuration: {info}")
    count = 0
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            state = getattr(getattr(child, "weight", None), "quant_state", None)
            if state is None:
                continue
            state.dtype = torch.float32  # the file says bfloat16, to which the values would be rounded
            weight = functional.dequantize_4bit(child.weight.data, state).float().reshape(state.shape)
            plain = torch.nn.Linear(state.shape[1], state.shape[0], bias=child.bias is not None)
            plain.weight = torch.nn.Parameter(weight)
            if child.bias is not None:
                plain.bias = torch.nn.Parameter(child.bias.data.float())
            setattr(module, name, plain)
            count += 1
    if count == 0:
        raise SystemExit(f"{path} holds no 4-bit weights")
    print(f"{count} matrices in 4 bits")
    for parameter in model.parameters():  # `.float()` is refused for a model that was loaded in 4 bits
        parameter.data = parameter.data.float()
    return model.eval(), tokenizer


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model", type=Path)
    arguments.add_argument("--tolerance", type=float, default=TOLERANCE)
    options = arguments.parse_args()
    model, tokenizer = load(options.model)
    report = Report(options.tolerance)
    for number, prompt in enumerate(PROMPTS):
        ids = tokenizer.encode(prompt, add_special_tokens=False)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0].numpy()
        report.compare(f"bitsandbytes, prompt {number}", our_logits(options.model, prompt), ids, logits)
    report.finish()


if __name__ == "__main__":
    main()
