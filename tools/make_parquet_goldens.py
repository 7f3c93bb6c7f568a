"""Makes tests/format/golden/parquet: small files by pyarrow and Polars, each with its rows as JSON.

    pip install pyarrow polars
    python tools/make_parquet_goldens.py tests/format/golden/parquet

The rows (NAME.jsonl; one file for the variants of a table) are what pyarrow itself reads back from NAME.parquet, so that its reader and
opo's are compared. Values JSON has no form for are written as docs/data.md says: dates and times as
ISO 8601, decimals as text, NaN as null, maps as lists of {"key", "value"}.
"""
import datetime as dt
import decimal
import json
import math
import pathlib
import sys
import uuid

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq


def plain(value, type_):
    """A pyarrow scalar as JSON."""
    if value is None:
        return None
    if pa.types.is_map(type_):
        return [
            {"key": plain(k, type_.key_type), "value": plain(v, type_.item_type)} for k, v in value
        ]
    if pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
        return [plain(v, type_.value_type) for v in value]
    if pa.types.is_struct(type_):
        return {f.name: plain(value[f.name], f.type) for f in type_}
    if pa.types.is_dictionary(type_):
        return plain(value, type_.value_type)
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    if isinstance(value, uuid.UUID):
        return str(value)
    if pa.types.is_timestamp(type_):
        # Fractions have the digits of the unit.
        unit = type_.unit
        digits = {"s": 3, "ms": 3, "us": 6, "ns": 9}[unit]
        text = value.replace(tzinfo=None, microsecond=0).isoformat()
        fraction = value.microsecond * 1000
        if fraction:
            text += "." + f"{fraction:09d}"[:digits]
        return text + ("Z" if type_.tz else "")
    if pa.types.is_time(type_):
        digits = {"ms": 3, "us": 6, "ns": 9}[type_.unit]
        text = value.replace(microsecond=0).isoformat()
        if value.microsecond:
            text += "." + f"{value.microsecond * 1000:09d}"[:digits]
        return text
    if isinstance(value, dt.date):
        return value.isoformat()
    return value


class Writer:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def write_rows(self, name, rows):
        table = pq.read_table(self.folder / f"{name}.parquet")
        lines = []
        for row in table.to_pylist():
            out = {f.name: plain(row[f.name], f.type) for f in table.schema}
            lines.append(json.dumps(out, ensure_ascii=False))
        (self.folder / f"{rows}.jsonl").write_text("".join(line + "\n" for line in lines))

    def arrow(self, name, table, rows=None, **options):
        pq.write_table(table, self.folder / f"{name}.parquet", **options)
        self.write_rows(name, rows or name)

    def polars(self, name, frame, **options):
        frame.write_parquet(self.folder / f"{name}.parquet", **options)
        self.write_rows(name, name)


MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
VERL = pa.schema(
    [
        ("data_source", pa.string()),
        ("prompt", pa.list_(MESSAGE)),
        ("ability", pa.string()),
        ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
        (
            "extra_info",
            pa.struct(
                [
                    ("split", pa.string()),
                    ("index", pa.int64()),
                    ("tags", pa.list_(pa.string())),
                    ("from", pa.struct([("url", pa.string()), ("year", pa.int32())])),
                ]
            ),
        ),
    ]
)


def verl_rows(count):
    rows = []
    for i in range(count):
        user = {"role": "user", "content": f"What is {i} + {i * i % 17}? Ärger, 数学, 🙂."}
        prompt = [{"role": "system", "content": "Be brief."}, user] if i % 3 == 0 else [user]
        origin = None if i % 4 == 1 else {"url": None if i % 4 == 2 else f"u/{i}", "year": 2000 + i}
        tags = [None, [], ["a"], ["b", None, ""]][i % 4]
        rows.append(
            {
                "data_source": "sums",
                "prompt": prompt,
                "ability": None if i % 5 == 4 else "math",
                "reward_model": {"style": "rule", "ground_truth": str(i + i * i % 17)},
                "extra_info": None
                if i == 7
                else {"split": "train", "index": i, "tags": tags, "from": origin},
            }
        )
    return rows


