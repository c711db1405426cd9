"""SmolLM2-135M-Instruct, read from the GGUF that the quickstart fetches, through transformers and PEFT.

The model is not stored here: the numbers are for whoever has the file. `cases.json` holds the
samples (`ids`, `mask`: true where the token is a trained target) and `greedy`: the most likely 24
tokens after each chat prompt, ending early after token 2, with the smallest lead of a chosen token;
`expected.safetensors` holds, for each PREFIX of base, lora, nf4.base, nf4.lora:

  PREFIX.losses, PREFIX.loss   cross-entropy per trained target, samples in order, and the mean of all
  PREFIX.slice.S               [positions, 64]: logits of sample S at its last four positions (fewer
                               where it is shorter), of the tokens (k × 769) mod 49152 for k < 64
  PREFIX.top_ids.S, .top.S     [20]: the largest logits of the last position and their values

and for lora and nf4.lora, of the mean loss:

  PREFIX.gradient_norms        [420]: L2 norm of each adapter tensor's gradient
  PREFIX.gradient_heads        [420, 8]: its values at flat indices floor(i × size / 8), i < 8
  PREFIX.step_loss             [1]: the loss after one AdamW step (lr 0.001, betas 0.9 and 0.999, eps
                               1e-8, no weight decay, no clipping)

Adapter: rank 8, alpha 16, all seven projections. Tensor number n = ((layer × 7 + module) × 2 + side),
modules in the order q k v o gate up down, side 0 for A [8, in] and 1 for B [out, 8]; its value at
flat index i is sin(0.37 × i + n) × 0.01, computed in f64 and rounded to f32. nf4: the projections
quantised by bitsandbytes (NF4, double quantisation), dequantised to f32.

    python make.py PATH/TO/SmolLM2-135M-Instruct.Q4_1.gguf
"""

import sys
from pathlib import Path

import numpy
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent.parent))
from golden_io import write_json, write_versions
from make_support import greedy, quantize_projections, run

HERE = Path(__file__).parent
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
QUESTIONS = [
    ("How is 'luthier' pronounced?", "L UW1 TH IY0 ER0"),
    ("How is 'adapter' pronounced?", "AH0 D AE1 P T ER0"),
    ("What is 12 plus 30?", "The answer is 42."),
]
TEXT = (
    "The machine began to hum at dawn, and by the time the town was awake it had already pressed a "
    "thousand sheets. Nobody remembered who had built it, or why it ran only in winter."
)


def samples(tokenizer):
    out = []
    for question, answer in QUESTIONS:
        prompt = (
            f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        )
        first = tokenizer.encode(prompt, add_special_tokens=False)
        second = tokenizer.encode(answer + "<|im_end|>", add_special_tokens=False)
        out.append({"ids": first + second, "mask": [False] * len(first) + [True] * len(second)})
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    out.append({"ids": ids, "mask": [False] + [True] * (len(ids) - 1)})
    return out


def record(out, prefix, model, batch):
    with torch.no_grad():
        logits, losses, loss = run(model, batch)
    tokens = torch.tensor([k * 769 % 49152 for k in range(64)])
    out[f"{prefix}.losses"] = losses
    out[f"{prefix}.loss"] = loss.reshape(1)
    for index, value in enumerate(logits):
        out[f"{prefix}.slice.{index}"] = value[-4:, tokens].contiguous()
        top = value[-1].topk(20)
        out[f"{prefix}.top_ids.{index}"] = top.indices.to(torch.int32)
        out[f"{prefix}.top.{index}"] = top.values.contiguous()
    print(prefix, float(loss), file=sys.stderr)


def adapted(model):
    peft = get_peft_model(
        model, LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, lora_dropout=0.0, target_modules=MODULES)
    ).eval()
    parameters = dict(peft.named_parameters())
    ordered = []
    for layer in range(model.config.num_hidden_layers):
        for module in MODULES:
            block = "self_attn" if module[0] in "qkvo" else "mlp"
            for side in "AB":
                name = f"base_model.model.model.layers.{layer}.{block}.{module}.lora_{side}.default.weight"
                parameter = parameters[name]
                index = numpy.arange(parameter.numel(), dtype=numpy.float64)
                value = numpy.sin(0.37 * index + len(ordered)) * 0.01
                with torch.no_grad():
                    parameter.copy_(torch.from_numpy(value.astype(numpy.float32)).reshape(parameter.shape))
                ordered.append(parameter)
    return peft, ordered


def record_adapter(out, prefix, model, batch):
    peft, ordered = adapted(model)
    record(out, prefix, peft, batch)
    optimizer = torch.optim.AdamW(ordered, lr=0.001, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, foreach=False)
    _, _, loss = run(peft, batch)
    loss.backward()
    out[f"{prefix}.gradient_norms"] = torch.stack([p.grad.norm() for p in ordered])
    heads = [p.grad.reshape(-1)[[i * p.numel() // 8 for i in range(8)]] for p in ordered]
    out[f"{prefix}.gradient_heads"] = torch.stack(heads)
    optimizer.step()
    with torch.no_grad():
        out[f"{prefix}.step_loss"] = run(peft, batch)[2].reshape(1)
    print(prefix, "after one step", float(out[f"{prefix}.step_loss"]), file=sys.stderr)
    return peft.unload()


def main():
    path = Path(sys.argv[1])
    torch.set_num_threads(1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    batch = samples(tokenizer)
    out = {}
    record(out, "base", model, batch)
    prompts = [[i for i, kept in zip(sample["ids"], sample["mask"]) if not kept] for sample in batch[:3]]
    continued = [greedy(model, prompt, 24, {2}) for prompt in prompts]
    model = record_adapter(out, "lora", model, batch)
    quantize_projections(model)
    record(out, "nf4.base", model, batch)
    record_adapter(out, "nf4.lora", model, batch)
    save_file({name: value.detach().contiguous() for name, value in out.items()}, HERE / "expected.safetensors")
    (HERE / "expected.safetensors").chmod(0o644)
    write_json(HERE / "cases.json", {"file": path.name, "samples": batch, "greedy": continued})
    write_versions(HERE, ["torch", "transformers", "peft", "bitsandbytes", "gguf", "safetensors"])


if __name__ == "__main__":
    main()
