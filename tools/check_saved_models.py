#!/usr/bin/env python3
r"""Checks that transformers computes the same numbers from the models that opo saves.

Not needed to build or to test opo. Command, from the top of the repository (half a minute):

    pip install torch transformers safetensors
    python tools/check_saved_models.py --opo build/opo

For every architecture and kind of RoPE scaling: opo trains a tiny fresh model for two steps and saves
it; transformers (float32) and `opo logprobs --dtype f32` score the same random tokens, 4 times as many
as the original context where there is one. One line a model with the largest difference of a
log-prob; exit code 1 if one is above 5e-5. A control says how large it is if transformers is not told
of the scaling. Results: docs/models.md.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
warnings.filterwarnings("ignore")

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

LIMIT = 5e-5  # float32 in both: the differences are 10 times smaller

YARN = ["rope_type=yarn", "rope_factor=4", "rope_original_max_position=64"]
LLAMA3 = ["rope_type=llama3", "rope_factor=8", "rope_original_max_position=64"]
MODELS = {
    "llama": ["architecture=llama"],
    "llama, untied": ["architecture=llama", "tied=false"],
    "mistral": ["architecture=mistral"],
    "qwen2": ["architecture=qwen2"],
    "qwen3": ["architecture=qwen3"],
    "llama, linear": ["architecture=llama", "rope_type=linear", "rope_factor=2.5"],
    "llama, llama3": ["architecture=llama"] + LLAMA3,
    "qwen2, yarn": ["architecture=qwen2"] + YARN,
    "qwen3, yarn": ["architecture=qwen3"] + YARN,
    "mistral, yarn": ["architecture=mistral"] + YARN,
}


def run(*command, **more):
    return subprocess.run(command, check=True, capture_output=True, text=True, **more).stdout


def train(opo, folder, settings):
    settings = ["model.init." + s for s in settings] + [
        "model.init.max_position=256", "model.init.std=0.1", "model.init.head_dim=24",
        "train.steps=2", "train.lr=1e-2", "checkpoint.every=0", "run.dir=" + folder]
    flags = [f for s in settings for f in ("--set", s)]
    run(opo, "train", "examples/tiny.toml", "--quiet", *flags)
    return os.path.join(folder, "model")


def score_transformers(folder, prompt, completion, change=None):
    config = AutoConfig.from_pretrained(folder)
    if change is not None:
        change(config)
    model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(torch.tensor([prompt + completion]), use_cache=False).logits[0]
    logprobs = torch.log_softmax(logits[len(prompt) - 1:-1].double(), dim=-1)
    return logprobs.gather(1, torch.tensor(completion)[:, None])[:, 0]


def score_opo(opo, folder, prompt, completion):
    line = json.dumps({"prompt_ids": prompt, "completion_ids": completion})
    out = run(opo, "logprobs", "--model", folder, "--dtype", "f32", input=line + "\n")
    return torch.tensor(json.loads(out)["logprobs"], dtype=torch.float64)


def plain_rope(config):
    config.rope_parameters = {"rope_type": "default",
                              "rope_theta": config.rope_parameters["rope_theta"]}


def compare(opo, name, folder):
    """The largest difference; whether it is small, and the control's large."""
    vocab = json.load(open(os.path.join(folder, "config.json")))["vocab_size"]
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, vocab - 3, (250,), generator=generator).tolist()
    prompt, completion = ids[:10], ids[10:]
    got = score_opo(opo, folder, prompt, completion)
    worst = (got - score_transformers(folder, prompt, completion)).abs().max().item()
    text, good = f"{name:16} {worst:.1e}", worst < LIMIT
    if json.load(open(os.path.join(folder, "config.json")))["rope_scaling"] is not None:
        other = (got - score_transformers(folder, prompt, completion, plain_rope)).abs().max().item()
        text += f"   (plain RoPE: {other:.1e})"
        good = good and other > 200 * LIMIT
    print(text, flush=True)
    return good


def compare_scores(opo, architecture, folder):
    """The same of a fresh reward model: its score of 12 token sequences."""
    run(opo, "init", folder, "--architecture", architecture, "--value-head", "--std", "0.1")
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(4)
    worst, most = 0.0, 0.0
    for length in range(10, 250, 20):
        ids = torch.randint(0, 250, (length,), generator=generator).tolist()
        line = json.dumps({"prompt_ids": ids[:5], "completion_ids": ids[5:]})
        out = run(opo, "logprobs", "--model", folder, "--dtype", "f32", input=line + "\n")
        with torch.no_grad():
            score = model(torch.tensor([ids])).logits[0, 0].item()
        worst = max(worst, abs(json.loads(out)["score"] - score))
        most = max(most, abs(score))
    print(f"{architecture + ', scores':16} {worst:.1e}   (of up to {most:.1f})", flush=True)
    return worst < LIMIT and most > 200 * LIMIT


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--opo", default="build/opo", help="the program")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("torch", torch.__version__, "transformers", transformers.__version__)
    good = True
    with tempfile.TemporaryDirectory() as scratch:
        for i, (name, settings) in enumerate(MODELS.items()):
            folder = train(args.opo, os.path.join(scratch, str(i)), settings)
            good = compare(args.opo, name, folder) and good
        for architecture in ("llama", "mistral", "qwen2", "qwen3"):
            good = compare_scores(args.opo, architecture, os.path.join(scratch, architecture)) and good
        # Given factors, as a GGUF file may have them: each frequency divided by its own number.
        path = os.path.join(folder, "config.json")
        config = json.load(open(path))
        factors = [1 + 0.5 * i for i in range(config["head_dim"] // 2)]
        config["rope_scaling"] = {"rope_type": "longrope", "short_factor": factors,
                                  "long_factor": factors, "attention_factor": 1.1,
                                  "original_max_position_embeddings": 64}
        with open(path, "w") as f:
            json.dump(config, f)
        good = compare(args.opo, "mistral, factors", folder) and good
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
