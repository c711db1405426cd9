"""GGUF: blocks quantised by ggml, and two whole model files with the logits other programs give them.

`blocks.json`/`blocks.bin`: `input` f32 [rows, 256]; per type `quantized` u8 (ggml_quantize_chunk of
all rows, no importance matrix) and `dequantized` f32 (ggml's to_float). For the types gguf-py can
quantise, `gguf_py` is null where its bytes equal ggml's and its bytes where they do not. Rows are
named in `rows`.

`llama_tied-f32.gguf` is ../llama/llama_tied in the layout llama.cpp wants (query and key rows
permuted for its rotation, norms f32), written by gguf-py; `llama_tied-f32.json` has llama.cpp's logits
for the sequences of ../llama/cases.json (f32 cache, no flash attention) and how far they are from
transformers'. `llama-q8_0.gguf` is ../llama/llama quantised to Q8_0 by llama.cpp's own quantiser, and
`llama-q8_0.safetensors` holds transformers' logits for that file (dequantised to f32).
"""

import ctypes
import json
import sys
from pathlib import Path

import gguf
import llama_cpp
import numpy
import torch
import transformers
from safetensors.numpy import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent.parent))
from golden_io import Blob, write_json, write_versions

HERE = Path(__file__).parent
COLUMNS = 256
TYPES = ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]


def ggml():
    folder = Path(llama_cpp.__file__).parent / "lib"
    library = ctypes.CDLL(str(next(folder.glob("libggml-base.so*"))))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    ]
    library.ggml_row_size.restype = ctypes.c_size_t
    library.ggml_row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
    return library


def rows():
    generator = numpy.random.default_rng(11)
    normal = generator.standard_normal(COLUMNS)
    yield "normal", normal * 0.02
    yield "uniform", generator.uniform(-1, 1, COLUMNS)
    yield "positive", generator.uniform(0, 3, COLUMNS)
    yield "negative", -generator.uniform(1, 3, COLUMNS)
    zeros = generator.standard_normal(COLUMNS)
    zeros[:128] = 0.0
    zeros[160:192] = -0.0
    yield "zero_blocks", zeros
    outlier = generator.standard_normal(COLUMNS) * 0.01
    outlier[7], outlier[200] = 50.0, -50.0
    yield "outliers", outlier
    yield "ramp", numpy.linspace(-2, 2, COLUMNS)
    yield "integers", numpy.arange(COLUMNS) % 17 - 8
    yield "halves", (numpy.arange(COLUMNS) % 33 - 16) * 0.5
    yield "constant", numpy.full(COLUMNS, 0.37)
    yield "equal_and_opposite", numpy.where(numpy.arange(COLUMNS) % 2, 1.5, -1.5)
    yield "tiny", normal * 1e-6
    yield "below_half_range", normal * 1e-9
    yield "large", normal * 5000
    yield "one_value", numpy.eye(1, COLUMNS, 100)[0]
    yield "decades", normal * numpy.logspace(-5, 1, COLUMNS)


def blocks():
    library = ggml()
    names, values = zip(*rows())
    data = numpy.ascontiguousarray(numpy.stack(values).astype(numpy.float32))
    blob = Blob(HERE / "blocks.bin")
    out = {"rows": names, "columns": COLUMNS, "input": blob.add(data), "types": {}}
    for name in TYPES:
        kind = gguf.GGMLQuantizationType[name]
        size = library.ggml_row_size(kind, COLUMNS)
        quantized = numpy.zeros((len(names), size), numpy.uint8)
        if name == "F16":
            quantized = data.astype(numpy.float16).view(numpy.uint8).reshape(len(names), size)
        elif name == "BF16":
            quantized = gguf.quants.quantize(data, kind).view(numpy.uint8).reshape(len(names), size)
        written = library.ggml_quantize_chunk(
            kind, data.ctypes.data, quantized.ctypes.data, 0, len(names), COLUMNS, None
        )
        assert written == quantized.size, (name, written)
        dequantized = numpy.zeros_like(data)
        to_float(library, kind)(quantized.ctypes.data, dequantized.ctypes.data, data.size)
        check = gguf.quants.dequantize(quantized, kind)
        if not numpy.array_equal(check, dequantized):
            print(f"{name}: gguf-py dequantises otherwise by {numpy.abs(check - dequantized).max()}", file=sys.stderr)
        entry = {
            "type": int(kind),
            "row_bytes": size,
            "quantized": blob.add(quantized),
            "dequantized": blob.add(dequantized),
        }
        try:
            other = gguf.quants.quantize(data, kind).view(numpy.uint8).reshape(len(names), size)
            same = numpy.array_equal(other, quantized)
            entry["gguf_py"] = None if same else blob.add(other)
            if not same:
                wrong = [n for n, a, b in zip(names, other, quantized) if not numpy.array_equal(a, b)]
                print(f"{name}: gguf-py quantises otherwise: {wrong}", file=sys.stderr)
        except NotImplementedError:
            pass
        finite = numpy.isfinite(dequantized)
        print(
            name,
            size,
            "largest error",
            numpy.abs(dequantized - data)[finite].max(),
            "not finite",
            (~finite).sum(),
            file=sys.stderr,
        )
        out["types"][name] = entry
    blob.write()
    write_json(HERE / "blocks.json", out)


