
"use strict";
// The verdict of each run, what differs between their settings, and all numbers as a table.
(() => {
  const { el, data, section, table, format, percent, duration, figure, showText, isNumber, isObject, series } = Report;

  function badge(exactness) {
    const x = exactness || {};
    if (x.state === "exact") return el("span", { class: "badge good" }, "\u2713 exactly on policy");
    if (x.state === "broken") return el("span", { class: "badge bad" }, "\u2717 exactness broken");
    if (x.state === "off_policy") return el("span", { class: "badge warn" }, "off policy, several updates a batch");
    return el("span", { class: "badge warn" }, "exactness not measured");
  }
  function exactText(x) {
    if (!isObject(x)) return "";
    if (x.state === "unmeasured") return "no log-probs of sampler and learner were compared";
    return `${format(x.mismatched_tokens)} of ${format(x.compared_tokens)} tokens differ between sampler ` +
      `and learner, largest difference ${format(x.logprob_diff_max)}` +
      (x.state === "off_policy" ? "; compared in the first update of each batch" : "");
  }
  const setting = (run, key) => {
    const value = (run.settings || {})[key];
    return value === undefined ? undefined : value.replace(/^"(.*)"$/, "$1");
  };
  // The last part of a path.
  const leaf = (path) => (path || "").split("/").filter(Boolean).pop() || "";

  const arrow = () => el("span", { class: "arrow" }, "\u2192");
  function entry(label, node, small) {
    return el("div", {}, el("dt", {}, label), el("dd", {}, node, small ? el("small", {}, small) : null));
  }
  const between = (key, s) => el("span", {}, figure(key + "/first", s.first), arrow(), figure(key + "/last", s.last));

  function card(run, index) {
    const s = run.summary;
    const figures = el("dl", { class: "figures" });
    const id = "run" + index + "/";
    if (isObject(s.reward)) {
      figures.append(
        entry("Reward, first to last step", between(id + "critic/score/mean", s.reward),
              `mean of ${format(s.reward.count)} steps: ${format(s.reward.mean)}`),
        entry("Best step", figure(id + "critic/score/mean/max_step", s.reward.max_step),
              el("span", {}, "reward ", figure(id + "critic/score/mean/max", s.reward.max))));
    }
    for (const [name, e] of Object.entries(s.eval || {}).slice(0, 4)) {
      if (!isObject(e)) continue;
      const what = showText(el("span", {}), name.replace(/^val-core\//, ""));
      figures.append(entry("Evaluation, first to last", between(id + name, e),
                           el("span", {}, what, `, best ${format(e.max)} at step ${format(e.max_step)}`)));
    }
    const length = (run.metrics["response_length/mean"] || {}).v;
    if (length && length.length) {
      figures.append(entry("Answer length", el("span", {}, format(length[0]), arrow(), format(length[length.length - 1])),
                           "tokens, mean of a step"));
    }
    const entropy = (run.metrics["actor/entropy"] || {}).v;
    if (entropy && entropy.length) {
      figures.append(entry("Entropy", el("span", {}, format(entropy[0]), arrow(), format(entropy[entropy.length - 1])),
                           "nats a token"));
    }
    figures.append(entry("Steps", figure(id + "steps", s.steps),
                         `${duration(s.seconds)}, ${format(s.tokens)} tokens`));
    const facts = el("dl", { class: "keys" });
    const fact = (label, value) => {
      if (value !== undefined && value !== "" && value !== null) facts.append(el("dt", {}, label), showText(el("dd"), value));
    };
    fact("algorithm", [setting(run, "algorithm.name"), setting(run, "algorithm.exact") === "false" ? "not exact" : ""]
      .filter(Boolean).join(", "));
    fact("model", leaf(setting(run, "model.path")) || (run.config ? "a fresh one, [model.init]" : undefined));
    fact("data", leaf(setting(run, "data.train")));
    const prompts = setting(run, "rollout.prompts");
    const given = !run.metrics["timing_s/gen"] &&  // nothing is sampled
      (run.metrics["rewards/accuracies"] ? "pairs" : setting(run, "algorithm.name") === "sft" ? "demonstrations" : "");
    if (prompts) fact("a step", given ? `${prompts} ${given}` : `${prompts} prompts \u00d7 ${setting(run, "rollout.samples")} answers, ` +
                      `at most ${setting(run, "rollout.max_new_tokens")} tokens`);
    fact("learning rate", setting(run, "train.lr"));
    fact("seed", setting(run, "train.seed"));
    fact("folder", run.dir);
    const exact = el("dl", { class: "keys" });
    const digest = (label, value) => {
      if (value !== undefined) exact.append(el("dt", {}, label), showText(el("dd"), value));
    };
    exact.append(el("dt", {}, "sampler and learner"), el("dd", {}, exactText(s.exactness)));
    const d = run.digests || {};
    digest("weights at the start", d.initial_weights_digest);
    digest("weights at the end", d["exact/weights_digest"]);
    digest("rollouts, last step", d["exact/rollout_digest"]);
    digest("gradient, last step", d["exact/gradient_digest"]);
    digest("data", d.data_digest);
    const m = run.manifest || {};
    digest("program", [m.opo_version && "opo " + m.opo_version, m.isa, m.dtype, m.shards && m.shards + " shards"]
      .filter(Boolean).join(", "));
    return el("article", { class: "card" },
      el("div", { class: "cardhead" }, showText(el("h3"), run.name), badge(s.exactness)),
      figures,
      el("details", { open: data.runs.length === 1 }, el("summary", {}, "What ran, and its digests"), facts, exact),
      run.config ? el("details", {}, el("summary", {}, "config.toml"), showText(el("pre"), run.config)) : null);
  }

  // Many runs: a table says more than cards.
  function runsTable() {
    const columns = [{ label: "Run" }, { label: "Exactness", text: true }, { label: "Steps" }, { label: "Reward, first" },
                     { label: "last" }, { label: "best" }, { label: "at step" }, { label: "Evaluation, last" }, { label: "Time" }];
    return table(columns, data.runs.map((run, i) => {
      const r = run.summary.reward || {};
      const e = Object.values(run.summary.eval || {})[0] || {};
      const id = "run" + i + "/";
      return [showText(el("span"), run.name), badge(run.summary.exactness), figure(id + "steps", run.summary.steps),
              figure(id + "critic/score/mean/first", r.first), figure(id + "critic/score/mean/last", r.last),
              figure(id + "critic/score/mean/max", r.max), figure(id + "critic/score/mean/max_step", r.max_step),
              format(e.last), duration(run.summary.seconds)];
    }), { label: "Runs" });
  }

  // Settings in which runs differ.
  function differences() {
    const keys = new Set(data.runs.flatMap((run) => Object.keys(run.settings || {})));
    const rows = [];
    for (const key of keys) {
      if (key === "run.dir") continue;
      const values = data.runs.map((run) => (run.settings || {})[key]);
      if (values.every((v) => v === values[0])) continue;
      rows.push([el("span", { class: "mono" }, key), ...values.map((v) => showText(el("span", { class: "mono" }), v === undefined ? "\u2013" : v))]);
    }
    if (!rows.length) return null;
    const columns = [{ label: "Setting" }, ...data.runs.map((run) => ({ label: run.name, text: true }))];
    return el("details", { open: rows.length <= 8 }, el("summary", {}, `Settings that differ (${rows.length})`),
              table(columns, rows, { label: "Settings that differ" }));
  }

  function numbersOf(run, index) {
    const rows = [];
    for (const name of Object.keys(run.metrics)) {
      const points = series(run, name);
      if (!points.length) continue;
      const values = points.map((p) => p.y);
      const id = `all${index}/${name}/`;
      // Of a thinned curve a mean would be another one: the smallest and largest are kept.
      const label = el("span", { class: "mono" });
      name.split("/").forEach((part, i) => {
        if (i) label.append("/", el("wbr"));
        showText(label, part);
      });
      rows.push([label, figure(id + "first", values[0]),
                 figure(id + "last", values[values.length - 1]),
                 figure(id + "min", values.reduce((a, b) => Math.min(a, b))),
                 figure(id + "max", values.reduce((a, b) => Math.max(a, b))),
                 figure(id + "points", points.length)]);
    }
    return table([{ label: "Metric" }, { label: "first" }, { label: "last" }, { label: "smallest" }, { label: "largest" },
                  { label: "points" }], rows, { label: "All metrics of " + run.name });
  }

  for (const notice of data.notices) {
    document.getElementById("notices").append(showText(el("p", { class: "notice" }), notice));
  }
  const names = data.runs.map((run) => run.name);
  const title = data.compare.length && data.compare[0].title ? data.compare[0].title
    : names.length === 1 ? names[0] : names.length ? names.length + " runs" : "report";
  document.getElementById("title").textContent = "";
  showText(document.getElementById("title"), title);
  document.title = "opo: " + title;
  document.getElementById("made").textContent = `Made by ${data.generator || "opo"}.`;

  if (data.runs.length) {
    const many = data.runs.length > 4;
    if (many) document.querySelector("#verdict h2").textContent = "Runs";
    section("verdict", many ? "Runs" : "Verdict", (body) => {
      if (!many) data.runs.forEach((run, i) => body.append(card(run, i)));
      else body.append(runsTable());
      if (data.runs.length > 1 && data.runs.length <= 12) {
        const different = differences();
        if (different) body.append(different);
      }
    });
  }
  Report.numbers = () => {
    if (!data.runs.length) return;
    section("numbers", "Numbers", (body) => {
      body.append(el("p", { class: "note" }, "Every metric of the run as metrics.jsonl has it; report.json holds all steps."));
      const box = el("div");
      const show = (i) => box.replaceChildren(numbersOf(data.runs[i], i));
      if (data.runs.length > 1) {
        const select = el("select", { "aria-label": "Run", change: () => show(Number(select.value)) },
          ...data.runs.map((run, i) => el("option", { value: i }, run.name)));
        body.append(el("div", { class: "bar" }, el("label", {}, "Run ", select)));
      }
      show(0);
      body.append(el("details", {}, el("summary", {}, "All metrics: first, last, smallest, largest"), box));
    });
  };
})();
