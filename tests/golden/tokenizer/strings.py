"""The texts that every tokenizer of this directory is asked about."""

import random

PROSE = [
    "The luthier planed the spruce until it rang, then strung four strings over a maple bridge.",
    "A build that ran yesterday should run today; if it does not, something it read has changed.",
    "How is 'luthier' pronounced?",
    "L UW1 TH IY0 ER0",
    "She'll say we've heard they're late, I'd guess it's 5 o'clock and he'd've known it'S not, I'M sure.",
    "SHE'LL SAY WE'VE HEARD THEY'RE LATE, I'D GUESS.",
    "don't can't won't it's I'm you're we'd they'll y'all 'tis rock 'n' roll",
    "fn main() {\n    println!(\"{:>8.3}\", 3.14159);\n}\n",
    "def f(x):\n\treturn x**2  # square\n\n\nclass A(B):\n        pass\n",
    "<html><body class=\"x\">&nbsp;&amp;</body></html>",
    "SELECT * FROM runs WHERE seconds > 1.5e-3 AND name LIKE '%train%';",
    "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\\n\"}]}",
    "user@example.com https://example.com/a/b?c=d&e=f#g C:\\Windows\\System32",
    "# Title\n\n- item one\n- item two\n\n1. first\n2. second\n\n| a | b |\n|---|---|\n| 1 | 2 |\n",
    "CamelCaseWordsAndsnake_case_words and kebab-case-words",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
]

DIGITS = [
    "0", "7", "12", "123", "1234", "12345", "123456", "1234567890", "007", " 1", "  1", "   12", "a1b2c3",
    "3.14159", "1,000,000", "-5", "+5", "1e10", "0x1F", "2024-11-24T03:14:15Z", "12 34 56", "12  34   56",
    "x1", "x 1", "x  1", "x   1", "1x", "1 x", "1  x", "1\n2", "1\n\n2", " 1\n 2", "１２３", "٠١٢٣٤", "१२३", "²³¹", "½ ¼ ¾",
    "Ⅷ Ⅻ ⅷ", "①②③ ⑩", "㊀㊁", "x²+y²=z²", "5′10″", "100%", "$19.99", "№5", "4th 1st 22nd", "1_000",
    "12a34", "a12 b34", "१a२", "𝟏𝟐𝟑", "൧൨", "〇一二三", "0" * 40,
]

SPACES = [
    "", " ", "  ", "   ", "    ", " " * 7, " " * 8, " " * 17, " " * 64, "\t", "\t\t", "\t \t", " \t", "\n", "\n\n", "\n\n\n", " \n",
    "\n ", " \n \n ", "\r", "\r\n", "\r\n\r\n", "\n\r", "a\r\nb", "a\r\n\r\nb", "a \r\n b", "a\rb", "a\n", "a \n", "a  \n", "a\n ", "a\n  b",
    "a\n\n  b", "a \n\n b", " a", "  a", "   a", "a ", "a  ", "a   ", "a b", "a  b", "a   b", "a    b", "a\tb", "a\t\tb", "a \tb", "a\t b",
    "\ta", " \ta", "\t a", "a\u00a0b", "\u00a0", "\u00a0\u00a0a", " \u00a0a", "a\u2003b", "a\u3000b", "a\u200bb", "\u200b", "a\u2028b", "a\u2029b", "a\u0085b",
    "\x0b", "\x0c", "a\x0bb", "a\x0cb", "a\x1cb", "\ufeffa", "a\ufeff", "  \n  \n  ", "!\n", "!\n\n", "! \n", ".\n\n\n a", ")\r\n", "...\n\n...",
    "\u1680x", "x\u180ey", "  leading and trailing  ", "tab\tseparated\tvalues\n1\t2\t3\n",
]

