"""Renders small templates with transformers and writes what comes out, for tests/text.

python tools/make_template_goldens.py > tests/golden/templates.jsonl

Each line: `source`; `text` (what transformers renders) or `error` (its exception), and `outside`
where opo refuses by name what transformers renders. The conversation and the variables are the
same for all and stand in the first line.
"""
import json
import re
import sys

from transformers.utils.chat_template_utils import render_jinja_template

MESSAGES = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "What's 2 + 2?\n<b>Now</b>"},
    {"role": "assistant", "content": "", "reasoning_content": "easy\n", "tool_calls": [
        {"id": "c1", "type": "function", "function": {
            "name": "add", "arguments": {"a": 2, "b": [1.5, None, True], "c": {"d": "é"}}}}]},
    {"role": "tool", "content": "4", "name": "add"},
    {"role": "user", "content": [{"type": "text", "text": "Look"}, {"type": "image"}]},
]
VARIABLES = {
    "bos_token": "<s>",
    "words": ["pear", "Apple", "fig", "apple", "Fig"],
    "nums": [3, 1, 2, 1],
    "mixed": [1, "1", 1.0, True, None, "a"],
    "d": {"b": 1, "a": [1, 2], "C": {"x": "y"}, "items": 7, "get": "g"},
    "rows": [{"k": "x", "n": 2, "s": {"t": 1}}, {"k": "y", "n": 1}, {"k": "x", "n": 3}],
    "text": "  The quick brown-fox,  jumps\tover\n",
    "uni": "Straße ÉCOLE ΟΔΟΣ ǆ ﬁ İ \u200b\u200d👩‍🚀",
    "lines": "a\nb\r\nc\n\nd",
    "html": "<a href=\"x\">T & 'q'</a>",
    "tree": [{"v": 1, "c": [{"v": 2, "c": [{"v": 3, "c": []}]}, {"v": 4, "c": []}]}],
    "i": 7, "f": 2.5, "neg": -3, "big": 12345678901234, "t": True, "z": 0, "e": "", "n": None,
    "tools": [{"type": "function", "function": {"name": "add", "parameters": {
        "type": "object", "properties": {"a": {"type": "integer", "items": {"type": "x"}}}}}}],
}

CASES = []  # sources


def add(text):
    """A case a line, or one an expression where a line has nothing else."""
    for line in text.strip("\n").split("\n"):
        if line.startswith("{{") and "{%" not in line:
            parts = re.split(r"(?<=\}\}) (?=\{\{ )", line)
            CASES.extend(parts)
        else:
            CASES.append(line)