def nested_table():
    """Nulls and empty lists at every level of lists of structs of lists."""
    inner = pa.struct([("x", pa.int32()), ("ys", pa.list_(pa.string()))])
    schema = pa.schema([("deep", pa.list_(pa.list_(inner))), ("m", pa.map_(pa.string(), pa.int64()))])
    deep = [
        None,
        [],
        [None],
        [[]],
        [[None]],
        [[{"x": None, "ys": None}]],
        [[{"x": 1, "ys": []}, {"x": 2, "ys": [None, "a", ""]}], None, [], [{"x": 3, "ys": ["b"]}]],
        [[{"x": i, "ys": [str(j) for j in range(i)]} for i in range(4)]] * 2,
    ]
    maps = [None, [], [("a", 1)], [("b", None), ("c", -3)], [], None, [("é", 2**62)], [("", 0)]]
    return pa.table({"deep": deep, "m": maps}, schema=schema)


def types_table():
    n = 9
    third = [i if i % 3 else None for i in range(n)]

    def each(f):
        return [None if i is None else f(i) for i in third]

    day = dt.datetime(1969, 12, 30, 23, 59, 58)
    moments = each(lambda i: day + dt.timedelta(hours=13 * i, microseconds=i % 2 * 120000 * i))
    columns = {
        "bool": (each(lambda i: i % 2 == 0), pa.bool_()),
        "i8": (each(lambda i: -i), pa.int8()),
        "i16": (each(lambda i: -i * 1000), pa.int16()),
        "i32": (each(lambda i: -i * 10**8), pa.int32()),
        "i64": (each(lambda i: -i * 10**18), pa.int64()),
        "u8": (each(lambda i: 250 - i), pa.uint8()),
        "u16": (each(lambda i: 65530 - i), pa.uint16()),
        "u32": (each(lambda i: 2**32 - i), pa.uint32()),
        "u64": (each(lambda i: 2**64 - i), pa.uint64()),
        "f16": (each(lambda i: i * 0.5 - 2), pa.float16()),
        "f32": (each(lambda i: i * 0.1), pa.float32()),
        "f64": (each(lambda i: math.nan if i == 5 else i * 0.1), pa.float64()),
        "text": (each(lambda i: "é" * i), pa.string()),
        "large": (each(lambda i: "x" * i), pa.large_string()),
        "bytes": (each(lambda i: b"b" * i), pa.binary()),
        "fixed": (each(lambda i: b"abc%d" % i), pa.binary(4)),
        "enum": (each(lambda i: "abc"[i % 3]), pa.dictionary(pa.int8(), pa.string())),
        "dec": (each(lambda i: decimal.Decimal(i * 1001 - 4004).scaleb(-3)), pa.decimal128(7, 3)),
        "wide": (each(lambda i: decimal.Decimal(-(10**30) * i).scaleb(-2)), pa.decimal128(38, 2)),
        "date": (each(lambda i: (day + dt.timedelta(days=i * 20000 - 60000)).date()), pa.date32()),
        "ms": (moments, pa.timestamp("ms")),
        "us": (moments, pa.timestamp("us")),
        "ns": (moments, pa.timestamp("ns", tz="UTC")),
        "t_ms": (each(lambda i: dt.time(i, 2, 3, 450000 * (i % 2))), pa.time32("ms")),
        "t_us": (each(lambda i: dt.time(23, i, 3, i)), pa.time64("us")),
        "none": ([None] * n, pa.null()),
        "fsl": (each(lambda i: [i, i + 1]), pa.list_(pa.int16(), 2)),
    }
    return pa.table({k: pa.array(v, type=t) for k, (v, t) in columns.items()})


