"""Tokenization beside the tokenizers library as Python calls it: same texts, same threads, one run.

    python bench_tokenizer.py MODEL FILE... [--threads 2]

MODEL is a directory with tokenizer.json, or a GGUF file that `luthier` wrote one from. Each FILE is UTF-8 text; paragraphs
(stretches between empty lines) become the texts. Both sides must make the same ids: their number and a
checksum over all of them in order are compared.
"""

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bench", default="target/release/luthier-bench")
    arguments = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = str(arguments.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    import tokenizers

    texts = [text for file in arguments.files for text in re.split(r"\n{2,}", file.read_text("utf-8")) if text]
    size = sum(len(text.encode()) for text in texts)
    theirs = tokenizers.Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
    theirs.no_truncation()
    theirs.no_padding()
    sums = set()
    for name in ["encode_batch", "encode_batch_fast"]:
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            encoded = getattr(theirs, name)(texts, add_special_tokens=False)
            best = min(best, time.perf_counter() - start)
        checksum = 0
        for token in itertools.chain.from_iterable(one.ids for one in encoded):
            checksum = (checksum * 31 + token) % 2**64
        sums.add((sum(len(one.ids) for one in encoded), checksum))
        print(f"tokenizers {tokenizers.__version__} {name}: {size / best / 1e6:.1f} MB/s on {arguments.threads} threads")
    with tempfile.NamedTemporaryFile("w", suffix=".json") as list_file:
        json.dump(texts, list_file)
        list_file.flush()
        for extra in [[], ["--offsets"]]:
            command = [arguments.bench, "tokenizer", str(arguments.model), list_file.name]
            output = subprocess.check_output([*command, "--threads", str(arguments.threads), *extra], text=True)
            print(f"luthier {' '.join(extra) or 'ids only'}: {output.strip()}")
            tokens, checksum = re.search(r"(\d+) tokens \(checksum (\d+)\)", output).groups()
            sums.add((int(tokens), int(checksum)))
    if len(sums) != 1:
        sys.exit(f"different ids, as (number, checksum): {sorted(sums)}")
    print("all ids are equal")


main()
