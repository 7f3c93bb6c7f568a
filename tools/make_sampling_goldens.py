"""Writes tests/golden/sampling.json: what transformers' logits processors leave of random logits.

    pip install torch transformers numpy
    python tools/make_sampling_goldens.py tests/golden/sampling.json

Each case holds logits, the tokens before, the settings, and the tokens that may be drawn with their
probabilities, likeliest first. The processors run in float32, in the order of
GenerationMixin._get_logits_processor; the softmax of what they leave is taken in float64.
"""

import itertools
import json
import sys

import numpy as np
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

VOCAB = 37


def processors(case):
    chain = LogitsProcessorList()
    finite = {k: v for k, v in case["logit_bias"].items() if v is not None}
    if finite:
        chain.append(SequenceBiasLogitsProcessor([[[k], v] for k, v in finite.items()]))
    forbidden = [k for k, v in case["logit_bias"].items() if v is None]
    if forbidden:
        chain.append(SuppressTokensLogitsProcessor(forbidden))
    if case["repetition_penalty"] != 1.0:
        chain.append(RepetitionPenaltyLogitsProcessor(case["repetition_penalty"]))
    chain.append(TemperatureLogitsWarper(case["temperature"]))
    if case["top_k"] > 0:
        chain.append(TopKLogitsWarper(case["top_k"]))
    if case["top_p"] < 1.0:
        chain.append(TopPLogitsWarper(case["top_p"]))
    if case["min_p"] > 0.0:
        chain.append(MinPLogitsWarper(case["min_p"]))
    return chain


def near_a_limit(case, scores):
    """Whether float32 and float64 could disagree on what is left."""
    p = np.sort(torch.softmax(scores.double(), -1).numpy())[::-1]
    p = p[: case["top_k"]] if case["top_k"] > 0 else p
    p = p / p.sum()
    distances = [1.0]
    if case["top_p"] < 1:
        distances += list(np.abs(np.cumsum(p) - case["top_p"]))
    if case["min_p"] > 0:
        distances += list(np.abs(p / p[0] - case["min_p"]))
    return min(distances) < 1e-5


def main():
    rng = np.random.default_rng(7)
    cases = []
    for penalty, top_k, top_p, min_p, biased in itertools.product(
        [1.0, 1.3, 0.8], [0, 1, 6], [1.0, 0.9, 0.4], [0.0, 0.08], [False, True]
    ):
        while True:
            case = {
                "logits": [float(x) for x in np.round(rng.normal(0, 2, VOCAB) * 512) / 512],
                "prompt": [int(x) for x in rng.integers(0, VOCAB, 5)],
                "answer": [int(x) for x in rng.integers(0, VOCAB, 7)],
                "temperature": float(rng.choice([0.5, 1.0, 1.7])),
                "top_k": top_k,
                "top_p": top_p,
                "min_p": min_p,
                "repetition_penalty": penalty,
                "logit_bias": {},
            }
            if biased:
                ids = [int(x) for x in rng.choice(VOCAB, 4, replace=False)]
                case["logit_bias"] = dict(zip(ids, [2.5, -3.0, 0.75, None]))
            ids = torch.tensor([case["prompt"] + case["answer"]])
            logits = torch.tensor([case["logits"]], dtype=torch.float32)
            chain = processors(case)
            untruncated = LogitsProcessorList(
                c for c in chain if not type(c).__name__.startswith(("Top", "MinP"))
            )
            ties = len(set(case["logits"])) < VOCAB  # transformers keeps all that equal the k-th
            if not ties and not near_a_limit(case, untruncated(ids, logits.clone())[0]):
                break
        p = torch.softmax(chain(ids, logits.clone())[0].double(), -1).numpy()
        left = sorted((int(i) for i in np.flatnonzero(p)), key=lambda i: -p[i])
        case["ids"] = left
        case["probabilities"] = [float(p[i]) for i in left]
        cases.append(case)
    with open(sys.argv[1], "w", encoding="utf-8") as out:
        out.write("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")


if __name__ == "__main__":
    main()
