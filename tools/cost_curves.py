#!/usr/bin/env python3
r"""Shows how the time of a training step grows, and fits a model that explains it.

Command, from the top of the repository (only the standard library; on an idle machine):

    python3 tools/cost_curves.py --opo build/opo --model SmolLM2-135M-Instruct.Q4_1.gguf \
        --data /tmp/cost.jsonl --out-svg docs/cost.svg > /tmp/cost.md

It runs `opo bench step --json --ignore-eos` over samples a prompt, prompt length, completion
length, model size and threads, one at a time, and then fits

    step_s = (a * block FLOP + b * head FLOP + c * attention FLOP + d * weight bytes read to decode
              + e * parameters + f * rows * layers * width + g * bytes first touched)
             * (most threads / threads) ^ speed-up exponent

with coefficients that are not negative, by least squares of the relative errors over all points.
The last term is for points whose step is the first of its process, as it is for the long ones: the
others are measured twice, and the second step touches no new memory.

Points run from short to long; what does not fit in --minutes is left out, and said: of the 6 of
the default, the longest completions; two cores take some 15 minutes for all. Standard output has
the points and the coefficients as Markdown; --from fits the points of an earlier --data again.
"""
import argparse
import html
import itertools
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time

SHAPE_KEYS = ("architecture", "hidden", "layers", "heads", "kv_heads", "head_dim", "ffn", "vocab",
              "tied", "max_position")
# Shapes of known models; their weights are random, which costs the same.
FRESH_MODELS = {
    "SmolLM2-360M": ("llama", 960, 32, 15, 5, 64, 2560, 49152, True, 8192),
    "Qwen2.5-0.5B": ("qwen2", 896, 24, 14, 2, 64, 4864, 151936, True, 32768),
}
SWEEPS = ("samples", "prompt", "completion", "model", "threads")
ALL_ON_TAPE_MB = 1 << 20
UNIT_TOKENS = 1024          # of a unit of the learner: train.unit_tokens
DEFAULT_MICRO_BATCH_MB = 1024
SLOTS = 256                 # samples decoded at once
PREFILL_ROWS = 2048


def fail(message):
    sys.exit(f"cost_curves: {message}")


def note(message):
    print(f"cost_curves: {message}", file=sys.stderr, flush=True)


# ---------------------------------------------------------------- the model's shape


def read_gguf(path):
    """Metadata (long arrays as their length) and the names of the tensors."""
    scalars = dict(enumerate("B b H h I i f ?".split())) | {10: "Q", 11: "q", 12: "d"}
    with open(path, "rb") as file:

        def number(code):
            return struct.unpack("<" + code, file.read(struct.calcsize("<" + code)))[0]

        def text():
            return file.read(number("Q")).decode("utf-8", "replace")

        def value(kind):
            if kind == 8:
                return text()
            if kind == 9:
                inner, count = number("I"), number("Q")
                for _ in range(count):
                    value(inner)
                return count
            return number(scalars[kind])

        if file.read(4) != b"GGUF":
            fail(f"{path}: is not a GGUF file")
        number("I")
        num_tensors, num_values = number("Q"), number("Q")
        metadata, names = {}, []
        for _ in range(num_values):
            key = text()
            metadata[key] = value(number("I"))
        for _ in range(num_tensors):
            names.append(text())
            file.seek(8 * number("I") + 12, os.SEEK_CUR)
    return metadata, names


