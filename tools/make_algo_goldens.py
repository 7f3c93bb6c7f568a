"""Writes tests/algo/golden/verl.json, what verl computes on random ragged groups, and torch.json,
what torch's autograd makes of formulas that verl has not (RAFT, EM policy gradient, REBEL, DAPO
without a dual clip, APA, AWR), written down here as their papers have them.

    pip install torch numpy omegaconf tensordict && pip install --no-deps verl==0.9.1
    python tools/make_algo_goldens.py tests/algo/golden

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


def masked_whiten(values, mask):
    mean = masked_mean(values, mask)
    var = masked_mean((values - mean) ** 2, mask) * mask.sum() / (mask.sum() - 1)
    return (values - mean) * torch.rsqrt(var + 1e-8)


def load_core_algos():
    if verl_file("version/version").read_text().strip() != VERL_VERSION:
        sys.exit(f"needs verl {VERL_VERSION}")
    stand_in("verl")
    stand_in("verl.utils", as_torch_index=None, group_mean_std=None)
    # The functions of verl.utils.torch_functional that are called, restated above.
    functional = stand_in(
        "verl.utils.torch_functional",
        masked_sum=masked_sum,
        masked_mean=masked_mean,
        masked_whiten=masked_whiten,
        clip_by_value=lambda x, low, high: torch.maximum(torch.minimum(x, high), low),
    )
    sys.modules["verl.utils"].torch_functional = functional
    stand_in("verl.utils.import_utils", deprecated=lambda _: lambda f: f)
    stand_in("verl.trainer")
    stand_in("verl.trainer.config", AlgoConfig=type("AlgoConfig", (), {}))
    stand_in("verl.workers")
    stand_in("verl.workers.config", ActorConfig=LossConfig)
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


def ragged(tensor, lengths):
    return [row[:length] for row, length in zip(tensor.tolist(), lengths)]


def float32(array):
    """Values that opo holds as float: the comparison starts from the same ones."""
    return torch.from_numpy(np.asarray(array, dtype=np.float32).astype(np.float64))


def random_batch(rng, binary=False, equal_groups=False):
    groups, lengths = [], []
    size = int(rng.integers(2, 5))
    for group in range(3):
        size = size if equal_groups else int(rng.integers(2, 5))
        groups += [group] * size
        lengths += rng.integers(1, 7, size).tolist()
    n = len(groups)
    rewards = (rng.integers(0, 2, n) if binary else rng.normal(0, 1, n)).astype(float)
    return groups, lengths, rewards


def token_rewards_of(rewards, lengths, mask):
    rewards_at = torch.zeros_like(mask)
    for i, (reward, length) in enumerate(zip(rewards, lengths)):
        rewards_at[i, length - 1] = reward
    return rewards_at


# Of each algorithm: the standard deviation of log-ratios, so that some tokens are clipped (CISPO:
# capped), its loss, its clip, its aggregation.
TRAINED = {
    "opo": (0.5, "vanilla", 0.2, 0.2, "token-mean"),
    "grpo": (0.5, "vanilla", 0.2, 0.2, "token-mean"),
    "dr_grpo": (0.5, "vanilla", 0.2, 0.2, "seq-mean-token-sum-norm"),
    "rloo": (0.5, "vanilla", 0.2, 0.2, "token-mean"),
    "remax": (0.5, "vanilla", 0.2, 0.2, "token-mean"),
    "otb": (0.5, "vanilla", 0.2, 0.2, "token-mean"),
    "reinforce_pp": (0.5, "vanilla", 0.2, 0.2, "token-mean"),
    "reinforce_pp_baseline": (0.5, "vanilla", 0.2, 0.2, "token-mean"),
    "gspo": (1e-3, "gspo", 3e-4, 4e-4, "seq-mean-token-mean"),
    "cispo": (1.3, "cispo", 10, 4, "token-mean"),
}


def trained_case(core, rng, name, penalised, gamma=1.0, zero_tail=False):
    """Rewards to the gradient of the loss at a policy that has moved since it sampled."""
    spread, kind, low, high, mode = TRAINED[name]
    groups, lengths, rewards = random_batch(rng)
    mask = mask_of(lengths, max(lengths))
    old = float32(-rng.exponential(1.0, mask.shape))
    # What p of the token and the rest of the vocabulary can add up to.
    p = np.exp(old.numpy())
    sum_sqs = float32(p**2 + (1 - p) ** 2 * rng.uniform(0, 0.9, mask.shape))
    penalties = float32(rng.normal(0, 0.2, mask.shape)) * mask if penalised else torch.zeros_like(mask)
    greedy = rng.normal(0, 1, len(groups))[groups]
    token_rewards = token_rewards_of(rewards, lengths, mask) - penalties
    index = np.array([f"prompt{g}" for g in groups], dtype=object)
    if name == "opo":
        advantages, _ = core.compute_opo_outcome_advantage(token_rewards, mask, index)
    elif name == "rloo":
        advantages, _ = core.compute_rloo_outcome_advantage(token_rewards, mask, index)
    elif name == "remax":
        advantages, _ = core.compute_remax_outcome_advantage(
            token_rewards, torch.from_numpy(greedy), mask
        )
    elif name == "otb":
        advantages, _ = core.compute_optimal_token_baseline_advantage(
            token_rewards, mask, index, old, sum_sqs, handle_zero_tail=zero_tail
        )
    elif name == "reinforce_pp":
        advantages, _ = core.compute_reinforce_plus_plus_outcome_advantage(
            token_rewards, mask, config=SimpleNamespace(gamma=gamma)
        )
    elif name == "reinforce_pp_baseline":
        advantages, _ = core.compute_reinforce_plus_plus_baseline_outcome_advantage(
            token_rewards, mask, index
        )
    else:
        advantages, _ = core.compute_grpo_outcome_advantage(
            token_rewards, mask, index, norm_adv_by_std_in_grpo=name != "dr_grpo"
        )
    policy = (old + torch.from_numpy(rng.normal(0, spread, mask.shape))).requires_grad_()
    norm = 11.0
    config = LossConfig(
        clip_ratio=low,
        clip_ratio_low=low,
        clip_ratio_high=high,
        clip_ratio_c=3.0,
        global_batch_info={"loss_scale_factor": norm},
    )
    loss, metrics = getattr(core, f"compute_policy_loss_{kind}")(
        old, policy, advantages, mask, loss_agg_mode=mode, config=config
    )
    loss.backward()
    case = {
        "algorithm": name,
        "rewards": rewards.tolist(),
        "lengths": lengths,
        "groups": groups,
        "rollout_logprob": ragged(old, lengths),
        "policy_logprob": ragged(policy.detach(), lengths),
        "norm": norm,
        "gamma": gamma,
        "zero_tail": zero_tail,
        "advantages": ragged(advantages, lengths),
        "loss": loss.item(),
        "gradient": ragged(policy.grad, lengths),
        "clip_fraction": metrics["actor/pg_clipfrac"],
    }
    if penalised:
        case["penalties"] = ragged(penalties, lengths)
    if name == "otb":
        case["sum_sqs"] = ragged(sum_sqs, lengths)
    if name == "remax":
        case["greedy"] = greedy.tolist()
    return case


def critic_case(core, rng, gamma, lam, clip, penalised):
    """GAE, returns, the value loss and its gradient, the clipped policy loss at moved weights, and
    the coefficient of an adaptive KL controller after three steps."""
    groups, lengths, rewards = random_batch(rng)
    mask = mask_of(lengths, max(lengths))
    values = float32(rng.normal(0, 1, mask.shape)) * mask
    penalties = float32(rng.normal(0, 0.2, mask.shape)) * mask * float(penalised)
    token_rewards = token_rewards_of(rewards, lengths, mask) - penalties
    advantages, returns = core.compute_gae_advantage_return(
        token_rewards, values, mask, gamma=gamma, lam=lam
    )
    predicted = (values + torch.from_numpy(rng.normal(0, 0.6, mask.shape))).requires_grad_()
    # Without a clip: one that nothing reaches.
    value_loss, clip_fraction = core.compute_value_loss(
        predicted, returns, values, mask, clip if clip > 0 else 1e9, "token-mean"
    )
    value_loss.backward()
    kl = rng.exponential(0.1, 3)
    controller = core.AdaptiveKLController(0.05, 0.1, 200)
    for x in kl:
        controller.update(x, 16)
    old = float32(-rng.exponential(1.0, mask.shape))
    policy = (old + torch.from_numpy(rng.normal(0, 0.5, mask.shape))).requires_grad_()
    config = LossConfig(
        clip_ratio=0.2,
        clip_ratio_low=0.2,
        clip_ratio_high=0.2,
        clip_ratio_c=3.0,
        global_batch_info={"loss_scale_factor": 1.0},
    )
    loss, metrics = core.compute_policy_loss_vanilla(
        old, policy, advantages, mask, loss_agg_mode="token-mean", config=config
    )
    loss.backward()
    return {
        "algorithm": "ppo",
        "gamma": gamma,
        "gae_lambda": lam,
        "clip": clip,
        "rewards": rewards.tolist(),
        "lengths": lengths,
        "groups": groups,
        "penalties": ragged(penalties, lengths),
        "values": ragged(values, lengths),
        "advantages": ragged(advantages, lengths),
        "returns": ragged(returns, lengths),
        "predicted": ragged(predicted.detach(), lengths),
        "value_loss": value_loss.item(),
        "value_gradient": ragged(predicted.grad, lengths),
        "value_clip_fraction": clip_fraction.item(),
        "kl": kl.tolist(),
        "kl_coef": float(controller.value),
        "rollout_logprob": ragged(old, lengths),
        "policy_logprob": ragged(policy.detach(), lengths),
        "loss": loss.item(),
        "gradient": ragged(policy.grad, lengths),
        "clip_fraction": metrics["actor/pg_clipfrac"],
    }


def critic_loss_case(rng, name, scale):
    """APA's and AWR's losses of given advantages by torch's autograd."""
    lengths = rng.integers(1, 7, 6).tolist()
    mask = mask_of(lengths, max(lengths))
    reference = float32(-rng.exponential(1.0, mask.shape))
    advantages = torch.from_numpy(rng.normal(0, 1, mask.shape))
    policy = (reference + torch.from_numpy(rng.normal(0, 0.5, mask.shape))).requires_grad_()
    if name == "apa":
        losses = (policy - reference - advantages / scale) ** 2
    else:
        losses = -policy * torch.exp(advantages * scale)
    loss = (losses * mask).sum() / mask.sum()
    loss.backward()
    return {
        "algorithm": name,
        "scale": scale,
        "lengths": lengths,
        "advantages": ragged(advantages, lengths),
        "reference_logprob": ragged(reference, lengths),
        "policy_logprob": ragged(policy.detach(), lengths),
        "loss": loss.item(),
        "gradient": ragged(policy.grad, lengths),
    }


