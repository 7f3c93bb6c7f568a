"""Losses and metrics of TRL's RewardTrainer, and their gradients by torch's autograd.

    pip install torch trl==1.16.0
    python tools/make_reward_goldens.py tests/algo/golden/trl_reward.json

Each case calls RewardTrainer.compute_loss itself, in float64, on random scores of pairs.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import torch
import trl
from trl.trainer.reward_trainer import RewardTrainer


class One:
    """An accelerator of one process."""

    def gather(self, x):
        return x

    gather_for_metrics = gather


def case(rng, pairs, with_margin, center):
    scores = (3 * torch.randn(2 * pairs, 1, generator=rng)).requires_grad_()
    margin = torch.rand(pairs, generator=rng) * 2
    inputs = {"input_ids": None, "attention_mask": torch.ones(2 * pairs, 1)}
    if with_margin:
        inputs["margin"] = margin
    model = lambda **_: SimpleNamespace(logits=scores)
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(center_rewards_coefficient=center),
        accelerator=One(),
        _total_train_tokens=0,
        _tp_size=1,
        _metrics={"train": defaultdict(list)},
    )
    loss = RewardTrainer.compute_loss(trainer, model, inputs)
    loss.backward()
    metrics = {k: v[-1] for k, v in trainer._metrics["train"].items() if k != "num_tokens"}
    return {
        "chosen": scores[:pairs, 0].tolist(),
        "rejected": scores[pairs:, 0].tolist(),
        "margin": margin.tolist() if with_margin else [],
        "center": center or 0,
        "loss": loss.item(),
        "dchosen": scores.grad[:pairs, 0].tolist(),
        "drejected": scores.grad[pairs:, 0].tolist(),
        "metrics": metrics,
    }


def main():
    torch.set_default_dtype(torch.float64)
    rng = torch.Generator().manual_seed(20240601)
    cases = [
        case(rng, pairs, with_margin, center)
        for pairs in (1, 5)
        for with_margin in (False, True)
        for center in (None, 0.01)
    ]
    out = {"source": f"trl {trl.__version__}, torch {torch.__version__}, float64", "cases": cases}
    Path(sys.argv[1]).write_text(json.dumps(out, indent=0) + "\n")


if __name__ == "__main__":
    main()