# --- values and what they print ---
add(r"""
{{ 1 }} {{ 1.0 }} {{ 1e3 }} {{ 1e16 }} {{ 1.5e-7 }} {{ 0.1 + 0.2 }} {{ -0.0 }} {{ 1e22 }} {{ 123456789.123 }}
{{ 0x1F }} {{ 0b101 }} {{ 0o17 }} {{ 1_000 }} {{ 1_0.5_0 }} {{ 1E2 }}
{{ true }} {{ False }} {{ none }} {{ None }} {{ [] }} {{ {} }} {{ () }} {{ (1,) }} {{ 1, 2 }}
{{ 'a' "b" }} {{ 'it\'s' }} {{ "\x41\u00e9\U0001F600\101\n|\t|\\|\q" }}
{{ ['it\'s', "q\"q", 'both\'"', '\n\t\r\\', '\x00\x7f\xad', 'é', '\u200b', '\ufeff'] }}
{{ {'a': 1, 2: 'b', none: 3, true: 4, 1.5: 5, (1, 2): 6} }}
{{ {'a': 1, 'a': 2} }} {{ {1: 'a', true: 'b', 1.0: 'c'} }}
{{ d }} {{ rows }} {{ uni }} {{ [uni] }} {{ mixed }}
{{ messages[2] }}
{{ range(3) }} {{ range(1, 10, 2) }} {{ range(0) }} {{ range(3) | list }} {{ range(5)[1:3] }} {{ range(9)[::2] }} {{ range(5)[-1] }}
{{ d.keys() }} {{ d.values() }} {{ {'x': 1}.items() }}
{{ nothing }}|{{ d.nothing }}|{{ d['nothing'] }}|{{ nums[9] }}|{{ 'abc'[9] }}|{{ none.x }}|{{ 1 .x }}
{{ nothing.x }}
{{ nothing['x'] }}
{{ nothing() }}
{{ d.nothing.x }}
{{ nothing[1:] }}
{{ [nothing] }} {{ {'k': nothing} }}
{{ words[0] }} {{ words.0 }} {{ words[-1] }} {{ words[true] }} {{ words['0'] }} {{ words[1.0] }} {{ words[none] }}
{{ 'abc'[-1] }} {{ 'héé'[1] }} {{ (1, 2)[1] }} {{ d['a'][1] }} {{ d.a.1 }} {{ {1: 'x'}[1] }} {{ {1: 'x'}[true] }}
{{ d.items }}
{{ d['items'] }} {{ d['get'] }} {{ d.b }} {{ d.C.x }} {{ d['C']['x'] }}
{{ {'keys': 1}.keys() | list }} {{ {'keys': 1}['keys'] }}
{{ {}['items'] is defined }} {{ {}['zzz'] is defined }} {{ 'a'['upper']() }} {{ {}.items.type }}|
{{ tools[0].function.parameters.properties.a.items.type }}|{{ tools[0].function.parameters.properties.a['items'].type }}
{% if tools[0].function.parameters.properties.a.items %}yes{% endif %} {{ d.pop is defined }} {{ d.copy is defined }} {{ nums.append is defined }}
{{ d.__class__ }}|{{ ''.__class__ is defined }}|{{ d._x is defined }}
{{ ''.__class__.__mro__ }}
{{ nums.append(1) }}
{{ d.update({'a': 1}) }}
{{ d.pop('a') }}
{{ nums.copy() }} {{ d.copy() == d }} {{ nums.index(1) }} {{ nums.count(1) }} {{ (1, 2, 1).count(1) }} {{ (1, 2).index(2) }}
{{ nums.index(99) }}
""")
# --- operators ---
add(r"""
{{ 1 + 2 * 3 - 4 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 7.5 % -2 }} {{ 1 / 3 }}
{{ 2 ** 10 }} {{ 2 ** -1 }} {{ 2 ** 0.5 }} {{ 2 ** 3 ** 2 }} {{ -2 ** 2 }} {{ 2.0 ** 3 }} {{ 0 ** 0 }}
{{ 5 * 'ab' }} {{ 'ab' * 0 }} {{ 'ab' * -1 }} {{ [1, 2] * 2 }} {{ 2 * (1,) }} {{ true + true }} {{ 'a' * true }}
{{ [1] + [2] }} {{ (1,) + (2,) }} {{ 'a' + 'b' }} {{ 1 ~ 2 ~ none ~ true ~ [1] ~ nothing }}
{{ 1 + 'a' }}
{{ [1] + (2,) }}
{{ 1 // 0 }}
{{ 1 % 0 }}
{{ 1.0 / 0 }}
{{ 0 ** -1 }}
{{ nothing + 1 }}
{{ 1 - none }}
{{ -true }} {{ +3 }} {{ - 3 }} {{ --3 }} {{ -f }} {{ +neg }} {{ -neg | abs }}
{{ -'a' }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 == true }} {{ 1 != 2 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ (1,) < (1, 0) }} {{ 'Z' < 'a' }}
{{ 1 < 'a' }}
{{ none < 1 }}
{{ {} < {} }}
{{ nothing < 1 }}
{{ [1] == (1,) }} {{ {'a': 1, 'b': 2} == {'b': 2, 'a': 1} }} {{ nothing == other }} {{ none == nothing }} {{ '1' == 1 }} {{ range(3) == [0, 1, 2] }} {{ [1, [2]] == [1, [2.0]] }}
{{ 1 in nums }} {{ 9 not in nums }} {{ 'a' in d }} {{ 'ow' in 'brown' }} {{ '' in 'a' }} {{ 1 in nothing }} {{ 1 in (1, 2) }} {{ 2 in range(3) }} {{ 'b' in d.keys() }} {{ not 1 in nums }}
{{ 1 in 'abc' }}
{{ nothing in 'abc' }}
{{ 1 in 5 }}
{{ 1 and 2 }} {{ 0 and 2 }} {{ 0 or 'x' }} {{ '' or none }} {{ not '' }} {{ not nums }} {{ 1 or nothing.x }} {{ nothing and nothing.x }}|
{{ 'a' if t else 'b' }} {{ 'a' if z }}|{{ 'a' if z else 'b' if e else 'c' }} {{ ('a' if z).x is defined if z else 'ok' }}
{{ ('a' if z).x }}
{{ 'a' ~ 'b' + 'c' }} {{ 1 ~ 2 + 3 }} {{ 'n' ~ 2 * 3 }} {{ 'a' ~ (1 if t else 2) }}
{{ 2 if 1 == 1 and not 2 == 3 or nothing.y else 3 }} {{ (1, 2) in [(1, 2)] }} {{ 1 if nums | length > 2 else 0 }}
{{ 'abcdef'[1:3] }} {{ 'abcdef'[::-1] }} {{ 'abcdef'[-3:] }} {{ 'abcdef'[:-2] }} {{ 'abcdef'[::2] }} {{ 'abcdef'[5:1:-2] }} {{ 'abc'[10:] }}| {{ nums[1:] }} {{ nums[:none] }} {{ (1, 2, 3)[1:] }} {{ 'éàü'[1:2] }}
{{ nums[::0] }}
{{ d[1:2] }}
{{ nums['a':] }}
{{ 9223372036854775807 }} {{ -9223372036854775807 - 1 }}
""")
# --- statements ---
add(r"""
{% if z %}a{% elif nothing %}b{% elif nums %}c{% else %}d{% endif %}
{% for x in nums %}{{ x }}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }} {% endfor %}
{% for x in nums %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {{ loop.depth }}{{ loop.depth0 }}|{% endfor %}
{% for x in [] %}x{% else %}none{% endfor %} {% for x in nothing %}x{% else %}none{% endfor %}
{% for x in 5 %}x{% endfor %}
{% for x in none %}x{% endfor %}
{% for x in nums if x > 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }} {% else %}no{% endfor %}
{% for x in nums if x > 9 %}{{ x }}{% else %}no{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %} {% for k in d %}{{ k }}{% endfor %}
{% for k, v in d | items %}{{ k }}{% endfor %} {% for k, v in d | dictsort %}{{ k }}{% endfor %}
{% for (a, (b, c)) in [(1, (2, 3)), [4, [5, 6]]] %}{{ a }}{{ b }}{{ c }} {% endfor %}
{% for a, b in [[1]] %}{% endfor %}
{% for a, b in ['xy', 'zw'] %}{{ b }}{{ a }}{% endfor %}
{% for c in 'héy' %}{{ c }}.{% endfor %} {% for x in 1, 2, 3 %}{{ x }}{% endfor %} {% for x in (1, 2) if x > 1 %}{{ x }}{% endfor %}
{% for x in nums %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% if loop.index == 3 %}{% break %}{% endif %}{% endfor %}
{% for x in nums %}{% for y in nums %}{% if y == 2 %}{% break %}{% endif %}{{ x }}{{ y }} {% endfor %}{{ loop.depth }}{% endfor %}
{% for x in [1, 1, 2] %}{{ loop.changed(x) }} {{ loop.cycle('o', 'e') }} {% endfor %}
{% for x in [1] %}{{ loop.cycle() }}{% endfor %}
{% for x in tree recursive %}{{ loop.depth }}:{{ x.v }}{% if x.c %}({{ loop(x.c) }}){% endif %}{{ ',' if not loop.last }}{% endfor %}
{% for x in [1] %}{{ loop([2]) }}{% endfor %}
{% for x in nums %}{% set y = x %}{% endfor %}{{ y }}|{% set y = 5 %}{% for x in nums %}{% set y = y + x %}{{ y }} {% endfor %}{{ y }}
{% for x in [1] %}{% else %}{% set q = 1 %}{% endfor %}{% for x in [] %}{% else %}{% set q = 1 %}{% endfor %}{{ q }}|
{% set loop = 3 %}{% for x in [1] %}{{ loop.index }}{% endfor %}{{ loop }}
{% for x in nums %}{{ loop }}{% break %}{% endfor %}
{% if 1 %}{% set a = 1 %}{% endif %}{{ a }} {% set a, b = 1, [2] %}{{ b }} {% set (c, d2) = 'xy' %}{{ d2 }}
{% set e1, = [4] %}{{ e1 }}
 {% set t2 = 1, 2 %}{{ t2 }}
{% set a.b = 1 %}
{% set ns = namespace(a=1, b=[]) %}{% set ns.a = ns.a + 1 %}{% for x in nums %}{% set ns.b = ns.b + [x] %}{% endfor %}{{ ns.a }} {{ ns.b }} {{ ns.c }}| {{ ns['a'] }} {{ ns.c is defined }}
{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a + ns.b }} {% set ns.x, ns.y = 1, 2 %}{{ ns.y }}
{% set ns = namespace(_a=1) %}
{% set ns = namespace() %}{% set ns._a = 1 %}
{% set x %}a{{ 1 }}{% endset %}{{ x | upper }} {% set x | upper | trim %} abc {% endset %}[{{ x }}] {% set ns = namespace() %}{% set ns.t %}q{% endset %}{{ ns.t }}
{% set x %}{% set inner = 1 %}{% endset %}{{ inner }}|
{% with a = 1, b = i %}{{ a }}{{ b }}{% set c = 2 %}{% endwith %}{{ a }}{{ c }}| {% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q }}
{% set a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}
{% filter upper %}abc {{ i }}{% endfilter %} {% filter replace('a', 'b') | upper %}banana{% endfilter %}
{% generation %}x{% set g = 1 %}{{ i }}{% endgeneration %}{{ g }}|
{% for x in nums %}{% generation %}{{ x }}{{ loop.index }}{% endgeneration %}{% endfor %}
{% print 1, 'a' %} {% print nums %}
{% raw %}{{ x }}{% if %}{# #}{% endraw %}{# {{ gone }} #}x
{% macro m(a, b='d', c=none) %}[{{ a }}|{{ b }}|{{ c }}]{% endmacro %}{{ m() }}{{ m(1) }}{{ m(1, c=2) }}{{ m(b=nothing, a=3) }}{{ m(1, 2, 3) | lower }}
{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{% endmacro %}{{ m(b=2) }}
{% macro m(a) %}{% endmacro %}{{ m(1, a=2) }}
{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(4) }}
{% macro m(a) %}{{ a }} {{ varargs }} {{ kwargs }}{% endmacro %}{{ m(1, 2, 3, x=4) }}{{ m() }}
{% macro m() %}{{ varargs | join('-') }}{% for k, v in kwargs.items() %}{{ k }}{{ v }}{% endfor %}{% endmacro %}{{ m(*[1, 2], **{'a': 'b'}) }}{{ m(1, *(2, 3)) }}
{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}in {{ i }}{% endcall %}
{% macro m(x) %}{% for y in x %}<{{ caller(y, 'k') }}>{% endfor %}{% endmacro %}{% call(a, b='z') m(nums) %}{{ a }}{{ b }}{% endcall %}
{% macro m() %}{{ caller is defined }}{{ caller() }}{% endmacro %}{{ m() }}
{% macro m() %}{{ x }}{% endmacro %}{% set x = 1 %}{{ m() }}{% set x = 2 %}{{ m() }}
{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}
{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}b{% endmacro %}{{ a() }}
{% for x in nums %}{% macro m() %}{{ x }}{% endmacro %}{{ m() }}{% endfor %}{{ m is defined }}
{% macro m() %}{% set v = 1 %}{{ v }}{% endmacro %}{{ m() }}{{ v }}|
{% macro m(a) %}{% if a %}a{% endif %}{% endmacro %}{% if m(1) == 'a' %}eq{% endif %} {{ m(1) ~ m(0) ~ '.' }} {{ [m(1)] }}
{% set m = 'upper' %}{{ 'abc' | map(m) | join }} {{ words | map('replace', 'p', 'b') | list }}
{% if nothing is defined and nothing.x %}a{% else %}b{% endif %}
{% break %}
{% continue %}
{% for x in [1] %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}
{% if 1 %}
{% for x in nums %}
{% endif %}
{% else %}
{% endfor %}
{% frob %}
{{ 1 | frob }}
{{ 1 is frob }}
{{ frob(1) }}
{% if z %}{{ 1 | frob }}{% elif 1 is string and 1 is frob %}{% else %}ok{% endif %}
{% if t %}{{ 1 | frob }}{% endif %}
{% if t %}{% if 1 is frob %}{% endif %}{% endif %}
{{ 1 + }}
{{ (1 }}
{{ [1, }}
{{ 'abc }}
{{ 1
{% if
{# never
{% raw %}x
{{ a b }}
{{ 1 2 }}
{% set x %}
{% set 1 = 2 %}
{% set none = 2 %}
{{ foo(a=1, 2) }}
{{ foo(a=1, a=2) }}
{{ x ! y }}
{% macro m(a=1, b) %}{% endmacro %}
{% do 1 %}
{% include 'x' %}
{% import 'x' as y %}
{% from 'x' import y %}
{% extends 'x' %}
{{ raise_exception('no') }}
{{ raise_exception() }}
{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.current }}
{{ cycler() }}
{% set j = joiner() %}{{ j() }}a{{ j() }}b{{ j() }}{% set k = joiner('|') %}{{ k() }}{{ k() }}
{{ dict(a=1) }} {{ dict({'a': 1}, b=2) }} {{ dict([('a', 1), ['b', 2]]) }} {{ dict.fromkeys(['a'], 1) }} {{ dict() }} {{ dict(**{'a': 1}) }}
{{ dict(1) }}
{{ range(1, 2, 0) }}
{{ range(200000) | length }}
{{ range('a') }}
{{ loop.index }}
{{ self }}
""")
# --- white space ---
CASES += [
    "a\n  {% if 1 %}\n  b\n  {% endif %}\nc\n", "a \n {%- if 1 -%} \n b {%- endif %}\n",
    "  {{ 1 }}\n  {{- 2 -}}  \n3", "a\n  {#- c #}\n  {# d #}\ne", "x {% if 1 %}\ny{% endif %}",
    "  {%+ if 1 %}y{% endif +%}\nz", "a\r\nb\rc\n\n", "\n{% set x = 1 %}\n\n{{ x }}\n",
    " {% raw %} {{ a }} {% endraw %} x", "a {%- raw -%} b {%- endraw -%} c", "{% raw %}\na\n{% endraw %}\nb",
    "\u3000{% if 1 %}\u00a0{% endif %}\u3000", "a\u00a0{%- if 1 -%}\u2003b{%- endif %}", "{{ 1 -}}\n\n x",
    "{# a -#}\n\n b {#- c #} d", "{#- -#}", "{##}x", "{#-#}x", "{{'a'}}{{-1}}{{ - 1}}", "a\n\t {% if 1 %}\tb\n{% endif %}",
    "{% if 1 %}\n\n\na{% endif %}\n\n\nb", "a{% if 1 %} \nb{% endif %}", "{{ 1 }}\n\n{{ 2 }}", "{%- for x in nums -%}\n {{ x }} \n{%- endfor -%}\n.",
    "{% for x in nums %}\n  {{ x }}\n{% endfor %}\nend", "{%if 1%}a{%endif%}{{1}}{%  if  1  %}b{%  endif  %}", "{%\nif\n1\n%}a{%\nendif\n%}",
    "{ {", "{", "}}", "%}", "#}", "{ % if % }", "a{{ '{{' }}b{{ '%}' }}c{{ '}}' }}", "{{ {'a': {'b': 1}}}}", "{{ {'a': {'b': 1}}.a.b}}",
    "\n", "\n\n", "", " ", "\n a", "{{ 'a\nb' }}", "x{# multi\nline #}\ny", "  {# c #}  x", "  {{ 'v' }}  {% if 1 %}  {% endif %}  ",
    "{% if 1 -%}\n  a\n{%- endif -%}\n", "{%- set ns = namespace() -%}\n\n  x", "é{% if 1 %}ü{% endif %}\n", "{{ 'é' }}{{ \"ü\" }}{% set ñ = 1 %}{{ ñ }}",
]
# --- filters ---
add(r"""
{{ -3 | abs }} {{ neg | abs }} {{ 2.5 | abs }} {{ true | abs }}
{{ 'a' | abs }}
{{ rows[0] | attr('k') }}|{{ 'x' | attr('upper') is defined }}|{{ nothing | default('d') }} {{ e | default('d') }}| {{ e | default('d', true) }} {{ n | default('d') }} {{ n | d('d', boolean=true) }} {{ nothing | default }}| {{ nothing | default(nothing) is defined }}
{{ nums | batch(3) | list }} {{ nums | batch(3, 'x') | list }} {{ [] | batch(2) | list }} {{ nums | slice(3) | list }} {{ nums | slice(3, 'x') | list }} {{ nums | slice(9) | list }}
{{ nums | slice(0) | list }}
{{ 'hELLO wORLD' | capitalize }} {{ uni | capitalize }} {{ 'a' | center(5) }}| {{ 'ab' | center(5) }}| {{ 'a' | center(4) }}| {{ 'abc' | center | length }}
{{ nums | count }} {{ 'é' | length }} {{ d | length }} {{ nothing | length }} {{ range(4) | length }} {{ d.items() | length }}
{{ 5 | length }}
{{ none | length }}
{{ nums | map('string') | length }}
{{ d | dictsort }} {{ d | dictsort(true) }} {{ d | dictsort(reverse=true) }} {{ {'b': 1, 'a': 2} | dictsort(by='value') }} {{ {'b': 1, 'a': 2} | dictsort(false, 'value', true) }}
{{ {'a': 1, 'b': 'x'} | dictsort(by='value') }}
{{ nums | dictsort }}
{{ html | e }} {{ html | escape | e }} {{ html | forceescape }} {{ 5 | e }} {{ html | safe }} {{ (html | safe) ~ '<' }} {{ ('<' | safe) + '<' }} {{ '<' + ('<' | e) }} {{ [('<' | e)] }}
{{ ('<' | e) is escaped }} {{ '<' is escaped }} {{ ('<b>' | safe) == '<b>' }} {{ '<' | e | length }} {{ ('a<' | e)[1:] }}
{{ 1 | filesizeformat }} {{ 999 | filesizeformat }} {{ 1000 | filesizeformat }} {{ 123456789 | filesizeformat }} {{ 123456789 | filesizeformat(true) }} {{ '5e12' | filesizeformat }}
{{ nums | first }} {{ 'abc' | first }} {{ [] | first }}| {{ d | first }} {{ nums | last }} {{ 'abc' | last }} {{ d | last }} {{ nothing | first }}| {{ nums | map('abs') | first }}
{{ nums | map('abs') | last }}
{{ 5 | first }}
{{ '1.5' | float }} {{ 'x' | float }} {{ 'x' | float(2) }} {{ 3 | float }} {{ ' 1e3 ' | float }} {{ 'inf' | float }} {{ 'nan' | float }} {{ '1_0' | float }} {{ '.5' | float }} {{ '5.' | float }} {{ none | float }} {{ '+2' | float }} {{ true | float }} {{ '' | float }} {{ '0x10' | float }}
{{ nothing | float }}
{{ '12' | int }} {{ '12.7' | int }} {{ 'x' | int }} {{ 'x' | int(7) }} {{ 3.9 | int }} {{ -3.9 | int }} {{ ' 5 ' | int }} {{ '0x1f' | int(base=16) }} {{ 'ff' | int(0, 16) }} {{ '0b11' | int(base=0) }} {{ '1_000' | int }} {{ none | int }} {{ [] | int(1) }} {{ '+5' | int }} {{ '-5' | int }} {{ '1e3' | int }} {{ '' | int }} {{ '1__0' | int }} {{ '_1' | int }} {{ 'nan' | int(3) }} {{ '- 5' | int }} {{ true | int }}
{{ nothing | int }}
{{ '%s and %r: %d %5d|%-5d|%05d|%+d|% d|%x|%X|%o|%#x|%e|%E|%.2f|%8.3f|%g|%c|%%' | format('a', 'b', 1, 2, 3, 4, 5, 6, 255, 255, 8, 255, 12345.678, 0.00012, 2.567, 3.14159, 1e10, 'z') }}
{{ '%(a)s-%(b)03d' | format(a='x', b=7) }} {{ '%s' % 'a' }} {{ '%s %s' % ('a', 1) }} {{ '%s' % [1, 2] }} {{ '%(k)s' % {'k': 'v'} }} {{ '%5s|%-5s|%.2s' % ('ab', 'cd', 'efg') }} {{ '%*d' % (5, 42) }} {{ '%r' % ('é\n',) }} {{ '%a' % 'é' }} {{ 'x' % [] }} {{ '%d' % 3.9 }} {{ '%d' % true }} {{ '%i%%' % 50 }}
{{ '%s' | format }}
{{ '%s' | format(1, 2) }}
{{ '%d' % 'a' }}
{{ '%s %s' % ('a',) }}
{{ 'x' % 'a' }}
{{ '%q' % 1 }}
{{ rows | groupby('k') }} {% for g in rows | groupby('k') %}{{ g.grouper }}{{ g.list | length }}{{ g[0] }}{% endfor %} {% for k, v in rows | groupby('n') %}{{ k }}{{ v }}{% endfor %}
{{ words | groupby('0') | list }} {{ rows | groupby('zz', default='d') | length }} {{ [{'k': 'B'}, {'k': 'b'}] | groupby('k') }} {{ [{'k': 'B'}, {'k': 'b'}] | groupby('k', case_sensitive=true) }} {{ rows | groupby('s.t', default=0) | length }}
{{ lines | indent }} {{ lines | indent(2, true) }} {{ lines | indent('>>', blank=true) }} {{ 'a' | indent(3, first=true) }} {{ '' | indent }}| {{ 'a\n' | indent(2) }}|
{{ 5 | indent }}
{{ nums | join }} {{ nums | join(', ') }} {{ rows | join('|', attribute='k') }} {{ 'abc' | join('-') }} {{ [1, none, 'a', true] | join(1) }} {{ d | join }} {{ nothing | join(',') }}| {{ [[1], {}] | join(';') }}
{{ 5 | join }}
{{ uni | lower }} {{ uni | upper }} {{ uni | title }} {{ 'ΑΣ ΑΣ. ΣΑΣ' | lower }} {{ 5 | upper }} {{ none | lower }} {{ nothing | upper }}|
{{ 'abc' | list }} {{ d | list }} {{ nothing | list }} {{ (1, 2) | list }} {{ nums | map('string') | list }} {{ d.items() | list }}
{{ 5 | list }}
{{ d | items | list }} {{ nothing | items | list }}
{{ nums | items | list }}
{{ rows | map(attribute='k') | list }} {{ rows | map(attribute='s.t') | list | length }} {{ rows | map(attribute='zz', default='q') | list }} {{ words | map('upper') | join(',') }} {{ nums | map('float') | list }} {{ [[1, 2], [3]] | map('first') | list }} {{ [[1, 2], [3, 4]] | map(attribute=1) | list }} {{ [] | map('upper') | list }} {{ nothing | map('x') | list }} {{ rows | map('attr', 'k') | list }}
{{ nums | map | list }}
{{ nums | map('frob') | list }}
{{ nums | map('upper') }}
{{ nums | min }} {{ nums | max }} {{ words | min }} {{ words | max }} {{ words | min(true) }} {{ rows | max(attribute='n') }} {{ [] | min }}| {{ rows | min(attribute='k') }} {{ 'hello' | max }}
{{ [1, 'a'] | min }}
{{ nums | reject('odd') | list }} {{ nums | select('odd') | list }} {{ nums | select('divisibleby', 3) | list }} {{ mixed | select | list }} {{ mixed | reject | list }} {{ mixed | select('string') | list }} {{ nums | select('>', 1) | list }} {{ nums | reject('in', [1]) | list }} {{ nums | select('equalto', 2) | list }}
{{ rows | selectattr('s') | list }} {{ rows | rejectattr('s') | list }} {{ rows | selectattr('k', 'equalto', 'x') | map(attribute='n') | list }} {{ rows | rejectattr('k', 'eq', 'x') | list | length }} {{ rows | selectattr('s', 'defined') | list | length }} {{ rows | selectattr('n', 'gt', 1) | list | length }} {{ messages | selectattr('role', 'in', ['user', 'tool']) | list | length }} {{ rows | selectattr('s.t', '==', 1) | list }}
{{ nums | select('frob') | list }}
{{ rows | selectattr | list }}
{{ messages | selectattr('role', 'equalto', 'user') | length }}
{% set g = nums | select('odd') %}{{ g | list }}{{ g | list }} {% set g = nums | map('abs') %}{{ 1 in g }}{{ g | list }} {% set g = nums | map('abs') %}{{ g | first }}{{ g | first }}{{ g | join }} {{ g is iterable }}{{ g is sequence }}{% if g %}y{% endif %}
{{ 'aXbXc' | replace('X', '-') }} {{ 'aXbXc' | replace('X', '-', 1) }} {{ 'abc' | replace('', '.') }} {{ 'abc' | replace('', '.', 2) }} {{ 123 | replace(2, 'x') }} {{ 'a' | replace('b', none) }} {{ 'ab' | replace('b', nothing) }}
{{ nums | reverse | list }} {{ 'abc' | reverse }} {{ d | reverse | list }} {{ (1, 2) | reverse | list }} {{ nums | map('abs') | reverse }} {{ range(3) | reverse | list }}
{{ 5 | reverse }}
{{ 2.5 | round }} {{ 3.5 | round }} {{ 42.55 | round(1) }} {{ 42.55 | round(1, 'floor') }} {{ 42.51 | round(1, 'ceil') }} {{ 42 | round }} {{ 42 | round(1, 'ceil') }} {{ 2.675 | round(2) }} {{ -1.5 | round }} {{ 1e20 | round }} {{ 0.5 | round }} {{ 1.005 | round(2) }} {{ 7 | round(0, 'floor') }} {{ true | round }}
{{ 'a' | round }}
{{ 1 | round(1, 'x') }}
{{ nums | sort }} {{ words | sort }} {{ words | sort(case_sensitive=true) }} {{ words | sort(true) }} {{ rows | sort(attribute='n') | map(attribute='n') | list }} {{ rows | sort(attribute='k,n', reverse=true) | map(attribute='n') | list }} {{ 'hello' | sort }} {{ d | sort }} {{ [[2, 1], [1, 2]] | sort }} {{ [[2, 1], [1, 2]] | sort(attribute=1) }} {{ [(1, 'b'), (1, 'a')] | sort }}
{{ mixed | sort }}
{{ rows | sort }}
{{ 5 | string }} {{ none | string }} {{ nothing | string }}| {{ [1] | string }} {{ 1.0 | string ~ 'x' }}
{{ '<p>a <b>b</b>\n c</p>' | striptags }} {{ 'a <!-- x > --> b' | striptags }}
{{ nums | sum }} {{ rows | sum(attribute='n') }} {{ nums | sum(start=10) }} {{ [1.5, 2] | sum }} {{ [[1], [2]] | sum(start=[]) }} {{ [] | sum }} {{ nothing | sum }}
{{ words | sum }}
{{ 'hello world-foo (bar) [baz] a.b it\'s <x {y 1a' | title }} {{ 'HELLO' | title }} {{ 'éa ßb' | title }} {{ 5 | title }}
{{ 'Hello World'.title() }} {{ 'it\'s a.b 1st éa ǆa'.title() }}
{{ d | tojson }} {{ messages[2] | tojson }} {{ nums | tojson(indent=2) }} {{ {'a': {'b': [1, {}], 'c': []}} | tojson(indent=4) }} {{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }} {{ 'é\u2028</' | tojson }} {{ 'é😀\x7f' | tojson(ensure_ascii=true) }} {{ '"\\\n\t\x01' | tojson }} {{ none | tojson }} {{ true | tojson }} {{ 1.0 | tojson }} {{ 1e100 | tojson }} {{ (1, 2) | tojson }} {{ {1: 2, none: 3, true: 4, 1.5: 5} | tojson }}
{{ d | tojson(separators=(',', ':')) }} {{ d | tojson(indent=2, separators=(' ,', ' : ')) }} {{ nums | tojson(indent='\t') }} {{ nums | tojson(indent=0) }} {{ nums | tojson(none, 1) }} {{ 'nan' | float | tojson }} {{ 'inf' | float | tojson }} {{ [] | tojson(indent=2) }} {{ {} | tojson(indent=2) }}
{{ nothing | tojson }}
{{ [nothing] | tojson }}
{{ range(3) | tojson }}
{{ d.keys() | tojson }}
{{ nums | map('abs') | tojson }}
{{ {(1, 2): 3} | tojson }}
{{ '  a ' | trim }}| {{ 'xxaxx' | trim('x') }} {{ 'abcab' | trim('ab') }} {{ 5 | trim }} {{ '\u3000a\u00a0\x1c' | trim }}| {{ nothing | trim }}| {{ none | trim }}
{{ 'foo bar baz qux' | truncate(9) }} {{ 'foo bar baz qux' | truncate(9, true) }} {{ 'foo bar baz qux' | truncate(11) }} {{ 'foo bar baz qux' | truncate(11, false, '...', 0) }} {{ 'foobarbazquxquux' | truncate(5, leeway=0) }} {{ 'x' | truncate }}
{{ 'foo bar' | truncate(2) }}
{{ words | unique | list }} {{ words | unique(true) | list }} {{ mixed | unique | list }} {{ rows | unique(attribute='k') | map(attribute='n') | list }} {{ [1, 1.0, true, 'a', 'A', none, none, (1,), (1,), 1.5] | unique | list }}
{{ [[1], [1]] | unique | list }}
{{ 'a b/c?d=é&' | urlencode }} {{ {'a b': 'c/d', 'e': 1} | urlencode }} {{ [('a', 'b c')] | urlencode }} {{ 5 | urlencode }}
{{ 'one two_three, four-five é1' | wordcount }} {{ '' | wordcount }} {{ 5 | wordcount }}
{{ {'a': 1, 'b': none, 'c': '<"', 'd': nothing} | xmlattr }} {{ {'a': 1} | xmlattr(false) }} {{ {} | xmlattr }}|
{{ {'a b': 1} | xmlattr }}
{{ nums | random | string | length }}
{{ d | pprint }}
{{ 'see http://x.org now' | urlize }}
{{ 'aaa bbb ccc' | wordwrap(4) }}
{{ lipsum(1) | length > 0 }}
{{ nums|sort|first }}{{ nums | sort | reverse | list | first }}{{ (nums | sort)[0] }}{{ nums|sort(reverse=true)|join(',')|length }}
{{ 'a' | upper ~ 'b' | upper }} {{ not nums | length == 4 }} {{ nums | length + 1 }} {{ 'x' in 'xyz' | list }} {{ -1 | string ~ 'a' }} {{ 1 + 1 | string | int }}
""")
# --- tests ---
TESTS = ("boolean callable defined escaped even false float integer iterable lower mapping none number odd "
         "sequence string true undefined upper").split()
