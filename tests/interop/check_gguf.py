"""Loads a GGUF file that luthier wrote in llama.cpp and compares token ids and logits.

    python check_gguf.py MODEL.gguf [--tolerance 1e-3]

llama.cpp computes with an f32 cache and without flash attention, and for f32 weights in f32. With
quantised weights it also quantises activations, so there only a coarse tolerance makes sense; the
blocks themselves are compared by the golden tests.
"""

import argparse
from pathlib import Path

import llama_cpp
import numpy

from ours import PROMPTS, TOLERANCE, Report, our_logits


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model", type=Path)
    arguments.add_argument("--tolerance", type=float, default=TOLERANCE)
    arguments.add_argument("--prompt", action="append")
    options = arguments.parse_args()
    model = llama_cpp.Llama(
        str(options.model),
        n_ctx=512,
        n_batch=512,
        logits_all=True,
        verbose=False,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        flash_attn=False,
    )
    print(f"{options.model}: {model.metadata.get('general.architecture')}, {model.n_vocab()} tokens")
    report = Report(options.tolerance)
    for number, prompt in enumerate(options.prompt or PROMPTS):
        ids = model.tokenize(prompt.encode("utf-8"), add_bos=False, special=True)
        model.reset()
        model.eval(ids)
        values = numpy.array(model.scores[: len(ids)], dtype=numpy.float32)
        report.compare(f"llama.cpp, prompt {number}", our_logits(options.model, prompt), ids, values)
    report.finish()


if __name__ == "__main__":
    main()
