#!/usr/bin/env python3
r"""Makes tests/golden/answers.json and tests/golden/sft.json: given answers as tokens, and the loss and
gradient of supervised fine-tuning on them.

Command, from the top of the repository (a minute on one core):

    pip install torch transformers trl
    python tools/make_sft_goldens.py tests/golden

answers.json: a small byte-level BPE tokenizer, chat templates, and conversations with an answer each. The
ids are those of transformers' apply_chat_template: of a single turn what stands behind the prompt's
own ids, of several the whole conversation's with transformers' assistant mask, for which the
templates here have {% generation %} marks. TRL's SFTTrainer takes its ids and masks from the same calls.

sft.json: sequences for tests/golden/tiny_llama_tied with a mask of learned tokens; the mean over these of
-log p, in float64 (the model as in make_model_goldens.py), and the gradient: each tensor's norm, and
its first values. `trl_loss`: what TRL's SFTTrainer logs for its first step on them, in float32.
"""
import importlib.util
import json
import os
import random
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

here = os.path.dirname(os.path.abspath(__file__))
spec = importlib.util.spec_from_file_location("goldens", os.path.join(here, "make_model_goldens.py"))
goldens = importlib.util.module_from_spec(spec)
spec.loader.exec_module(goldens)

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n'}}GEN(message['content'] + "
    "'<|im_end|>')END{{ '\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}")  # SmolLM2's
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start|>' + message['role'] + '<|sep|>\n\n' }}"
    "GEN(message['content'] | trim + '<|eot|>')END{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant<|sep|>\n\n' }}{% endif %}")  # as Llama 3's
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "GEN(' ' + message['content'] + '<|eot|>')END{% else %}{{ message['content'] + '\n' }}{% endif %}"
    "{% endfor %}")
ZEPHYR = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '<|user|>\n' + "
    "message['content'] + '<|eot|>\n' }}{% elif message['role'] == 'system' %}{{ '<|system|>\n' + "
    "message['content'] + '<|eot|>\n' }}{% else %}{{ '<|assistant|>\n' }}GEN(message['content'] + "
    "'<|eot|>')END{{ '\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|assistant|>\n' }}{% endif %}")
TEMPLATES = {"chatml": (CHATML, "<|im_end|>"), "llama3": (LLAMA3, "<|eot|>"),
             "mistral": (MISTRAL, "<|eot|>"), "zephyr": (ZEPHYR, "<|eot|>")}

CONVERSATIONS = [
    ([("user", "What is 7 * 8? Give only the number.")], [("assistant", "56")]),
    ([("system", "Be brief."), ("user", "Sort 3 1 2.\nSay why.")],
     [("assistant", "1 2 3\n\nBecause one is the least, and three the greatest.")]),
    ([("user", "Add 1 and 2.")],
     [("assistant", "3"), ("user", "And 4?"), ("assistant", "7. That is all."), ("user", "Sure?"),
      ("assistant", "Yes: 1 + 2 + 4 = 7.")]),
    ([("system", "Answer in words."), ("user", "2 + 2"), ("assistant", "four"), ("user", "2 + 3")],
     [("assistant", "five"), ("user", "naïve café 🚀?"), ("assistant", "Ünïcode is fine 🚀.")]),
]


def plain(template):
    return template.replace("GEN(", "{{ ").replace(")END", " }}")


def marked(template):
    """The same for a message of the assistant, with transformers' marks around what it says."""
    out = template
    while "GEN(" in out:
        a = out.index("GEN(")
        b = out.index(")END")
        inner = out[a + 4:b]
        out = (out[:a] + "{% if message['role'] == 'assistant' %}{% generation %}{{ " + inner +
               " }}{% endgeneration %}{% else %}{{ " + inner + " }}{% endif %}" + out[b + 4:])
    return out


def make_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    text = [content for prompt, answer in CONVERSATIONS for _, content in prompt + answer] * 3
    text += ["system user assistant\nYou are a helpful AI assistant named SmolLM"] * 3
    tokenizer.train_from_iterator(text, trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "<|start|>", "<|sep|>",
                        "<|eot|>"]))
    return tokenizer


def messages(pairs):
    return [{"role": role, "content": content} for role, content in pairs]