def kl_cases(core):
    cases = []
    for reference in (-1.3, -0.01):
        for difference in (-25, -21, -4, -2.5, -1, -0.2, 0, 1e-6, 0.2, 1, 3, 19, 21, 25):
            for estimator in ("k1", "k2", "k3"):
                policy = torch.tensor(reference + difference).requires_grad_()
                value = core.kl_penalty(policy, torch.tensor(reference), estimator)
                value.backward()
                case = [estimator, policy.item(), reference, value.item(), policy.grad.item()]
                cases.append(case)
    return cases


def pairs(group):
    return [(i, j) for n, i in enumerate(group) for j in group[n + 1 :]]


def torch_loss(name, rewards, groups, lengths, policy, old, mask, eta):
    """The scalar losses of the papers."""
    answers = torch.tensor(groups)
    reward = torch.from_numpy(rewards)
    of_group = [torch.nonzero(answers == g).flatten().tolist() for g in range(max(groups) + 1)]
    sums = (policy * mask).sum(-1)
    if name == "raft":  # the released code: mean over all tokens, negative scores set to 0
        return -((reward > 0).double()[:, None] * policy * mask).sum() / mask.sum()
    if name == "raft_pp":
        kept = (reward > 0).double()[:, None] * mask
        ratio = torch.exp(policy - old)
        return -(kept * torch.minimum(ratio, torch.clamp(ratio, 0.8, 1.2))).sum() / mask.sum()
    if name == "dapo":
        total = 0.0
        ratio = torch.exp(policy - old)
        for group in of_group:
            a = (reward[group] - reward[group].mean()) / (reward[group].std() + 1e-6)
            a = a[:, None]
            clipped = torch.clamp(ratio[group], 0.8, 1.28)
            total = total + (torch.minimum(ratio[group] * a, clipped * a) * mask[group]).sum()
        return -total / mask.sum()
    if name == "rebel":
        h = sums - (old * mask).sum(-1)
        per_group = [
            torch.stack([(h[i] - h[j] - eta * (reward[i] - reward[j])) ** 2 for i, j in pairs(g)])
            for g in of_group
        ]
        return torch.stack([of.mean() for of in per_group]).mean()
    total = 0.0  # (1 / K) sum_i A_i log pi(y_i), the mean over prompts
    for group in of_group:
        r = reward[group]
        weights = {
            "reward": r / len(group),
            "posterior": r / r.sum() if r.sum() > 0 else torch.zeros_like(r),
            "centred": (r - r.mean()) / len(group),
        }[name.removeprefix("em_pg ")]
        total = total - (weights * sums[group]).sum() / len(of_group)
    return total


