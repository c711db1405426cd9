"""NF4 quantisation as bitsandbytes does it on a CPU: packed nibbles, block scales, nested scales.

Each case: `input` f32 [rows, cols]; `packed` u8 (two values a byte, the first in the high nibble);
`absmax` f32, one per block of 64 of the flattened input; `dequantized` f32 [rows, cols]; and the
same with double quantisation under `double`: `codes` u8 (one per block), `scales` f32 (one per 256
codes), `offset` f32 (the mean of absmax as torch sums it: the last bits depend on the order of
summation, so a test of the codes takes this offset as given), `absmax` f32 (restored), `dequantized`.
`code` (16 values) and `dynamic_map` (256 values, for the nested codes) are the library's own tables.
The cases named `ties_*` put values exactly on, just above and just below each threshold.
"""

import sys
from pathlib import Path

import numpy
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from bitsandbytes import functional

from golden_io import Blob, write_json, write_versions

HERE = Path(__file__).parent
generator = numpy.random.default_rng(20240611)


def normal(rows, cols, scale=1.0):
    return (generator.standard_normal((rows, cols)) * scale).astype(numpy.float32)


def cases():
    yield "normal", normal(32, 128, 0.02)
    yield "one_block", normal(1, 64)
    yield "many_blocks", normal(96, 192, 0.05)  # 288 blocks: more than one nested block of 256
    yield "short_tail", normal(3, 50)  # 150 values: two blocks and 22
    yield "tail_of_one", normal(1, 65)
    yield "odd_count", normal(3, 7)
    yield "single_value", numpy.array([[-3.25]], numpy.float32)
    zeros = normal(4, 64)
    zeros[1] = 0.0
    zeros[2] = -0.0
    yield "zero_blocks", zeros
    yield "all_zero", numpy.zeros((2, 64), numpy.float32)
    outlier = normal(4, 64, 0.01)
    outlier[0, 3] = 1000.0
    outlier[2, 60] = -1000.0
    yield "outlier", outlier
    yield "huge", normal(2, 64) * numpy.float32(1e37)
    yield "tiny", normal(2, 64) * numpy.float32(1e-30)
    yield "near_smallest_normal", normal(2, 64) * numpy.float32(1.1754944e-38)
    yield "denormal", normal(2, 64) * numpy.float32(1e-40)
    yield "constant", numpy.full((2, 64), 0.37, numpy.float32)
    yield "alternating", (numpy.where(numpy.arange(128) % 2, 1, -1) * 0.5).astype(numpy.float32).reshape(2, 64)
    code = functional.get_4bit_type("nf4", device="cpu").numpy()
    bounds = (code[:-1] + code[1:]) / numpy.float32(2)
    for name, factor in (("ties_scale_1", 1.0), ("ties_scale_pow2", 0.25), ("ties_scale_3", 3.0)):
        row = numpy.zeros(64, numpy.float32)
        row[0] = factor
        row[1:16] = bounds * numpy.float32(factor)
        row[16:31] = numpy.nextafter(bounds, numpy.float32(2)) * numpy.float32(factor)
        row[31:46] = numpy.nextafter(bounds, numpy.float32(-2)) * numpy.float32(factor)
        row[46:62] = code * numpy.float32(factor)
        yield name, row.reshape(1, 64)
    row = numpy.zeros(80, numpy.float32)  # ties in the short last block, which divides
    row[64] = 0.7
    row[65:80] = bounds * numpy.float32(0.7)
    yield "ties_in_tail", row.reshape(1, 80)
    scales = normal(48, 64)
    scales *= numpy.logspace(-4, 2, 48, dtype=numpy.float32)[:, None]
    yield "scales_over_six_decades", scales


def main():
    blob = Blob(HERE / "cases.bin")
    code = functional.get_4bit_type("nf4", device="cpu").numpy()
    dynamic = functional.create_dynamic_map().numpy()
    out = []
    for name, array in cases():
        tensor = torch.from_numpy(array)
        packed, state = functional.quantize_4bit(tensor, blocksize=64, quant_type="nf4")
        plain = functional.dequantize_4bit(packed, state)
        packed_again, nested = functional.quantize_4bit(
            tensor, blocksize=64, quant_type="nf4", compress_statistics=True
        )
        assert torch.equal(packed, packed_again)
        absmax = functional.dequantize_blockwise(nested.absmax, nested.state2)
        absmax = (absmax + nested.offset).float()
        double = functional.dequantize_4bit(packed, nested)
        # The library has several dequantisers; what is recorded is checked to be code × absmax.
        nibbles = packed.numpy().reshape(-1)
        values = code[numpy.stack([nibbles >> 4, nibbles & 15], 1).reshape(-1)[: array.size]]
        block = numpy.arange(array.size) // 64
        for restored, scale in ((plain, state.absmax.numpy()), (double, absmax.numpy())):
            expected = (values * scale[block]).astype(numpy.float32)
            got = restored.numpy().reshape(-1)
            if not numpy.array_equal(expected, got):
                worst = numpy.abs(expected - got).max()
                print(f"{name}: dequantised differs from code × absmax by {worst}", file=sys.stderr)
        out.append(
            {
                "name": name,
                "rows": array.shape[0],
                "cols": array.shape[1],
                "input": blob.add(array),
                "packed": blob.add(nibbles),
                "absmax": blob.add(state.absmax.numpy()),
                "dequantized": blob.add(plain.numpy().reshape(array.shape)),
                "double": {
                    "codes": blob.add(nested.absmax.numpy().reshape(-1)),
                    "scales": blob.add(nested.state2.absmax.numpy()),
                    "offset": blob.add(nested.offset.numpy().reshape(1)),
                    "absmax": blob.add(absmax.numpy()),
                    "dequantized": blob.add(double.numpy().reshape(array.shape)),
                },
            }
        )
    write_json(
        HERE / "cases.json",
        {
            "blocksize": 64,
            "nested_blocksize": 256,
            "code": blob.add(code),
            "dynamic_map": blob.add(dynamic),
            "cases": out,
        },
    )
    blob.write()
    write_versions(HERE, ["bitsandbytes", "torch", "numpy"])


if __name__ == "__main__":
    main()
