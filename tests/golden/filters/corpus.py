"""About 300 documents made here, most of them near one limit of one filter rule."""

import random

SUBJECTS = [
    "the luthier",
    "an old clock",
    "a small engine",
    "the harbour master",
    "my neighbour",
    "a patient teacher",
    "the last tram",
    "a grey heron",
    "the night porter",
    "our village choir",
    "a careful cook",
    "the spring tide",
]
VERBS = [
    "mended",
    "carried",
    "remembered",
    "followed",
    "measured",
    "painted",
    "borrowed",
    "weighed",
    "answered",
    "crossed",
    "counted",
    "polished",
]
OBJECTS = [
    "a cracked violin",
    "the northern road",
    "seven blue jars",
    "a letter from abroad",
    "the narrow bridge",
    "every loose board",
    "a basket of pears",
    "the broken lantern",
    "an empty stage",
    "two brass keys",
    "the morning paper",
    "a map of the coast",
]
ENDS = [
    "before the rain came",
    "with great care",
    "because nobody else would",
    "while the others slept",
    "and that was enough",
    "to the sound of bells",
    "without a single word",
    "for the third time this week",
    "after the market closed",
    "in spite of the cold",
    "as they always have",
    "beside the river",
]
LONG = [
    "internationalisation",
    "electroencephalograph",
    "misunderstanding",
    "incomprehensibility",
    "counterrevolutionary",
    "disproportionately",
]
SHORT = ["a", "I", "of", "to", "in", "it", "is", "at", "on", "by", "we", "he"]


def sentence(source, end="."):
    text = f"{source.choice(SUBJECTS)} {source.choice(VERBS)} {source.choice(OBJECTS)} {source.choice(ENDS)}"
    return text[0].upper() + text[1:] + end


def prose(source, sentences, per_line=3):
    lines, line = [], []
    for _ in range(sentences):
        line.append(sentence(source))
        if len(line) == per_line:
            lines.append(" ".join(line))
            line = []
    if line:
        lines.append(" ".join(line))
    return "\n".join(lines)