for test in TESTS:
    CASES.append(" ".join("{{ (%s) is %s }}" % (v, test) for v in
                          ["i", "t", "n", "nothing", "f", "'ab'", "'AB'", "e", "nums", "d", "(1, 2)", "range(2)"]
                          if not (test in ("even", "odd") and v in ("n", "nothing", "'ab'", "'AB'", "e", "nums", "d", "(1, 2)", "range(2)"))))
add(r"""
{{ namespace is callable }} {{ range is callable }} {{ 'a'.upper is callable }} {{ namespace() is mapping }} {{ namespace() is iterable }} {{ d.items() is iterable }} {{ d.items() is sequence }} {{ d.items() is mapping }}
{{ 'a' is odd }}
{{ none is even }}
{{ nothing is odd }}
{{ 3.0 is odd }} {{ 6 is divisibleby 3 }} {{ 6 is divisibleby(4) }} {{ 1 is eq 1 }} {{ 1 is equalto(1.0) }} {{ 1 is ne 2 }} {{ 1 is lt 2 }} {{ 1 is gt 2 }} {{ 1 is le 1 }} {{ 1 is ge 2 }} {{ 1 is lessthan 2 }} {{ 1 is greaterthan 2 }} {{ 1 is in nums }} {{ 9 is not in nums }} {{ 'a' is in 'abc' }}
{{ 6 is divisibleby }}
{{ 6 is divisibleby(0) }}
{{ none is sameas none }} {{ true is sameas true }} {{ 1 is sameas true }} {{ nums is sameas nums }} {{ [] is sameas [] }} {{ n is sameas none }}
{{ 'upper' is filter }} {{ 'frob' is filter }} {{ 'urlize' is filter }} {{ 'odd' is test }} {{ 'frob' is test }}
{{ 'x' is string and 1 is number }} {{ not 'x' is string }} {{ 'x' is not string }} {{ nothing is not defined or 1 }} {{ 1 is number == true }} {{ 1 if nothing is undefined else 2 }}
{{ 1 is number is number }}
{{ nums | length is even }} {{ 'abc' | upper is upper }} {{ d.a is defined }} {{ d.zz is defined }} {{ d.a.0 is defined }} {{ messages[0].tool_calls is defined and messages[0].tool_calls is not none }}
{{ uni is lower }} {{ 'ß' is lower }} {{ '123' is lower }} {{ 'ÀÉ' is upper }} {{ 5 is upper }}
""")
# --- methods ---
add(r"""
{{ '  a b '.strip() }}| {{ 'xxaxx'.lstrip('x') }} {{ 'xxaxx'.rstrip('x') }} {{ 'abcba'.strip('ab') }} {{ '\u3000a'.strip() }} {{ 'a'.strip(none) }}
{{ 'a,b,,c'.split(',') }} {{ 'a,b,,c'.split(',', 1) }} {{ ' a  b c '.split() }} {{ ' a  b c '.split(none, 1) }} {{ ' a  b  c '.split(maxsplit=1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ ' a  b  c '.rsplit(none, 1) }} {{ 'a  b'.rsplit() }} {{ ''.split() }} {{ ''.split(',') }} {{ 'aXXbXX'.split('XX') }} {{ 'aaa'.rsplit('aa') }} {{ 'abc'.split('c', 0) }} {{ 'a b'.split(' ', -1) }} {{ '<think>x</think>y'.split('</think>')[-1] }}
{{ 'a'.split('') }}
{{ 'a'.split(1) }}
{{ 'abc'.startswith('ab') }} {{ 'abc'.startswith(('x', 'a')) }} {{ 'abc'.startswith('b', 1) }} {{ 'abc'.endswith('c') }} {{ 'abc'.endswith(('x', 'bc')) }} {{ 'abc'.endswith('b', 0, 2) }} {{ ''.startswith('') }} {{ 'abc'.startswith('', 5) }}
{{ 'abc'.startswith(['a']) }}
{{ 'abc'.startswith(1) }}
{{ 'aXbX'.replace('X', 'yy') }} {{ 'aXbX'.replace('X', '', 1) }} {{ 'ab'.replace('', '-') }} {{ 'aaa'.replace('aa', 'b') }} {{ 'abc'.replace('b', '\n') }}
{{ uni.upper() }} {{ uni.lower() }} {{ uni.title() }} {{ uni.capitalize() }} {{ uni.swapcase() }} {{ 'ΑΣ'.lower() }} {{ 'ǆ'.title() }}{{ 'ǆ'.capitalize() }}
{{ 'abcabc'.find('c') }} {{ 'abcabc'.rfind('c') }} {{ 'abc'.find('z') }} {{ 'éabc'.find('b') }} {{ 'abcabc'.find('a', 1) }} {{ 'abcabc'.find('c', 0, 2) }} {{ 'abcabc'.rfind('a', -3) }} {{ 'abc'.index('c') }} {{ 'abca'.rindex('a') }} {{ 'abc'.find('') }} {{ 'abc'.find('', 9) }} {{ 'abc'.rfind('') }}
{{ 'abc'.index('z') }}
{{ 'banana'.count('a') }} {{ 'aaa'.count('aa') }} {{ 'abc'.count('') }} {{ 'banana'.count('a', 2) }} {{ 'banana'.count('a', 2, 4) }}
{{ '-'.join(words) }} {{ ', '.join(['a']) }} {{ ''.join(d) }} {{ '-'.join('abc') }} {{ '.'.join(words | map('upper')) }}
{{ '-'.join(nums) }}
{{ 'a=b=c'.partition('=') }} {{ 'a=b=c'.rpartition('=') }} {{ 'abc'.partition('=') }} {{ 'abc'.rpartition('=') }} {{ 'a=b'.partition('=')[2] }}
{{ 'abc'.removeprefix('ab') }} {{ 'abc'.removeprefix('x') }} {{ 'abc'.removesuffix('bc') }} {{ 'abc'.removesuffix('') }}
{{ lines.splitlines() }} {{ lines.splitlines(true) }} {{ 'a\x0bb\x0cc\x1cd\u2028e\x85f'.splitlines() }} {{ ''.splitlines() }} {{ '\n'.splitlines() }} {{ 'a\n'.splitlines() }}
{{ 'ab'.center(5) }}| {{ 'ab'.center(5, '*') }} {{ 'a'.center(4, '-') }} {{ 'ab'.ljust(4) }}| {{ 'ab'.rjust(4, '0') }} {{ '42'.zfill(5) }} {{ '-42'.zfill(5) }} {{ '+1'.zfill(4) }} {{ 'abc'.zfill(2) }} {{ 'a\tb'.expandtabs() }}| {{ 'a\tb'.expandtabs(4) }}|
{{ '12'.isdigit() }} {{ '²'.isdigit() }} {{ '²'.isdecimal() }} {{ '½'.isnumeric() }} {{ 'é'.isalpha() }} {{ 'a1'.isalnum() }} {{ 'a '.isalpha() }} {{ ''.isdigit() }} {{ 'ab'.islower() }} {{ 'AB1'.isupper() }} {{ '1'.isupper() }} {{ ' \t'.isspace() }} {{ 'Ab Cd'.istitle() }} {{ 'AB'.istitle() }} {{ 'a\n'.isprintable() }} {{ ''.isprintable() }} {{ 'é'.isascii() }} {{ '１'.isdigit() }} {{ '漢'.isalpha() }}
{{ '{} {}'.format(1, 'a') }} {{ '{1}{0}'.format('a', 'b') }} {{ '{a}-{b.x}-{c[0]}-{c[k]}'.format(a=1, b={'x': 2}, c={'k': 3, 0: 4}) }} {{ '{{}}'.format() }} {{ '{!r} {!s}'.format('a', 'b') }}
{{ '{:5}|{:<5}|{:>5}|{:^5}|{:*^7}|{:05d}|{:+d}|{:x}|{:#x}|{:b}|{:o}|{:,}|{:_}'.format('a', 'b', 'c', 'd', 'e', 42, 42, 255, 255, 5, 8, 1234567, 1234567) }} {{ '{:.2f}|{:8.3f}|{:e}|{:g}|{:.0f}|{:%}|{:.1%}|{:,.2f}|{:>10.2f}|{:+.1f}|{:08.2f}'.format(2.567, 3.14159, 12345.6, 0.0001, 2.5, 0.25, 0.256, 1234567.891, 2.5, 1.25, -3.14159) }}
{{ '{:{}}'.format('a', 4) }}| {{ '{:.3}'.format('abcdef') }} {{ '{:5d}|{:<5d}|{:^5d}|{:=+5d}'.format(1, 2, 3, 4) }} {{ '{}'.format(none) }} {{ '{}'.format([1, 'a']) }} {{ '{:d}'.format(true) }} {{ '{}'.format(1.0) }} {{ '{:f}'.format(3) }} {{ '{:10}|'.format(3.5) }} {{ '{0.x}'.format({'x': 1}) }} {{ '{a}'.format_map({'a': 1}) }} {{ '{:s}'.format('x') }} {{ '{:X}'.format(255) }} {{ '{:^6}|{:^5}'.format('abc', 'ab') }}
{{ '{} {0}'.format(1) }}
{{ '{}'.format() }}
{{ '{a}'.format(b=1) }}
{{ '{'.format() }}
{{ '}'.format() }}
{{ '{:d}'.format('a') }}
{{ '{:z}'.format(1) }}
{{ '{:>5}'.format([1]) }}
{{ '{0.__class__}'.format(1) }}
{{ d.get('b') }} {{ d.get('zz') }} {{ d.get('zz', 5) }}
{{ d.get('zz', default=5) }}
 {{ {1: 2}.get(1) }} {{ d.items() | list | length }} {% for v in d.values() %}{{ v }}{% endfor %} {{ d.keys() | sort }} {{ d.get(none) }} {{ d.get(nothing) }}
{{ d.get([]) }}
{{ d.frob() }}
{{ 'a'.frob() }}
{{ nums.sort() }}
{{ nums.extend([1]) }}
{{ none.strip() }}
{{ (1).bit_length is defined }} {{ 2.0.is_integer() }} {{ f.is_integer() }}
{{ messages[1].content.split('\n')[0].strip().upper()[::-1] }} {{ messages[-1]['content'][0]['text'] }} {{ messages[-1].content[1].type }} {{ messages[2].tool_calls[0].function.arguments | tojson }} {{ messages[2].thinking }}
{% for m in messages %}{{ m.role }}{% if m.content is string %}s{% elif m.content is iterable %}i{% endif %}{% if m.tool_calls %}t{% endif %}{% if 'name' in m %}n{% endif %}{% if not loop.last %},{% endif %}{% endfor %} {{ messages[::-1][0].role }} {{ messages[1:][0].role }} {{ (messages | selectattr('role', 'equalto', 'system') | list)[0].content }} {{ messages | map(attribute='role') | unique | join(',') }}
{%- for m in messages -%}{%- if m['role'] == 'user' and not (m.content is string and m.content.startswith('<tool')) -%}{{ loop.index0 }}{%- endif -%}{%- endfor -%}
{{ tools | tojson(indent=2) }} {{ tools is none }} {{ documents is none }} {{ documents is defined }} {{ add_generation_prompt }}
{{ strftime_now('%Y') | length }} {{ strftime_now('%d %b %Y') | length }} {{ strftime_now is defined }}
{{ big }} {{ big * 10 }} {{ big / 10 }} {{ big // 7 }} {{ big ~ '' }} {{ 1e15 }} {{ 123456789012345678 }} {{ 1.0e15 }} {{ 100000000000000000.0 }} {{ 3.0 * 2 }} {{ 10 / 5 }}
{{ 'x'.zfill(-9223372036854775807 - 1) }} {{ 'aa'.replace('a', 'b', -9223372036854775807 - 1) }} {{ 'x'.center(-5) }} {{ '%*d' % (-4, 7) }}| {{ range(5)[::-1] }} {{ -1.5 | filesizeformat }}
{{ 'caf\u00e9' | length }} {{ 'e\u0301' | length }} {{ '👩‍🚀' | length }} {{ '👩‍🚀'[0] }} {{ ['👩‍🚀'] }} {{ uni | tojson }} {{ uni[::-1] }}
""")

# What opo refuses by name.
OUTSIDE = [
    "{{ nums | random | string | length }}", "{{ d | pprint }}", "{{ 'see http://x.org now' | urlize }}",
    "{{ 'aaa bbb ccc' | wordwrap(4) }}", "{{ lipsum(1) | length > 0 }}", "{{ nums | map('upper') }}", "{{ self }}",
    "{{ d.items }}", "{% for x in nums %}{{ loop }}{% break %}{% endfor %}",
]


def main():
    out = sys.stdout
    out.write(json.dumps({"messages": MESSAGES, "variables": VARIABLES}, ensure_ascii=False) + "\n")
    for source in dict.fromkeys(CASES):
        line = {"source": source}
        try:
            variables = {k: v for k, v in VARIABLES.items() if k != "tools"}
            texts, _ = render_jinja_template([MESSAGES], tools=VARIABLES["tools"], chat_template=source,
                                             add_generation_prompt=True, **variables)
            text = texts[0]
            if source in OUTSIDE:
                line["outside"] = True
            else:
                line["text"] = text
        except Exception as e:  # noqa: BLE001: any of them is a refusal
            line["error"] = type(e).__name__
        out.write(json.dumps(line, ensure_ascii=False) + "\n")


main()
