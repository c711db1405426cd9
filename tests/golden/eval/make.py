"""Metric values from lm-evaluation-harness, jiwer and RapidFuzz on small cases.

`cases.json`:
  multiple_choice   items of choices, log-likelihoods and the gold index, with the harness' own acc,
                    acc_norm (per character) and acc_bytes for each item, and mean and stderr over all
  rolling           items of [log-likelihood, weight]: perplexity (unweighted), weighted perplexity
                    and bits per byte over all
  exact_match       predictions and references under each option set, with the mean
  mean_stderr       lists of numbers with the harness' mean and standard error
  distance          pairs of token lists with their Levenshtein distance (RapidFuzz)
  error_rate        lists of reference/hypothesis pairs: jiwer's word error rate over all of them
                    (edits summed, divided by reference words summed) with its counts
"""

import random
import sys
from pathlib import Path

import jiwer
from lm_eval.api import metrics
from lm_eval.api.task import ConfigurableTask
from rapidfuzz.distance import Levenshtein

sys.path.insert(0, str(Path(__file__).parent.parent))
from golden_io import write_json, write_versions

HERE = Path(__file__).parent
PHONEMES = [
    "AA0",
    "AA1",
    "AE1",
    "AH0",
    "AO1",
    "B",
    "CH",
    "D",
    "EH1",
    "ER0",
    "F",
    "G",
    "IH0",
    "IY0",
    "K",
    "L",
    "M",
    "N",
    "P",
    "R",
    "S",
    "T",
    "UW1",
    "Z",
]


class Harness(ConfigurableTask):
    """The harness' scoring of one multiple-choice item, without a dataset behind it."""

    def __init__(self):
        self._metric_fn_list = dict.fromkeys(["acc", "acc_norm", "acc_bytes"])
        self.multiple_input = self.multiple_target = 0
        self.OUTPUT_TYPE = "multiple_choice"
        self._config = type("Config", (), {"repeats": 1, "target_delimiter": " ", "process_results": None})()

    def doc_to_choice(self, doc):
        return doc["choices"]

    def doc_to_text(self, doc):
        return ""

    def doc_to_target(self, doc):
        return doc["gold"]


def multiple_choice(source):
    harness = Harness()
    texts = [
        "yes",
        "no",
        "a long answer",
        "é",
        "naïve façade",
        "42",
        "the bridge of the violin",
        "你好世界",
        "x",
        "none of these",
    ]
    items = []
    for _ in range(40):
        choices = source.sample(texts, source.randint(2, 5))
        scores = [round(-source.random() * 3 * len(choice) ** source.choice([0.5, 1.0]), 4) for choice in choices]
        if len(items) % 9 == 0:
            scores[1] = scores[0]  # a tie: the first of the largest wins
        doc = {"choices": choices, "gold": source.randrange(len(choices))}
        result = harness.process_results(doc, [(score, False) for score in scores])
        items.append(
            doc | {"log_likelihoods": scores} | {k: float(result[k]) for k in ("acc", "acc_norm", "acc_bytes")}
        )
    totals = {}
    for name in ("acc", "acc_norm", "acc_bytes"):
        values = [item[name] for item in items]
        totals[name] = {"mean": metrics.mean(values), "stderr": metrics.mean_stderr(values)}
    return {"items": items, "totals": totals}


def rolling(source):
    items = [[round(-source.random() * 900, 5), source.randint(1, 4000)] for _ in range(20)]
    return {
        "items": items,
        "perplexity": metrics.perplexity([item[0] / 100 for item in items]),
        "perplexity_items": [item[0] / 100 for item in items],
        "weighted_perplexity": metrics.weighted_perplexity(items),
        "bits_per_byte": metrics.bits_per_byte(items),
    }


def exact_match():
    predictions = ["L UW1 TH", "Hello, World!", "42", " 42", "abc123", "THE answer is 7.", "", "é", "a  b"]
    references = ["L UW1 TH", "hello world", "42", "42", "abc456", "the answer is 7", "", "e\u0301", "a b"]
    out = []
    for options in (
        {},
        {"ignore_case": True},
        {"ignore_punctuation": True},
        {"ignore_numbers": True},
        {"ignore_case": True, "ignore_punctuation": True},
        {"regexes_to_ignore": [" ", "[Tt][Hh][Ee]"]},
    ):
        one_by_one = [
            float(metrics.exact_match_fn(predictions=[p], references=[r], **options)["exact_match"])
            for p, r in zip(predictions, references)
        ]
        total = float(metrics.exact_match_fn(predictions=predictions, references=references, **options)["exact_match"])
        out.append({"options": options, "each": one_by_one, "mean": total})
    return {"predictions": predictions, "references": references, "results": out}


def stderr(source):
    lists = [
        [0, 1],
        [1, 1, 1, 1],
        [0, 0, 1, 0, 1, 1, 0],
        [source.gauss(3, 2) for _ in range(31)],
        [1e9 + 1, 1e9 + 2, 1e9 + 4],
    ]
    return [{"values": v, "mean": metrics.mean(v), "stderr": metrics.mean_stderr(v)} for v in lists]


def changed(tokens, source):
    out = list(tokens)
    for _ in range(source.randint(0, 4)):
        position = source.randint(0, len(out))
        action = source.choice("ids")
        if action == "i" or not out:
            out.insert(position, source.choice(PHONEMES))
        elif action == "d":
            out.pop(min(position, len(out) - 1))
        else:
            out[min(position, len(out) - 1)] = source.choice(PHONEMES)
    return out


def distances(source):
    pairs = [
        ([], []),
        (["A"], []),
        ([], ["A", "B"]),
        (list("kitten"), list("sitting")),
        (list("aaaa"), list("aa")),
        (list("abc"), list("cba")),
    ]
    for _ in range(60):
        left = [source.choice(PHONEMES) for _ in range(source.randint(0, 12))]
        pairs.append(
            (
                left,
                changed(left, source) if source.random() < 0.7 else source.choices(PHONEMES, k=source.randint(0, 12)),
            )
        )
    return [{"reference": a, "hypothesis": b, "distance": Levenshtein.distance(a, b)} for a, b in pairs]


def error_rates(source):
    out = []
    for size in (1, 3, 25):
        references = [[source.choice(PHONEMES) for _ in range(source.randint(1, 9))] for _ in range(size)]
        hypotheses = [changed(r, source) for r in references]
        joined = [" ".join(r) for r in references], [" ".join(h) for h in hypotheses]
        result = jiwer.process_words(*joined)
        out.append(
            {
                "references": joined[0],
                "hypotheses": joined[1],
                "rate": result.wer,
                "substitutions_deletions_insertions": result.substitutions + result.deletions + result.insertions,
                "reference_words": sum(map(len, references)),
            }
        )
    return out


def main():
    source = random.Random(3)
    write_json(
        HERE / "cases.json",
        {
            "multiple_choice": multiple_choice(source),
            "rolling": rolling(source),
            "exact_match": exact_match(),
            "mean_stderr": stderr(source),
            "distance": distances(source),
            "error_rate": error_rates(source),
        },
    )
    write_versions(HERE, ["lm_eval", "jiwer", "rapidfuzz", "numpy"])


if __name__ == "__main__":
    main()
