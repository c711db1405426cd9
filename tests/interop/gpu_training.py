"""Times QLoRA steps of transformers + PEFT + bitsandbytes, or of Unsloth, on a GPU, on random tokens of one length.

    python gpu_training.py BASE.gguf --with peft|unsloth [--length 4096] [--rank 16] [--steps 5] [--device cuda]

Rank 16 on all seven projections, NF4 with double quantisation, bf16, gradient checkpointing, AdamW in f32,
one sequence a step; the first step is not timed. Prints one line for the report of tests/gpu.sh.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch
import transformers

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def directory(gguf: Path, folder: str) -> str:
    """The GGUF as a Hugging Face directory, which both loaders quantise themselves."""
    model = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    config = model.config.to_dict()
    config.pop("quantization_config", None)
    plain = transformers.AutoModelForCausalLM.from_config(type(model.config)(**config), dtype=torch.bfloat16)
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    return folder


def with_peft(folder: str, options):
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    quantisation = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=quantisation, dtype=torch.bfloat16, device_map={"": options.device}
    )
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=True)
    config = LoraConfig(r=options.rank, lora_alpha=32, target_modules=PROJECTIONS, task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def with_unsloth(folder: str, options):
    from unsloth import FastLanguageModel

    model, _ = FastLanguageModel.from_pretrained(folder, max_seq_length=options.length, load_in_4bit=True)
    return FastLanguageModel.get_peft_model(
        model, r=options.rank, lora_alpha=32, target_modules=PROJECTIONS, use_gradient_checkpointing="unsloth"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--with", dest="trainer", choices=["peft", "unsloth"], required=True)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no GPU")
    with tempfile.TemporaryDirectory() as folder:
        load = with_peft if options.trainer == "peft" else with_unsloth
        model = load(directory(options.model, folder), options)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-4)
    generator = torch.Generator().manual_seed(7)
    vocabulary = model.config.vocab_size
    seconds = []
    for _ in range(options.steps + 1):
        ids = torch.randint(0, vocabulary, (1, options.length), generator=generator).to(options.device)
        start = time.perf_counter()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        seconds.append(time.perf_counter() - start)
    timed = sorted(seconds[1:])
    rate = options.length / timed[len(timed) // 2]
    memory = torch.cuda.max_memory_allocated() / 2**20 if options.device == "cuda" else 0
    print(f"{options.trainer}: {rate:.0f} tokens/s, at most {memory:.0f} MiB allocated")


if __name__ == "__main__":
    main()
