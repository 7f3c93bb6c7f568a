
"use strict";
// What all parts of the page share. Everything that comes from the data reaches the document as
// text nodes and numbers only: there is no innerHTML here, and no attribute made of data but
// data-label and title.
const Report = {};
(() => {
  const errors = [];
  const tell = (what) => {
    errors.push(String(what));
    document.documentElement.dataset.errors = String(errors.length);
    const box = document.getElementById("notices");
    if (box) box.append(el("p", { class: "notice" }, "A part of this page could not be shown: " + what));
  };
  window.addEventListener("error", (event) => tell(event.message));

  // el("p", {class: "note"}, child...): children are nodes or texts.
  function el(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === undefined || value === null || value === false) continue;
      if (typeof value === "function") node.addEventListener(name, value);
      else node.setAttribute(name, value === true ? "" : value);
    }
    for (const child of children) {
      if (child === undefined || child === null) continue;
      node.append(child instanceof Node ? child : document.createTextNode(String(child)));
    }
    return node;
  }
  const svg = (tag, attributes, ...children) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };

  const isNumber = (x) => typeof x === "number" && Number.isFinite(x);
  const isObject = (x) => x !== null && typeof x === "object" && !Array.isArray(x);
  const list = (x) => (Array.isArray(x) ? x : []);
  const minus = (text) => text.replace("-", "\u2212");
  // Four digits that matter, for people; data-value attributes hold the number itself.
  function format(x, digits) {
    if (!isNumber(x)) return "\u2013";
    if (isNumber(digits)) return minus(x.toFixed(Math.max(0, Math.min(12, Math.round(digits)))));
    const size = Math.abs(x);
    if (size !== 0 && (size < 1e-3 || size >= 1e7)) return minus(x.toExponential(2));
    if (Number.isInteger(x)) return minus(x.toLocaleString("en-US"));
    return minus(x.toFixed(size >= 1000 ? 0 : size >= 100 ? 1 : size >= 10 ? 2 : 3));
  }
  const percent = (x) => (isNumber(x) ? minus((100 * x).toFixed(1)) + "%" : "\u2013");
  function duration(seconds) {
    if (!isNumber(seconds)) return "\u2013";
    if (seconds < 120) return seconds.toFixed(1) + " s";
    if (seconds < 7200) return (seconds / 60).toFixed(1) + " min";
    return (seconds / 3600).toFixed(1) + " h";
  }
  // A number with what it is read from: the page's figures can be compared with their source.
  const figure = (key, value, text) =>
    el("span", { "data-figure": key, "data-value": isNumber(value) ? String(value) : "" },
       text === undefined ? format(value) : text);

  // Controls, direction marks and lone surrogates, as boxes with their number.
  const hidden = new RegExp("[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u00ad\\u061c\\u200b-\\u200f" +
    "\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb\\ud800-\\udfff]", "u");
  function showText(node, text) {
    text = typeof text === "string" ? text : text === undefined || text === null ? "" : JSON.stringify(text);
    let plain = "";
    for (const character of text) {
      if (!hidden.test(character)) {
        plain += character;
        continue;
      }
      if (plain) node.append(plain);
      plain = "";
      const code = character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
      node.append(el("span", { class: "ctl", title: "a character that does not show" }, "U+" + code));
    }
    if (plain) node.append(plain);
    return node;
  }
  const textBlock = (text, attributes) =>
    showText(el("div", Object.assign({ class: "text", dir: "auto" }, attributes)), text);

  // The colours of runs and series, told apart by people who see few colours too.
  const colours = {
    light: ["#0b5cad", "#c4500a", "#00795c", "#8f3f8b", "#8a6d00", "#0782a1", "#6b6f76", "#b03060"],
    dark: ["#6cb1ff", "#ff9a5c", "#4fd0a5", "#d995d5", "#e3c35c", "#5fd0e8", "#b4bac2", "#ff8fb0"],
  };
  const media = window.matchMedia("(prefers-color-scheme: dark)");
  let choice = "auto";  // or light, dark
  try { choice = localStorage.getItem("opo-theme") || "auto"; } catch { /* a page from disk may have none */ }
  if (!["auto", "light", "dark"].includes(choice)) choice = "auto";
  let printing = false;
  const listeners = [];
  const theme = () => (printing ? "light" : choice === "auto" ? (media.matches ? "dark" : "light") : choice);
  function applyTheme() {
    document.documentElement.dataset.theme = theme();
    document.getElementById("theme").textContent = "Theme: " + choice;
    for (const listener of listeners) listener();
  }
  document.documentElement.dataset.theme = theme();
  document.getElementById("theme").addEventListener("click", () => {
    choice = choice === "auto" ? (media.matches ? "light" : "dark") : choice === "light" ? "dark" : "light";
    try { localStorage.setItem("opo-theme", choice); } catch { /* the choice holds until it is closed */ }
    applyTheme();
  });
  media.addEventListener("change", applyTheme);
  window.addEventListener("beforeprint", () => { printing = true; applyTheme(); });
  window.addEventListener("afterprint", () => { printing = false; applyTheme(); });

  // Shows a section and its link, and runs what fills it; a fault there leaves the others alone.
  function section(id, label, fill) {
    const node = document.getElementById(id);
    try {
      node.hidden = false;
      fill(node.querySelector(".body"));
      const nav = document.getElementById("nav");
      nav.append(el("a", { href: "#" + id }, label));
      const order = [...document.querySelectorAll("section")].map((s) => "#" + s.id);
      nav.replaceChildren(...[...nav.children].sort((a, b) =>
        order.indexOf(a.getAttribute("href")) - order.indexOf(b.getAttribute("href"))));
    } catch (error) {
      tell(label + ": " + (error && error.message));
    }
  }

  // table([{label, text, title}], [[cell...]...]): a cell is a node, a text or {node, class}.
  function table(columns, rows, attributes) {
    const body = el("tbody");
    for (const row of rows) {
      const tr = el("tr");
      row.forEach((cell, i) => {
        const column = columns[i];
        const given = isObject(cell) && !(cell instanceof Node) ? cell : { node: cell };
        tr.append(el(i === 0 ? "th" : "td", {
          class: [column.text ? "text" : "", given.class || ""].join(" ").trim() || null,
          scope: i === 0 ? "row" : null, "data-label": column.label,
        }, given.node));
      });
      body.append(tr);
    }
    const head = el("tr", {}, ...columns.map((c) => el("th", { scope: "col", class: c.text ? "text" : null },
                                                        c.label)));
    return el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": (attributes || {}).label },
              el("table", { class: (attributes || {}).class }, el("thead", {}, head), body));
  }

  let data;
  try {
    data = JSON.parse(document.getElementById("data").textContent);
  } catch (error) {
    tell("its data: " + error.message);
    data = {};
  }
  for (const name of ["runs", "compare", "variance", "eval", "notices"]) data[name] = list(data[name]);
  // {x: step, y: value} of a run's metric.
  function series(run, name) {
    const metric = run.metrics[name];
    if (!metric) return [];
    const points = [];
    metric.v.forEach((y, i) => {
      if (isNumber(y)) points.push({ x: run.steps[metric.at ? metric.at[i] : i], y });
    });
    return points;
  }

  Object.assign(Report, {
    el, svg, data, series, section, table, tell, format, percent, duration, figure, showText, textBlock,
    isNumber, isObject, list, theme, colours,
    onTheme: (listener) => listeners.push(listener),
    colour: (i) => colours[theme()][((i % 8) + 8) % 8],
    css: (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim(),
    applyTheme,
  });
})();
