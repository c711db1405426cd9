"""English documents from what is installed on this machine, mutated by a seeded generator.

    python corpus.py OUT.jsonl [--documents N] [--gsm8k DIRECTORY] [--help DIRECTORY]

Sources: doc strings and package descriptions of this interpreter, /usr/share/doc, English manual pages, GSM8K, and the
pages of GNOME's user help (package gnome-user-docs, unpacked). Of each document that is long enough some copies are
mutated towards the limits of the filters: repeated lines, lost punctuation, bullets, symbols, numbers, cut to length,
typographic quotes, links. Equal machines give equal corpora; another machine gives another one of the same kind.
"""

import argparse
import ast
import gzip
import hashlib
import json
import random
import re
import sys
import sysconfig
from pathlib import Path

LINKS = ["https://example.org/a/b?c=d&e=1", "http://test.example.com/~user/page_1.html", "user.name@example.co.uk"]


def docstrings(root):
    for path in sorted(root.rglob("*.py")):
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, RecursionError, OSError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                text = ast.get_docstring(node)
                if text and len(text) >= 300:
                    yield text


def descriptions(root):
    for path in sorted(root.glob("*.dist-info/METADATA")):
        text = path.read_text("utf-8", "replace")
        head, _, body = text.partition("\n\n")
        if len(body) >= 300:
            yield body


def read(path):
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        return data.decode("utf-8")
    except (OSError, UnicodeDecodeError, EOFError, gzip.BadGzipFile):
        return None


def documentation():
    for path in sorted(Path("/usr/share/doc").rglob("*")):
        if path.is_file() and not path.is_symlink() and path.stat().st_size < 400_000:
            if re.search(r"\.(html?|png|svg|pdf|ps|xz|css|js)$", path.name):
                continue
            text = read(path)
            if text and len(text) >= 300:
                for at in range(0, min(len(text), 30_000), 6_000):
                    yield text[at : at + 6_000]


def manuals():
    for path in sorted(Path("/usr/share/man").glob("man[1-8]/*.gz")):
        text = read(path)
        if not text or "\n.so " in text[:300]:
            continue
        lines = []
        for line in text.splitlines():
            if line.startswith((".SH", ".SS", ".PP", ".TP", ".P", ".LP", ".IP", ".Pp", ".sp", ".br")):
                lines.append("")
                line = re.sub(r"^\.\w+ ?", "", line).strip('"')
            elif line.startswith((".B", ".I", ".R")):
                line = re.sub(r"^\.\w+ ?", "", line).replace('"', "")
            elif line.startswith((".", "'")):
                continue
            line = re.sub(r"\\f(\[\w*\]|\(\w\w|.)|\\&|\\/|\\,", "", line)
            line = line.replace("\\-", "-").replace("\\(bu", "•").replace("\\(cq", "’").replace("\\(aq", "'")
            line = line.replace("\\(lq", "“").replace("\\(rq", "”").replace("\\(oq", "‘").replace("\\e", "\\")
            lines.append(line)
        text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
        if len(text) >= 300:
            for at in range(0, min(len(text), 16_000), 4_000):
                yield text[at : at + 4_000]


def word_problems(directory):
    for path in sorted(Path(directory).rglob("*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            row = json.loads(line)
            if "question" in row and "answer" in row:
                yield row["question"] + "\n" + row["answer"]


def help_pages(directory):
    for path in sorted(Path(directory).rglob("C/**/*.page")):
        text = re.sub(r"<info>.*?</info>", "", path.read_text("utf-8"), flags=re.S)
        text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
        paragraphs = re.split(r"</(?:p|title|item|section)>", text)
        paragraphs = [" ".join(re.sub(r"<[^>]*>", "", paragraph).split()) for paragraph in paragraphs]
        text = "\n".join(paragraph for paragraph in paragraphs if paragraph)
        if len(text) >= 200:
            yield text


def mutate(source, text):
    lines = text.split("\n")
    words = text.split(" ")
    kind = source.randrange(14)
    if kind == 0:
        at = source.randrange(len(lines))
        return "\n".join(lines[: at + 1] + [lines[at]] * source.randint(1, 6) + lines[at + 1 :])
    if kind == 1:
        paragraphs = text.split("\n\n")
        return "\n\n".join(paragraphs + [source.choice(paragraphs)] * source.randint(1, 4))
    if kind == 2:
        share = source.random()
        return "\n".join(line.rstrip(".!?") if source.random() < share else line for line in lines)
    if kind == 3:
        share = source.random()
        return "\n".join(("- " if source.random() < share else "") + line for line in lines)
    if kind == 4:
        share = source.random() * 0.5
        return "\n".join(line + source.choice(["...", "…"]) if source.random() < share else line for line in lines)
    if kind == 5:
        share = source.random() * 0.4
        return " ".join(f"{word} {source.randint(0, 9999)}" if source.random() < share else word for word in words)
    if kind == 6:
        share = source.random() * 0.2
        return " ".join("#" + word if source.random() < share else word for word in words)
    if kind == 7:
        return " ".join(words[: source.randint(40, 75)])
    if kind == 8:
        text = re.sub(r"\"([^\"\n]*)\"", "“\\1”", text).replace("'", "’")
        return text.replace(" - ", " — ").replace("...", "…")
    if kind == 9:
        share = source.random() * 0.1
        return " ".join(source.choice(LINKS) if source.random() < share else word for word in words)
    if kind == 10:
        at, length = source.randrange(len(words)), source.randint(5, 20)
        return " ".join(words + words[at : at + length] * source.randint(1, 5))
    if kind == 11:
        return re.sub(r"\n(?!\n)", " ", text)
    if kind == 12:
        return text.upper() if source.random() < 0.3 else text.title()
    return "\n".join(" ".join(line.split()) for line in lines if line.strip())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--documents", type=int, default=6000)
    parser.add_argument("--gsm8k", type=Path)
    parser.add_argument("--help-pages", type=Path)
    arguments = parser.parse_args()
    source = random.Random(20)
    library = Path(sysconfig.get_paths()["stdlib"])
    packages = Path(sysconfig.get_paths()["purelib"])
    pools = {
        "docstring": list(docstrings(library)) + list(docstrings(packages)),
        "description": list(descriptions(packages)),
        "documentation": list(documentation()),
        "manual": list(manuals()),
        "gsm8k": list(word_problems(arguments.gsm8k)) if arguments.gsm8k else [],
        "help": list(help_pages(arguments.help_pages)) if arguments.help_pages else [],
    }
    for pool in pools.values():
        source.shuffle(pool)
    rows, seen = [], set()
    quota = {"docstring": 0.25, "description": 0.05, "documentation": 0.2, "manual": 0.2, "gsm8k": 0.1, "help": 0.2}
    for name, pool in pools.items():
        wanted = int(arguments.documents * quota[name])
        taken = 0
        while pool and taken < wanted:
            text = pool[taken % len(pool)]
            if taken >= len(pool) or source.random() < 0.5:
                for _ in range(source.randint(1, 3)):
                    text = mutate(source, text)
            taken += 1
            digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
            if digest not in seen and len(text) < 60_000:
                seen.add(digest)
                rows.append({"source": name, "text": text})
    source.shuffle(rows)
    with arguments.out.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    size = sum(len(row["text"].encode()) for row in rows)
    counts = {name: sum(row["source"] == name for row in rows) for name in pools}
    print(f"{len(rows)} documents, {size / 1e6:.1f} MB: {counts}", file=sys.stderr)


if __name__ == "__main__":
    main()
