"""DoRA, rsLoRA and dropout through PEFT, and AdamW with 8-bit moments through bitsandbytes.

The models are those of ../llama. NAME/ holds `adapter/` as PEFT saves it and `expected.safetensors`:

  lora.logits.S, lora.losses, lora.loss     as in ../llama, over the sequences of ../llama/cases.json
  lora.gradient.TENSOR                      of lora.loss, by the names of the PEFT file
  lora.step_losses, step3.TENSOR            three AdamW steps as in ../llama
  merged.WEIGHT                             the projections of layer 1 after merge_and_unload
  initial.TENSOR                            DoRA's magnitudes before the first step

The cases of `dropout.json` train on the first sequence alone, with PEFT's dropout layers replaced by ones that draw
their masks as Luthier does: element `i` of module NAME in step N is dropped if word `i` of Philox4x32-10's stream
`dropout.NAME` at `N << 36` is below the probability.

`adamw8bit.safetensors`: three steps of bitsandbytes' own PyTorch implementation of block-wise 8-bit AdamW (lr 0.01,
betas 0.9 and 0.999, eps 1e-8, weight decay 0.1) on 5000 parameters: `params.0`, then per step N `grads.N`, `params.N`,
`codes1.N`, `codes2.N` (as i32), `scales1.N`, `scales2.N`; and the two maps, `signed` and `unsigned`.
"""

import json
import os
import shutil
import sys
from pathlib import Path

os.environ["TORCHDYNAMO_DISABLE"] = "1"

import numpy
import torch
import transformers
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "llama"))
from golden_io import write_json, write_versions

HERE = Path(__file__).parent
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = {
    "dora": ("llama", dict(r=4, lora_alpha=8, target_modules=ALL, use_dora=True)),
    "dora_qwen2": ("qwen2", dict(r=4, lora_alpha=8, target_modules=ALL, use_dora=True)),
    "dora_rslora_qwen3": (
        "qwen3",
        dict(r=3, lora_alpha=6, target_modules=["q_proj", "k_proj", "o_proj", "down_proj"], use_dora=True, use_rslora=True),
    ),
    "rslora": ("llama_tied", dict(r=4, lora_alpha=8, target_modules=ALL, use_rslora=True)),
    "patterns_qwen2": (
        "qwen2",
        dict(
            r=4,
            lora_alpha=8,
            target_modules=ALL,
            layers_to_transform=[1],
            rank_pattern={"v_proj": 6},
            alpha_pattern={"down_proj": 3},
        ),
    ),
}
DROPOUT = {
    "dropout_qwen2": ("qwen2", dict(r=4, lora_alpha=8, target_modules=ALL)),
    "dora_dropout": ("llama", dict(r=4, lora_alpha=8, target_modules=ALL, use_dora=True)),
    "dora_dropout_qwen2": ("qwen2", dict(r=4, lora_alpha=8, target_modules=ALL, use_dora=True)),
}
PROBABILITY = 0.25


def philox(counter, key):
    """Ten rounds of Philox4x32 on arrays of u64 that hold 32 bits."""
    low = numpy.uint64(0xFFFFFFFF)
    for _ in range(10):
        first, second = counter[0] * numpy.uint64(0xD2511F53), counter[2] * numpy.uint64(0xCD9E8D57)
        shift = numpy.uint64(32)
        counter = [
            (second >> shift) ^ counter[1] ^ key[0],
            second & low,
            (first >> shift) ^ counter[3] ^ key[1],
            first & low,
        ]
        key = [(key[0] + numpy.uint64(0x9E3779B9)) & low, (key[1] + numpy.uint64(0xBB67AE85)) & low]
    return counter