def of_words(source, count):
    words = prose(source, count // 6 + 2, per_line=1000).split()[:count]
    return " ".join(words)


def documents():
    source = random.Random(41)
    out = [
        ("empty", ""),
        ("blank", " \n\t \n"),
        ("newlines", "\n\n\n"),
        ("one_word", "word"),
        ("one_mark", "."),
        ("marks_only", "... !!! ??? ..." * 20),
    ]

    def add(name, text):
        out.append((f"{name}_{sum(n.startswith(name + '_') for n, _ in out)}", text))

    for sentences in (5, 6, 8, 10, 12, 15, 20, 25):
        for per_line in (1, 3, 50):
            add("prose", prose(source, sentences, per_line))
    for count in (1, 10, 48, 49, 50, 51, 52, 60, 80):
        add("words", of_words(source, count))
        add("words_end", of_words(source, count) + ".")
        add("words_apostrophe", " ".join(["don't", "we've"] + of_words(source, count - 2).split()[: max(count - 2, 0)]))
    for share in (0.2, 0.5, 0.8, 0.9, 1.0):
        words = of_words(source, 80).split()
        for pool, name in ((LONG, "long_words"), (SHORT, "short_words")):
            add(name, " ".join(source.choice(pool) if source.random() < share else word for word in words) + ".")
    for hashes in (1, 5, 7, 8, 9, 10, 12):
        words = of_words(source, 80).split()
        add("hash_apart", " ".join(words + ["#"] * hashes))
        add("hash_joined", " ".join(("#" + w if i < hashes else w) for i, w in enumerate(words)))
        add("dots", " ".join((w + "..." if i < hashes else w) for i, w in enumerate(words)))
        add("ellipsis", " ".join((w + "…" if i < hashes else w) for i, w in enumerate(words)))
    for bullets in (0, 5, 8, 9, 10):
        for mark in ("- ", "• ", "  -", "* "):
            add("bullets", "\n".join((mark if i < bullets else "") + sentence(source) for i in range(10)))
    for ends in (0, 2, 3, 4, 10):
        for mark in ("...", "…", "... ", ".."):
            add("line_ends", "\n".join(sentence(source, mark if i < ends else ".") for i in range(10)))
    for numbers in (5, 10, 16, 20, 25, 30, 60):
        words = of_words(source, 80).split()
        add("numbers", " ".join(str(source.randint(1, 9999)) if i < numbers else w for i, w in enumerate(words)) + ".")
        add("numbers_spread", " ".join(w if i % 80 >= numbers else f"{w} {i}" for i, w in enumerate(words)) + ".")
    for text in ("the", "the be", "the of", "The Of And", "to to to to", "that have with", "and, of; to."):
        filler = (
            "Gardens grow slowly under grey skies near old stone walls where cats sleep during warm afternoons. " * 4
        )
        add("stop_words", filler.replace("near", text, 1))
    for copies in (1, 2, 3, 4, 6):
        base = [sentence(source) for _ in range(10)]
        add("same_line", "\n".join(base + [base[0]] * copies))
        add("same_lines", "\n".join(base + base[:copies]))
        add("same_paragraph", "\n\n".join(base + [base[1]] * copies))
        add("blank_runs", "\n\n\n".join(base[:5] + [base[2]] * copies) + "\n\n")
        add("phrase", " ".join(f"{s} the same old song" for s in base[: 4 + copies]) + " the same old song" * copies)
        add("two_words", (of_words(source, 60) + " very well" * copies * 3))
        long_run = " ".join(of_words(source, 12).split())
        add("long_run", " ".join([prose(source, 8, 100)] + [long_run] * copies))
    for line in (
        "Please enable JavaScript to view this page properly.",
        "We uses cookies and more cookies on this site.",
        "Read our Privacy Policy before you go.",
        "Lorem ipsum dolor sit amet.",
        "function f() { return 1; }",
        "lorem ipsum without an end",
        "javascript without an end",
        "{ no end",
        "He wrote {x} on the wall.",
        "It was first shown in 1821.[1] It then moved.[edit]",
        "As was said[citation needed] before.",
        "Two words.",
        "Three words here.",
        "x" * 1001 + " is long.",
        "x" * 1000 + " is not.",
        'He said "so"',
        "It ended'",
        "Ends with an ellipsis...",
        "Ends with one…",
        "Ends with a bracket.)",
        "Is it? It is! So it goes. Well then.",
        "Ask Dr. Smith at 3.5 p.m. about it.",
    ):
        add("c4", prose(source, 9, 2) + "\n" + line)
        add("c4_first", line + "\n" + prose(source, 4, 1))
    for short in (3, 6, 7, 8, 10):
        add("short_lines", "\n".join("A short line here." if i < short else sentence(source) for i in range(10)))
        add("short_distinct", "\n".join(f"Item {i} is small." if i < short else sentence(source) for i in range(10)))
        add("no_ends", "\n".join(sentence(source, "" if i < short else ".") for i in range(10)))
        add("list", "\n".join(" ".join(sentence(source).split()[: 2 + short // 3]) for _ in range(25)))
    for lines in (3, 20):
        add("two_word_lines", "\n".join(f"{source.choice(LONG)}{i} {source.choice(LONG)}." for i in range(lines)))
    add("line_of_30", "\n".join(["x" * 28 + " ."] * 1 + ["y" * 29 + " ." for _ in range(3)]))
    for separator in ("\r\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\n \n", "\n\t\n"):
        add("separator", separator.join(sentence(source) for _ in range(8)))
        add("separator_bullets", separator.join("- " + sentence(source) for _ in range(8)))
    for text in (
        "你好世界。" * 30,
        "これは小さな試験です。" * 20,
        "مرحبا بالعالم. " * 30,
        "Привет, мир! " * 30,
        "😀 " * 60,
        "e\u0301 " * 60,
        "ﬁ ﬂ " * 40,
        "Ça va très bien, merci beaucoup à tous les élèves. " * 6,
        "1 + 1 = 2. " * 30,
        "| a | b |\n|---|---|\n" * 12,
        "def f(x):\n    return x + 1\n\n" * 8,
        "http://example.com/a?b=c user@example.com " * 15,
        "A B C D E F G. " * 12,
        "word " * 60,
        "word. " * 60,
        "WORD WORD the to OF " * 15,
        "\u00a0".join(of_words(source, 60).split()),
        "\u200b".join(of_words(source, 60).split()),
    ):
        add("other", text)
    return out
