"""Encodes random and awkward text with the tokenizers library, for tests/text.

python tools/make_tokenizer_goldens.py > tests/golden/tokenizers.jsonl
python tools/make_tokenizer_goldens.py --vocab FOLDER --opo build/opo   # compares, writes nothing

The first line holds a small byte-level BPE model (trained here), each other one a tokenizer.json
without it and texts with their ids. With --vocab (vocab.json and merges.txt) the same tokenizers
over that vocabulary are compared with `opo tokenize --special` on many more texts.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import unicodedata

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = ["\\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
            "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"]
O200K = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])


def byte_level(use_regex):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def splits(*patterns):
    steps = [{"type": "Split", "pattern": p if isinstance(p, dict) else {"Regex": p}, "behavior": "Isolated",
              "invert": False} for p in patterns]
    return {"type": "Sequence", "pretokenizers": steps + [byte_level(False)]}


def digits(each):
    return {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": each}, byte_level(True)]}


def added(*tokens):
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return [(content, {flag: flag in set_ for flag in flags}) for content, set_ in tokens]


PLAIN = added(("<|im_start|>", {"special"}), ("<|im_end|>", {"special"}), ("<tool>", ()))
FLAGS = added(("<|s|>", {"special"}), ("<l>", {"lstrip"}), ("<r>", {"rstrip"}), ("<b>", {"lstrip", "rstrip"}),
              ("wqrd", {"single_word"}), ("nqrm", {"normalized"}), ("<n>é", {"normalized"}),
              ("<l><r>", {"normalized"}), ("<w>", {"single_word", "lstrip"}))
TOKENIZERS = {  # name: pre-tokenizer, normalizer, added tokens, ignore_merges
    "gpt2": (byte_level(True), None, PLAIN, False),
    "smollm": (digits(True), None, PLAIN, False),
    "digit_runs": (digits(False), None, PLAIN, False),
    "llama3": (splits(LLAMA3), None, PLAIN, True),
    "qwen2": (splits(LLAMA3.replace("{1,3}", "")), {"type": "NFC"}, PLAIN, False),
    "deepseek": (splits(*DEEPSEEK), {"type": "Sequence", "normalizers": []}, PLAIN, False),
    "o200k": (splits(O200K), None, PLAIN, True),
    "literal": (splits({"String": "a.b"}, {"String": " "}, GPT2), {"type": "Sequence", "normalizers": [{"type": "NFC"}]},
                PLAIN, False),
    "flags": (byte_level(True), None, FLAGS, False),
    "flags_nfc": (splits(LLAMA3), {"type": "NFC"}, FLAGS, False),
}
ATOMS = [
    "hello", "world", "the", "Hello", "don't", "I'LL", "we'Re", "it'ſ", "a.b", "x", "ABCdef", "iPhone", "é", "e\u0301",
    "ß", "ſ", "ﬁ", "\u212a", "İ", "漢字", "かな", "カ", "한국", "\u1112\u1161\u11ab", "عربي", "हिन्दी", "\u0e01\u0e33",
    "👩‍🚀", "😀", "🇩🇪", "\u200d", "\u200b", "\ufeff", "\u180e", "12", "3", "1234567", "²", "½", "٣", "Ⅷ", "①", "'s", "'t",
    "'", "\"", ".", ",", "!!", "--", "_", "(", ")", "/", "//", "\\", "$", "€", "+", "=", "<", ">", "|", " ", "  ", "   ", "\t",
    "\n", "\n\n", "\r\n", "\r", " \n", "\n ", "\u00a0", "\u3000", "\u2028", "\u0085", "\x0b", "\x1c", "\x00", "\x7f", "\u0308",
    "q\u0307\u0323", "≠", "=\u0338", "\u0344", "\u2126", "豈", "\U0001d160", "a" * 40, "=" * 20, "\U0010ffff",
    "<|im_start|>", "<|im_end|>", "<tool>", "<|im_", "<|s|>", "<l>", "<r>", "<b>", "wqrd", "nqrm", "<n>é", "<n>e\u0301",
    "<l><r>", "<w>", "wqrds", "swqrd", "<l", "ǅ", "ʰ", "ª", "\u20dd", "Ⓐ", "\u0345",
]


def texts(count, seed):
    rng = random.Random(seed)
    for _ in range(count):
        out = ""
        for _ in range(rng.randint(1, 14)):
            kind = rng.random()
            if kind < 0.85:
                out += rng.choice(ATOMS)
            else:
                code = rng.choice([rng.randrange(0x20, 0x300), rng.randrange(0x300, 0x3000),
                                   rng.randrange(0x3000, 0x30000)])
                # What Unicode 14 does not have may be a letter to one side and nothing to the other.
                out += chr(code) if unicodedata.category(chr(code)) not in ("Cn", "Cs") else " "
            if rng.random() < 0.3:
                out += " "
        yield out


def small_model():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                                  show_progress=False)
    words = (t.replace("wqrd", "").replace("nqrm", "") for t in texts(2000, 1))  # added tokens later
    tokenizer.train_from_iterator(words, trainer)
    return json.loads(tokenizer.to_str())["model"]


def model_of(folder):
    vocab = json.load(open(os.path.join(folder, "vocab.json"), encoding="utf-8"))
    lines = open(os.path.join(folder, "merges.txt"), encoding="utf-8").read().split("\n")
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    return {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocab, "merges": merges}


def file_of(name, model):
    pre, normalizer, tokens, _ = TOKENIZERS[name]
    first = max(model["vocab"].values()) + 1
    return {"version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [{"id": first + i, "content": c, **flags} for i, (c, flags) in enumerate(tokens)],
            "normalizer": normalizer, "pre_tokenizer": pre, "post_processor": None, "decoder": byte_level(True)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--vocab")
    parser.add_argument("--opo")
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    model = model_of(args.vocab) if args.vocab else small_model()
    out = sys.stdout
    if not args.vocab:
        out.write(json.dumps({"model": model}, ensure_ascii=False) + "\n")
    for name, (_, _, _, ignore_merges) in TOKENIZERS.items():
        file = file_of(name, model)
        whole = {**file, "model": {**model, "ignore_merges": ignore_merges}}
        tokenizer = Tokenizer.from_str(json.dumps(whole))
        cases = [{"text": t, "ids": tokenizer.encode(t, add_special_tokens=False).ids}
                 for t in texts(args.count if args.vocab else 40, args.seed)]
        if not args.vocab:
            out.write(json.dumps({"name": name, "file": file, "ignore_merges": ignore_merges, "cases": cases},
                                 ensure_ascii=False) + "\n")
            continue
        with tempfile.TemporaryDirectory() as folder:
            json.dump(whole, open(os.path.join(folder, "tokenizer.json"), "w"))
            lines = "".join(json.dumps({"text": c["text"]}) + "\n" for c in cases)
            ours = subprocess.run([args.opo, "tokenize", "--special", "--model", folder], input=lines,
                                  capture_output=True, text=True, check=True).stdout.splitlines()
        wrong = [(c, json.loads(o)["ids"]) for c, o in zip(cases, ours) if json.loads(o)["ids"] != c["ids"]]
        print(f"{name}: {len(cases)} texts, {len(wrong)} differ")
        for case, ids in wrong[:3]:
            print("  ", json.dumps(case["text"]), case["ids"], ids)


main()
