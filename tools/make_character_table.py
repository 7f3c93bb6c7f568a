"""Writes src/text/character_table.inc: what Python's str says of characters, and how it changes case.

python tools/make_character_table.py > src/text/character_table.inc
"""
import sys
import unicodedata


def chars():
    for code in range(0x110000):
        if not 0xD800 <= code < 0xE000:
            yield code, chr(code)


def case_ignorable(c):
    # Python treats \u03a3 as final where a cased letter stands before it and none after it, case
    # ignorable ones aside; whether c is ignorable shows in what happens to "A" + c + sigma.
    return ("A" + c + "\u03a3").lower()[-1] == "\u03c2" and ("1" + c + "\u03a3").lower()[-1] != "\u03c2"


BITS = [
    ("kAlpha", str.isalpha), ("kDecimal", str.isdecimal), ("kDigit", str.isdigit),
    ("kNumeric", str.isnumeric), ("kPrintable", str.isprintable), ("kLower", str.islower),
    ("kUpper", str.isupper), ("kTitle", lambda c: unicodedata.category(c) == "Lt"),
    ("kCaseIgnorable", case_ignorable),
]


def ranges():
    last = None
    for code, c in chars():
        bits = sum(1 << i for i, (_, test) in enumerate(BITS) if test(c))
        if bits != last:
            yield code, bits
        last = bits


def case_runs(change):
    """Runs of {first, last, step, delta} of characters that change to one other."""
    runs = []
    for code, c in chars():
        to = change(c)
        if to == c or len(to) != 1:
            continue
        delta = ord(to) - code
        if runs and runs[-1][3] == delta and code - runs[-1][1] in (1, 2):
            first, last, step, _ = runs[-1]
            if first == last or step == code - last:
                runs[-1] = (first, code, code - last, delta)
                continue
        runs.append((code, code, 1, delta))
    return runs


def literal(text):
    return '"' + "".join(f"\\x{b:02x}" for b in text.encode()) + '"'


def rows(items, width=100):
    line = "   "
    for item in items:
        if len(line) + len(item) + 2 > width:
            yield line
            line = "   "
        line += f" {item},"
    yield line


out = sys.stdout
out.write(f"// Unicode {unicodedata.unidata_version}, as Python {sys.version.split()[0]} has it. "
          "Written by tools/make_character_table.py.\n// clang-format off\n")
out.write("\n// From a code point to the next row's: the classes, as bits in the order of CharacterClass.\n")
out.write("constexpr ClassRange kClasses[] = {\n")
out.write("\n".join(rows(f"{{0x{code:x}, {bits}}}" for code, bits in ranges())) + "\n};\n")
for name, change in (("kToUpper", str.upper), ("kToLower", str.lower), ("kToTitle", str.title)):
    runs = case_runs(change)
    if change is str.title:  # only where it is not the upper case
        runs = case_runs(lambda c: c.title() if c.title() != c.upper() or len(c.upper()) > 1 else c)
        same = [ord(c) for _, c in chars() if c.title() == c and len(c.upper()) == 1 and c.upper() != c]
        runs = sorted(runs + [(code, code, 1, 0) for code in same])
    out.write(f"\nconstexpr CaseRun {name}[] = {{\n")
    out.write("\n".join(rows(f"{{0x{a:x}, 0x{b:x}, {s}, {d}}}" for a, b, s, d in runs)) + "\n};\n")
out.write("\n// Characters that become several: code, upper, lower, title (UTF-8).\n")
out.write("constexpr LongCase kLongCases[] = {\n")
for code, c in chars():
    changed = [c.upper(), c.lower(), c.title()]
    if any(len(t) > 1 for t in changed):
        out.write(f"    {{0x{code:x}, {', '.join(map(literal, changed))}}},\n")
out.write("};\n")
