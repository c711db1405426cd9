"""Verdicts of NeMo Curator's and Data-Juicer's own filters on the documents of `documents.json`.

    pip download --no-deps nemo-curator==1.4.0 py-data-juicer==1.6.1 && unzip both
    PYTHONHASHSEED=0 python heuristics.py --curator DIRECTORY --data-juicer DIRECTORY     (needs: regex, numpy, emoji 2.16.0)

The seed is for NeMo Curator: of equally frequent runs of words it takes the one that its hash table has first, so that two
runs of it differ on a few of these documents.

The two packages want frameworks that their heuristics do not use, so the modules of the heuristics are loaded alone, with
stand-ins for the registries around them; the code that decides is theirs. `heuristics.json`: per document null where it is
kept, else the first filter that drops it, in the order of NeMo Curator's English pipeline (cut in two: `curator_quality`,
`curator_repetition`) and in the alphabetic order of Data-Juicer's filters; `raises X` where the original fails.
"""

import argparse
import importlib.util
import json
import sys
import types
from pathlib import Path

HERE = Path(__file__).parent


def module(name, path=None, **names):
    if path is None:
        made = types.ModuleType(name)
        made.__path__ = []
    else:
        spec = importlib.util.spec_from_file_location(name, path)
        made = importlib.util.module_from_spec(spec)
    for key, value in names.items():
        setattr(made, key, value)
    sys.modules[name] = made
    if path is not None:
        spec.loader.exec_module(made)
    return made


def curator(root):
    class Logger:
        def __getattr__(self, name):
            return lambda *arguments, **named: None

    if "loguru" not in sys.modules:
        module("loguru", logger=Logger())
    base = "nemo_curator.stages.text"
    for name in ("nemo_curator", "nemo_curator.stages", base, f"{base}.filters", f"{base}.utils"):
        module(name)
    folder = Path(root) / "nemo_curator/stages/text"
    module(f"{base}.filters.doc_filter", folder / "filters/doc_filter.py")
    module(f"{base}.utils.constants", folder / "utils/constants.py")
    module(f"{base}.utils.text_utils", folder / "utils/text_utils.py")
    text = module(f"{base}.filters.string", folder / "filters/heuristic/string.py")
    repetition = module(f"{base}.filters.repetition", folder / "filters/heuristic/repetition/repetition.py")
    quality = [
        ("non_alpha_numeric", text.NonAlphaNumericFilter()),
        ("symbols_to_words", text.SymbolsToWordsFilter()),
        ("numbers", text.NumbersFilter()),
        ("urls", text.UrlsFilter()),
        ("white_space", text.WhiteSpaceFilter()),
        ("parentheses", text.ParenthesesFilter()),
        ("boilerplate_string", text.BoilerPlateStringFilter()),
        ("word_count", text.WordCountFilter()),
        ("punctuation", text.PunctuationFilter()),
        ("words_without_alphabets", text.WordsWithoutAlphabetsFilter()),
        ("common_english_words", text.CommonEnglishWordsFilter()),
        ("mean_word_length", text.MeanWordLengthFilter()),
        ("long_word", text.LongWordFilter()),
        ("ellipsis", text.EllipsisFilter()),
        ("bullets", text.BulletsFilter()),
    ]
    repeated = [
        ("repeated_lines", repetition.RepeatedLinesFilter()),
        ("repeated_paragraphs", repetition.RepeatedParagraphsFilter()),
        ("repeated_lines_char", repetition.RepeatedLinesByCharFilter()),
        ("repeated_paragraphs_char", repetition.RepeatedParagraphsByCharFilter()),
    ]
    for n, bound in ((2, 0.2), (3, 0.18), (4, 0.16)):
        repeated.append((f"repeating_top_{n}grams", repetition.RepeatingTopNGramsFilter(n, bound)))
    for n, bound in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10)):
        repeated.append((f"repeating_dup_{n}gram", repetition.RepeatingDuplicateNGramsFilter(n, bound)))
    judge = lambda rule, text: rule.keep_document(rule.score_document(text))  # noqa: E731
    return {"curator_quality": (quality, judge), "curator_repetition": (repeated, judge)}