def make_answers(path):
    tokenizer = make_tokenizer()
    out = {"tokenizer": json.loads(tokenizer.to_str()), "cases": []}
    for name, (template, eos) in TEMPLATES.items():
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, bos_token="<s>")
        for prompt, answer in CONVERSATIONS:
            fast.chat_template = plain(template)
            prompt_ids = fast.apply_chat_template(messages(prompt), add_generation_prompt=True,
                                                  tokenize=True, return_dict=False)
            fast.chat_template = marked(template)
            whole = fast.apply_chat_template(messages(prompt + answer), tokenize=True,
                                             return_dict=True, return_assistant_tokens_mask=True)
            ids, mask = whole["input_ids"], whole["assistant_masks"]
            assert ids[:len(prompt_ids)] == prompt_ids, (name, ids, prompt_ids)
            # What is learned ends with the last turn.
            end = max(i for i, m in enumerate(mask) if m) + 1
            assert ids[end - 1] == fast.eos_token_id
            out["cases"].append({
                "template": name, "prompt": messages(prompt), "answer": messages(answer),
                "prompt_ids": prompt_ids, "answer_ids": ids[len(prompt_ids):end],
                "learned": mask[len(prompt_ids):end]})
    out["templates"] = {name: {"source": plain(t), "eos_token": eos}
                        for name, (t, eos) in TEMPLATES.items()}
    with open(path, "w") as f:
        json.dump(out, f, ensure_ascii=True, separators=(",", ":"))
        f.write("\n")


def make_loss(folder, path):
    model_path = os.path.join(folder, "tiny_llama_tied")
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    vocab = model.config.vocab_size
    draws = random.Random(5)
    sequences = []
    for prompt, answer, mask in [(1, 5, 0), (7, 40, 3), (23, 1, 0), (12, 33, 5), (40, 64, 0), (3, 2, 2)]:
        sequences.append({
            "prompt": [draws.randrange(vocab) for _ in range(prompt)],
            "answer": [draws.randrange(vocab) for _ in range(answer)],
            # Several turns: every so-manieth run of tokens is not learned.
            "learned": [mask == 0 or (t // mask) % 2 == 0 for t in range(answer)]})
    exact = goldens.make_float64(AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float64))
    exact = exact if exact is not None else model
    exact.zero_grad()
    tokens = sum(sum(s["learned"]) for s in sequences)
    loss = 0.0
    for s in sequences:
        ids = torch.tensor([s["prompt"] + s["answer"]])
        logits = exact(input_ids=ids).logits[0]
        labels = torch.tensor([-100] * len(s["prompt"]) +
                              [i if learned else -100 for i, learned in zip(s["answer"], s["learned"])])
        loss = loss + torch.nn.functional.cross_entropy(logits[:-1], labels[1:], ignore_index=-100,
                                                        reduction="sum") / tokens
    loss.backward()
    out = {"model": "tiny_llama_tied", "sequences": sequences, "tokens": tokens, "loss": loss.item(),
           "gradient": {}}
    for name, parameter in exact.named_parameters():
        grad = parameter.grad.flatten()
        out["gradient"][name] = {"norm": grad.norm().item(), "first": grad[:8].tolist()}
    out["trl_loss"] = trl_loss(model, sequences)
    with open(path, "w") as f:
        json.dump(out, f)
        f.write("\n")
    print("loss", out["loss"], "TRL", out["trl_loss"])


def trl_loss(model, sequences):
    import trl
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer
    rows = [{"input_ids": s["prompt"] + s["answer"],
             "completion_mask": [0] * len(s["prompt"]) + [int(x) for x in s["learned"]]}
            for s in sequences]
    fast = PreTrainedTokenizerFast(tokenizer_object=make_tokenizer(), eos_token="<|endoftext|>",
                                   pad_token="<|endoftext|>")
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(output_dir=folder, per_device_train_batch_size=len(rows), max_steps=1,
                           logging_steps=1, report_to=[], use_cpu=True, bf16=False, max_length=None,
                           completion_only_loss=True, gradient_checkpointing=False)
        trainer = SFTTrainer(model=model, args=config, train_dataset=Dataset.from_list(rows),
                             processing_class=fast)
        trainer.train()
    print("trl", trl.__version__)
    return next(log["loss"] for log in trainer.state.log_history if "loss" in log)


if __name__ == "__main__":
    make_answers(os.path.join(sys.argv[1], "answers.json"))
    make_loss(sys.argv[1], os.path.join(sys.argv[1], "sft.json"))
