#!/usr/bin/env python3
r"""Makes tests/golden/tiny_lora: a LoRA adapter of tests/golden/tiny_qwen2, its log-probs and gradients, with PEFT.

Not needed to build or to test opo: the files it wrote are checked in.

Command, from the top of the repository (some seconds):

    pip install torch transformers peft safetensors accelerate
    python tools/make_lora_golden.py --golden tests/golden

Made with Python 3.11.7, torch 2.15.0, transformers 5.23.0, peft 0.21.2, on an x86-64 CPU, one thread.

--check FOLDER BASE compares an adapter folder that opo wrote: PEFT must load it on BASE, and the merged model
that `opo convert` made of it (--merged FOLDER) must give the same log-probs as PEFT's merge.
"""
import argparse
import json
import os

from make_model_goldens import gather, completion_logits, make_float64, policy_loss, tiny_batch

import peft
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

RANK = 3  # not a multiple of anything
TARGETS = ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]  # k_proj and gate_proj have none


def make(golden):
    base = os.path.join(golden, "tiny_qwen2")
    out = os.path.join(golden, "tiny_lora")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = peft.LoraConfig(r=RANK, lora_alpha=5, target_modules=TARGETS, lora_dropout=0.0, bias="none",
                             task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for key, p in sorted(model.named_parameters()):
            if "lora_" in key:
                p.copy_(0.2 * torch.randn(p.shape, generator=generator))
    model.save_pretrained(out)
    config_path = os.path.join(out, "adapter_config.json")
    with open(config_path) as f:
        saved = json.load(f)
    saved["base_model_name_or_path"] = "../tiny_qwen2"
    saved["target_modules"] = sorted(saved["target_modules"])
    with open(config_path, "w") as f:
        json.dump(saved, f, indent=2, sort_keys=True)
        f.write("\n")
    readme = os.path.join(out, "README.md")
    if os.path.exists(readme):
        os.remove(readme)

    cases = tiny_batch(model.config.vocab_size, 5)
    normalizer = sum(len(c["ids"]) for case in cases for c in case["completions"])
    model = make_float64(model)
    loss = policy_loss(model, cases, normalizer, True)
    grads = {k.removeprefix("base_model.model.").replace(".default.weight", ".weight"): p.grad.float().contiguous()
             for k, p in model.named_parameters() if "lora_" in k}
    with open(os.path.join(out, "expected.json"), "w") as f:
        json.dump({"temperature": 0.8, "normalizer": normalizer, "loss": loss, "cases": cases}, f)
        f.write("\n")
    save_file(grads, os.path.join(out, "grads.safetensors"))
    print(f"peft {peft.__version__}: {len(grads)} gradients, loss {loss:.6f}")


def check(adapter, base, merged):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    own = torch.randint(0, model.config.vocab_size, (60,), generator=torch.Generator().manual_seed(3)).tolist()
    model = peft.PeftModel.from_pretrained(model, adapter).eval()
    with torch.no_grad():
        def logprobs(m):
            return gather(torch.log_softmax(completion_logits(m, own[:20], own[20:]).float(), -1), own[20:])
        one = logprobs(model)
        two = logprobs(model.merge_and_unload())
        three = logprobs(AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32))
    print(f"PEFT on the base, mean log-prob {one.mean():.6f}; its own merge differs by at most "
          f"{(one - two).abs().max():.1e}, opo's merge by {(one - three).abs().max():.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--golden", help="tests/golden, to write tiny_lora there")
    parser.add_argument("--check", nargs=2, metavar=("FOLDER", "BASE"))
    parser.add_argument("--merged", help="what `opo convert FOLDER` wrote")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.golden:
        make(args.golden)
    if args.check:
        check(*args.check, args.merged)


if __name__ == "__main__":
    main()
