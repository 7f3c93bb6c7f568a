#!/usr/bin/env python3
"""Makes tests/format/golden/: one small GGUF with a tensor of each type, and what it decodes to.

The expected values come from the `gguf` package of llama.cpp (pip install gguf), the definition of
these formats; the raw blocks of the types are random bytes with finite scales, so every bit pattern
of the quants occurs, not only those that a quantiser would choose.

    python tools/make_gguf_goldens.py tests/format/golden
"""

import pathlib
import sys

import gguf
import numpy as np

TYPES = {  # type: rows; bytes of a row hold 512 elements
    "F32": 1,
    "F16": 1,
    "BF16": 1,
    "Q4_0": 3,
    "Q4_1": 3,
    "Q8_0": 3,
    "Q6_K": 3,
}
SCALE_OFFSETS = {"Q4_0": [0], "Q4_1": [0, 2], "Q8_0": [0], "Q6_K": [208]}
COLS = 512


def finite_halves(rng, shape):
    """Random f16 bit patterns without infinities and NaN, subnormals included."""
    bits = rng.integers(0, 1 << 16, size=shape, dtype=np.uint16)
    return np.where((bits & 0x7C00) == 0x7C00, bits & 0x83FF, bits).astype(np.uint16)


def random_blocks(rng, name, rows):
    kind = gguf.GGMLQuantizationType[name]
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    if name == "F32":
        bits = rng.integers(0, 1 << 32, size=(rows, COLS), dtype=np.uint32)
        bits = np.where((bits & 0x7F800000) == 0x7F800000, bits & 0x807FFFFF, bits)
        return bits.astype(np.uint32).view(np.uint8)
    if name == "F16":
        return finite_halves(rng, (rows, COLS)).view(np.uint8)
    if name == "BF16":
        bits = rng.integers(0, 1 << 16, size=(rows, COLS), dtype=np.uint16)
        bits = np.where((bits & 0x7F80) == 0x7F80, bits & 0x807F, bits).astype(np.uint16)
        return bits.view(np.uint8)
    blocks = rng.integers(0, 256, size=(rows * COLS // elements, size), dtype=np.uint8)
    for offset in SCALE_OFFSETS[name]:
        scales = finite_halves(rng, (blocks.shape[0], 1))
        blocks[:, offset : offset + 2] = scales.view(np.uint8)
    return blocks.reshape(rows, -1)


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(20240501)
    writer = gguf.GGUFWriter(folder / "types.gguf", "golden")
    writer.add_uint8("a.uint8", 255)
    writer.add_int8("a.int8", -128)
    writer.add_uint16("a.uint16", 65535)
    writer.add_int16("a.int16", -32768)
    writer.add_uint32("a.uint32", 4294967295)
    writer.add_int32("a.int32", -2147483648)
    writer.add_uint64("a.uint64", 18446744073709551615)
    writer.add_int64("a.int64", -9223372036854775808)
    writer.add_float32("a.float32", 0.1)
    writer.add_float64("a.float64", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_string("a.string", "zwölf")
    writer.add_array("a.ints", [3, -1, 2])
    writer.add_array("a.floats", [0.5, -2.0])
    writer.add_array("a.strings", ["one", "", "three"])
    writer.add_array("a.bools", [True, False])
    expected = []
    for name, rows in TYPES.items():
        kind = gguf.GGMLQuantizationType[name]
        raw = random_blocks(rng, name, rows)
        if name in ("F32", "F16"):  # the writer derives these types from the array's
            writer.add_tensor("t." + name, raw.view(np.float32 if name == "F32" else np.float16))
        else:
            writer.add_tensor("t." + name, raw, raw_dtype=kind)
        values = raw.view(np.float16) if name == "F16" else raw
        values = values.astype(np.float32) if name == "F16" else gguf.quants.dequantize(values, kind)
        expected.append(np.ascontiguousarray(values, dtype=np.float32).reshape(-1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    # All tensors one after the other, in the order of the file.
    np.concatenate(expected).tofile(folder / "types.f32")


if __name__ == "__main__":
    main()
