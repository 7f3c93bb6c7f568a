#!/usr/bin/env python3
"""Makes tests/golden/preference: losses of preferences, TRL's metrics and first gradients by TRL's
own DPOTrainer, on the tiny model tests/golden/tiny_mistral_linear.

Not needed to build or to test opo: the files it wrote are checked in.

Command, from the top of the repository (half a minute on one core):

    pip install torch transformers safetensors trl==1.16.0
    python tools/make_preference_goldens.py --golden tests/golden

Made with Python 3.11.7, torch 2.15.0, transformers 5.23.0, trl 1.16.0.

The whole way is TRL's: rows of text are tokenised (by a tokenizer of one word a token), get their
EOS, are padded and collated by the trainer, whose compute_loss gives the loss. The model is
float64 (make_float64 of make_model_goldens.py), but TRL takes its log-softmax in float32. The
reference is the model with all weights times 0.9, so that log-ratios are not 0. TRL's sigmoid loss
has no label smoothing; its loss "aot" is the smoothed one of a batch of one pair, where its sorting
does nothing.
"""
import argparse
import json
import os
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import torch
from datasets import Dataset
from make_model_goldens import make_float64
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

MODEL = "tiny_mistral_linear"
EOS = 2
# Prompt, chosen and rejected; EOS comes behind.
LENGTHS = [(5, 7, 9), (1, 3, 12), (20, 33, 2), (8, 8, 8)]

CASES = {
    "sigmoid": dict(loss_type=["sigmoid"], beta=0.1, pairs=4),
    "sigmoid_strong": dict(loss_type=["sigmoid"], beta=2.0, pairs=4),
    "ipo": dict(loss_type=["ipo"], beta=0.1, pairs=4),
    "smoothed": dict(loss_type=["aot"], beta=0.5, label_smoothing=0.2, pairs=1),
}


def words(ids):
    return " ".join(f"w{i}" for i in ids if i != EOS)


def make_rows(vocab):
    generator = torch.Generator().manual_seed(5)

    def ids(n):
        return torch.randint(3, vocab, (n,), generator=generator).tolist()

    return [{"prompt_ids": ids(p), "chosen_ids": ids(c) + [EOS], "rejected_ids": ids(r) + [EOS]}
            for p, c, r in LENGTHS]


def make_tokenizer(vocab):
    names = ["<unk>", "<pad>", "<eos>"] + [f"w{i}" for i in range(3, vocab)]
    model = models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>",
                                   pad_token="<pad>", unk_token="<unk>")


def run(path, settings, rows, tokenizer):
    settings = dict(settings)
    rows = rows[:settings.pop("pairs")]
    policy = make_float64(AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32))
    reference = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.no_grad():
        for p in reference.parameters():
            p.mul_(0.9)  # in float32, as the test does it
    reference = make_float64(reference)
    text = [{"prompt": words(r["prompt_ids"]), "chosen": " " + words(r["chosen_ids"]),
             "rejected": " " + words(r["rejected_ids"])} for r in rows]
    with tempfile.TemporaryDirectory() as folder:
        args = DPOConfig(output_dir=folder, per_device_train_batch_size=len(rows), bf16=False,
                         gradient_checkpointing=False, max_length=None, report_to=[],
                         use_cpu=True, disable_dropout=True, **settings)
        trainer = DPOTrainer(model=policy, ref_model=reference, args=args,
                             processing_class=tokenizer, train_dataset=Dataset.from_list(text))
        for made, row in zip(trainer.train_dataset, rows):
            for key in row:
                assert made[key] == row[key], (key, made[key], row[key])
        inputs = trainer.data_collator([dict(row) for row in trainer.train_dataset])
        trainer.model.train()
        loss = trainer.compute_loss(trainer.model, inputs)
        loss.backward()
        metrics = {k: v[-1] for k, v in trainer._metrics["train"].items()
                   if k.startswith(("rewards/", "logps/"))}
        grads = {k: p.grad.float().contiguous() for k, p in policy.named_parameters()}
    return loss.item(), metrics, grads


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--golden", default="tests/golden")
    args = parser.parse_args()
    path = os.path.join(args.golden, MODEL)
    vocab = json.load(open(os.path.join(path, "config.json")))["vocab_size"]
    rows = make_rows(vocab)
    tokenizer = make_tokenizer(vocab)
    out = {"model": MODEL, "reference_factor": 0.9, "rows": rows, "cases": {}}
    all_grads = {}
    for name, settings in CASES.items():
        loss, metrics, grads = run(path, settings, rows, tokenizer)
        out["cases"][name] = dict(settings, loss=loss, metrics=metrics)
        all_grads.update({f"{name}/{k}": g for k, g in grads.items()})
        norm = sum(g.double().square().sum().item() for g in grads.values()) ** 0.5
        print(f"{name}: loss {loss:.9f}, gradient norm {norm:.6f}, {metrics}")
    folder = os.path.join(args.golden, "preference")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "cases.json"), "w") as f:
        json.dump(out, f)
        f.write("\n")
    save_file(all_grads, os.path.join(folder, "grads.safetensors"))


if __name__ == "__main__":
    main()
