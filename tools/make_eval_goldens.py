"""Writes tests/eval/golden/self_bleu.json: sacrebleu's sentence BLEU of each text against the others.

    pip install sacrebleu==2.6.0
    python tools/make_eval_goldens.py tests/eval/golden/self_bleu.json

Effective order is on, as sacrebleu asks for sentences. `tokens` are what its tokenizer 13a makes of a
text.
"""

import json
import random
import sys

import sacrebleu
from sacrebleu.metrics import BLEU

SACREBLEU_VERSION = "2.6.0"

GROUPS = [
    ["a b c d", "a b c e", "a b f g"],
    ["the answer is 42", "the answer is 42", "so x equals 7"],
    ["add 2 and 3 to get 5", "adding 2 and 3 we get 5", "the sum of 2 and 3 is 5"],
    ["same words here", "same words here"],
    ["one", "two"],
    ["one two", "one two three four five six seven eight", "one"],
    # Equally far references: the shorter one counts.
    ["a b c d", "a b c", "a b c d e"],
    # Clipping: counts of one reference, not of all together.
    ["the the the the", "the cat", "the the dog"],
    # 13a: punctuation, numbers, entities, dashes, line ends.
    ["The price is $1,234.56, or 3.5% of it.", "The price is $1,234.56 or 3-5% of it...",
     "The price: 1,234 (or .5) -- 2-3 of it!"],
    ["x &lt; y &amp;&amp; y &gt; z &quot;q&quot;", "x < y && y > z \"q\"", "x &amp;lt; y"],
    ["a well-\nknown fact", "a wellknown fact", "a well-known fact\n\n"],
    ["<skipped>", "<skip<skipped>ped> a", "b <skipped> c"],
    ["...", ". . .", "a.b,c.d 1.2,3.4 .,.,"],
    ["'it''s' (x)[y]{z}~`|\\^_ a/b @c #d *e* +f =g;h:i?", "it's (x) [y] {z} a / b", "'it''s' + f = g"],
    # Unicode: white space that splits and that does not, scripts, combining marks, emoji.
    ["\u4f60\u597d \u4e16\u754c\u3000\u518d\u89c1", "\u4f60\u597d\u3000\u4e16\u754c \u518d\u89c1\u3002", "\u4f60\u597d"],
    ["caf\u00e9.", "cafe\u0301, na\u00efve.", "caf\u00e9 . \u00e9,5 5,\u00e9"],
    ["\U0001f600.\U0001f601,", "\U0001f600 . \U0001f601", "\U0001f468\u200d\U0001f469\u200d\U0001f467"],
    ["a\u00a0b\u2003c\u2028d\u0085e\u001cf\u001fg", "a b c d e f g", "a\u200bb\ufeffc"],
    ["\u0661\u0662.\u0663 \uff11\uff12\uff0c\uff13", "\u0661\u0662 . \u0663", "\uff11\uff12,\uff13.4"],
    # Hostile: controls, right-to-left marks, replacement characters, long words, markup.
    ["\x00\x01\x02 a", "\x1b[31m a \x7f", "a\x00b"],
    ["\u202eabc \ufffd\ufffd", "\u202e abc \ufffd", "abc"],
    ["x" * 3000 + " y", "x" * 3000 + " y z", "y z"],
    ["<script>alert('1')</script>", "&lt;script&gt;alert(1)&lt;/script&gt;", "${jndi:ldap://a.b/c}"],
    ["a " * 400, "a " * 401, "b a " * 100],
    ["\r\n\t", "a\rb\tc", "a b c"],
]


def random_groups(rng):
    words = ["a", "b", "c", "d.", "e,", "1.5", "2-3", "(f)", "\u00e9.", "\n", "-\n", "&amp;", "x'y", "\u3000", "\ud55c\uad6d"]
    for _ in range(24):
        yield [
            "".join(rng.choice(words) + rng.choice([" ", " ", "", "  "]) for _ in range(rng.randint(1, 24)))
            for _ in range(rng.randint(2, 6))
        ]


def main():
    if sacrebleu.__version__ != SACREBLEU_VERSION:
        sys.exit(f"sacrebleu {SACREBLEU_VERSION} is wanted, this is {sacrebleu.__version__}")
    cases = []
    tokenizer = BLEU(tokenize="13a", effective_order=True)
    for texts in GROUPS + list(random_groups(random.Random(1))):
        case = {"texts": texts, "tokens": [tokenizer._preprocess_segment(t).split() for t in texts], "scores": []}
        for tokenize, order, smoothing in [("13a", 4, "exp"), ("none", 4, "exp"), ("13a", 2, "none"), ("none", 6, "exp")]:
            bleu = BLEU(tokenize=tokenize, max_ngram_order=order, smooth_method=smoothing, effective_order=True)
            scores = [
                bleu.sentence_score(text, texts[:i] + texts[i + 1 :]).score for i, text in enumerate(texts)
            ]
            case["scores"].append({"tokenizer": tokenize, "order": order, "smoothing": smoothing, "values": scores})
        cases.append(case)
    with open(sys.argv[1], "w") as out:
        json.dump({"sacrebleu": SACREBLEU_VERSION, "cases": cases}, out, indent=None)
        out.write("\n")


main()
