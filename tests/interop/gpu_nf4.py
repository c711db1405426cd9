"""What bitsandbytes' GPU code keeps of a weight in NF4 with double quantisation, computed on a CPU.

bitsandbytes rounds a little otherwise on a CPU (midpoints of the code table, second-level codes
through a table of 65536 bins), and luthier quantises as the GPU does, so its CPU functions would
compare another model. The golden tests compare luthier with the CPU functions directly.
"""

import numpy
import torch
from bitsandbytes import functional

# The decision thresholds of the GPU code: a value gets the number of thresholds below it.
THRESHOLDS = numpy.array(
    [
        -0.8480964004993439, -0.6106329262256622, -0.4599952697753906, -0.33967942744493484, -0.23460740596055984,
        -0.13791173323988914, -0.045525018125772476, 0.03979014977812767, 0.1202552504837513, 0.2035212516784668,
        0.2920137718319893, 0.3893125355243683, 0.5016634166240692, 0.6427869200706482, 0.8614784181118011,
    ],
    dtype=numpy.float32,
)  # fmt: skip


def dynamic_codes(values: numpy.ndarray, table: numpy.ndarray) -> numpy.ndarray:
    """The nearest entry of the sorted 256-entry table, found as the GPU's binary search does.

    The search ends on an entry next to the value; only a value beyond the midpoint to the neighbour on
    its other side goes there, so which of two equally near entries wins depends on the search's end.
    """
    pivot = numpy.full(len(values), 127)
    for step in (64, 32, 16, 8, 4, 2, 1):
        pivot = numpy.where(values > table[pivot], pivot + step, pivot - step)
    half = numpy.float32(0.5)
    above = values > table[pivot]
    neighbour = numpy.clip(numpy.where(above, pivot + 1, pivot - 1), 0, 255)
    midpoint = (table[neighbour] + table[pivot]) * half
    leaves = numpy.where(above, values > midpoint, values < midpoint)
    return numpy.where(leaves, neighbour, pivot)


def restored(weight: torch.Tensor) -> torch.Tensor:
    code = functional.get_4bit_type("nf4", device="cpu").numpy()
    dynamic = functional.create_dynamic_map().numpy()
    blocks = weight.detach().numpy().reshape(-1, 64)
    absmax = numpy.abs(blocks).max(axis=1)
    assert (absmax > 0).all(), "a block of zeros is not handled here"
    codes = numpy.searchsorted(THRESHOLDS, blocks * (numpy.float32(1) / absmax)[:, None], side="left")
    offset = numpy.float32(absmax.astype(numpy.float64).mean())
    centred = absmax - offset
    scales = numpy.empty_like(centred)
    for start in range(0, len(centred), 256):
        part = centred[start : start + 256]
        top = numpy.abs(part).max()
        codes_of_scales = dynamic_codes(part * (numpy.float32(1) / top), dynamic)
        scales[start : start + 256] = dynamic[codes_of_scales] * top + offset
    return torch.from_numpy(code[codes] * scales[:, None]).reshape(weight.shape)


def quantize_projections(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("_proj.weight"):
                parameter.copy_(restored(parameter.data))
