"""Writes tests/algo/golden/verl.json: what verl computes on random ragged groups.

    pip install torch numpy omegaconf tensordict && pip install --no-deps verl==0.9.1
    python tools/make_algo_goldens.py tests/algo/golden/verl.json

verl's core_algos.py is loaded by itself, with stand-ins for the parts of verl that it imports but
does not use here, so none of verl's other dependencies is needed. Everything is computed in
float64, so that the comparison is about formulas, not rounding.
"""

import importlib.util
import json
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

VERL_VERSION = "0.9.1"


def verl_file(relative):
    """The installed file; importing the package itself would pull in ray and more."""
    for folder in sys.path:
        path = Path(folder) / "verl" / relative
        if path.is_file():
            return path
    sys.exit(f"verl/{relative} not found; install verl=={VERL_VERSION} with --no-deps")


def load(name, relative):
    spec = importlib.util.spec_from_file_location(name, verl_file(relative))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def stand_in(name, **members):
    module = types.ModuleType(name)
    module.__path__ = []
    for key, value in members.items():
        setattr(module, key, value)
    sys.modules[name] = module
    return module


def masked_sum(values, mask, axis=None):
    return torch.where(mask.bool(), values, 0.0).sum(axis)


def masked_mean(values, mask, axis=None):
    return masked_sum(values, mask, axis) / (mask.sum(axis) + 1e-8)


def load_core_algos():
    if verl_file("version/version").read_text().strip() != VERL_VERSION:
        sys.exit(f"needs verl {VERL_VERSION}")
    stand_in("verl")
    stand_in("verl.utils", as_torch_index=None, group_mean_std=None)
    # The two functions of verl.utils.torch_functional that the losses call, restated above.
    functional = stand_in(
        "verl.utils.torch_functional", masked_sum=masked_sum, masked_mean=masked_mean
    )
    sys.modules["verl.utils"].torch_functional = functional
    stand_in("verl.utils.import_utils", deprecated=lambda _: lambda f: f)
    stand_in("verl.trainer")
    stand_in("verl.trainer.config", AlgoConfig=type("AlgoConfig", (), {}))
    stand_in("verl.workers")
    stand_in("verl.workers.config", ActorConfig=type("ActorConfig", (), {}))
    return load("verl.trainer.ppo.core_algos", "trainer/ppo/core_algos.py")


class LossConfig(SimpleNamespace):
    def get(self, name, default):
        return getattr(self, name, default)


def mask_of(lengths, width):
    return (torch.arange(width)[None, :] < torch.tensor(lengths)[:, None]).double()


def advantage_case(core, rng, binary):
    groups, lengths = [], []
    for group in range(rng.integers(2, 6)):
        size = int(rng.integers(2, 7))
        groups += [group] * size
        lengths += rng.integers(1, 40, size).tolist()
    n = len(groups)
    rewards = (rng.integers(0, 2, n) if binary else rng.normal(0, 2, n)).astype(float).tolist()
    mask = mask_of(lengths, max(lengths))
    token_rewards = torch.zeros_like(mask)
    for i, (reward, length) in enumerate(zip(rewards, lengths)):
        token_rewards[i, length - 1] = reward
    index = np.array([f"prompt{g}" for g in groups], dtype=object)

    def run(function, **kwargs):
        advantages, _ = function(token_rewards.clone(), mask, index, **kwargs)
        return advantages[:, 0].tolist()  # the same for every token of a response

    return {
        "rewards": rewards,
        "lengths": lengths,
        "groups": groups,
        "advantages": {
            "opo": run(core.compute_opo_outcome_advantage),
            "grpo": run(core.compute_grpo_outcome_advantage),
            "dr_grpo": run(core.compute_grpo_outcome_advantage, norm_adv_by_std_in_grpo=False),
            "rloo": run(core.compute_rloo_outcome_advantage),
        },
    }


MODES = ["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"]


def aggregation_case(core, rng):
    lengths = rng.integers(1, 9, 6).tolist()
    lengths[2] = 0  # a fully masked response
    mask = mask_of(lengths, max(lengths))
    losses = torch.from_numpy(rng.normal(0, 1, mask.shape))
    norm = 7.0
    return {
        "lengths": lengths,
        "losses": [row[:length] for row, length in zip(losses.tolist(), lengths)],
        "norm": norm,
        "values": {m: core.agg_loss(losses, mask, m, loss_scale_factor=norm).item() for m in MODES},
    }


def policy_loss_case(core, rng, mode, low, high, dual):
    lengths = rng.integers(1, 9, 6).tolist()
    mask = mask_of(lengths, max(lengths))
    old = torch.from_numpy(-rng.exponential(1.0, mask.shape))
    # Spread enough that ratios leave [1 - low, 1 + high] and, where A < 0, exceed `dual`.
    policy = (old + torch.from_numpy(rng.normal(0, 0.8, mask.shape))).requires_grad_()
    advantage = rng.normal(0, 1, len(lengths))
    norm = 9.0
    config = LossConfig(
        clip_ratio=low,
        clip_ratio_low=low,
        clip_ratio_high=high,
        clip_ratio_c=dual,
        global_batch_info={"loss_scale_factor": norm},
    )
    advantages = torch.from_numpy(advantage)[:, None] * mask
    loss, metrics = core.compute_policy_loss_vanilla(
        old, policy, advantages, mask, loss_agg_mode=mode, config=config
    )
    loss.backward()

    def ragged(tensor):
        return [row[:length] for row, length in zip(tensor.tolist(), lengths)]

    return {
        "mode": mode,
        "low": low,
        "high": high,
        "dual": dual,
        "norm": norm,
        "lengths": lengths,
        "advantages": advantage.tolist(),
        "rollout_logprob": ragged(old),
        "policy_logprob": ragged(policy.detach()),
        "loss": loss.item(),
        "gradient": ragged(policy.grad),
        "clip_fraction": metrics["actor/pg_clipfrac"],
        "clip_fraction_lower": metrics["actor/pg_clipfrac_lower"],
    }


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    torch.set_default_dtype(torch.float64)
    core = load_core_algos()
    rng = np.random.default_rng(20250523)
    golden = {
        "source": f"verl {VERL_VERSION}, trainer/ppo/core_algos.py",
        "advantages": [advantage_case(core, rng, binary) for binary in [False, True] * 4],
        "aggregation": [aggregation_case(core, rng) for _ in range(3)],
        "policy_loss": [
            policy_loss_case(core, rng, mode, low, high, dual)
            for mode in MODES
            for low, high, dual in [(0.2, 0.2, 3.0), (0.2, 0.28, 1.5)]
        ],
    }
    Path(sys.argv[1]).write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