def read_shape(path):
    """The shape of a .gguf file or a Hugging Face folder, keys as in SHAPE_KEYS."""
    try:
        if os.path.isdir(path):
            with open(os.path.join(path, "config.json"), encoding="utf-8") as file:
                c = json.load(file)
            heads = c["num_attention_heads"]
            head_dim = c.get("head_dim") or c["hidden_size"] // heads
            values = (c["model_type"], c["hidden_size"], c["num_hidden_layers"], heads,
                      c.get("num_key_value_heads", heads), head_dim, c["intermediate_size"],
                      c["vocab_size"], c.get("tie_word_embeddings", False),
                      c.get("max_position_embeddings", 0))
        else:
            m, names = read_gguf(path)
            arch = m["general.architecture"]
            hidden, heads = m[arch + ".embedding_length"], m[arch + ".attention.head_count"]
            values = (arch, hidden, m[arch + ".block_count"], heads,
                      m.get(arch + ".attention.head_count_kv", heads),
                      m.get(arch + ".attention.key_length", hidden // heads),
                      m[arch + ".feed_forward_length"], m["tokenizer.ggml.tokens"],
                      "output.weight" not in names, m.get(arch + ".context_length", 0))
    except (OSError, ValueError, struct.error) as e:
        fail(f"{path}: cannot read the model's shape: {e}")
    except KeyError as e:
        fail(f"{path}: has no {e}")
    return dict(zip(SHAPE_KEYS, values))


def block_params(s):
    """Matmul parameters of one block: all, and what a prompt's rows need of the last one."""
    q, kv = s["heads"] * s["head_dim"], s["kv_heads"] * s["head_dim"]
    qkv = s["hidden"] * (q + 2 * kv)
    return qkv + q * s["hidden"] + 3 * s["hidden"] * s["ffn"], qkv


def parameters(s):
    head = s["hidden"] * s["vocab"]
    return s["layers"] * block_params(s)[0] + head * (1 if s["tied"] else 2)


# ---------------------------------------------------------------- a step's work

TERMS = ("blocks", "head", "attention", "decode", "parameters", "rows", "first touch")
# What each coefficient says: unit, and the coefficient in it.
UNITS = {
    "blocks": ("GFLOP/s", lambda c: 1e-9 / c),
    "head": ("GFLOP/s", lambda c: 1e-9 / c),
    "attention": ("GFLOP/s", lambda c: 1e-9 / c),
    "decode": ("GB/s of weights", lambda c: 1e-9 / c),
    "parameters": ("ns a parameter", lambda c: 1e9 * c),
    "rows": ("ns a 1000 elements", lambda c: 1e12 * c),
    "first touch": ("s a GB", lambda c: 1e9 * c),
}


def round_up(n, m):
    return (n + m - 1) // m * m


def row_bytes(s, size):
    """Of a row of a micro-batch that is not on the tape (Learner::row_bytes)."""
    d, q, kv = s["hidden"], s["heads"] * s["head_dim"], s["kv_heads"] * s["head_dim"]
    layer = size * (d + 2 * kv) + size * (2 * q + d + 2 * s["ffn"]) + 4 * s["heads"] + 2 * size * kv
    scratch = size * (d + 3 * q) + 4 * (d + q + 2 * kv + s["heads"])
    return s["layers"] * layer + scratch


def units_of(w):
    """(rows of samples, rows of the prompt) of each unit of one group (CutUnits)."""
    per_unit = max(1, UNIT_TOKENS // w["new_tokens"])
    units = []
    for first in range(0, w["samples"], per_unit):
        count = min(per_unit, w["samples"] - first)
        last = first + count == w["samples"]
        units.append((count * w["new_tokens"], w["prompt_tokens"] - 1 if last else 0))
    return units


def row_block(point):
    """What a unit's rows are padded to a multiple of (docs/exactness.md)."""
    if point["dtype"] != "bf16":
        return 1
    return 32 if point.get("isa") == "amx" else 2


def features(point):
    """The terms' factors, in the order of TERMS, for one thread count."""
    s, w, run = point["shape"], point["work"], point["run"]
    size = 2 if point["dtype"] == "bf16" else 4
    pad_to = row_block(point)
    groups, p, t = w["prompts"], w["prompt_tokens"] - 1, w["new_tokens"]
    samples = groups * w["samples"]
    taped = point["plan"] == "tape"
    block, last_qkv = block_params(s)
    layers, head = s["layers"], s["hidden"] * s["vocab"]
    # A prompt's rows end at K and V in the last layer.
    prompt_row = 2 * ((layers - 1) * block + last_qkv)
    sample_row = 2 * layers * block
    prompt_rows, sample_rows = groups * p, samples * t
    prompt_pairs = groups * p * (p + 1) / 2 * (layers - 1)
    sample_pairs = samples * (t * p + t * (t + 1) / 2) * layers

    rerun = 0.0  # share of the learner's rows that run forward twice, layer by layer
    units = units_of(w)
    if "rerun_rows" in run:
        rerun = run["rerun_rows"] / (prompt_rows + sample_rows)
    elif not taped:
        memory = (w.get("micro_batch_mb") or DEFAULT_MICRO_BATCH_MB) << 20
        large = sum(a + b for a, b in units
                    if round_up(a + p, pad_to) * row_bytes(s, size) > memory)
        rerun = large / sum(a + b for a, b in units)
    forward = 1 + (0 if taped else 1 + rerun)
    pad_rows = groups * sum(round_up(a + b, pad_to) - a - b for a, b in units)
    head_rows = groups * sum(round_up(a, pad_to) for a, b in units)
    recheck = run.get("rechecked_rows", 0)

    blocks = ((forward + 2) * (prompt_rows * prompt_row + sample_rows * sample_row) +
              (2 * pad_rows + recheck) * sample_row)
    heads = 2 * head * (sample_rows + 3 * head_rows)
    # Forward: scores and values. Backward: scores again, dP, dV, dQ, dK.
    attention = (4 * forward + 10) * (prompt_pairs + sample_pairs) * s["heads"] * s["head_dim"]
    decode_steps = t * math.ceil(samples / SLOTS)
    weights = size * (layers * block + head) * decode_steps
    weights += size * layers * block * math.ceil(prompt_rows / PREFILL_ROWS)
    width = s["hidden"] + s["ffn"]
    rows = ((forward + 2) * (prompt_rows + sample_rows) + 2 * pad_rows) * layers * width
    # Before the first step the process holds the weights in f32 and both packed directions.
    touched = 0
    if point["first_step"]:
        before = point.get("rss_before") or (4 + 2 * size) * parameters(s)
        touched = max(0, run["peak_rss_bytes"] - before)
    return [blocks, heads, attention, weights, parameters(s), rows, touched]


# ---------------------------------------------------------------- measuring


def workload(prompts, samples, prompt_tokens, new_tokens, micro_batch_mb=0):
    return {"prompts": prompts, "samples": samples, "prompt_tokens": prompt_tokens,
            "new_tokens": new_tokens, "micro_batch_mb": micro_batch_mb}


def list_jobs(args, base_shape, most_threads):
    """What to measure: each job is one process; `shows` are its dots (sweep, series, x)."""
    jobs = {}

    def add(sweep, series, x, work, plan="tape", model=None, threads=None):
        if sweep not in args.sweeps:
            return
        name = model or args.name
        key = (name, tuple(work.values()), plan, threads or most_threads)
        shape = base_shape if model is None else dict(zip(SHAPE_KEYS, FRESH_MODELS[model]))
        job = jobs.setdefault(key, {"name": name, "fresh": model is not None, "shape": shape,
                                    "work": work, "plan": plan,
                                    "threads": threads or most_threads, "shows": []})
        job["shows"].append((sweep, series, x))

    quick = args.quick
    for n in (1, 4, 8) if quick else (1, 2, 4, 8, 16, 32):
        add("samples", "4 prompts, 32 new", n, workload(4, n, 64, 32))
    for n in (64, 256) if quick else (64, 256, 1000, 2000):
        add("prompt", "1 prompt, 8 samples", n, workload(1, 8, n, 16))
        add("prompt", "8 prompts, 1 sample", n, workload(8, 1, n, 16))
    for n in (16, 64) if quick else (64, 256):
        add("completion", "", n, workload(1, 2, 64, n), "both")
    for n in () if quick else (1024, 2048, 4032):
        add("completion", "tape", n, workload(1, 2, 64, n))
        add("completion", "recompute", n, workload(1, 2, 64, n), "recompute")
    if not quick:  # the learner's memory so small that it goes layer by layer
        size = 2 if args.dtype == "bf16" else 4
        small = int(0.7 * (1024 + 64) * row_bytes(base_shape, size)) >> 20
        add("completion", "layer by layer", 1024, workload(1, 2, 64, 1024, small), "recompute")
    for work, label in ((workload(2, 4, 64, 32), "2 x 4 samples, 32 new"),
                        (workload(1, 8, 512, 8), "1 x 8, prompt of 512")):
        for model in (None,) if quick else (None, *FRESH_MODELS):
            shape = base_shape if model is None else dict(zip(SHAPE_KEYS, FRESH_MODELS[model]))
            add("model", label, round(parameters(shape) / 1e6), work, model=model)
    for n in sorted({1, most_threads}):
        add("threads", "4 prompts, 8 samples", n, workload(4, 8, 64, 32), threads=n)
        if not quick:
            add("threads", "1 prompt, 2 samples", n, workload(1, 2, 64, 64), threads=n)
    return list(jobs.values())


# Roughly a desktop's: only for the order of the jobs and what fits in the time. Corrected by what
# was measured so far.
GUESS = (1 / 300e9, 1 / 250e9, 1 / 120e9, 1 / 16e9, 4e-9, 1e-11, 0)


def guess_seconds(job, most_threads, repeats=None):
    """(of one step, of the whole process)"""
    plans = ("recompute", "tape") if job["plan"] == "both" else (job["plan"],)
    steps = [sum(f * c for f, c in zip(features(
        {"shape": job["shape"], "work": job["work"], "plan": plan, "dtype": "bf16", "run": {},
         "first_step": False}), GUESS)) for plan in plans]
    scale = most_threads / job["threads"]
    repeats = repeats or job["repeats"]
    return scale * max(steps), 1.5 + 2.5e-8 * parameters(job["shape"]) + (
        scale * repeats * sum(steps))


def available_bytes():
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 1 << 62


def run_opo(command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as e:
        fail(f"{command[0]}: {e.strerror}; --opo says where the program is")
    for line in done.stderr.splitlines():
        note(line)
    if done.returncode != 0:
        fail(f"`{' '.join(command)}` ended with code {done.returncode}")
    try:
        return json.loads(done.stdout) | {"warnings": done.stderr.splitlines()}
    except ValueError:
        fail(f"`{' '.join(command)}` printed no JSON")


def make_model(args, folder, name):
    path = os.path.join(folder, name)
    s = dict(zip(SHAPE_KEYS, FRESH_MODELS[name]))
    if os.path.exists(os.path.join(path, "config.json")):
        if {k: read_shape(path)[k] for k in SHAPE_KEYS[1:8]} == {k: s[k] for k in SHAPE_KEYS[1:8]}:
            return path
        fail(f"{path}: has another shape; --models needs a folder of its own")
    needed = 4 * parameters(s)
    if shutil.disk_usage(folder).free < 1.1 * needed:
        fail(f"{folder}: {needed >> 20} MiB are needed for {name}; give --models another folder")
    note(f"making {name}'s shape with random weights, {needed >> 20} MiB")
    options = [f"--{k.replace('_', '-')}={s[k]}" for k in SHAPE_KEYS if k != "tied"]
    run_opo([args.opo, "init", *options, *([] if s["tied"] else ["--untied"]), path])
    return path


def run_job(args, job, path):
    """One process; its points."""
    w = job["work"]
    tape = {"tape": ALL_ON_TAPE_MB, "recompute": 0, "both": -1}[job["plan"]]
    out = run_opo([
        args.opo, "bench", "step", "--json", "--ignore-eos", f"--model={path}",
        f"--repeats={job['repeats']}", f"--tape-mb={tape}", f"--threads={job['threads']}",
        f"--prompts={w['prompts']}", f"--samples={w['samples']}",
        f"--prompt-tokens={w['prompt_tokens']}", f"--max-new-tokens={w['new_tokens']}",
        f"--micro-batch-mb={w['micro_batch_mb']}", f"--dtype={args.dtype}"
    ])
    points, rss = [], 0
    for plan in ("recompute", "tape"):
        if plan not in out:
            continue
        if out[plan]["mismatched_tokens"] or out[plan]["mismatched_rows"]:
            fail("the learner's bits are not the sampler's: see `opo doctor`")
        shows = [(a, b or plan, x) for a, b, x in job["shows"]]
        points.append({"model": job["name"], "shape": job["shape"], "work": w, "plan": plan,
                       "dtype": args.dtype, "isa": out["isa"], "threads": out["threads"],
                       "gemm_rate": out[plan]["gemm_rate"], "repeats": job["repeats"],
                       "first_step": job["repeats"] == 1, "rss_before": rss, "shows": shows,
                       "warnings": out["warnings"], "run": out[plan]})
        rss = out[plan]["peak_rss_bytes"]
    return points


def measure(args):
    base = read_shape(args.model)
    most_threads = args.threads or len(os.sched_getaffinity(0))
    jobs = []
    for job in list_jobs(args, base, most_threads):
        w, longest = job["work"], job["shape"]["max_position"]
        if 0 < longest < w["prompt_tokens"] + w["new_tokens"]:
            note(f"left out, {longest} positions are too few: {describe(job)}")
            continue
        job["repeats"] = args.repeats or (2 if guess_seconds(job, most_threads, 1)[0] < 16 else 1)
        jobs.append(job)
    jobs.sort(key=lambda j: guess_seconds(j, most_threads)[1])
    points, start = [], time.monotonic()
    guessed = measured = 1e-9
    try:
        data = open(args.data, "w", encoding="utf-8") if args.data else None
    except OSError as e:
        fail(f"{args.data}: {e.strerror}")
    made = args.models or tempfile.mkdtemp(prefix="opo_cost_")
    try:
        os.makedirs(made, exist_ok=True)
        for i, job in enumerate(jobs):
            what = f"[{i + 1}/{len(jobs)}] {describe(job)}"
            guess = guess_seconds(job, most_threads)[1]
            correction = measured / guessed if measured > 10 else 1.0
            left = 60 * args.minutes - (time.monotonic() - start)
            if guess * correction > left:
                note(f"{what}: left out, would take {guess * correction:.0f} s of {left:.0f} left; "
                     "raise --minutes")
                continue
            needed = 32 * parameters(job["shape"])
            if needed > available_bytes():
                note(f"{what}: left out, needs {needed >> 20} MiB of memory")
                continue
            path = make_model(args, made, job["name"]) if job["fresh"] else args.model
            began = time.monotonic()
            new = run_job(args, job, path)
            took = time.monotonic() - began
            if not job["fresh"]:
                guessed, measured = guessed + guess, measured + took
            note(f"{what}: " + ", ".join(f"{p['plan']} {p['run']['step_s']:.2f} s" for p in new) +
                 f" ({took:.1f} s in all)")
            points += new
            if data:
                data.writelines(json.dumps(p) + "\n" for p in new)
                data.flush()
    finally:
        if data:
            data.close()
        if not args.models:
            shutil.rmtree(made, ignore_errors=True)
    return points


def describe(job):
    w = job["work"]
    text = (f"{job['name']}, {w['prompts']} x {w['samples']} samples, prompt {w['prompt_tokens']}, "
            f"{w['new_tokens']} new, {job['threads']} threads, {job['plan']}")
    return text + (f", {w['micro_batch_mb']} MiB" if w["micro_batch_mb"] else "")


def read_points(path):
    points = []
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                point = json.loads(line)
                missing = {"model", "isa", "gemm_rate", "shape", "work", "plan", "dtype", "threads",
                           "shows", "run", "first_step"} - set(point)
                if missing:
                    fail(f"{path}: line {number}: has no `{sorted(missing)[0]}`")
                points.append(point)
    except OSError as e:
        fail(f"{path}: {e.strerror}")
    except ValueError as e:
        fail(f"{path}: line {number}: {e}")
    return points


# ---------------------------------------------------------------- the fit


def solve(matrix, vector):
    """Gauss with pivoting; None where the matrix is singular."""
    n = len(vector)
    a = [list(row) + [v] for row, v in zip(matrix, vector)]
    for i in range(n):
        best = max(range(i, n), key=lambda r: abs(a[r][i]))
        if abs(a[best][i]) < 1e-10:
            return None
        a[i], a[best] = a[best], a[i]
        for r in range(n):
            if r != i:
                factor = a[r][i] / a[i][i]
                a[r] = [x - factor * y for x, y in zip(a[r], a[i])]
    return [a[i][n] / a[i][i] for i in range(n)]


def fit_relative(rows):
    """Coefficients >= 0 that bring each row's sum nearest to 1: all subsets are tried. Returns the
    squared error, the coefficients, and their standard errors as shares (None: not determined)."""
    k, n = len(rows[0]), len(rows)
    norms = [math.sqrt(sum(r[j] ** 2 for r in rows)) for j in range(k)]
    scaled = [[r[j] / norms[j] if norms[j] else 0 for j in range(k)] for r in rows]
    gram = [[sum(r[i] * r[j] for r in scaled) for j in range(k)] for i in range(k)]
    right = [sum(r[j] for r in scaled) for j in range(k)]
    usable = [j for j in range(k) if norms[j] > 0]
    best = None
    for count in range(1, min(n, len(usable)) + 1):
        for subset in itertools.combinations(usable, count):
            sub = [[gram[i][j] for j in subset] for i in subset]
            c = solve(sub, [right[j] for j in subset])
            if c is None or min(c) < 0:
                continue
            error = sum((sum(r[j] * x for j, x in zip(subset, c)) - 1) ** 2 for r in scaled)
            if best is None or error < best[0] * (1 - 1e-9):
                best = (error, subset, c, sub)
    if best is None:
        fail("nothing fits these points")
    error, subset, c, sub = best
    coefficients, shares = [0.0] * k, [None] * k
    for place, j in enumerate(subset):
        coefficients[j] = c[place] / norms[j]
        inverse = solve(sub, [1.0 if i == place else 0.0 for i in range(len(subset))])
        if n > len(subset) and inverse is not None and c[place] > 0:
            shares[j] = math.sqrt(max(0, error / (n - len(subset)) * inverse[place])) / c[place]
    return error, coefficients, shares


def fit(points):
    """Adds `terms` (seconds) and `fitted` to the points; returns coefficients, errors, exponent."""
    factors = [features(p) for p in points]
    most = max(p["threads"] for p in points)
    exponents = [i / 50 for i in range(61)] if min(p["threads"] for p in points) < most else [0.0]
    best = None
    for exponent in exponents:
        scales = [(most / p["threads"])**exponent for p in points]
        rows = [[x * s / p["run"]["step_s"] for x in f]
                for f, s, p in zip(factors, scales, points)]
        result = fit_relative(rows)
        if best is None or result[0] < best[0][0]:
            best = (result, exponent, scales)
    (_, coefficients, shares), exponent, scales = best
    for p, f, s in zip(points, factors, scales):
        p["terms"] = [c * x * s for c, x in zip(coefficients, f)]
        p["fitted"] = sum(p["terms"])
    return coefficients, shares, exponent


# ---------------------------------------------------------------- what is printed


def dots(points, sweep):
    """{series: [(x, point)]} of one sweep, in the order of x."""
    series = {}
    for p in points:
        for a, label, x in p["shows"]:
            if a == sweep:
                series.setdefault(label, []).append((x, p))
    return {label: sorted(found, key=lambda d: d[0]) for label, found in series.items()}


def print_report(points, coefficients, shares, exponent):
    most = max(p["threads"] for p in points)
    rates = sorted(p["gemm_rate"] for p in points)
    print(f"Path {points[0]['isa']}, {most} threads, {points[0]['dtype']}; best product "
          f"{rates[len(rates) // 2] / 1e9:.0f} GFLOP/s (median of the runs).\n")
    print("| model | prompts x samples | prompt | new | threads | plan | generate s | learn s | "
          "step s | fitted s | step / fitted | largest terms |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for p in sorted(points, key=lambda p: (p["model"], p["threads"] != most, p["run"]["step_s"])):
        w, run = p["work"], p["run"]
        order = sorted(range(len(TERMS)), key=lambda j: -p["terms"][j])[:2]
        largest = ", ".join(f"{TERMS[j]} {p['terms'][j] / p['fitted']:.0%}" for j in order)
        plan = p["plan"] + (f", {w['micro_batch_mb']} MiB" if w.get("micro_batch_mb") else "")
        plan += ", first step" if p["first_step"] else ""
        print(f"| {p['model']} | {w['prompts']} x {w['samples']} | {w['prompt_tokens']} | "
              f"{w['new_tokens']} | {p['threads']} | {plan} | {run['generate_s']:.2f} | "
              f"{run['learn_s']:.2f} | {run['step_s']:.2f} | {p['fitted']:.2f} | "
              f"{run['step_s'] / p['fitted']:.2f} | {largest} |")

    print("\n| term | coefficient | standard error | share of all the seconds |")
    print("|---|---|---|---|")
    total = sum(p["fitted"] for p in points)
    for j, term in enumerate(TERMS):
        unit, convert = UNITS[term]
        shown = f"{convert(coefficients[j]):.3g} {unit}" if coefficients[j] > 0 else "0 (not seen)"
        error = f"{shares[j]:.0%}" if shares[j] is not None else "-"
        part = sum(p["terms"][j] for p in points) / total
        print(f"| {term} | {shown} | {error} | {part:.0%} |")
    if min(p["threads"] for p in points) < most:
        print(f"| threads | 1 to {most}: {most ** exponent:.2f} times as fast | - | - |")

    errors = sorted(abs(p["fitted"] / p["run"]["step_s"] - 1) for p in points)
    mean = sum(p["run"]["step_s"] for p in points) / len(points)
    rest = sum((p["run"]["step_s"] - p["fitted"]) ** 2 for p in points)
    spread = sum((p["run"]["step_s"] - mean) ** 2 for p in points)
    r2 = f"{1 - rest / spread:.4f}" if spread > 0 else "-"
    print(f"\n{len(points)} points; relative error: median {errors[len(errors) // 2]:.1%}, largest "
          f"{errors[-1]:.1%}; R^2 of the seconds {r2}.")

    if len(points) < 2 * len(TERMS):
        print(f"\nToo few points for {len(TERMS)} terms: the coefficients say nothing.")
    warned = sum(1 for p in points if p.get("warnings"))
    if warned:
        print(f"\nWhile {warned} of the points were measured, other programs ran: they are noise.")

    series = dots(points, "prompt")
    shared = dict(series.get("1 prompt, 8 samples", []))
    apart = dict(series.get("8 prompts, 1 sample", []))
    both = sorted(shared.keys() & apart.keys())
    if both:
        print("\nA shared prompt: 8 samples of 8 prompts take, beside 8 samples of one,")
        for x in both:
            a, b = apart[x], shared[x]
            first = " (one is a first step)" if a["first_step"] != b["first_step"] else ""
            print(f"- {x} tokens: {a['run']['step_s']:.2f} s / {b['run']['step_s']:.2f} s = "
                  f"{a['run']['step_s'] / b['run']['step_s']:.2f}; fitted "
                  f"{a['fitted'] / b['fitted']:.2f}{first}")
    series = dots(points, "completion")
    taped = dict(series.get("tape", []))
    both = [x for x, _ in series.get("recompute", []) if x in taped]
    if both:
        plain = dict(series["recompute"])
        print("\nThe tape: a step without it takes, beside one with it,")
        for x in both:
            a, b = plain[x]["run"]["step_s"], taped[x]["run"]["step_s"]
            print(f"- {x} new tokens: {a:.2f} s / {b:.2f} s = {a / b:.2f}")


# ---------------------------------------------------------------- the picture

COLORS = ("#1f5fa8", "#c2410c", "#15803d", "#7c3aed")
PANEL_W, PANEL_H = 380, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 62, 46


def ticks(low, high):
    """1, 2, 5 a decade, fewer where the axis is long."""
    steps = (1, 1.5, 2, 3, 4, 5, 7) if high / low < 8 else (1, 2, 5) if high / low < 300 else (1,)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [s * 10.0**e for e in range(first, last + 1) for s in steps
            if low * 0.999 <= s * 10.0**e <= high * 1.001]


def thin(values, place, gap):
    """The values whose places are at least a gap apart."""
    kept = []
    for v in sorted(values):
        if not kept or place(v) - place(kept[-1]) >= gap:
            kept.append(v)
    return kept


def text(x, y, content, size=12, anchor="start", color="#222", extra=""):
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
            f'fill="{color}"{extra}>{html.escape(str(content))}</text>')


def panel(x0, y0, title, x_label, series, x_ticks=None, diagonal=False):
    """`series`: {label: [(x, measured, fitted, first step)]}. Dots are measured, lines fitted."""
    xs = [d[0] for found in series.values() for d in found]
    ys = [v for found in series.values() for d in found for v in d[1:3]]
    x_low, x_high = min(xs) / 1.2, max(xs) * 1.2
    y_low, y_high = min(ys) / 1.25, max(ys) * 1.25
    if diagonal:
        x_low, x_high = y_low, y_high = min(x_low, y_low), max(x_high, y_high)
    width, height = PANEL_W - LEFT - RIGHT, PANEL_H - TOP - BOTTOM

    def at_x(v):
        return x0 + LEFT + width * math.log(v / x_low) / math.log(x_high / x_low)

    def at_y(v):
        return y0 + TOP + height * (1 - math.log(v / y_low) / math.log(y_high / y_low))

    out = [text(x0 + LEFT, y0 + 20, title, 15, extra=' font-weight="bold"')]
    for v in ticks(y_low, y_high):
        y = at_y(v)
        out.append(f'<line x1="{x0 + LEFT}" y1="{y:.1f}" x2="{x0 + LEFT + width}" y2="{y:.1f}" '
                   'stroke="#e2e2e2"/>')
        out.append(text(x0 + LEFT - 7, y + 4, f"{v:g}", 12, "end", "#555"))
    for v in thin(set(x_ticks or ticks(x_low, x_high)), at_x, 34):
        x = at_x(v)
        out.append(f'<line x1="{x:.1f}" y1="{y0 + TOP}" x2="{x:.1f}" y2="{y0 + TOP + height}" '
                   'stroke="#efefef"/>')
        out.append(text(x, y0 + TOP + height + 17, f"{v:g}", 12, "middle", "#555"))
    out.append(f'<rect x="{x0 + LEFT}" y="{y0 + TOP}" width="{width}" height="{height}" '
               'fill="none" stroke="#999"/>')
    out.append(text(x0 + LEFT + width / 2, y0 + PANEL_H - 10, x_label, 12, "middle"))
    out.append(text(x0 + 14, y0 + TOP + height / 2, "seconds", 12, "middle",
                    extra=f' transform="rotate(-90 {x0 + 14} {y0 + TOP + height / 2:.1f})"'))
    if diagonal:
        out.append(f'<line x1="{at_x(x_low):.1f}" y1="{at_y(y_low):.1f}" x2="{at_x(x_high):.1f}" '
                   f'y2="{at_y(y_high):.1f}" stroke="#888" stroke-width="1.5"/>')
    labels_at = x0 + LEFT
    for i, (label, found) in enumerate(series.items()):
        color = COLORS[i % len(COLORS)]
        if not diagonal and len(found) > 1:
            line = " ".join(f"{at_x(x):.1f},{at_y(fitted):.1f}" for x, _, fitted, _ in found)
            out.append(f'<polyline points="{line}" fill="none" stroke="{color}" '
                       'stroke-width="1.8"/>')
        for x, measured, _, first in found:
            out.append(f'<circle cx="{at_x(x):.1f}" cy="{at_y(measured):.1f}" r="4" '
                       f'fill="{"#fdfdfc" if first else color}" stroke="{color}" '
                       'stroke-width="1.6"/>')
        out.append(f'<circle cx="{labels_at + 5}" cy="{y0 + 40}" r="4" fill="{color}"/>')
        out.append(text(labels_at + 13, y0 + 44, label, 11.5, color=color))
        labels_at += 26 + 6.1 * len(label)
    return out


def write_svg(path, points):
    titles = {"samples": ("Samples a prompt", "samples a prompt"),
              "prompt": ("Prompt length", "tokens of a prompt"),
              "completion": ("Completion length", "new tokens a sample; 1 prompt, 2 samples"),
              "model": ("Model size", "million parameters"),
              "threads": ("Threads", "threads")}
    panels = []
    for sweep in SWEEPS:
        series = {label: [(x, p["run"]["step_s"], p["fitted"], p["first_step"]) for x, p in found]
                  for label, found in dots(points, sweep).items()}
        if series:
            panels.append((*titles[sweep], series, {d[0] for f in series.values() for d in f}))
    everything = [(p["fitted"], p["run"]["step_s"], p["run"]["step_s"], p["first_step"])
                  for p in points]
    panels.append(("All points", "fitted seconds", {"measured; line: equal": everything}, None))
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    width, height = columns * PANEL_W, 56 + lines * PANEL_H
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
           f'width="{width}" height="{height}" font-family="Helvetica, Arial, sans-serif">',
           f'<rect width="{width}" height="{height}" fill="#fdfdfc"/>',
           text(20, 24, "A training step: measured (dots), fitted (lines)", 16,
                extra=' font-weight="bold"')]
    if any(p["first_step"] for p in points):
        out.append(text(20, 44, "Hollow: the first step of its process, which also touches its "
                                "memory first", 12))
    for i, (title, label, series, x_ticks) in enumerate(panels):
        out += panel(i % columns * PANEL_W, 56 + i // columns * PANEL_H, title, label, series,
                     x_ticks, x_ticks is None)
    out.append("</svg>\n")
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join(out))
    except OSError as e:
        fail(f"{path}: {e.strerror}")


def main():
    parser = argparse.ArgumentParser(
        description="How a training step's time grows: sweeps of `opo bench step`, and a fit.")
    parser.add_argument("--opo", default="build/opo", help="the program")
    parser.add_argument("--model", help="a .gguf file or a Hugging Face folder")
    parser.add_argument("--name", help="what to call it; otherwise its file name")
    parser.add_argument("--dtype", choices=("bf16", "f32"), default="bf16")
    parser.add_argument("--threads", type=int, default=0, help="most threads; 0: every CPU")
    parser.add_argument("--sweeps", default=",".join(SWEEPS), help="which: %(default)s")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter points, one model")
    parser.add_argument("--repeats", type=int, default=0,
                        help="the fastest of so many; 0: 2 for short steps, 1 for long ones")
    parser.add_argument("--minutes", type=float, default=6.0,
                        help="measure no longer than this (default %(default)s)")
    parser.add_argument("--models", help="folder that keeps the random models; otherwise temporary")
    parser.add_argument("--data", help="write the points there, JSON lines")
    parser.add_argument("--from", dest="source", help="fit the points of this --data file instead")
    parser.add_argument("--out-svg", default="docs/cost.svg", help="default %(default)s")
    args = parser.parse_args()
    args.sweeps = args.sweeps.split(",")
    for sweep in args.sweeps:
        if sweep not in SWEEPS:
            parser.error(f"--sweeps: {sweep} is none of {', '.join(SWEEPS)}")
    if not args.source and not args.model:
        parser.error("--model or --from is needed")
    if args.source and args.data:
        parser.error("--data is of a measurement, --from replaces it")
    if args.source:
        points = read_points(args.source)
    else:
        args.name = args.name or os.path.basename(os.path.normpath(args.model)).split(".Q")[0]
        args.name = args.name.removesuffix(".gguf")
        points = measure(args)
    if not points:
        fail("no points")
    print_report(points, *fit(points))
    write_svg(args.out_svg, points)
    note(f"wrote {args.out_svg}")


if __name__ == "__main__":
    main()
