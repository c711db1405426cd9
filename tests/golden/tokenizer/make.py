"""Token ids from Hugging Face tokenizers and from llama.cpp, for the same texts and vocabularies.

`texts.json`: the texts. `tiny/NAME/`: a small tokenizer trained here, as a Hugging Face directory
(`tokenizer.json`, `tokenizer_config.json`) and as a vocabulary-only GGUF (`vocab.gguf`) with the
`tokenizer.ggml.pre` that llama.cpp knows the pre-tokenizer by. `ids_NAME.json`: for each text, in
order, the ids: `hugging_face` from tokenizers.Tokenizer.encode(text, add_special_tokens=False) and
`llama_cpp` from llama_tokenize(parse_special=true, add_special=false); null where equal.
`ids_smollm2.json`: the same with SmolLM2-135M-Instruct's vocabulary (from the GGUF that the quickstart
fetches, named on the command line; not stored here) under the pre-tokenizer `smollm`.

    python make.py PATH/TO/SmolLM2-135M-Instruct.Q4_1.gguf
"""

import json
import sys
from pathlib import Path

import gguf
import llama_cpp
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

sys.path.insert(0, str(Path(__file__).parent.parent))
from golden_io import write_json, write_versions
from strings import PROSE, all_texts

HERE = Path(__file__).parent
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_level(**options):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, **options)


def split(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level(use_regex=False)])


BYTE_LEVEL = {
    "gpt2": (byte_level(), None, "gpt-2", False),
    "smollm": (
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level()]),
        None,
        "smollm",
        False,
    ),
    "llama3": (split(LLAMA3), None, "llama-bpe", True),
    "qwen2": (split(QWEN2), normalizers.NFC(), "qwen2", False),
}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def train_byte_level(name):
    pre, normalizer, _, ignore_merges = BYTE_LEVEL[name]
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=640,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=2,
    )
    # The trainer breaks ties between equally frequent pairs at random between runs; one worker and
    # sorted input keep it the same for one version.
    tokenizer.train_from_iterator(sorted(all_texts()) * 2 + PROSE * 4, trainer)
    return tokenizer


def train_sentencepiece():
    """Llama-2 style: BPE over '▁'-joined words with byte fallback, scores by rank."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    # Trained on words cut at '▁', as sentencepiece does, then used without a pre-tokenizer.
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, show_progress=False, min_frequency=2, limit_alphabet=120
    )
    tokenizer.train_from_iterator(sorted(PROSE) * 4, trainer)
    tree = json.loads(tokenizer.to_str())
    tree["pre_tokenizer"] = None
    tree["added_tokens"] = tree["added_tokens"][:3]
    return Tokenizer.from_str(json.dumps(tree, ensure_ascii=False))


def write_gguf(path, tokenizer, model, pre, specials):
    tree = json.loads(tokenizer.to_str())
    vocab = sorted(tree["model"]["vocab"].items(), key=lambda item: item[1])
    assert [index for _, index in vocab] == list(range(len(vocab)))
    tokens = [token for token, _ in vocab]
    types = []
    for token in tokens:
        if token == "<unk>":
            types.append(gguf.TokenType.UNKNOWN)
        elif token in specials:
            types.append(gguf.TokenType.CONTROL)
        elif model == "llama" and token.startswith("<0x"):
            types.append(gguf.TokenType.BYTE)
        else:
            types.append(gguf.TokenType.NORMAL)
    writer = gguf.GGUFWriter(path, "llama")
    for number, add in (
        (64, writer.add_embedding_length),
        (1, writer.add_block_count),
        (128, writer.add_context_length),
    ):
        add(number)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model(model)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if model == "llama":
        writer.add_token_scores([float(-max(index - 258, 0)) for index in range(len(tokens))])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        writer.add_add_bos_token(True)
        writer.add_add_space_prefix(True)
    else:
        writer.add_tokenizer_pre(pre)
        writer.add_token_merges([" ".join(m) if isinstance(m, list) else m for m in tree["model"]["merges"]])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_add_bos_token(False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_ids(path, texts):
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    return [model.tokenize(text.encode("utf-8"), add_bos=False, special=True) for text in texts]


def record(name, tokenizer, gguf_path, texts):
    ours = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    theirs = llama_ids(gguf_path, texts)
    differ = 0
    rows = []
    for text, first, second in zip(texts, ours, theirs):
        if first != second:
            differ += 1
            print(f"  {name}: {text!r}: {first} {second}", file=sys.stderr)
        rows.append({"hugging_face": first, "llama_cpp": None if first == second else second})
    decoded = [tokenizer.decode(row["hugging_face"], skip_special_tokens=False) for row in rows]
    lossy = [index for index, text in enumerate(texts) if decoded[index] != text]
    print(f"{name}: {differ} of {len(texts)} differ; {len(lossy)} do not decode to themselves", file=sys.stderr)
    lines = ",\n".join(json.dumps(row) for row in rows)
    lossy_decodes = json.dumps({str(i): decoded[i] for i in lossy}, ensure_ascii=False)
    (HERE / f"ids_{name}.json").write_text(
        f'{{"rows": [\n{lines}\n],\n"decoded_where_not_the_text": {lossy_decodes}}}\n', encoding="utf-8"
    )


def smollm2(path):
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(pair.split(" ")) for pair in fields["tokenizer.ggml.merges"].contents()]
    types = fields["tokenizer.ggml.token_type"].contents()
    assert fields["tokenizer.ggml.pre"].contents() == "smollm"
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = BYTE_LEVEL["smollm"][0]
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, types) if kind == gguf.TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    assert tokenizer.get_vocab_size() == len(tokens)
    return tokenizer


def main():
    texts = all_texts()
    write_json(HERE / "texts.json", texts)
    for name in list(BYTE_LEVEL) + ["sentencepiece"]:
        directory = HERE / "tiny" / name
        directory.mkdir(parents=True, exist_ok=True)
        if name == "sentencepiece":
            tokenizer = train_sentencepiece()
            config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
            write_gguf(directory / "vocab.gguf", tokenizer, "llama", None, ["<s>", "</s>"])
        else:
            tokenizer = train_byte_level(name)
            config = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
            write_gguf(directory / "vocab.gguf", tokenizer, "gpt2", BYTE_LEVEL[name][2], SPECIAL)
        config |= {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHATML}
        tokenizer.save(str(directory / "tokenizer.json"), pretty=False)
        write_json(directory / "tokenizer_config.json", config)
        record(name, tokenizer, directory / "vocab.gguf", texts)
    if len(sys.argv) > 1:
        record("smollm2", smollm2(sys.argv[1]), sys.argv[1], texts)
    write_versions(HERE, ["tokenizers", "llama-cpp-python", "gguf"])


if __name__ == "__main__":
    main()
