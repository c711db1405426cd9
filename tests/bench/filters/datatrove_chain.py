"""datatrove's FineWeb filters over documents: verdicts and times, for `luthier-bench filters`.

    python datatrove_chain.py DOCUMENTS.jsonl OUT.json [--limit N]

`verdicts`: per document and filter null where it is kept, else the reason, each filter on the original text.
`left`: per document the text that C4 leaves where it differs. `seconds`: wall time per filter over all documents, and of
the chain in FineWeb's order, once with every filter on every document (`all`) and once that stops at the first that
drops (`chain`), on one thread. datatrove caches the tokens of the last five texts, as its filters run by default.
"""

import argparse
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4ParagraphFilter,
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)

FILTERS = {
    "gopher-repetition": GopherRepetitionFilter,
    "gopher-quality": GopherQualityFilter,
    "c4-quality-lines": lambda: C4QualityFilter(filter_no_terminal_punct=False),
    "fineweb-quality": FineWebQualityFilter,
    "c4-quality": C4QualityFilter,
    "c4-paragraphs": C4ParagraphFilter,
}
CHAIN = ["gopher-repetition", "gopher-quality", "c4-quality-lines", "fineweb-quality"]


def judge(rule, document):
    try:
        answer = rule.filter(document)
    except (ArithmeticError, LookupError, AssertionError) as error:
        return f"raises {type(error).__name__}"
    if isinstance(answer, tuple):
        return None if answer[0] else answer[1]
    return None if answer else "dropped"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("documents", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--limit", type=int)
    arguments = parser.parse_args()
    texts = [json.loads(line)["text"] for line in arguments.documents.read_text("utf-8").splitlines()]
    texts = texts[: arguments.limit]
    rules = {name: make() for name, make in FILTERS.items()}
    for rule in rules.values():
        judge(rule, Document(text="A first text loads the tokenizer. It is short.", id="warm"))
    seconds = {}
    start = time.perf_counter()
    for text in texts:
        document = Document(text=text, id="x")
        for name in CHAIN:
            judge(rules[name], document)
    seconds["all"] = time.perf_counter() - start
    start = time.perf_counter()
    for text in texts:
        document = Document(text=text, id="x")
        for name in CHAIN:
            if judge(rules[name], document) is not None:
                break
    seconds["chain"] = time.perf_counter() - start
    verdicts, left = {name: [] for name in rules}, {name: {} for name in rules}
    for name, rule in rules.items():
        for at, text in enumerate(texts):
            document = Document(text=text, id="x")
            reason = judge(rule, document)
            verdicts[name].append(reason)
            if reason is None and document.text != text:
                left[name][at] = document.text
    result = {
        "versions": {"python": sys.version.split()[0], "datatrove": version("datatrove"), "spacy": version("spacy")},
        "documents": len(texts),
        "bytes": sum(len(text.encode("utf-8")) for text in texts),
        "seconds": seconds,
        "verdicts": verdicts,
        "left": left,
    }
    arguments.out.write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