def torch_case(rng, name, eta=1.0):
    groups, lengths, rewards = random_batch(rng, binary=name != "rebel", equal_groups=True)
    if name == "em_pg posterior":
        rewards[: groups.count(0)] = 0  # a prompt without a right answer
    mask = mask_of(lengths, max(lengths))
    old = float32(-rng.exponential(1.0, mask.shape))
    policy = (old + torch.from_numpy(rng.normal(0, 0.5, mask.shape))).requires_grad_()
    loss = torch_loss(name, rewards, groups, lengths, policy, old, mask, eta)
    loss.backward()
    return {
        "algorithm": name.split()[0],
        "em_pg_weight": name.removeprefix("em_pg ") if name.startswith("em_pg") else "",
        "eta": eta,
        "rewards": rewards.tolist(),
        "lengths": lengths,
        "groups": groups,
        "rollout_logprob": ragged(old, lengths),
        "policy_logprob": ragged(policy.detach(), lengths),
        "loss": loss.item(),
        "gradient": ragged(policy.grad, lengths),
    }


def rounded(value, digits=15):
    """Doubles to 15 digits: half the size, and far below the tolerances."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, list):
        return [rounded(x, digits) for x in value]
    return {k: rounded(v, digits) for k, v in value.items()} if isinstance(value, dict) else value


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
    golden["trained"] = [
        trained_case(core, rng, name, penalised)
        for name in TRAINED
        for penalised in (False, True)
    ] + [
        trained_case(core, rng, "reinforce_pp", True, gamma=0.9),
        trained_case(core, rng, "otb", False, zero_tail=True),
        trained_case(core, rng, "otb", True, zero_tail=True),
    ]
    golden["kl"] = kl_cases(core)
    critic_rng = np.random.default_rng(20170720)
    golden["critic"] = [
        critic_case(core, critic_rng, *case)
        for case in [
            (1.0, 1.0, 0.5, False),
            (1.0, 0.95, 0.2, True),
            (0.99, 0.95, 0.2, False),
            (0.9, 0.7, 0.0, True),
        ]
    ]
    folder = Path(sys.argv[1])
    (folder / "verl.json").write_text(json.dumps(rounded(golden)) + "\n")
    names = ["raft", "raft_pp", "dapo", "em_pg reward", "em_pg posterior", "em_pg centred"]
    autograd = {
        "source": f"torch {torch.__version__} autograd, float64",
        "losses": [torch_case(rng, name) for name in names]
        + [torch_case(rng, "rebel", eta) for eta in (0.5, 1.0, 2.0)],
        "critic_losses": [
            critic_loss_case(critic_rng, "apa", 0.1),
            critic_loss_case(critic_rng, "apa", 2.0),
            critic_loss_case(critic_rng, "awr", 0.5),
            critic_loss_case(critic_rng, "awr", 1.0),
        ],
    }
    (folder / "torch.json").write_text(json.dumps(rounded(autograd)) + "\n")


if __name__ == "__main__":
    main()
