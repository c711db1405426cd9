"""Small random models through transformers and PEFT: logits, losses, adapter gradients, AdamW steps.

Each directory NAME/ is a Hugging Face model (`config.json`, `model.safetensors`, f32) with
`adapter/`, a LoRA adapter as PEFT saves it (non-zero A and B), and `expected.safetensors`:

  base.logits.S          [tokens, vocab] for sequence S, run alone from position 0
  base.losses            one cross-entropy per trained target, sequences in order
  base.loss              [1]: their mean over all sequences together
  lora.logits.S, lora.losses, lora.loss            the same with the adapter
  lora.gradient.MODULE.lora_A.weight, …lora_B…     of lora.loss, adapter names as in the PEFT file
  step1.MODULE…, step3.MODULE…                     adapter after one (`llama` only) and three AdamW
                         steps on lora.loss
  lora.step_losses       [4]: the loss before each of the three steps and after the last
  merged.NAME            base weights after merge_and_unload (projections of layer 1, `llama` only)
  nf4.…                  the lora.* set again over projections quantised by bitsandbytes to NF4 with
                         double quantisation and dequantised to f32 (`llama` only)

`cases.json` lists per model the sequences: `ids` and `mask` (true where the token is a trained
target; the first never is), and `greedy`: the most likely 16 tokens after each sequence, ending early
after token 2, with the smallest lead of a chosen token's logit over the next. AdamW: lr 0.01, betas 0.9 and 0.999, eps 1e-8, weight decay 0.1, no
clipping, no dropout. Attention is computed eagerly in f32.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy
import torch
import transformers
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent.parent))
from golden_io import write_json, write_versions
from make_support import greedy, quantize_projections, run

HERE = Path(__file__).parent
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SMALL = dict(
    vocab_size=128,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    rms_norm_eps=1e-5,
    bos_token_id=1,
    eos_token_id=2,
    initializer_range=0.2,
)


def llama3_rope(theta):
    return {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }


def configurations():
    yield (
        "llama",
        transformers.LlamaConfig(
            **(SMALL | dict(hidden_size=64, intermediate_size=128)),
            tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        ),
        dict(r=4, lora_alpha=8, target_modules=ALL),
    )
    yield (
        "llama_tied",
        transformers.LlamaConfig(
            **(SMALL | dict(num_attention_heads=3, num_key_value_heads=1, hidden_size=48)),
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        ),
        dict(r=4, lora_alpha=16, target_modules=ALL),
    )
    yield (
        "llama_scaled_rope",
        transformers.LlamaConfig(**SMALL, tie_word_embeddings=True, rope_parameters=llama3_rope(500000.0)),
        dict(r=8, lora_alpha=8, target_modules=ALL),
    )
    yield (
        "qwen2",
        transformers.Qwen2Config(
            **(SMALL | dict(rms_norm_eps=1e-6)),
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        ),
        dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], use_rslora=True),
    )
    yield (
        "qwen3",
        transformers.Qwen3Config(
            **(SMALL | dict(rms_norm_eps=1e-6)),
            head_dim=16,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        ),
        dict(r=4, lora_alpha=8, target_modules=ALL),
    )
    yield (
        "mistral",
        transformers.MistralConfig(
            **SMALL,
            sliding_window=6,
            head_dim=8,
            tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        ),
        dict(r=4, lora_alpha=8, target_modules=ALL),
    )


def sequences(vocab, generator):
    out = []
    for length, prompt in ((17, 5), (9, 1), (2, 1), (33, 30)):
        ids = generator.integers(3, vocab, length).tolist()
        mask = [index >= prompt for index in range(length)]
        if length == 33:
            mask = [index in (1, 7, 8, 9, 20, 32) for index in range(length)]
        out.append({"ids": ids, "mask": mask})
    return out


def adapter_tensors(model, pick):
    """PEFT's file names → pick(parameter), for every adapter parameter."""
    names = {id(p): n for n, p in get_peft_model_state_dict_parameters(model).items()}
    return {names[id(p)]: pick(p).detach().clone().contiguous() for p in model.parameters() if p.requires_grad}