class NamedDropout(torch.nn.Module):
    def __init__(self, name):
        super().__init__()
        self.hash = 0xCBF29CE484222325
        for byte in name.encode():
            self.hash = ((self.hash ^ byte) * 0x100000001B3) % 2**64
        self.step = 0

    def forward(self, x):
        if not self.training:
            return x
        words = (x.numel() + 3) // 4
        index = numpy.arange(words, dtype=numpy.uint64) + numpy.uint64((self.step << 36) // 4)
        whole = lambda value: numpy.full(words, value, dtype=numpy.uint64)
        counter = [index % 2**32, index >> numpy.uint64(32), whole(self.hash % 2**32), whole(self.hash >> 32)]
        blocks = philox([part.astype(numpy.uint64) for part in counter], [whole(0), whole(0)])
        uniform = (numpy.stack(blocks, axis=1).reshape(-1)[: x.numel()] >> numpy.uint64(8)) / 2.0**24
        kept = torch.from_numpy(uniform >= PROBABILITY).reshape(x.shape)
        return torch.where(kept, x / (1.0 - PROBABILITY), 0.0)


def file_names(model):
    return {n.replace(".default.", ".").replace("lora_magnitude_vector.weight", "lora_magnitude_vector"): p for n, p in model.named_parameters() if p.requires_grad}


def losses_of(model, batch):
    from make_support import run

    return run(model, batch)


def adapter_case(name, base, settings, batch, dropout=0.0):
    directory = HERE / name
    shutil.rmtree(directory, ignore_errors=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        HERE.parent / "llama" / base, attn_implementation="eager", dtype=torch.float32
    ).eval()
    peft = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", lora_dropout=dropout, **settings)).eval()
    out = {}
    torch.manual_seed(len(name))
    with torch.no_grad():
        for key, p in file_names(peft).items():
            if "magnitude" in key:
                out[f"initial.{key}"] = p.detach().clone()
                p.mul_(1.0 + 0.2 * torch.randn_like(p))
            else:
                p.copy_(torch.randn_like(p) * 0.1)
    peft.save_pretrained(directory / "adapter")
    (directory / "adapter" / "README.md").unlink(missing_ok=True)
    path = directory / "adapter" / "adapter_config.json"
    tree = json.loads(path.read_text())
    tree["target_modules"].sort()
    tree["base_model_name_or_path"] = None
    write_json(path, tree)
    saved = get_peft_model_state_dict(peft)
    assert set(saved) == set(file_names(peft)), (set(saved) ^ set(file_names(peft)))
    with torch.no_grad():
        logits, losses, loss = losses_of(peft, batch)
    for index, value in enumerate(logits):
        out[f"lora.logits.{index}"] = value.clone().contiguous()
    out["lora.losses"], out["lora.loss"] = losses, loss.reshape(1)
    masks = [layer for layer in peft.modules() if hasattr(layer, "lora_dropout")] if dropout else []
    for module, layer in peft.named_modules():
        if layer in masks:
            assert isinstance(layer.lora_dropout["default"], torch.nn.Dropout)
            layer.lora_dropout["default"] = NamedDropout("dropout." + module.removeprefix("base_model.model."))
    if dropout:
        peft.train()
        batch = batch[:1]
    parameters = file_names(peft)
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1, foreach=False
    )
    start = {key: p.detach().clone() for key, p in parameters.items()}
    steps = []
    for number in (1, 2, 3):
        for layer in masks:
            layer.lora_dropout["default"].step = number - 1
        optimizer.zero_grad()
        _, _, loss = losses_of(peft, batch)
        loss.backward()
        steps.append(loss.item())
        if number == 1:
            out |= {f"lora.gradient.{key}": p.grad.detach().clone() for key, p in parameters.items()}
        optimizer.step()
    out |= {f"step3.{key}": p.detach().clone() for key, p in parameters.items()}
    peft.eval()
    with torch.no_grad():
        steps.append(losses_of(peft, batch)[2].item())
        for key, p in parameters.items():
            p.copy_(start[key])
    out["lora.step_losses"] = torch.tensor(steps)
    merged = {} if dropout else peft.merge_and_unload().state_dict()
    for key, value in merged.items():
        if key.startswith("model.layers.1.") and key.endswith("_proj.weight"):
            out[f"merged.{key}"] = value.clone().contiguous()
    save_file(out, directory / "expected.safetensors")
    print(name, steps, file=sys.stderr)


def adamw8bit():
    from bitsandbytes import functional
    from bitsandbytes.backends.triton.kernels_optim import optimizer_update_8bit_blockwise_pytorch

    torch.manual_seed(8)
    count, blocks = 5000, 20
    p = torch.randn(count)
    signed, unsigned = functional.create_dynamic_map(True), functional.create_dynamic_map(False)
    codes = [torch.zeros(count, dtype=torch.uint8) for _ in range(2)]
    scales = [torch.zeros(blocks) for _ in range(2)]
    out = {"signed": signed, "unsigned": unsigned, "params.0": p.clone()}
    for step in (1, 2, 3):
        g = torch.randn(count) * 0.1
        g[512:768] = 0.0
        optimizer_update_8bit_blockwise_pytorch(
            p, g, codes[0], codes[1], 0.9, 0.999, 0.0, 0.0, 1e-8, step, 0.01, signed, unsigned, scales[0], scales[1],
            0.1, 1.0, False, optimizer_name="adam",
        )
        out |= {
            f"grads.{step}": g.clone(),
            f"params.{step}": p.clone(),
            f"codes1.{step}": codes[0].to(torch.int32),
            f"codes2.{step}": codes[1].to(torch.int32),
            f"scales1.{step}": scales[0].clone(),
            f"scales2.{step}": scales[1].clone(),
        }
    save_file(out, HERE / "adamw8bit.safetensors")


def main():
    torch.set_num_threads(1)
    sequences = json.loads((HERE.parent / "llama" / "cases.json").read_text())
    for name, (base, settings) in CASES.items():
        adapter_case(name, base, settings, sequences[base]["sequences"])
    for name, (base, settings) in DROPOUT.items():
        adapter_case(name, base, settings, sequences[base]["sequences"], PROBABILITY)
    adamw8bit()
    write_json(HERE / "cases.json", {name: base for name, (base, _) in CASES.items()})
    write_json(HERE / "dropout.json", {name: base for name, (base, _) in DROPOUT.items()})
    write_versions(HERE, ["torch", "transformers", "peft", "bitsandbytes", "safetensors"])


if __name__ == "__main__":
    main()
