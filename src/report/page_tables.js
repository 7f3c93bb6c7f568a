
"use strict";
// Comparisons, the gradient-variance lab and evaluations.
(() => {
  const { el, svg, data, section, table, format, figure, showText, isNumber, isObject, list } = Report;
  const text = (x) => showText(el("span"), x === undefined ? "\u2013" : x);
  const colourOf = (name) => `rgb(${Report.css(name)})`;

  // Intervals on one axis with a line at `zero`: {mean, low, high} a row.
  function axisOf(rows, zero) {
    const all = rows.flatMap((r) => [r.low, r.high, r.mean]).filter(isNumber);
    if (isNumber(zero)) all.push(zero);
    let low = Math.min(...all), high = Math.max(...all);
    if (!(high > low)) { low -= 1; high += 1; }
    const pad = 0.06 * (high - low);
    return { low: low - pad, high: high + pad, zero };
  }
  function interval(row, axis, verdict) {
    const width = 190, height = 18;
    const x = (v) => (((v - axis.low) / (axis.high - axis.low)) * width).toFixed(1);
    const parts = [];
    if (isNumber(axis.zero)) {
      parts.push(svg("line", { x1: x(axis.zero), x2: x(axis.zero), y1: 0, y2: height, stroke: "currentColor", "stroke-opacity": 0.35 }));
    }
    const colour = verdict || "currentColor";
    if (isNumber(row.low) && isNumber(row.high)) {
      parts.push(svg("line", { x1: x(row.low), x2: x(row.high), y1: 9, y2: 9, stroke: colour, "stroke-width": 2 }));
    }
    if (isNumber(row.mean)) parts.push(svg("circle", { cx: x(row.mean), cy: 9, r: 4, fill: colour }));
    return svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
                        "aria-label": `${format(row.mean)}, from ${format(row.low)} to ${format(row.high)}` }, ...parts);
  }
  const range = (c, digits) => (isNumber(c.low) && isNumber(c.high) ? el("small", {}, `${format(c.low, digits)} to ${format(c.high, digits)}`) : null);

  const verdicts = { confirmed: "good", "not confirmed": "bad", undecided: "warn" };
  function compare(body, c) {
    const columns = list(c.columns), arms = list(c.arms), cells = isObject(c.cells) ? c.cells : {};
    const labelOf = (key) => (columns.find((k) => k.key === key) || {}).label || key;
    const digitsOf = (key) => (columns.find((k) => k.key === key) || {}).digits;
    if (list(c.claims).length) {
      const axis = (claim) => axisOf([claim], 0);
      body.append(el("h3", {}, "Claims, with the rule that was written down before"),
        table([{ label: "Claim", text: true }, { label: "Verdict", text: true }, { label: "Measured by", text: true }, { label: "Difference" },
               { label: "against 0", text: true }, { label: "Rule", text: true }],
          c.claims.map((claim) => [text(claim.text || claim.id),
            el("span", { class: "badge " + (verdicts[claim.verdict] || "") }, claim.verdict || "\u2013"),
            text(`${labelOf(claim.key)}: ${claim.arm} \u2212 ${claim.against}`),
            el("span", {}, figure("claim/" + claim.id, claim.mean, format(claim.mean)), range(claim)),
            interval(claim, axis(claim)), text(claim.rule)]), { label: "Claims", class: "stack" }));
    }
    const best = {};
    for (const column of columns) {
      if (typeof column.higher_is_better !== "boolean") continue;
      const means = arms.map((arm) => ((cells[arm.name] || {})[column.key] || {}).mean).filter(isNumber);
      if (means.some((m) => m !== means[0])) best[column.key] = column.higher_is_better ? Math.max(...means) : Math.min(...means);
    }
    const means = (shown, label) =>
      table([{ label: "Arm" }, ...shown.map((k) => ({ label: (k.label || k.key) + (k.higher_is_better === true ? "\u00a0\u2191" : k.higher_is_better === false ? "\u00a0\u2193" : "") }))],
        arms.map((arm) => [el("span", {}, text(arm.name), arm.summary ? el("small", {}, text(arm.summary)) : null),
          ...shown.map((k) => {
            const cell = (cells[arm.name] || {})[k.key] || {};
            return { node: el("span", {}, figure(`cell/${arm.name}/${k.key}`, cell.mean, format(cell.mean, k.digits)), range(cell, k.digits)),
                     class: isNumber(cell.mean) && cell.mean === best[k.key] ? "best" : "" };
          })]), { label, class: "arms" });
    const first = columns.filter((k) => k.shown !== false), others = columns.filter((k) => k.shown === false);
    body.append(el("h3", {}, "Means over seeds, with 95% intervals"), means(first, "Comparison"),
      el("p", { class: "note" }, "\u2191 more is better, \u2193 less is better; the best mean of a column is bold, which says nothing of chance: the differences below do."));
    if (others.length) body.append(el("details", {}, el("summary", {}, `Other columns (${others.length})`), means(others, "Other columns of the comparison")));
    const keys = [...new Set(list(c.paired).map((p) => p.key))];
    if (keys.length) {
      const box = el("div");
      const show = (key) => {
        const rows = c.paired.filter((p) => p.key === key), axis = axisOf(rows, 0);
        box.replaceChildren(table([{ label: "Arm" }, { label: "against", text: true }, { label: "Difference" }, { label: "low" }, { label: "high" }, { label: "less or more than 0", text: true }, { label: "Seeds" }],
          rows.map((p) => {
            const clear = isNumber(p.low) && isNumber(p.high) && (p.low > 0 || p.high < 0);
            return [text(p.arm), text(p.against), { node: figure(`paired/${key}/${p.arm}/${p.against}`, p.mean, format(p.mean, digitsOf(key))), class: clear ? "best" : "" },
                    format(p.low, digitsOf(key)), format(p.high, digitsOf(key)), interval(p, axis, clear ? colourOf(p.mean > 0 ? "--pos" : "--neg") : "currentColor"),
                    format(Array.isArray(p.seeds) ? p.seeds.length : p.seeds)];
          }), { label: "Paired differences" }));
      };
      const select = el("select", { change: () => show(keys[Number(select.value)]) }, ...keys.map((k, i) => el("option", { value: i }, labelOf(k))));
      body.append(el("h3", {}, "Paired differences, seed by seed"), el("div", { class: "bar" }, el("label", {}, "Of ", select)), box,
        el("p", { class: "note" }, "Bold and coloured where the interval excludes 0."));
      show(keys[0]);
    }
    const failed = list(c.runs).filter((r) => r.status !== undefined && !["done", "ok", "finished"].includes(r.status));
    if (failed.length) {
      body.append(el("h3", {}, "Runs that did not end well"),
        table([{ label: "Arm" }, { label: "Seed" }, { label: "Status", text: true }, { label: "Folder", text: true }],
              failed.map((r) => [text(r.arm), text(r.seed), text(r.status), text(r.dir)]), { label: "Runs" }));
    }
  }
  if (data.compare.length) {
    section("claims", "Comparison", (body) => {
      for (const c of data.compare) {
        if (data.compare.length > 1) body.append(showText(el("h3"), c.title || ""));
        compare(body, c);
      }
    });
  }

  // A scatter with both axes in powers of ten, and the fitted line.
  function scatter(fit) {
    const points = list(fit.points).filter((p) => Array.isArray(p) && p[0] > 0 && p[1] > 0).map(([x, y]) => ({ x, y }));
    const canvas = el("canvas", { role: "img", "aria-label": "Squared gradient norm against length", "data-points": points.length });
    const node = el("figure", {}, el("figcaption", {}, el("b", {}, "|g|\u00b2 of an answer against its length"),
      el("span", { class: "last" }, `slope ${format(fit.slope)}` + (isNumber(fit.low) ? ` (${format(fit.low)} to ${format(fit.high)})` : "") +
        (isNumber(fit.r2) ? `, R\u00b2 ${format(fit.r2)}` : ""))), el("div", { class: "plot tall" }, canvas),
      el("p", { class: "note" }, "The length-weighted baseline takes it for granted that the slope is 1."));
    const logs = points.map((p) => [Math.log(p.x), Math.log(p.y)]);
    const mx = logs.reduce((a, p) => a + p[0], 0) / logs.length, my = logs.reduce((a, p) => a + p[1], 0) / logs.length;
    const low = points.reduce((a, p) => Math.min(a, p.x), Infinity), high = points.reduce((a, p) => Math.max(a, p.x), 0);
    const line = (slope) => [low, high].map((x) => ({ x, y: Math.exp(my + slope * (Math.log(x) - mx)) }));
    let chart;
    const draw = () => {
      const soft = Report.css("--soft"), rule = Report.css("--rule");
      const axis = (title) => ({ type: "logarithmic", title: { display: true, text: title, color: soft }, grid: { color: rule, borderColor: rule },
                                 ticks: { color: soft, maxTicksLimit: 6, callback: (v) => format(v) } });
      const config = { type: "scatter", options: { animation: false, maintainAspectRatio: false, scales: { x: axis("length, tokens"), y: axis("|g|\u00b2") },
                         plugins: { legend: { display: true, labels: { color: soft, boxWidth: 14, boxHeight: 2 } } } },
        data: { datasets: [{ label: "answers", data: points, pointRadius: 2, backgroundColor: Report.colour(0) + "88", borderWidth: 0 }] } };
      if (points.length > 1) {
        config.data.datasets.push({ label: "fit", type: "line", data: line(isNumber(fit.slope) ? fit.slope : 1), borderColor: Report.colour(1), borderWidth: 2, pointRadius: 0 },
                                  { label: "slope 1", type: "line", data: line(1), borderColor: soft, borderWidth: 1, borderDash: [4, 3], pointRadius: 0 });
      }
      if (chart) chart.destroy();
      chart = new window.Chart(canvas, config);
    };
    return { node, draw };
  }

  // Of a reward model: how often the answer with the higher score is the chosen one, against how sure
  // the scores are of it.
  function reliability(c, index) {
    const points = list(c.bins).filter((b) => b.pairs > 0).map((b) => ({ x: b.confidence, y: b.accuracy, pairs: b.pairs }));
    const canvas = el("canvas", { role: "img", "aria-label": "Reliability curve", "data-points": points.length });
    const node = el("figure", {}, el("figcaption", {}, el("b", {}, "How often a preference came true, against how sure it was"),
      el("span", { class: "last" }, "expected calibration error ", figure(`calibration${index}/error`, c.error), ", step ", format(c.step))),
      el("div", { class: "plot tall" }, canvas),
      el("p", { class: "note" }, "Top-label form: a pair's confidence is sigmoid(|s\u207a \u2212 s\u207b|), at least 0.5. Below the line it is too sure. " +
        "Scores times ", figure(`calibration${index}/best_scale`, c.best_scale), " would fit these pairs best."));
    let chart;
    const draw = () => {
      const soft = Report.css("--soft"), rule = Report.css("--rule");
      const axis = (title, min) => ({ type: "linear", min, max: 1, title: { display: true, text: title, color: soft },
                                      grid: { color: rule, borderColor: rule }, ticks: { color: soft, maxTicksLimit: 6 } });
      if (chart) chart.destroy();
      chart = new window.Chart(canvas, { type: "scatter",
        options: { animation: false, maintainAspectRatio: false, scales: { x: axis("confidence", 0.5), y: axis("came true", 0) },
          plugins: { legend: { display: true, labels: { color: soft, boxWidth: 14, boxHeight: 2 } },
                     tooltip: { callbacks: { label: (p) => `${format(p.raw.x)}: ${format(p.raw.y)}` + (isNumber(p.raw.pairs) ? ` of ${format(p.raw.pairs)} pairs` : "") } } } },
        data: { datasets: [
          { label: "pairs", type: "line", data: points, borderColor: Report.colour(index), backgroundColor: Report.colour(index), borderWidth: 2,
            pointRadius: points.map((p) => 3 + Math.min(7, Math.sqrt(p.pairs) / 2)) },
          { label: "as often as said", type: "line", data: [{ x: 0.5, y: 0.5 }, { x: 1, y: 1 }], borderColor: soft, borderWidth: 1, borderDash: [4, 3], pointRadius: 0 }] } });
    };
    return { node, draw };
  }
  const calibrated = list(data.runs).map((run, index) => ({ run, index })).filter(({ run }) => isObject(run.calibration));
  if (calibrated.length) {
    section("calibration", "Calibration", (body) => {
      for (const { run, index } of calibrated) {
        if (data.runs.length > 1) body.append(showText(el("h3"), run.name));
        if (window.Chart) {
          const { node, draw } = reliability(run.calibration, index);
          body.append(el("div", { class: "charts" }, node));
          draw();
          Report.onTheme(draw);
        }
        body.append(el("details", {}, el("summary", {}, "Its numbers"),
          table([{ label: "Confidence" }, { label: "Pairs" }, { label: "Mean confidence" }, { label: "Came true" }],
            list(run.calibration.bins).map((b) => [`${format(b.low)} to ${format(b.high)}`, format(b.pairs), b.pairs > 0 ? format(b.confidence) : "\u2013",
              b.pairs > 0 ? figure(`calibration${index}/${format(b.low)}`, b.accuracy) : "\u2013"]), { label: "Reliability" })));
      }
    });
  }

  const plain = (x) => (isNumber(x) ? format(x) : typeof x === "string" || typeof x === "boolean" ? text(String(x)) : text(JSON.stringify(x)));
  function keys(object) {
    const node = el("dl", { class: "keys" });
    for (const [key, value] of Object.entries(object)) node.append(showText(el("dt"), key.replace(/_/g, " ")), el("dd", {}, plain(value)));
    return node;
  }

  function lab(body, v) {
    body.append(el("p", { class: "soft" }, text([v.model, v.data].filter(Boolean).join(" on ")), `: ${format(v.prompts)} prompts, ${format(v.samples)} answers each`));
    const name = (e) => text(e.name + (isNumber(e.exponent) ? `, length^${format(e.exponent)}` : ""));
    const rows = list(v.estimators).map((e) => ({ e, c: isObject(e.cross_fitted) ? e.cross_fitted : {}, s: isObject(e.in_sample) ? e.in_sample : {} }));
    const axis = axisOf(rows.map(({ c }) => ({ mean: c.variance, low: c.low, high: c.high })));
    body.append(el("h3", {}, "Gradient variance with each baseline, estimated on other samples than those it is applied to"),
      table([{ label: "Baseline" }, { label: "Variance" }, { label: "low" }, { label: "high" }, { label: "less is better", text: true }, { label: "of none" }],
        rows.map(({ e, c }) => [name(e), figure(`variance/${e.name}`, c.variance), format(c.low), format(c.high),
          interval({ mean: c.variance, low: c.low, high: c.high }, axis, colourOf("--pos")),
          isNumber(c.relative_to_none) ? Report.percent(c.relative_to_none) : "\u2013"]), { label: "Variance of estimators" }));
    if (rows.some(({ s }) => isNumber(s.variance))) {
      body.append(el("h3", {}, "The same, estimated on the samples themselves: biased, for comparison only"),
        table([{ label: "Baseline" }, { label: "Variance" }, { label: "low" }, { label: "high" }, { label: "Bias" }],
          rows.map(({ e, s }) => [name(e), format(s.variance), format(s.low), format(s.high), format(s.bias)]), { label: "In-sample variance" }));
    }
    const charts = el("div", { class: "charts" });
    body.append(el("h3", {}, "What the length stands for"), charts);
    if (isObject(v.fit) && window.Chart) {
      const { node, draw } = scatter(v.fit);
      charts.append(node);
      draw();
      Report.onTheme(draw);
    }
    if (isObject(v.gain)) {
      charts.append(el("figure", {}, el("figcaption", {}, el("b", {}, "How much of the possible gain the length takes")), keys(v.gain)));
    }
    if (list(v.per_prompt).length) {
      const estimators = [...new Set(v.per_prompt.flatMap((p) => Object.keys(isObject(p.variance) ? p.variance : {})))];
      const shown = v.per_prompt.slice(0, 200);
      body.append(el("details", {}, el("summary", {}, `Prompt by prompt (${format(shown.length)} of ${format(v.per_prompt.length)})`),
        table([{ label: "Prompt" }, { label: "Reward" }, { label: "Length, CV" }, { label: "b mean" }, { label: "b length" }, { label: "b*" },
               ...estimators.map((e) => ({ label: "variance, " + e }))],
          shown.map((p) => [text(typeof p.prompt === "string" ? p.prompt.slice(0, 160) : p.prompt), format(p.reward_mean), format(p.length_cv), format(p.b_mean),
            format(p.b_length), format(p.b_star), ...estimators.map((e) => format((p.variance || {})[e]))]), { label: "Prompt by prompt" })));
    }
  }
  if (data.variance.length) {
    section("lab", "Variance", (body) => data.variance.forEach((v) => lab(body, v)));
  }

  if (data.eval.length) {
    section("evals", "Evaluation", (body) => {
      for (const e of data.eval) {
        body.append(showText(el("h3"), e.file || "evaluation"));
        const sets = list(e.sets);
        const flat = (s) => Object.entries(s).flatMap(([k, x]) => (isObject(x) && isNumber(x.mean) ? [[k, x]] : isNumber(x) || typeof x === "string" ? [[k, x]] : []));
        if (sets.length) {
          const names = [...new Set(sets.flatMap((s) => flat(s).map(([k]) => k)))].filter((k) => !["name", "set"].includes(k)).slice(0, 40);
          body.append(table([{ label: "Set" }, ...names.map((n) => ({ label: n }))], sets.map((s, i) => {
            const values = Object.fromEntries(flat(s));
            return [text(s.name || s.set || s.data || "set " + (i + 1)), ...names.map((n) => {
              const x = values[n];
              return isObject(x) ? el("span", {}, format(x.mean), range(x)) : plain(x === undefined ? "\u2013" : x);
            })];
          }), { label: "Evaluation" }));
        }
        const rest = Object.fromEntries(Object.entries(e).filter(([k, x]) => !["sets", "file"].includes(k) && (isNumber(x) || typeof x === "string" || typeof x === "boolean")));
        if (Object.keys(rest).length) body.append(keys(rest));
      }
    });
  }

  Report.numbers();
  Report.applyTheme();
  document.documentElement.dataset.ready = "1";

  // A served page asks whether its run has gone on, and then comes anew at the same place.
  if (data.live) {
    let tag = null;
    const ask = async () => {
      try {
        const answer = await fetch("/report.json", { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
        const now = answer.headers.get("ETag");
        if (answer.status === 200 && tag !== null && now !== tag && !document.activeElement.matches("input, select")) location.reload();
        if (answer.status === 200 && tag === null) tag = now;
      } catch { /* the server has ended: what is here stays */ }
      setTimeout(ask, 5000);
    };
    setTimeout(ask, 5000);
  }
})();
