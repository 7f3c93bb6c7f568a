#!/usr/bin/env python3
"""Makes tests/golden/ppo: whole updates of PPO, from two models and the rewards of their answers to
the gradient of all weights, by verl's functions and torch's autograd, on the tiny model
tests/golden/tiny_mistral_linear with a value head on its last hidden state.

Not needed to build or to test opo: the files it wrote are checked in.

Command, from the top of the repository (half a minute on one core):

    pip install torch transformers safetensors numpy omegaconf tensordict
    pip install --no-deps verl==0.9.1
    python tools/make_ppo_goldens.py --golden tests/golden

Made with Python 3.11.7, torch 2.15.0, transformers 5.23.0, verl 0.9.1.

What samples is the model itself; the reference is the model with all weights times 0.9; what learns
is the model too ("first", a batch's first update), or the model with all weights, the value head's
among them, times `factor` ("later", where both clips are active). A value stands at the row that
predicts its token. Everything is float64 (make_float64 of make_model_goldens.py).
"""
import argparse
import json
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import torch
from make_algo_goldens import LossConfig, load_core_algos, mask_of
from make_model_goldens import make_float64
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

MODEL = "tiny_mistral_linear"
REFERENCE = 0.9
# A prompt's tokens, and those of its answers.
LENGTHS = [(5, (7, 3)), (20, (12, 30)), (1, (1, 9))]
REWARDS = [1.0, 0.0, 0.25, -0.5, 1.0, 0.0]
SETTINGS = dict(gamma=0.98, gae_lambda=0.9, kl_coef=0.1, clip=0.2, dual=3.0, value_clip=0.2,
                value_coef=0.5)
CASES = {"first": 1.0, "later": 1.2}


class Model:
    """The model with all weights times `factor`, as float32 multiplies them."""

    def __init__(self, path, score, factor):
        self.lm = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        with torch.no_grad():
            for p in self.lm.parameters():
                p.mul_(factor)
        self.lm = make_float64(self.lm)
        self.score = (score * torch.tensor(factor, dtype=torch.float32)).double().requires_grad_()

    def answer(self, prompt, tokens):
        """Log-prob of each token, and the value before it."""
        rows = slice(len(prompt) - 1, len(prompt) + len(tokens) - 1)
        hidden = self.lm.model(input_ids=torch.tensor([prompt + tokens]),
                               use_cache=False).last_hidden_state[0, rows]
        logprobs = torch.log_softmax(self.lm.lm_head(hidden), -1)
        return logprobs.gather(1, torch.tensor(tokens)[:, None])[:, 0], hidden @ self.score

    def batch(self, rows, width):
        """Both of all answers, padded with zeros."""
        padded = [[torch.nn.functional.pad(x, (0, width - len(x))) for x in self.answer(p, t)]
                  for p, t in rows]
        return tuple(torch.stack(x) for x in zip(*padded))


def update(core, path, score, rows, factor):
    s = SETTINGS
    lengths = [len(tokens) for _, tokens in rows]
    mask = mask_of(lengths, max(lengths))
    with torch.no_grad():
        old, values = Model(path, score, 1.0).batch(rows, max(lengths))
        reference, _ = Model(path, score, REFERENCE).batch(rows, max(lengths))
    token_rewards = torch.zeros_like(mask)
    for i, (reward, length) in enumerate(zip(REWARDS, lengths)):
        token_rewards[i, length - 1] = reward
    token_rewards = token_rewards - s["kl_coef"] * core.kl_penalty(old, reference, "kl") * mask
    advantages, returns = core.compute_gae_advantage_return(
        token_rewards, values, mask, gamma=s["gamma"], lam=s["gae_lambda"])
    model = Model(path, score, factor)
    policy, predicted = model.batch(rows, max(lengths))
    config = LossConfig(clip_ratio=s["clip"], clip_ratio_low=s["clip"], clip_ratio_high=s["clip"],
                        clip_ratio_c=s["dual"], global_batch_info={"loss_scale_factor": 1.0})
    pg_loss, metrics = core.compute_policy_loss_vanilla(
        old, policy, advantages, mask, loss_agg_mode="token-mean", config=config)
    vf_loss, vf_clipfrac = core.compute_value_loss(
        predicted, returns, values, mask, s["value_clip"], "token-mean")
    (pg_loss + s["value_coef"] * vf_loss).backward()
    grads = {k: p.grad.float().contiguous() for k, p in model.lm.named_parameters()}
    grads["score.weight"] = model.score.grad.float()[None, :].contiguous()
    return dict(factor=factor, pg_loss=pg_loss.item(), pg_clipfrac=metrics["actor/pg_clipfrac"],
                vf_loss=vf_loss.item(), vf_clipfrac=vf_clipfrac.item(),
                advantages=[a[:n].tolist() for a, n in zip(advantages, lengths)],
                returns=[r[:n].tolist() for r, n in zip(returns, lengths)]), grads


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--golden", default="tests/golden")
    args = parser.parse_args()
    path = os.path.join(args.golden, MODEL)
    shape = json.load(open(os.path.join(path, "config.json")))
    generator = torch.Generator().manual_seed(6)

    def ids(n):
        return torch.randint(3, shape["vocab_size"], (n,), generator=generator).tolist()

    prompts = [(ids(p), [ids(n) for n in answers]) for p, answers in LENGTHS]
    score = torch.randn(shape["hidden_size"], generator=generator) * 0.3
    rows = [(prompt, tokens) for prompt, answers in prompts for tokens in answers]
    core = load_core_algos()
    out = {"model": MODEL, "reference_factor": REFERENCE, "settings": SETTINGS,
           "score": score.tolist(), "rewards": REWARDS,
           "groups": [{"prompt": p, "answers": a} for p, a in prompts], "cases": {}}
    grads = {}
    for name, factor in CASES.items():
        out["cases"][name], of_case = update(core, path, score, rows, factor)
        grads.update({f"{name}/{k}": g for k, g in of_case.items()})
        print(name, {k: v for k, v in out["cases"][name].items() if isinstance(v, float)})
    folder = os.path.join(args.golden, "ppo")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "cases.json"), "w") as f:
        json.dump(out, f)
        f.write("\n")
    save_file(grads, os.path.join(folder, "grads.safetensors"))


if __name__ == "__main__":
    main()
