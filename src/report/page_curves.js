
"use strict";
// The curves: one small chart a question, all with the same zoomed range and the same runs.
(() => {
  const { el, data, section, series, format, percent, showText, isNumber } = Report;
  const Chart = window.Chart;
  if (!Chart || !data.runs.length) return;

  // What is drawn; `all` ones are those of which any may be absent. Names as in metrics.jsonl.
  const panels = [
    { title: "Reward", all: [{ name: "critic/score/mean", label: "training" },
                             { match: /^val-core\/.*\/reward\//, label: "evaluation", dots: true }] },
    { title: "Loss", all: [{ name: "actor/pg_loss", label: "policy" },
                           { name: "reward_model/loss", label: "reward model", dash: [5, 3] },
                           { name: "actor/ptx_loss", label: "of demonstrations (ptx)", dash: [2, 3] },
                           { name: "eval/loss", label: "held out", dots: true }] },
    { title: "Pairs in the right order", percent: true, all: [{ name: "accuracy", label: "training" },
                                                              { name: "reward_model/accuracy", label: "reward model", dash: [5, 3] },
                                                              { name: "rewards/accuracies", label: "policy", dash: [2, 3] },
                                                              { name: "eval/accuracy", label: "held out", dots: true },
                                                              { name: "eval/rewards/accuracies", label: "policy, held out", dots: true }] },
    { title: "Pairs: beta times the log-ratio to the reference", all: [{ name: "rewards/chosen", label: "chosen" },
                                                                    { name: "rewards/rejected", label: "rejected", dash: [5, 3] },
                                                                    { name: "rewards/margins", label: "margin", dash: [2, 3] },
                                                                    { name: "eval/rewards/margins", label: "margin, held out", dots: true }] },
    { title: "Pairs: log-probs of the answers", all: [{ name: "logps/chosen", label: "chosen" },
                                                      { name: "logps/rejected", label: "rejected", dash: [5, 3] }] },
    { title: "Answer length, tokens", all: [{ name: "response_length/mean", label: "mean" },
                                            { name: "response_length/max", label: "longest", dash: [2, 3] }] },
    { title: "Answers cut at the limit", percent: true, all: [{ name: "response_length/clip_ratio" }] },
    { title: "Entropy, nats a token", all: [{ name: "actor/entropy" }] },
    { title: "Perplexity of the answers", all: [{ name: "actor/perplexity" }] },
    { title: "KL, nats a token", all: [{ name: "monitor/kl_k3", label: "to the start, k3" },
                                       { name: "monitor/kl_k1", label: "to the start, k1", dash: [5, 3] },
                                       { name: "actor/kl_loss", label: "in the loss", dash: [8, 3] },
                                       { name: "actor/reward_kl_penalty", label: "in the reward", dash: [8, 3, 2, 3] },
                                       { name: "actor/ppo_kl", label: "within the step", dash: [2, 3] }] },
    { title: "Coefficient of the KL term", all: [{ name: "actor/kl_coef", label: "in the loss" },
                                                 { name: "actor/reward_kl_penalty_coeff", label: "in the reward", dash: [5, 3] }] },
    { title: "Critic: explained variance of the returns", all: [{ name: "critic/vf_explained_var" }] },
    { title: "Critic: loss", all: [{ name: "critic/vf_loss" }] },
    { title: "Critic: values and returns", all: [{ name: "critic/values/mean", label: "values" },
                                                 { name: "critic/returns/mean", label: "returns", dash: [5, 3] }] },
    { title: "Stale part of the batch", percent: true, all: [{ name: "rollout/stale_tokens", label: "tokens" },
                                                             { name: "rollout/stale_answers", label: "answers", dash: [5, 3] }] },
    { title: "Gradient norm", all: [{ name: "actor/grad_norm" }] },
    { title: "Learning rate", all: [{ name: "actor/lr" }] },
    { title: "Groups without a difference, of those drawn", stack: true, percent: true,
      of: "rollout/prompts_drawn",
      all: [{ name: "rollout/groups_all_right", label: "all right" },
            { name: "rollout/groups_all_wrong", label: "all wrong" }] },
    { title: "Mismatches of sampler and learner", all: [{ name: "exact/mismatched_tokens", label: "tokens" },
                                                        { name: "exact/mismatched_rows", label: "rows", dash: [5, 3] }] },
    { title: "Time of a step, s", stack: true,
      all: [{ name: "timing_s/gen", label: "sample" }, { name: "timing_s/reward", label: "score" },
            { name: "timing_s/recheck", label: "recheck" }, { name: "timing_s/adv", label: "advantages" },
            { name: "timing_s/ref", label: "reference" }, { name: "timing_s/values", label: "values" },
            { name: "timing_s/update_critic", label: "critic" }, { name: "timing_s/update_actor", label: "learn" },
            { name: "timing_s/testing", label: "evaluate" }, { name: "timing_s/save_checkpoint", label: "checkpoint" }] },
    { title: "Time of a step, of its floor", all: [{ name: "perf/ratio_to_floor" }] },
    { title: "Tokens sampled, a second", all: [{ name: "perf/gen_tokens_per_s" }] },
  ];

  // Runs of one arm of a comparison belong together: one colour, and a mean.
  const groups = [];
  for (const run of data.runs) {
    const key = run.arm === undefined ? "run " + run.name : "arm " + run.arm;
    let group = groups.find((g) => g.key === key);
    if (!group) groups.push(group = { key, label: run.arm === undefined ? run.name : run.arm, runs: [], shown: true });
    group.runs.push(run);
  }
  groups.forEach((group, i) => { group.index = i; });

  const view = { axis: "step", smooth: 0, low: null, high: null, focus: 0, cross: null };
  const drawn = [];  // {panel, chart, ...}
  const axes = { step: "step", hours: "hours", tokens: "tokens" };

  function pointsOf(run, name) {
    const metric = run.metrics[name];
    if (!metric) return [];
    const points = [];
    metric.v.forEach((y, i) => {
      const at = metric.at ? metric.at[i] : i;
      const x = view.axis === "step" ? run.steps[at]
        : view.axis === "hours" ? (run.seconds || [])[at] / 3600 : (run.tokens || [])[at];
      if (isNumber(y) && isNumber(x)) points.push({ x, y, at });
    });
    return points;
  }
  function smoothed(points) {
    let mean;
    return points.map(({ x, y }) => ({ x, y: (mean = mean === undefined ? y : view.smooth * mean + (1 - view.smooth) * y) }));
  }
  function meanOf(all) {
    const sums = new Map();
    for (const points of all) {
      for (const { x, y } of points) {
        const sum = sums.get(x) || { n: 0, y: 0 };
        sum.n += 1;
        sum.y += y;
        sums.set(x, sum);
      }
    }
    return [...sums].filter(([, s]) => s.n === all.length).map(([x, s]) => ({ x, y: s.y / s.n })).sort((a, b) => a.x - b.x);
  }
  const faded = (colour, part) => colour + Math.round(255 * part).toString(16).padStart(2, "0");
  const namesOf = (item, run) => (item.name ? [item.name] : Object.keys(run.metrics).filter((n) => item.match.test(n)));

  function dataset(label, points, colour, item, options) {
    const few = points.length < 3;
    return Object.assign({
      label, data: points, plain: !item.label, borderColor: colour, backgroundColor: colour, borderWidth: 1.8,
      borderDash: item.dash || [], pointRadius: item.dots ? 3 : few ? 2.5 : 0, pointHitRadius: 6,
      pointHoverRadius: 3.5, tension: 0, showLine: true, spanGaps: true,
    }, options);
  }

  function lines(panel) {
    const sets = [];
    const several = groups.length > 1;
    for (const group of groups) {
      if (!group.shown) continue;
      panel.all.forEach((item, k) => {
        const names = [...new Set(group.runs.flatMap((run) => namesOf(item, run)))].slice(0, 4);
        names.forEach((name, j) => {
          const all = group.runs.map((run) => pointsOf(run, name)).filter((p) => p.length);
          if (!all.length) return;
          const colour = Report.colour(several ? group.index : k + j);
          const what = item.label ? item.label + (names.length > 1 ? " " + name.split("/")[1] : "") : name;
          const label = several ? group.label + (panel.all.length > 1 ? ", " + what : "") : what;
          const mean = all.length > 1 ? meanOf(all) : [];
          const averaged = mean.length > 0 && view.axis === "step";
          all.forEach((points) => {
            if (view.smooth > 0 && !item.dots) {
              if (!averaged) sets.push(dataset(label, points, faded(colour, 0.25), item, { borderWidth: 1, quiet: true }));
              sets.push(dataset(label, smoothed(points), averaged ? faded(colour, 0.3) : colour, item, { borderWidth: averaged ? 1 : 1.8, raw: points, quiet: averaged }));
            } else {
              sets.push(dataset(label, points, averaged ? faded(colour, 0.3) : colour, item,
                                { borderWidth: averaged ? 1 : 1.8, raw: points, quiet: averaged }));
            }
          });
          if (averaged) {
            sets.push(dataset(label + ", mean of " + all.length, view.smooth > 0 ? smoothed(mean) : mean, colour, item,
                              { borderWidth: 2.2, raw: mean }));
          }
        });
      });
    }
    return sets;
  }

  function stacked(panel) {
    const run = data.runs[view.focus];
    const sets = [];
    const total = panel.all.flatMap((item) => pointsOf(run, item.name)).reduce((a, p) => a + p.y, 0);
    const whole = panel.of ? new Map(pointsOf(run, panel.of).map((p) => [p.at, p.y])) : null;
    panel.all.forEach((item, k) => {
      let points = pointsOf(run, item.name);
      if (!points.length) return;
      const raw = points;
      if (whole) points = points.filter((p) => whole.get(p.at) > 0).map((p) => ({ x: p.x, y: p.y / whole.get(p.at), at: p.at }));
      const sum = points.reduce((a, p) => a + p.y, 0);
      if (!whole && sum < 0.005 * total) return;  // too thin to be seen
      const colour = Report.colour(k);
      sets.push(dataset(item.label, points, colour, item, { fill: sets.length ? "-1" : "origin", raw, borderWidth: 1, pointRadius: 0,
                                                           backgroundColor: faded(colour, 0.45) }));
    });
    // Where one of them is measured now and then, its gaps count as nothing; lines of thinned
    // curves do not stand at the same steps.
    const xs = [...new Set(sets.flatMap((s) => s.data.map((p) => p.x)))].sort((a, b) => a - b);
    let below = new Map();
    for (const set of sets) {
      const known = new Map(set.data.map((p) => [p.x, p.y]));
      const sums = new Map();
      set.data = xs.map((x) => {
        const y = (below.get(x) || 0) + (known.get(x) || 0);
        sums.set(x, y);
        return { x, y, part: known.get(x) || 0 };
      });
      below = sums;
    }
    return sets;
  }

  // Of many lines one stands for each colour.
  function keyline(node, sets) {
    node.replaceChildren();
    const loud = sets.filter((s) => !s.quiet);
    const filled = loud[0] && loud[0].fill;
    if (!filled && (groups.length > 1 || loud.every((s) => s.plain))) return;
    for (const set of loud.slice(0, 9)) {
      const swatch = el("i", { class: "swatch" });
      swatch.style.color = set.borderColor;
      node.append(el("span", {}, swatch, showText(el("span"), set.label)));
    }
  }

  const crosshair = {
    id: "crosshair",
    afterDraw(chart) {
      const scale = chart.scales.x;
      if (view.cross === null || view.cross < scale.min || view.cross > scale.max) return;
      const x = scale.getPixelForValue(view.cross);
      const { ctx, chartArea } = chart;
      ctx.save();
      ctx.strokeStyle = Report.css("--faint");
      ctx.lineWidth = 1;
      ctx.setLineDash([3, 3]);
      ctx.beginPath();
      ctx.moveTo(x, chartArea.top);
      ctx.lineTo(x, chartArea.bottom);
      ctx.stroke();
      ctx.restore();
    },
  };

  // The range of what is drawn within the zoom; from 0 where that is near.
  function rangeOf(panel, sets) {
    let low = Infinity, high = -Infinity;
    for (const set of sets) {
      for (const { x, y } of set.data) {
        if ((view.low !== null && x < view.low) || (view.high !== null && x > view.high)) continue;
        low = Math.min(low, y);
        high = Math.max(high, y);
      }
    }
    if (!(low <= high)) return { min: 0, max: 1 };
    const pad = 0.06 * (high - low || 4 * Math.abs(high) || 1 / 0.06);
    const whole = panel.percent && high <= 1 && (panel.stack || high > 0.6);
    return { min: low >= 0 && (panel.stack || low === high || low <= 0.5 * high) ? 0 : low - pad, max: whole ? 1 : high + pad };
  }
  // A tick without zeros that say nothing.
  const tick = (y, percents) => (percents ? format(Math.round(1e4 * y) / 100).replace(/\.0+$/, "") + "%" : format(y).replace(/(\.\d*?)0+(e|$)/, "$1$2").replace(/\.(e|$)/, "$1"));

  function optionsOf(panel, sets) {
    const soft = Report.css("--soft"), rule = Report.css("--rule");
    const number = (y) => (panel.percent ? percent(y) : format(y));
    const font = { size: 11, family: getComputedStyle(document.body).fontFamily };
    return {
      animation: false, responsive: true, maintainAspectRatio: false, parsing: false, normalized: true,
      interaction: { mode: "nearest", axis: "x", intersect: false },
      layout: { padding: { right: 6, top: 4 } },
      scales: {
        x: { type: "linear", min: view.low ?? undefined, max: view.high ?? undefined,
             grid: { display: false, borderColor: rule, tickColor: rule },
             ticks: { color: soft, font, maxRotation: 0, autoSkipPadding: 14, callback: (x) => format(x),
                      precision: view.axis === "step" ? 0 : undefined } },
        y: Object.assign(rangeOf(panel, sets), { grid: { color: rule, borderColor: rule, tickColor: rule },
             ticks: { color: soft, font, maxTicksLimit: 5, includeBounds: false, callback: (y) => tick(y, panel.percent) } }),
      },
      plugins: {
        legend: { display: false },
        tooltip: {
          backgroundColor: Report.css("--card"), borderColor: Report.css("--faint"), borderWidth: 1,
          titleColor: Report.css("--ink"), bodyColor: Report.css("--ink"), titleFont: font, bodyFont: font,
          boxWidth: 8, boxHeight: 2, padding: 8, filter: (item) => !item.dataset.quiet,
          callbacks: {
            title: (items) => (items.length ? `${axes[view.axis]} ${format(items[0].parsed.x)}` : ""),
            label: (item) => ` ${String(item.dataset.label).slice(0, 60)}: ${number(item.raw.part === undefined ? item.parsed.y : item.raw.part)}`,
          },
        },
      },
    };
  }

  function update(entry) {
    const sets = entry.panel.stack ? stacked(entry.panel) : lines(entry.panel);
    entry.chart.data = { datasets: sets };
    entry.chart.options = optionsOf(entry.panel, sets);
    entry.chart.update("none");
    entry.empty.hidden = sets.length > 0;
    keyline(entry.keys, sets);
    // What is drawn, for whoever wants to compare it with its source.
    const first = sets.find((s) => s.raw);
    entry.canvas.dataset.sets = String(sets.length);
    entry.canvas.dataset.points = first ? String(first.raw.length) : "0";
    const last = first && first.raw[first.raw.length - 1];
    entry.canvas.dataset.last = last ? String(last.y) : "";
    entry.last.textContent = last && groups.length === 1 && !entry.panel.stack
      ? (entry.panel.percent ? percent(last.y) : format(last.y)) : "";
  }
  const updateAll = () => drawn.forEach(update);
  let resets = [];
  function zoom(low, high) {
    view.low = low;
    view.high = high;
    resets.forEach((b) => { b.disabled = low === null; });
    updateAll();
  }
  function zoomBy(factor, shift) {
    const scale = drawn.find((d) => d.chart.scales.x && d.chart.data.datasets.length);
    if (!scale) return;
    const { min, max } = scale.chart.scales.x;
    const middle = (min + max) / 2 + shift * (max - min), half = (factor * (max - min)) / 2;
    if (half > 0) zoom(middle - half, middle + half);
  }

  // Drag to zoom, twice to go back; + - and arrows on the keyboard.
  function zoomable(plot, chart) {
    let start = null;
    const box = el("div", { class: "zoombox", hidden: true });
    plot.append(box);
    const at = (event) => {
      const area = chart.chartArea;
      const x = event.clientX - plot.getBoundingClientRect().left;
      return Math.max(area.left, Math.min(area.right, x));
    };
    plot.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      start = at(event);
      plot.setPointerCapture(event.pointerId);
    });
    plot.addEventListener("pointermove", (event) => {
      view.cross = chart.scales.x.getValueForPixel(at(event));
      drawn.forEach((d) => d.chart !== chart && d.chart.draw());
      if (start === null) return;
      const here = at(event);
      box.hidden = Math.abs(here - start) < 6;
      box.style.left = Math.min(here, start) + "px";
      box.style.width = Math.abs(here - start) + "px";
    });
    const end = (event) => {
      if (start === null) return;
      const here = at(event), from = start;
      start = null;
      box.hidden = true;
      if (event.type !== "pointerup" || Math.abs(here - from) < 6) return;
      const scale = chart.scales.x;
      zoom(scale.getValueForPixel(Math.min(here, from)), scale.getValueForPixel(Math.max(here, from)));
    };
    plot.addEventListener("pointerup", end);
    plot.addEventListener("pointercancel", end);
    plot.addEventListener("pointerleave", () => { view.cross = null; drawn.forEach((d) => d.chart.draw()); });
    plot.addEventListener("dblclick", () => zoom(null, null));
    plot.addEventListener("keydown", (event) => {
      const act = { "+": () => zoomBy(0.5, 0), "=": () => zoomBy(0.5, 0), "-": () => zoomBy(2, 0), "0": () => zoom(null, null),
                    ArrowLeft: () => zoomBy(1, -0.2), ArrowRight: () => zoomBy(1, 0.2) }[event.key];
      if (!act) return;
      event.preventDefault();
      act();
    });
  }

  function addPanel(grid, panel, control) {
    const canvas = el("canvas", { role: "img", "aria-label": panel.title });
    const plot = el("div", { class: "plot", tabindex: "0", "aria-label": panel.title + ": drag to zoom, double-click for all; keys + - 0 and arrows" }, canvas);
    const empty = el("p", { class: "note", hidden: true }, "Not measured in this run.");
    const keys = el("div", { class: "keyline" });
    const last = el("span", { class: "last" });
    const caption = el("figcaption", {}, el("b", {}, control || panel.title), last);
    grid.append(el("figure", {}, caption, plot, empty, keys));
    const chart = new Chart(canvas, { type: "line", data: { datasets: [] }, options: optionsOf(panel, []), plugins: [crosshair] });
    const entry = { panel, chart, canvas, empty, keys, last };
    drawn.push(entry);
    zoomable(plot, chart);
    update(entry);
    return entry;
  }

  section("curves", "Curves", (body) => {
    const axis = el("select", { change: () => { view.axis = axis.value; zoom(null, null); } },
      el("option", { value: "step" }, "steps"), el("option", { value: "hours" }, "hours"), el("option", { value: "tokens" }, "tokens"));
    const smooth = el("input", { type: "range", min: "0", max: "0.95", step: "0.05", value: "0",
                                 input: () => { view.smooth = Number(smooth.value); updateAll(); } });
    const whole = el("button", { type: "button", disabled: true, click: () => zoom(null, null) }, "Whole range");
    resets = [whole];
    const bar = el("div", { class: "bar controls" }, el("label", {}, "Along ", axis), el("label", {}, "Smooth ", smooth),
      el("button", { type: "button", click: () => zoomBy(0.5, 0) }, "Zoom in"),
      el("button", { type: "button", click: () => zoomBy(2, 0) }, "Zoom out"), whole);
    if (data.runs.length > 1) {
      const focus = el("select", { change: () => { view.focus = Number(focus.value); updateAll(); } },
        ...data.runs.map((run, i) => el("option", { value: i }, run.name)));
      bar.append(el("label", {}, "Stacked charts of ", focus));
    }
    body.append(bar);
    const swatches = [];
    if (groups.length > 1) {
      const legend = el("div", { class: "legend", role: "group", "aria-label": "Shown" });
      for (const group of groups) {
        const swatch = el("i", { class: "swatch" });
        swatches.push([swatch, group.index]);
        const button = el("button", { type: "button", "aria-pressed": "true", click: () => {
          group.shown = !group.shown;
          button.setAttribute("aria-pressed", String(group.shown));
          updateAll();
        } }, swatch, showText(el("span"), group.label + (group.runs.length > 1 ? ` (${group.runs.length})` : "")));
        legend.append(button);
      }
      body.append(legend);
    }
    const paint = () => swatches.forEach(([node, i]) => { node.style.color = Report.colour(i); });
    paint();
    const grid = el("div", { class: "charts" });
    body.append(grid);
    panels.forEach((panel) => {
      const any = panel.all.some((item) => data.runs.some((run) => namesOf(item, run).some((n) => run.metrics[n])));
      if (any) addPanel(grid, panel);
    });
    const names = [...new Set(data.runs.flatMap((run) => Object.keys(run.metrics)))].sort();
    const chosen = ["reward_std", "perf/cpu_memory_used_gb", names[0]].find((n) => names.includes(n));
    if (chosen) {
      const panel = { title: "Any metric", all: [{ name: chosen }] };
      const select = el("select", { "aria-label": "Metric", change: () => { panel.all[0].name = select.value; update(entry); } },
        ...names.map((n) => el("option", { selected: n === chosen }, n)));
      const entry = addPanel(grid, panel, select);
    }
    const thinned = data.runs.some((run) => Object.values(run.metrics).some((m) => m.at));
    body.append(el("p", { class: "note" }, "Drag across a chart to zoom all of them, double-click for the whole range." +
      (thinned ? ` Curves of more than ${format(data.points)} steps are drawn through the smallest and largest of each stretch; report.json has all.` : "")));
    Report.onTheme(() => { paint(); updateAll(); });
  });
  Report.charts = drawn;
})();