def main():
    w = Writer(sys.argv[1])
    small = {"compression": "none", "write_statistics": False, "store_schema": False}
    verl = pa.Table.from_pylist(verl_rows(12), schema=VERL)
    w.arrow("verl", verl)  # pyarrow's defaults: snappy, dictionaries
    w.arrow("nested", nested_table(), **small)
    w.arrow("types", types_table(), store_schema=False)
    texts = [f"{'common prefix ' * (i % 3)}{i:03d}" for i in range(40)]
    counts = pa.table(
        {"i": pa.array([i * i - 50 for i in range(40)], pa.int64()), "t": texts},
    )
    for codec in ["none", "snappy", "gzip", "zstd"]:
        for version in ["1.0", "2.0"]:
            w.arrow(
                f"codec_{codec}_v{version[0]}",
                counts,
                rows="codec",
                compression=codec,
                data_page_version=version,
                store_schema=False,
                write_page_checksum=codec == "zstd",
            )
    values = pa.table(
        {
            "i32": pa.array([(i * 2654435761 >> 7) % 2**31 - 2**30 for i in range(150)], pa.int32()),
            "i64": pa.array([None if i % 7 == 0 else i**5 - 2**40 for i in range(150)], pa.int64()),
            "edge": pa.array([(-1) ** i * (2**63 - 1) for i in range(150)], pa.int64()),
            "len": [None if i % 11 == 0 else "y" * (i % 13) for i in range(150)],
            "pre": [f"path/{i // 10}/{i}" for i in range(150)],
            "fix": pa.array([b"%04d" % (i // 3) for i in range(150)], pa.binary(4)),
            "f32": pa.array([i / 7 for i in range(150)], pa.float32()),
            "f64": pa.array([None if i % 5 == 0 else i / 3 for i in range(150)], pa.float64()),
            "bool": pa.array([i % 9 < 4 for i in range(150)]),
        }
    )
    encodings = {
        "i32": "DELTA_BINARY_PACKED",
        "i64": "DELTA_BINARY_PACKED",
        "edge": "DELTA_BINARY_PACKED",
        "len": "DELTA_LENGTH_BYTE_ARRAY",
        "pre": "DELTA_BYTE_ARRAY",
        "fix": "DELTA_BYTE_ARRAY",
        "f32": "BYTE_STREAM_SPLIT",
        "f64": "BYTE_STREAM_SPLIT",
        "bool": "RLE",
    }
    for version in ["1.0", "2.0"]:
        w.arrow(
            f"encodings_v{version[0]}",
            values,
            rows="encodings",
            use_dictionary=False,
            column_encoding=encodings,
            compression="zstd",
            data_page_version=version,
            store_schema=False,
        )
    # Three row groups of several pages; a dictionary that is given up in the middle of a column.
    w.arrow(
        "pages",
        pa.table({"s": [f"{i % 50} {'z' * (i % 40)}" for i in range(230)], "l": [list(range(i % 4)) for i in range(230)]}),
        row_group_size=90,
        data_page_size=64,
        dictionary_pagesize_limit=300,
        write_batch_size=16,
        compression="gzip",
        store_schema=False,
    )
    w.arrow("no_rows", verl.slice(0, 0), **small)
    frame = pl.DataFrame(verl_rows(12), schema={f.name: pl_type(f.type) for f in VERL})
    w.polars("polars_verl", frame)  # Polars' defaults: zstd
    w.polars(
        "polars_types",
        pl.DataFrame(
            {
                "i": [1, None, -3],
                "u": pl.Series([2**63, None, 0], dtype=pl.UInt64),
                "f": [0.5, None, -1e300],
                "b": [True, None, False],
                "s": ["", None, "ü"],
                "c": pl.Series(["a", None, "b"], dtype=pl.Categorical),
                "d": [dt.date(2024, 2, 29), None, dt.date(1900, 3, 1)],
                "t": [dt.datetime(2024, 2, 29, 12, 30, 0, 5), None, dt.datetime(1969, 12, 31)],
                "x": [dt.time(1, 2, 3, 4), None, dt.time(23, 59, 59)],
                "n": [[[1], None, []], None, []],
                "m": pl.Series([decimal.Decimal("1.50"), None, decimal.Decimal("-0.25")]),
            },
            strict=False,
        ),
        compression="snappy",
        row_group_size=2,
    )
    # What is refused, by name.
    for codec in ["brotli", "lz4"]:
        pq.write_table(counts.slice(0, 2), w.folder / f"refused_{codec}.parquet", compression=codec)
    pq.write_table(
        pa.table({"when": pa.array([dt.datetime(2020, 1, 1)])}),
        w.folder / "refused_int96.parquet",
        use_deprecated_int96_timestamps=True,
    )
    pq.write_table(pa.table({"raw": [b"\xff\xfe"]}), w.folder / "refused_bytes.parquet")


def pl_type(type_):
    if pa.types.is_list(type_):
        return pl.List(pl_type(type_.value_type))
    if pa.types.is_struct(type_):
        return pl.Struct({f.name: pl_type(f.type) for f in type_})
    return {pa.string(): pl.String, pa.int64(): pl.Int64, pa.int32(): pl.Int32}[type_]


if __name__ == "__main__":
    main()
