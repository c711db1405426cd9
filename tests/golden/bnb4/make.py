"""The 4-bit checkpoint layout of bitsandbytes as transformers saves it, and the logits of the loaded model.

`double/` is ../llama/llama quantised to NF4 with double quantisation, `plain/` without, both on a CPU with f32 as
compute and storage type. `expected.safetensors` holds `NAME.logits.S` for the sequences of ../llama/cases.json and
`NAME.WEIGHT`, the dequantised projections of layer 1.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
import transformers
from bitsandbytes import functional
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent.parent))
from golden_io import write_versions

HERE = Path(__file__).parent


def main():
    torch.set_num_threads(1)
    sequences = json.loads((HERE.parent / "llama" / "cases.json").read_text())["llama"]["sequences"]
    out = {}
    for name, double in (("double", True), ("plain", False)):
        directory = HERE / name
        shutil.rmtree(directory, ignore_errors=True)
        config = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=double,
            bnb_4bit_compute_dtype=torch.float32,
        )
        model = transformers.AutoModelForCausalLM.from_pretrained(
            HERE.parent / "llama" / "llama",
            quantization_config=config,
            dtype=torch.float32,
            device_map="cpu",
            attn_implementation="eager",
        ).eval()
        model.save_pretrained(directory, save_original_format=True)
        (directory / "generation_config.json").unlink(missing_ok=True)
        # The logits are those of the dequantised weights, not of the CPU's fused 4-bit product, which rounds to bf16.
        weights = {}
        for key, module in model.named_modules():
            if hasattr(module, "weight") and getattr(module.weight, "quant_state", None) is not None:
                weights[f"{key}.weight"] = functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
        plain = transformers.AutoModelForCausalLM.from_pretrained(
            HERE.parent / "llama" / "llama", dtype=torch.float32, attn_implementation="eager"
        ).eval()
        state = dict(plain.named_parameters())
        with torch.no_grad():
            for key, value in weights.items():
                state[key].copy_(value)
                if key.startswith("model.layers.1."):
                    out[f"{name}.{key}"] = value.float().clone().contiguous()
            for index, sequence in enumerate(sequences):
                logits = plain(torch.tensor([sequence["ids"]])).logits[0]
                out[f"{name}.logits.{index}"] = logits.clone().contiguous()
    save_file(out, HERE / "expected.safetensors")
    write_versions(HERE, ["torch", "transformers", "bitsandbytes", "accelerate", "safetensors"])


if __name__ == "__main__":
    main()
