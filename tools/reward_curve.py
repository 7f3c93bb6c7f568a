#!/usr/bin/env python3
"""Draws the mean training reward of runs, a panel a run, from their metrics.jsonl.

    tools/reward_curve.py -o docs/word_problems.svg MAWPS=runs/mawps-1 GSM8K=runs/gsm8k-1

Points are steps, the line is the mean of five of them.
"""
import argparse
import json

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 360, 240, 44, 30, 36


def rewards_of(run):
    with open(run + "/metrics.jsonl", encoding="utf-8") as lines:
        return [json.loads(line)["critic/score/mean"] for line in lines]


def panel(name, values, offset):
    top_value = max(0.1, max(values)) * 1.1
    plot_width, plot_height = WIDTH - LEFT - 16, HEIGHT - TOP - BOTTOM

    def x(step):
        return offset + LEFT + plot_width * (step - 1) / max(1, len(values) - 1)

    def y(value):
        return TOP + plot_height * (1 - value / top_value)

    parts = [f'<text x="{offset + LEFT}" y="18" font-weight="bold">{name}</text>']
    for i in range(5):
        value = top_value * i / 4
        parts.append(f'<path d="M{offset + LEFT} {y(value):.1f}h{plot_width}" stroke="#888" '
                     f'stroke-opacity="0.3"/>')
        parts.append(f'<text x="{offset + LEFT - 6}" y="{y(value) + 4:.1f}" '
                     f'text-anchor="end">{value:.2f}</text>')
    for step in sorted({1, len(values) // 2, len(values)}):
        parts.append(f'<text x="{x(step):.1f}" y="{HEIGHT - BOTTOM + 16}" '
                     f'text-anchor="middle">{step}</text>')
    parts.append(f'<text x="{offset + LEFT + plot_width / 2}" y="{HEIGHT - 4}" '
                 f'text-anchor="middle">step</text>')
    for i, value in enumerate(values):
        parts.append(f'<circle cx="{x(i + 1):.1f}" cy="{y(value):.1f}" r="2.2" fill="#3a7bd5" '
                     f'fill-opacity="0.6"/>')
    line = []
    for i in range(len(values)):
        window = values[max(0, i - 2):i + 3]
        line.append(f"{x(i + 1):.1f} {y(sum(window) / len(window)):.1f}")
    parts.append(f'<path d="M{"L".join(line)}" fill="none" stroke="#d5533a" stroke-width="1.8"/>')
    return parts


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN_DIR")
    args = parser.parse_args()
    parts = []
    for i, run in enumerate(args.runs):
        name, folder = run.split("=", 1)
        parts += panel(name, rewards_of(folder), i * WIDTH)
    total = WIDTH * len(args.runs)
    with open(args.output, "w", encoding="utf-8") as out:
        out.write(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {HEIGHT}" '
                  f'width="{total}" height="{HEIGHT}" font-family="sans-serif" font-size="11" '
                  f'fill="#666">\n' + "\n".join(parts) + "\n</svg>\n")


if __name__ == "__main__":
    main()
