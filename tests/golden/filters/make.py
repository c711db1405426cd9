"""Verdicts of datatrove's Gopher, C4 and FineWeb filters on documents made here.

`documents.json`: `name` and `text` of each. `verdicts.json`: per document and filter null where it
is kept, else datatrove's reason (or `raises X` where datatrove itself fails), and for C4 the text it
leaves of a kept document where that differs. `spacy` is datatrove as it is: words and sentences as
spaCy's English tokenizer cuts them. `whitespace` is the same code with words cut at white space
(Python's str.split), so that the arithmetic of the rules can be compared exactly by programs that
do not carry spaCy's rules; sentences stay spaCy's. `c4_no_punct` is C4 without the rule on final punctuation,
`c4_no_sentences` C4 without the minimum of sentences.
"""

import json
import sys
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    fineweb_quality_filter,
    gopher_quality_filter,
    gopher_repetition_filter,
)

sys.path.insert(0, str(Path(__file__).parent.parent))
from corpus import documents
from golden_io import write_json, write_versions

HERE = Path(__file__).parent
FILTERS = {
    "gopher_quality": GopherQualityFilter,
    "gopher_repetition": GopherRepetitionFilter,
    "c4_quality": C4QualityFilter,
    "c4_no_punct": lambda: C4QualityFilter(filter_no_terminal_punct=False),
    "c4_no_sentences": lambda: C4QualityFilter(min_num_sentences=-1),
    "fineweb_quality": FineWebQualityFilter,
}


def verdict(rule, text):
    document = Document(text=text, id="x")
    try:
        answer = rule.filter(document)
    except (ArithmeticError, LookupError, AssertionError) as error:
        return f"raises {type(error).__name__}", None
    if answer is True:
        return None, document.text if document.text != text else None
    return answer[1], None


def main():
    texts = documents()
    rules = {name: make() for name, make in FILTERS.items()}
    rows = {name: {"name": name} for name, _ in texts}
    for cut in ("spacy", "whitespace"):
        if cut == "whitespace":
            for module in (gopher_quality_filter, gopher_repetition_filter, fineweb_quality_filter):
                module.split_into_words = lambda text, language: text.split()
        for name, text in texts:
            out = rows[name][cut] = {}
            for rule_name, rule in rules.items():
                if cut == "whitespace" and rule_name.startswith("c4"):
                    continue  # C4 cuts its words at white space anyway
                out[rule_name], left = verdict(rule, text)
                if left is not None:
                    out[f"{rule_name}_text"] = left
    for rule_name in rules:
        reasons = {}
        for row in rows.values():
            reason = row["spacy"][rule_name]
            reasons[reason] = reasons.get(reason, 0) + 1
        print(rule_name, reasons, file=sys.stderr)
    same = sum(row["spacy"][rule] == reason for row in rows.values() for rule, reason in row["whitespace"].items())
    print(f"{len(texts)} documents; spaCy and white space agree on {same} of {len(texts) * 3}", file=sys.stderr)
    write_json(HERE / "documents.json", [{"name": name, "text": text} for name, text in texts])
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows.values())
    (HERE / "verdicts.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    write_versions(HERE, ["datatrove", "spacy"])


if __name__ == "__main__":
    main()
