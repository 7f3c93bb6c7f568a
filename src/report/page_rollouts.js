
"use strict";
// A step's prompts and answers, down to the tokens.
(() => {
  const { el, data, section, format, showText, textBlock, isNumber, list } = Report;
  const runs = data.runs.filter((run) => run.rollouts && list(run.rollouts.shown).length);
  if (!runs.length) return;

  const state = { run: 0, at: 0, group: 0, sort: "sample", show: "all", find: "", colour: "none" };
  const shades = {
    none: { label: "no colours" },
    logprob: { label: "log-prob", low: "certain", high: "unlikely", unit: "" },
    entropy: { label: "entropy", low: "0", high: "high", unit: " nats" },
    advantage: { label: "advantage", low: "\u2212", high: "+", unit: "" },
  };
  // Old lines have no group: each is a prompt of its own then.
  function groupsOf(lines) {
    const groups = new Map();
    list(lines).forEach((line, i) => {
      const key = Number.isInteger(line.group) ? line.group : "line " + i;
      if (!groups.has(key)) groups.set(key, []);
      groups.get(key).push(line);
    });
    return [...groups.values()];
  }
  const rewardOf = (a) => (isNumber(a.reward) ? a.reward : isNumber(a.score) ? a.score : 0);
  const numberOf = (a, key) => (isNumber(a[key]) ? a[key] : -Infinity);
  const sorts = {
    sample: ["order", (a, b) => numberOf(a, "sample") - numberOf(b, "sample")],
    best: ["reward, best first", (a, b) => rewardOf(b) - rewardOf(a)],
    worst: ["reward, worst first", (a, b) => rewardOf(a) - rewardOf(b)],
    advantage: ["advantage", (a, b) => numberOf(b, "advantage") - numberOf(a, "advantage")],
    longest: ["longest first", (a, b) => numberOf(b, "length") - numberOf(a, "length")],
    shortest: ["shortest first", (a, b) => numberOf(a, "length") - numberOf(b, "length")],
  };
  const shows = {
    all: ["all answers", () => true],
    up: ["pushed up", (a) => a.advantage > 0],
    down: ["pushed down", (a) => a.advantage < 0],
    right: ["reward above 0", (a) => rewardOf(a) > 0],
    wrong: ["reward 0 or less", (a) => rewardOf(a) <= 0],
    cut: ["cut at the limit", (a) => a.finish_reason === "length"],
    unscored: ["not scored", (a) => a.verdict !== undefined && a.verdict !== "scored"],
  };

  // How strong a token's colour is, 0 to 1, and which: above or below nothing.
  function shade(kind, tokens, i, answer, limits) {
    if (kind === "logprob") return { part: Math.min(1, -list(tokens.logprob)[i] / 4), hue: "--neg" };
    if (kind === "entropy") return { part: Math.min(1, list(tokens.entropy)[i] / Math.max(limits.entropy, 0.5)), hue: "--pos" };
    const a = tokens.advantage ? list(tokens.advantage)[i] : answer.advantage;
    return { part: Math.min(1, Math.abs(a) / Math.max(limits.advantage, 1e-9)), hue: a < 0 ? "--neg" : "--pos" };
  }

  // What is known of the token that was pointed at last, of whatever answer.
  const probe = el("div", { class: "probe", role: "status" });
  const hint = "Point at a token, or go to an answer and use the arrow keys.";
  const off = () => document.querySelectorAll(".tok.on").forEach((node) => node.classList.remove("on"));

  function tokenView(answer, limits) {
    const tokens = answer.tokens, texts = list(tokens.text);
    const box = el("div", { class: "text", dir: "auto", tabindex: "0", role: "group",
                            "aria-label": "Tokens of the answer; arrow keys go through them" });
    let on = -1;
    function look(i) {
      off();
      on = Math.max(0, Math.min(texts.length - 1, i));
      box.children[on].classList.add("on");
      const logprob = list(tokens.logprob)[on], entropy = list(tokens.entropy)[on];
      const advantage = tokens.advantage ? list(tokens.advantage)[on] : answer.advantage;
      probe.hidden = false;
      probe.replaceChildren();
      probe.append(`Token ${on + 1} of ${answer.length}: `, showText(el("b"), JSON.stringify(texts[on] || "")),
        ` \u00b7 log-prob ${format(logprob)} (p ${format(Math.exp(logprob))}) \u00b7 entropy ${format(entropy)} \u00b7 advantage ${format(advantage)}`);
    }
    texts.forEach((text, i) => {
      const node = el("span", { class: "tok", mouseenter: () => look(i), click: () => look(i) });
      if (typeof text === "string" && text !== "") showText(node, text);
      else {
        node.classList.add("mark");
        node.append(i === texts.length - 1 && answer.finish_reason === "eos" ? " end" : "\u2219");
      }
      const { part, hue } = shade(state.colour, tokens, i, answer, limits);
      if (isNumber(part) && part > 0.02) node.style.backgroundColor = `rgba(${Report.css(hue)}, ${(0.07 + 0.5 * part).toFixed(3)})`;
      box.append(node);
    });
    box.addEventListener("keydown", (event) => {
      const to = { ArrowRight: on + 1, ArrowLeft: on - 1, Home: 0, End: texts.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      look(to);
    });
    const rest = answer.length > texts.length
      ? el("p", { class: "note" }, `The first ${format(texts.length)} of ${format(answer.length)} tokens (monitor.tokens_per_step).`) : null;
    return el("div", {}, box, rest);
  }

  function advantageBar(a, limit) {
    const bar = el("span", { class: "adv", "aria-hidden": "true" }), fill = el("i");
    const part = Math.min(1, Math.abs(a) / Math.max(limit, 1e-9)) * 50;
    fill.style.left = (a < 0 ? 50 - part : 50) + "%";
    fill.style.width = part + "%";
    fill.style.backgroundColor = `rgb(${Report.css(a < 0 ? "--neg" : "--pos")})`;
    bar.append(fill);
    return bar;
  }

  function answerCard(answer, limits) {
    const pair = (label, value) => el("span", {}, label + " ", el("b", {}, value));
    const head = el("header", {}, isNumber(answer.sample) ? pair("answer", answer.sample + 1) : null,
      pair("reward", format(rewardOf(answer))),
      isNumber(answer.advantage) ? el("span", {}, "advantage ", el("b", {}, (answer.advantage > 0 ? "+" : "") + format(answer.advantage)), " ",
                                      advantageBar(answer.advantage, limits.advantage)) : null,
      isNumber(answer.baseline) ? pair("baseline", format(answer.baseline)) : null,
      isNumber(answer.length) ? pair("length", format(answer.length)) : null,
      answer.finish_reason === "length" ? el("span", { class: "badge warn" }, "cut") : null,
      answer.verdict !== undefined && answer.verdict !== "scored" ? showText(el("span", { class: "badge bad" }), answer.verdict) : null,
      answer.note ? showText(el("span", { class: "found", dir: "auto" }), answer.note) : null);
    const node = el("article", { class: "answer" }, head);
    if (state.colour !== "none" && answer.tokens && list(answer.tokens.text).length) {
      node.append(tokenView(answer, limits));
      return node;
    }
    const text = textBlock(answer.output);
    node.append(text);
    if (state.colour !== "none") node.append(el("p", { class: "note" }, "Its tokens were not written (monitor.tokens_per_step)."));
    if (String(answer.output || "").length > 900 || String(answer.output || "").split("\n").length > 9) {
      text.classList.add("clip");
      const more = el("button", { type: "button", "aria-expanded": "false", click: () => {
        const open = text.classList.toggle("clip");
        more.textContent = open ? "Show all" : "Show less";
        more.setAttribute("aria-expanded", String(!open));
      } }, "Show all");
      node.append(more);
    }
    if (answer.cut) node.append(el("p", { class: "note" }, "Cut at 16 KiB when it was written."));
    return node;
  }

  section("rollouts", "Rollouts", (body) => {
    const choices = (items, key) => {
      const select = el("select", { change: () => { state[key] = select.value; draw(); } },
        ...Object.entries(items).map(([value, [label]]) => el("option", { value }, label)));
      return select;
    };
    const slider = el("input", { type: "range", min: "0", step: "1", "aria-label": "Step", input: () => go(Number(slider.value)) });
    const where = el("output", {});
    const before = el("button", { type: "button", "aria-label": "Step before", click: () => go(state.at - 1) }, "\u2039");
    const after = el("button", { type: "button", "aria-label": "Step after", click: () => go(state.at + 1) }, "\u203a");
    const group = el("select", { change: () => { state.group = Number(group.value); draw(); } });
    const find = el("input", { type: "search", placeholder: "Find in answers", "aria-label": "Find in answers",
                               input: () => { state.find = find.value.toLowerCase(); draw(); } });
    const colour = choices(Object.fromEntries(Object.entries(shades).map(([k, v]) => [k, [v.label]])), "colour");
    const scale = el("span", { class: "scale" });
    const first = el("div", { class: "bar controls" });
    if (runs.length > 1) {
      const select = el("select", { change: () => { state.run = Number(select.value); state.group = 0; go(0); } },
        ...runs.map((run, i) => el("option", { value: i }, run.name)));
      first.append(el("label", {}, "Run ", select));
    }
    first.append(el("div", { class: "stepper" }, before, slider, after, where));
    body.append(first, el("div", { class: "bar controls" }, el("label", {}, "Prompt ", group), el("label", {}, "Show ", choices(shows, "show")),
      el("label", {}, "Sort by ", choices(sorts, "sort")), el("label", {}, "Tokens by ", colour), scale, find));
    const note = el("p", { class: "note" });
    const prompt = el("div", { class: "prompt" });
    const answers = el("div", { class: "answers" });
    body.append(prompt, probe, answers, note);

    function go(at) {
      const shown = runs[state.run].rollouts.shown;
      state.at = Math.max(0, Math.min(shown.length - 1, at));
      draw();
    }
    function draw() {
      const rollouts = runs[state.run].rollouts;
      const shown = rollouts.shown;
      slider.max = String(shown.length - 1);
      slider.value = String(state.at);
      slider.setAttribute("aria-valuetext", "step " + shown[state.at]);
      where.textContent = `step ${format(shown[state.at])} of ${format(shown[shown.length - 1])}`;
      before.disabled = state.at === 0;
      after.disabled = state.at === shown.length - 1;
      const groups = groupsOf(rollouts.lines[state.at]);
      state.group = Math.max(0, Math.min(groups.length - 1, state.group));
      group.replaceChildren(...groups.map((g, i) => el("option", { value: i, selected: i === state.group },
        `${i + 1} of ${groups.length}: mean reward ${format(g.reduce((a, b) => a + rewardOf(b), 0) / g.length)}`)));
      const lines = groups[state.group] || [];
      const limits = {
        advantage: Math.max(...groups.flat().map((a) => Math.abs(a.advantage) || 0),
                            ...groups.flat().flatMap((a) => list((a.tokens || {}).advantage).map((x) => Math.abs(x) || 0))),
        entropy: groups.flat().flatMap((a) => list((a.tokens || {}).entropy)).reduce((a, b) => Math.max(a, b || 0), 0),
      };
      prompt.replaceChildren();
      if (lines.length) {
        prompt.append(textBlock(lines[0].input));
        if (lines[0].gts !== undefined && lines[0].gts !== "") {
          prompt.append(el("p", {}, el("span", { class: "soft" }, "gold answer: "), showText(el("b", { dir: "auto" }), lines[0].gts)));
        }
      }
      const kept = lines.filter(shows[state.show][1])
        .filter((a) => !state.find || String(a.output).toLowerCase().includes(state.find)).sort(sorts[state.sort][1]);
      probe.replaceChildren(hint);
      probe.hidden = state.colour === "none";
      answers.replaceChildren(...kept.map((a) => answerCard(a, limits)));
      if (!kept.length) answers.append(el("p", { class: "note" }, "No answer of this prompt is like that."));
      scale.replaceChildren();
      const kind = shades[state.colour];
      if (kind.low !== undefined) {
        const strip = el("i");
        const end = (hue, a) => `rgba(${Report.css(hue)}, ${a})`;
        strip.style.backgroundImage = state.colour === "advantage"
          ? `linear-gradient(90deg, ${end("--neg", 0.57)}, ${end("--neg", 0.03)} 49%, ${end("--pos", 0.03)} 51%, ${end("--pos", 0.57)})`
          : `linear-gradient(90deg, ${end(state.colour === "logprob" ? "--neg" : "--pos", 0.03)}, ${end(state.colour === "logprob" ? "--neg" : "--pos", 0.57)})`;
        scale.append(kind.low, strip, kind.high);
      }
      note.textContent = (rollouts.steps > shown.length ? `${format(shown.length)} of the ${format(rollouts.steps)} steps in samples.jsonl are in this page. ` : "") +
        "A run writes the answers to its first prompts of a step (monitor.samples_per_step).";
    }
    // The last step with the finest view that there is.
    const lines = runs[0].rollouts.lines;
    if (lines.some((step) => list(step).some((line) => line.tokens))) state.colour = colour.value = "logprob";
    go(runs[0].rollouts.shown.length - 1);
    Report.onTheme(draw);
  });
})();
