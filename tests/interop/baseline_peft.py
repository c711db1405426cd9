"""Trains an adapter with transformers and PEFT on the tokens that luthier prepared, and times it.

    python baseline_peft.py BASE.gguf TOKENS [--base nf4|f32] [--steps 100] [--threads 2] [--adapter DIR]
                            [--checkpointing]

TOKENS is the directory that a `tokenize` stage wrote (tokens.parquet). The recipe is the
quickstart's: rank 16, alpha 32, all seven projections, AdamW, learning rate 1e-3 falling linearly to
zero, 16 samples a step, loss on answers only. Batches are padded to their longest sample, as
transformers' collators do. Prints one JSON object: seconds a step, tokens a second (padding not
counted), the loss of each step and the process's peak memory, in all and since the model was loaded
(what loading took at most is not counted then, what it left is).
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import datasets
import numpy
import torch
import transformers
from peft import LoraConfig, get_peft_model

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def base_model(path: Path, kind: str):
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    if kind == "f32":
        return model
    with tempfile.TemporaryDirectory() as folder:  # bitsandbytes quantises while a directory is loaded
        plain = transformers.AutoModelForCausalLM.from_config(
            type(model.config)(**{k: v for k, v in model.config.to_dict().items() if k != "quantization_config"})
        )
        plain.load_state_dict(model.state_dict())
        plain.save_pretrained(folder)
        del model, plain
        settings = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=settings, dtype=torch.float32, device_map="cpu"
        )


def restart_peak():
    """Makes VmHWM count from now on; only Linux knows how."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def resident_peak():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def batches(rows, size, steps, seed):
    order = []
    generator = numpy.random.default_rng(seed)
    for _ in range(steps):
        if len(order) < size:
            order = generator.permutation(len(rows)).tolist()
        chosen = [rows[order.pop()] for _ in range(size)]
        width = max(len(row["input_ids"]) for row in chosen)
        ids = torch.zeros(size, width, dtype=torch.long)
        attention = torch.zeros(size, width, dtype=torch.long)
        labels = torch.full((size, width), -100, dtype=torch.long)
        for line, row in enumerate(chosen):
            count = len(row["input_ids"])
            ids[line, :count] = torch.tensor(row["input_ids"], dtype=torch.long)
            attention[line, :count] = 1
            mask = torch.tensor(row["loss_mask"], dtype=torch.bool)
            labels[line, :count][mask] = ids[line, :count][mask]
        yield {"input_ids": ids, "attention_mask": attention, "labels": labels}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model", type=Path)
    arguments.add_argument("tokens", type=Path)
    arguments.add_argument("--base", choices=["nf4", "f32"], default="nf4")
    arguments.add_argument("--steps", type=int, default=100)
    arguments.add_argument("--batch", type=int, default=16)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--seed", type=int, default=7)
    arguments.add_argument("--checkpointing", action="store_true", help="recompute activations in backward")
    arguments.add_argument("--adapter", type=Path, help="where to save the adapter")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    rows = list(datasets.Dataset.from_parquet(str(options.tokens / "tokens.parquet")))
    model = base_model(options.model, options.base)
    model = get_peft_model(
        model,
        LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, lora_dropout=0.0, target_modules=PROJECTIONS),
    ).train()
    if options.checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / options.steps)
    restart_peak()
    losses, tokens, trained, seconds = [], 0, 0, []
    for batch in batches(rows, options.batch, options.steps, options.seed):
        start = time.perf_counter()
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
        losses.append(round(loss.item(), 4))
        tokens += int(batch["attention_mask"].sum())
        trained += int((batch["labels"] >= 0).sum())
    if options.adapter:
        model.save_pretrained(options.adapter)
    print(
        json.dumps(
            {
                "base": options.base,
                "threads": options.threads,
                "steps": options.steps,
                "tokens": tokens,
                "trained": trained,
                "seconds": round(sum(seconds), 2),
                "best_seconds_per_step": round(min(seconds), 3),
                "median_seconds_per_step": round(sorted(seconds)[len(seconds) // 2], 3),
                "tokens_per_second": round(tokens / sum(seconds), 1),
                "peak_memory_mib_after_loading": loaded // 1024,
                "peak_memory_mib_training": resident_peak(),
                "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "losses": losses,
            }
        )
    )


if __name__ == "__main__":
    main()
