"""Shared by the make.py scripts: raw little-endian arrays plus a JSON manifest, and versions.json.

A golden directory holds `cases.json` (the manifest) and `.bin` files. An array in a manifest is
`{"file", "offset", "shape", "dtype"}`: `offset` in bytes into `file`, row-major, little-endian,
dtype one of f32, f16, u8, i32, u32.
"""

import importlib.metadata
import json
import platform
import sys
from pathlib import Path

import numpy

DTYPES = {"float32": "f32", "float16": "f16", "uint8": "u8", "int32": "i32", "uint32": "u32"}


class Blob:
    """One `.bin` file that arrays are appended to."""

    def __init__(self, path: Path):
        self.path = path
        self.data = bytearray()

    def add(self, array) -> dict:
        array = numpy.ascontiguousarray(numpy.asarray(array))
        name = array.dtype.name
        if name not in DTYPES:
            raise TypeError(f"{name} has no place in a golden file")
        while len(self.data) % 4:
            self.data.append(0)
        entry = {
            "file": self.path.name,
            "offset": len(self.data),
            "shape": list(array.shape),
            "dtype": DTYPES[name],
        }
        self.data += array.astype(array.dtype.newbyteorder("<")).tobytes()
        return entry

    def write(self):
        self.path.write_bytes(bytes(self.data))


def write_json(path: Path, value):
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_versions(directory: Path, packages, **extra):
    versions = {"python": platform.python_version(), "machine": platform.machine()}
    for package in packages:
        versions[package] = importlib.metadata.version(package)
    versions.update(extra)
    write_json(directory / "versions.json", versions)
    size = sum(f.stat().st_size for f in directory.rglob("*") if f.is_file())
    print(f"{directory.name}: {size} bytes", file=sys.stderr)