UNICODE = [
    "é", "e\u0301", "café cafe\u0301", "naïve façade Ångström", "Å \u212b A\u030a", "ﬁ ﬂ ﬃ", "ß ẞ SS", "İ ı I i", "Ǆ ǅ ǆ", "ſ", "K \u212a", "Ω \u2126",
    "Привет, мир! Как дела?", "ПРИВЕТ'С", "Γειά σου Κόσμε", "שלום עולם", "שָׁלוֹם", "مرحبا بالعالم", "مَرْحَبًا", "سلام \u200cدنیا",
    "नमस्ते दुनिया", "வணக்கம் உலகம்", "สวัสดีชาวโลก", "ສະບາຍດີ", "မင်္ဂလာပါ", "გამარჯობა", "բարեւ", "ሰላም", "ᓀᐦᐃᔭᐍᐏᐣ",
    "你好，世界！", "你好 世界 123", "繁體中文與简体中文", "こんにちは世界", "カタカナ ﾊﾝｶｸ", "안녕하세요 세계", "\u1112\u1161\u11ab\u1100\u1173\u11af", "한글",
    "😀", "😀😀", " 😀", "a😀b", "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇫🇷🇩🇪", "❤️ ❤", "✅❌⚠️", "🧑🏿‍🚀", "1️⃣", "©®™", "→←↔", "∀x∈ℝ: x²≥0", "√2≈1.414", "½+⅓",
    "“quotes” ‘single’ «guillemets» „low“", "don’t it’s we’re", "DON’T", "—–-‐‑", "…", "¿Qué? ¡Sí!", "§5 ¶3 †‡", "€5 £6 ¥7 ₹8 ₿9",
    "a\u0300\u0301\u0302\u0303\u0304", "Z̤͔ͧ̑̓ä͖̭̈̇lͮ̒ͫǧ̗͚̚o̙̔ͮ̇͐̇", "\u202eright to left\u202c", "\u2066isolate\u2069", "a\u00adb", "x\u034fy", "\u0000", "a\u0000b", "\u0001\u0002\u007f",
    "\u0080\u009f", "\ufffd", "\ufffe", "\uffff", "\U0010ffff", "\ue000 private", "\U000f0000", "𝒜𝓁𝑔𝑒𝒷𝓇𝒶", "𐍈𐌰𐌽", "𠜎𠜱", "ꙮ", "﷽", "ﷺ", "㍿", "ℵ₀", "H₂O", "E=mc²",
    "ÀÉÎÕÜ àéîõü", "Ÿ ÿ", "œ æ Œ Æ", "đ Đ ħ ł", "ʻokina", "ŋ ɲ ʃ ʒ", "aʼb", "ʰʱ", "ªº", "ⁿ", "ʼn ŉ",
]

PUNCTUATION = [
    "!", "!!", "!!!", "?!", "...", "....", ". . .", ",", ",,", ";", ":", "::", "->", "=>", "<=>", "==", "===", "!=", "&&", "||", "++", "--", "**", "//", "///",
    "/* */", "#!", "@@", "$$", "%%", "^^", "~~", "``", "```", "```rust\n```", "''", "\"\"", "()", "[]", "{}", "<>", "({[<>]})", "\\", "\\\\", "\\n", "_", "__", "a_b", "_a", " _",
    "'", " '", "' ", "'s", " 's", "'S", "'ll", "'LL", "'lL", "'t", "'re", "'ve", "'d", "'m", "'x", "a's", "a 's", "a'sb", "1's", "!'s", "''s", "'ſ", "(a)", "( a )", " (a", "a) ", "a-b", "a - b", "!a", " !a", "  !a",
    "=" * 20, "-" * 80, "#" * 6, "." * 33, "*" * 12, "a.b.c", "a,b,c", "a;b", "e.g. i.e. etc.", "U.S.A.", "Mr. & Mrs.", "\n!", " \n!", "!\n!", "\t!", "!\t",
]

SPECIAL = [
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start|>user\nHello<|im_end|>\n", "a<|im_end|>b", " <|im_end|> ", "<|im_end|><|im_end|>", "<|im_end", "|im_end|>", "<|im_end |>", "<|IM_END|>", "<|im_end|>\n",
    "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\nHi 42!<|im_end|>\n<|im_start|>assistant\n", "<repo_name>", "<file_sep>a<file_sep>", "<s>", "</s>", "<unk>", "<pad>", "[INST] x [/INST]", "<0x0A>", "<0xFF>", "▁", "a▁b", "▁▁a", "Ġ", "Ċ", "ĠĠa", "Ãł",
    "<|reserved|>", "<tool_call>", "1<|im_end|>2", "\n<|im_end|>\n", "é<|im_start|>é",
]


def random_texts():
    """Deterministic soups: of all the characters above, of bytes, of words and spaces."""
    source = random.Random(7)
    alphabet = sorted(set("".join(PROSE + DIGITS + SPACES + UNICODE + PUNCTUATION)))
    ascii_soup = [chr(c) for c in range(32, 127)] + ["\n", "\t", "\r", "  ", "\n\n", "'s", "'ll", "12"]
    words = " ".join(PROSE).split()
    for _ in range(30):
        yield "".join(source.choice(alphabet) for _ in range(source.randint(3, 40)))
    for _ in range(40):
        yield "".join(source.choice(ascii_soup) for _ in range(source.randint(3, 60)))
    for _ in range(20):
        text = ""
        for _ in range(source.randint(2, 12)):
            text += source.choice([" ", "  ", "\n", " \n", "\t", "   ", "\r\n", ""]) + source.choice(words)
        yield text


def all_texts():
    seen, out = set(), []
    for text in PROSE + DIGITS + SPACES + UNICODE + PUNCTUATION + SPECIAL + list(random_texts()):
        if text not in seen:
            seen.add(text)
            out.append(text)
    return out