def get_peft_model_state_dict_parameters(model):
    return {name.replace(".default.", "."): p for name, p in model.named_parameters() if p.requires_grad}


def record_base(out, prefix, model, batch):
    with torch.no_grad():
        logits, losses, loss = run(model, batch)
    for index, value in enumerate(logits):
        out[f"{prefix}.logits.{index}"] = value.clone().contiguous()
    out[f"{prefix}.losses"] = losses
    out[f"{prefix}.loss"] = loss.reshape(1)


def record_training(out, lora, keep_steps, model, batch):
    record_base(out, lora, model, batch)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=0.01,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.1,
        foreach=False,
    )
    start = adapter_tensors(model, lambda p: p)
    losses = []
    for number in (1, 2, 3):
        optimizer.zero_grad()
        _, _, loss = run(model, batch)
        loss.backward()
        losses.append(loss.item())
        if number == 1:
            for name, value in adapter_tensors(model, lambda p: p.grad).items():
                out[f"{lora}.gradient.{name}"] = value
        optimizer.step()
        if number in keep_steps:
            for name, value in adapter_tensors(model, lambda p: p).items():
                out[f"step{number}.{name}"] = value
    with torch.no_grad():
        losses.append(run(model, batch)[2].item())
    out[f"{lora}.step_losses"] = torch.tensor(losses)
    with torch.no_grad():
        for name, p in get_peft_model_state_dict_parameters(model).items():
            p.copy_(start[name])


def build(config, seed):
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1:  # norms start at one and biases at zero: make both tell
                p.add_(torch.randn_like(p) * 0.2)
    return model.eval()


def add_adapter(model, settings, seed):
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, **settings))
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.copy_(torch.randn_like(p) * 0.1)
    return model.eval()


def main():
    torch.set_num_threads(1)
    cases = {}
    for number, (name, config, settings) in enumerate(configurations()):
        directory = HERE / name
        shutil.rmtree(directory, ignore_errors=True)
        model = build(config, seed=100 + number)
        model.save_pretrained(directory, save_original_format=True)
        (directory / "generation_config.json").unlink(missing_ok=True)
        batch = sequences(config.vocab_size, numpy.random.default_rng(number))
        out = {}
        record_base(out, "base", model, batch)
        continued = [greedy(model, sequence["ids"], 16, {2}) for sequence in batch]
        peft = add_adapter(model, settings, seed=200 + number)
        peft.save_pretrained(directory / "adapter")
        (directory / "adapter" / "README.md").unlink(missing_ok=True)
        saved_config = directory / "adapter" / "adapter_config.json"
        tree = json.loads(saved_config.read_text())
        tree["target_modules"].sort()  # PEFT writes a set: its order changes from run to run
        write_json(saved_config, tree)
        saved = {key: value.clone() for key, value in get_peft_model_state_dict(peft).items()}
        assert set(saved) == set(get_peft_model_state_dict_parameters(peft)), "names differ from PEFT's file"
        record_training(out, "lora", (1, 3) if name == "llama" else (3,), peft, batch)
        if name == "llama":
            merged = peft.merge_and_unload()
            for key, value in merged.state_dict().items():
                if key.startswith("model.layers.1.") and key.endswith("_proj.weight"):
                    out[f"merged.{key}"] = value.clone().contiguous()
            model = transformers.AutoModelForCausalLM.from_pretrained(
                directory, attn_implementation="eager", dtype=torch.float32
            ).eval()
            quantize_projections(model)
            record_base(out, "nf4.base", model, batch)
            peft = add_adapter(model, settings, seed=200 + number)
            record_training(out, "nf4.lora", (), peft, batch)
        save_file(out, directory / "expected.safetensors")
        cases[name] = {"sequences": batch, "adapter": settings, "greedy": continued}
        print(name, {k: float(v[0]) for k, v in out.items() if k.endswith(".loss")}, file=sys.stderr)
    write_json(HERE / "cases.json", cases)
    write_versions(HERE, ["torch", "transformers", "peft", "bitsandbytes", "safetensors"])


if __name__ == "__main__":
    main()