def data_juicer(root):
    class Registry:
        def register_module(self, _name):
            return lambda kind: kind

    class Filter:
        def __init__(self, *_arguments, **_named):
            self.text_key = "text"

        def get_keep_boolean(self, value, least=None, most=None):
            return (least is None or value >= least) and (most is None or value <= most)

    class Quiet:
        def __getattr__(self, name):
            return Quiet()

        def __call__(self, *_arguments, **_named):
            return Quiet()

    folder = Path(root) / "data_juicer"
    base = "data_juicer.ops"
    for name in ("data_juicer", "data_juicer.utils", base, f"{base}.filter"):
        module(name)
    module("jsonargparse")
    module("jsonargparse.typing", PositiveFloat=float, PositiveInt=int, ClosedUnitInterval=float, List=list)
    if importlib.util.find_spec("zstandard") is None:
        module("zstandard")
    module("data_juicer.utils.constant", folder / "utils/constant.py")
    module("data_juicer.utils.lazy_loader", LazyLoader=Quiet())
    module("data_juicer.utils.model_utils", get_model=lambda *_: None, prepare_model=lambda *_, **__: None)
    module(f"{base}.base_op", OPERATORS=Registry(), Filter=Filter)
    module(f"{base}.op_fusion", INTER_LINES=Registry(), INTER_WORDS=Registry())
    common = module(f"{base}.common")
    special = module(f"{base}.common.special_characters", folder / "ops/common/special_characters.py")
    helper = module(f"{base}.common.helper_func", folder / "ops/common/helper_func.py")
    common.SPECIAL_CHARACTERS = special.SPECIAL_CHARACTERS
    common.get_words_from_document = helper.get_words_from_document
    common.words_refinement = helper.words_refinement
    rules = []
    for name, kind in (
        ("alphanumeric_filter", "AlphanumericFilter"),
        ("average_line_length_filter", "AverageLineLengthFilter"),
        ("character_repetition_filter", "CharacterRepetitionFilter"),
        ("maximum_line_length_filter", "MaximumLineLengthFilter"),
        ("special_characters_filter", "SpecialCharactersFilter"),
        ("text_length_filter", "TextLengthFilter"),
        ("word_repetition_filter", "WordRepetitionFilter"),
        ("words_num_filter", "WordsNumFilter"),
    ):
        loaded = module(f"{base}.filter.{name}", folder / f"ops/filter/{name}.py")
        rules.append((name, getattr(loaded, kind)()))
    stats = sys.modules["data_juicer.utils.constant"].Fields.stats

    def judge(rule, text):
        samples = {"text": [text], stats: [{}]}
        return list(rule.process_batched(rule.compute_stats_batched(samples)))[0]

    return {"data_juicer": (rules, judge)}


def verdict(rules, judge, text):
    for name, rule in rules:
        try:
            if not judge(rule, text):
                return name
        except (ArithmeticError, LookupError) as error:
            return f"raises {type(error).__name__}"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--curator", required=True)
    parser.add_argument("--data-juicer", required=True)
    parser.add_argument("--documents", type=Path, default=HERE / "documents.json")
    parser.add_argument("--out", type=Path, default=HERE / "heuristics.json")
    arguments = parser.parse_args()
    if arguments.documents.suffix == ".jsonl":
        documents = [json.loads(line) for line in arguments.documents.read_text("utf-8").splitlines()]
    else:
        documents = json.loads(arguments.documents.read_text("utf-8"))
    chains = {**curator(arguments.curator), **data_juicer(arguments.data_juicer)}
    rows, counts = [], {name: {} for name in chains}
    for document in documents:
        row = {"name": document.get("name")}
        for name, (rules, judge) in chains.items():
            row[name] = verdict(rules, judge, document["text"])
            counts[name][row[name]] = counts[name].get(row[name], 0) + 1
        rows.append(row)
    for name, reasons in counts.items():
        print(name, reasons, file=sys.stderr)
    lines = ",\n".join(json.dumps(row) for row in rows)
    arguments.out.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