def to_float(library, kind):
    """ggml_type_traits.to_float: found by name, since the struct's layout is private."""
    names = {"F16": "ggml_fp16_to_fp32_row", "BF16": "ggml_bf16_to_fp32_row"}
    function = getattr(library, names.get(kind.name, f"dequantize_row_{kind.name.lower().replace('_k', '_K')}"))
    function.restype = None
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    return function


def permuted(weight, heads):
    """Rows of a query or key projection: Hugging Face's half-split order to llama.cpp's interleaved one."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_model(source, path):
    config = json.loads((source / "config.json").read_text())
    weights = load_file(source / "model.safetensors")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    tokens = ["<unk>", "<s>", "</s>"] + [f"t{index}" for index in range(3, config["vocab_size"])]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([2, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["t 1"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name in sorted(weights):
        weight = weights[name]
        if ".q_proj." in name:
            weight = permuted(weight, config["num_attention_heads"])
        elif ".k_proj." in name:
            weight = permuted(weight, config["num_key_value_heads"])
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), numpy.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_cpp_logits(path, ids):
    model = llama_cpp.Llama(
        str(path),
        n_ctx=64,
        n_batch=64,
        n_threads=1,
        logits_all=True,
        verbose=False,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        flash_attn=False,
    )
    model.eval(ids)
    return numpy.array(model.scores[: len(ids)], dtype=numpy.float32)


def models():
    cases = json.loads((HERE.parent / "llama" / "cases.json").read_text())
    path = HERE / "llama_tied-f32.gguf"
    write_model(HERE.parent / "llama" / "llama_tied", path)
    expected = load_file(HERE.parent / "llama" / "llama_tied" / "expected.safetensors")
    logits, differences = {}, []
    for index, sequence in enumerate(cases["llama_tied"]["sequences"]):
        logits[f"logits.{index}"] = llama_cpp_logits(path, sequence["ids"])
        differences.append(float(numpy.abs(logits[f"logits.{index}"] - expected[f"base.logits.{index}"]).max()))
    save_file(logits, HERE / "llama_tied-f32.safetensors")
    write_json(HERE / "llama_tied-f32.json", {"max_abs_difference_to_transformers": differences})
    print("llama.cpp against transformers:", differences, file=sys.stderr)

    full = HERE / "full.gguf"
    write_model(HERE.parent / "llama" / "llama", full)
    path = HERE / "llama-q8_0.gguf"
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0
    options.nthread = 1
    assert llama_cpp.llama_model_quantize(str(full).encode(), str(path).encode(), ctypes.byref(options)) == 0
    full.unlink()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        HERE, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    logits = {}
    for index, sequence in enumerate(cases["llama"]["sequences"]):
        with torch.no_grad():
            logits[f"logits.{index}"] = model(input_ids=torch.tensor([sequence["ids"]])).logits[0].numpy()
    save_file(logits, HERE / "llama-q8_0.safetensors")


def main():
    torch.set_num_threads(1)
    blocks()
    models()
    for file in HERE.iterdir():
        if file.is_file():
            file.chmod(0o644)
    write_versions(HERE, ["gguf", "llama-cpp-python", "transformers", "numpy"])


if __name__ == "__main__":
    main()
