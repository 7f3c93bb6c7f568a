#!/usr/bin/env python3
"""Makes tests/format/golden/: one small GGUF with a tensor of each type, and what it decodes to;
a model in three parts; and a file of the types that opo writes, with the values it was made of.

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
    "Q5_0": 3,
    "Q5_1": 3,
    "Q2_K": 3,
    "Q3_K": 3,
    "Q4_K": 3,
    "Q5_K": 3,
    "IQ4_NL": 3,
    "IQ4_XS": 3,
}
SCALE_OFFSETS = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q8_0": [0],
    "Q6_K": [208],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "IQ4_NL": [0],
    "IQ4_XS": [0],
}
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


def write_parts(folder):
    writer = gguf.GGUFWriter(folder / "parts.gguf", "golden", split_max_tensors=2)
    writer.add_string("a.string", "of all parts")
    for i in range(5):
        writer.add_tensor(f"t.{i}", np.arange(8, dtype=np.float32).reshape(2, 4) + 10 * i)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def awkward_floats(rng):
    """Rows of 64 values: all magnitudes that F16 and Q8_0 hold, ties, zeros, signs, f16 subnormals."""
    rows = [rng.standard_normal((16, 64)) * 10.0 ** rng.integers(-9, 4, size=(16, 1))]
    halves = finite_halves(rng, (8, 64))
    exact = halves.view(np.float16).astype(np.float64)
    # Halfway to the next f16, exactly and a little beside it.
    above = ((halves & 0x7FFF) + 1).astype(np.uint16).view(np.float16).astype(np.float64)
    middle = np.where(np.isfinite(above), (np.abs(exact) + above) / 2, 1.0)
    rows += [exact, middle, -middle, middle * (1 + 2.0**-22), middle * (1 - 2.0**-22)]
    # Blocks whose scale is a power of two, so that values fall halfway between two steps.
    steps = rng.integers(-254, 255, size=(8, 64)) / 2.0
    steps[:, ::32] = 127
    rows += [steps / 64, np.zeros((1, 64)), -np.zeros((1, 64))]
    return np.concatenate(rows).astype(np.float32)


def write_written(folder, rng):
    writer = gguf.GGUFWriter(folder / "written.gguf", "golden")
    writer.add_uint32("a.uint32", 4294967295)
    writer.add_float32("a.float32", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_string("a.string", "zwölf")
    writer.add_array("a.ints", [3, -1, 2])
    writer.add_array("a.strings", ["one", "", "three"])
    values = awkward_floats(rng)
    for name in ("F32", "F16", "BF16", "Q8_0"):
        kind = gguf.GGMLQuantizationType[name]
        data = gguf.quants.quantize(values, kind)
        if name in ("F32", "F16"):
            writer.add_tensor("t." + name, data)
        else:
            writer.add_tensor("t." + name, data, raw_dtype=kind)
    vector = values[0, :5].copy()  # its end is not aligned
    writer.add_tensor("t.vector", vector)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    values.tofile(folder / "written.f32")


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
    write_parts(folder)
    write_written(folder, rng)


if __name__ == "__main__":
    main()
