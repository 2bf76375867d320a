"use strict";
(() => {
  const data = JSON.parse(document.getElementById("payload").textContent);
  const trials = data.trials;
  const count = trials.ids.length;
  const $ = (id) => document.getElementById(id);
  const SYMBOLS = ["done", "running", "failed", "cancelled", "waiting"];
  const PAGE = 15, PRINTED = 1000;

  /* The one selection that everything follows: a set of trials, and in words what they are. */
  let picked = new Set();
  let filter = null;
  const views = [];

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "class") made.className = value;
      else if (key === "text") made.textContent = value;
      else made.setAttribute(key, value);
    }
    made.append(...children);
    return made;
  }

  function select(list, words, { narrow = false } = {}) {
    picked = new Set(list);
    filter = narrow && list.length ? new Set(list) : narrow ? new Set() : filter;
    if (!list.length && !narrow) filter = null;
    const bar = $("chosen");
    bar.hidden = !picked.size && !filter;
    bar.firstElementChild.textContent = words || "";
    page = 0;
    drawList();
    drawPictures();
    drawDetails();
    views.forEach(follow);
    markCells();
  }

  function clear() {
    filter = null;
    pressed = null;
    select([], "");
  }

  /* ---- theme ---- */
  const themes = ["auto", "light", "dark"];
  function theme(name) {
    if (name === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    $("theme").textContent = `Theme: ${name}`;
    $("theme").dataset.now = name;
    try { localStorage.setItem("shoal-theme", name); } catch { /* a page from disk may have no storage */ }
  }
  let remembered = "auto";
  try { remembered = localStorage.getItem("shoal-theme") || "auto"; } catch { /* as above */ }
  theme(themes.includes(remembered) ? remembered : "auto");
  $("theme").hidden = false;
  $("theme").addEventListener("click", () => theme(themes[(themes.indexOf($("theme").dataset.now) + 1) % 3]));

  /* ---- leaderboards ---- */
  let pressed = null;
  function markCells() {
    for (const cell of document.querySelectorAll("button.cell")) cell.setAttribute("aria-pressed", String(cell === pressed));
  }
  for (const table of document.querySelectorAll("table[data-table]")) {
    const members = data.tables[Number(table.dataset.table)];
    const heads = [...table.querySelectorAll("thead th:not(.text)")].map((h) => h.textContent);
    table.addEventListener("click", (event) => {
      const cell = event.target.closest("button.cell");
      if (!cell) return;
      if (cell === pressed) return clear();
      const list = members[Number(cell.dataset.r)][Number(cell.dataset.c)];
      const row = [...cell.closest("tr").querySelectorAll("th")].map((h) => h.textContent).join(" · ");
      pressed = cell;
      select(list, `${plural(list.length)}: ${row} · ${heads[Number(cell.dataset.c)]}`, { narrow: true });
    });
  }
  for (const button of document.querySelectorAll("button[data-failure]")) {
    button.addEventListener("click", () => {
      const list = data.failures[Number(button.dataset.failure)];
      pressed = null;
      select(list, `${plural(list.length)} that failed`, { narrow: true });
      $("trials").scrollIntoView();
    });
  }
  function plural(n) { return `${n.toLocaleString("en")} ${n === 1 ? "trial" : "trials"}`; }

  /* ---- list of trials ---- */
  const number = (digits) => (v) => (v === null || v === undefined ? "–" : v.toFixed(digits));
  function seconds(v) {
    if (!v) return "–";
    return v >= 7200 ? `${(v / 3600).toFixed(1)} h` : v >= 120 ? `${(v / 60).toFixed(0)} min` : `${v.toFixed(v < 10 ? 1 : 0)} s`;
  }
  const columns = [];
  trials.axes.forEach((axis) => {
    const key = axis.numeric ? (i) => (axis.of[i] < 0 ? null : Number(axis.labels[axis.of[i]])) : (i) => axis.labels[axis.of[i]] ?? "";
    columns.push({ head: axis.name, key, text: (i) => axis.labels[axis.of[i]] ?? "–", left: !axis.numeric });
  });
  if (trials.label) columns.push({ head: trials.label, key: (i) => trials.values[i], text: (i) => number(trials.digits)(trials.values[i]), main: true });
  trials.metrics.forEach((m) => columns.push({ head: m.name, key: (i) => m.values[i], text: (i) => number(m.digits)(m.values[i]) }));
  columns.push({ head: "run time", key: (i) => trials.seconds[i], text: (i) => seconds(trials.seconds[i]) });
  if (trials.gpuHours.length) columns.push({ head: "GPU-h", key: (i) => trials.gpuHours[i], text: (i) => number(2)(trials.gpuHours[i]) });
  if (trials.attempts.some((a) => a > 1)) columns.push({ head: "attempts", key: (i) => trials.attempts[i], text: (i) => String(trials.attempts[i]) });
  columns.push({ head: "state", key: (i) => SYMBOLS.indexOf(trials.states[i]), text: (i) => trials.states[i], left: true, state: true });
  columns.push({ head: "task", key: (i) => trials.ids[i], text: (i) => trials.ids[i], left: true, id: true });

  let sort = { column: columns.findIndex((c) => c.main), down: trials.goal !== "min" };
  let page = 0, printing = false;
  let words = [];
  const haystack = [];
  function matches(i) {
    if (!words.length) return true;
    haystack[i] ??= columns.map((c) => (c.left || c.text(i).length < 12 ? c.text(i) : "")).concat(trials.names[i]).join(" ").toLowerCase();
    return words.every((w) => haystack[i].includes(w));
  }
  function ordered() {
    const list = [];
    for (let i = 0; i < count; i++) if ((!filter || filter.has(i)) && matches(i)) list.push(i);
    if (sort.column < 0) return list;
    const key = columns[sort.column].key;
    const sign = sort.down ? -1 : 1;
    const missing = (v) => v === null || v === undefined || Number.isNaN(v);
    return list.sort((a, b) => {
      const x = key(a), y = key(b);
      if (missing(x) || missing(y)) return missing(x) - missing(y) || a - b;
      return sign * (x < y ? -1 : x > y ? 1 : 0) || a - b;
    });
  }
  function drawList() {
    if (!$("list")) return;
    const list = ordered();
    const pages = Math.max(1, Math.ceil(list.length / PAGE));
    page = Math.min(page, pages - 1);
    const drawn = printing ? list.slice(0, PRINTED) : list.slice(page * PAGE, (page + 1) * PAGE);
    $("list").tHead.replaceChildren(element("tr", {}, ...columns.map((column, k) => {
      const button = element("button", { type: "button", text: column.head });
      button.addEventListener("click", () => {
        sort = { column: k, down: sort.column === k ? !sort.down : Boolean(column.main && trials.goal !== "min") };
        drawList();
        $("list").tHead.rows[0].cells[k].firstChild.focus(); // made anew: who works by keyboard stays where they were
      });
      const sorted = sort.column === k ? (sort.down ? "descending" : "ascending") : "none";
      return element("th", { scope: "col", class: column.left ? "text" : "", "aria-sort": sorted }, button);
    })));
    $("list").tBodies[0].replaceChildren(...drawn.map((i) => {
      const row = element("tr", { tabindex: "0", "data-trial": i, "aria-selected": String(picked.has(i) && !filter) }, ...columns.map((column) => {
        if (column.state) return element("td", { class: "text" }, element("span", { class: `state s-${trials.states[i]}`, text: column.text(i) }));
        const cell = element("td", { class: (column.left ? "text" : "") + (column.id ? " id" : "") });
        if (column.main) cell.append(element("b", { text: column.text(i) }));
        else cell.textContent = column.text(i);
        return cell;
      }));
      const choose = () => {
        const now = picked.has(i) && picked.size === 1 ? [] : [i];
        const keep = page;
        select(now, now.length ? trials.names[i] : "");
        page = keep;
        drawList();
        $("list").querySelector(`tr[data-trial="${i}"]`)?.focus();
      };
      row.addEventListener("click", choose);
      row.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(); } });
      return row;
    }));
    $("shown").textContent = list.length === count ? plural(count) : `${list.length.toLocaleString("en")} of ${plural(count)}`;
    $("page").textContent = pages > 1 ? `page ${page + 1} of ${pages.toLocaleString("en")}` : "";
    $("prev").hidden = $("next").hidden = pages === 1;
    $("prev").disabled = page === 0;
    $("next").disabled = page === pages - 1;
    $("list-printed").textContent = drawn.length < list.length ? `Printed are ${drawn.length} of ${plural(list.length)}; all of them: shoal results STUDY --tasks --format csv` : "";
    const notes = [];
    if (trials.moreMetrics) notes.push(`${trials.moreMetrics} more metrics are in shoal results.`);
    if (trials.attempts.some((a) => a)) notes.push("Run time and hours include the tasks that belong to the trial alone.");
    $("list-note").textContent = notes.join(" ");
  }
  if ($("list")) {
    $("search").addEventListener("input", (event) => {
      words = event.target.value.toLowerCase().split(/[\s,]+/).filter(Boolean);
      page = 0;
      drawList();
    });
    $("prev").addEventListener("click", () => { page--; drawList(); });
    $("next").addEventListener("click", () => { page++; drawList(); });
    for (const [event, now] of [["beforeprint", true], ["afterprint", false]]) window.addEventListener(event, () => { printing = now; drawList(); });
  }
  $("clear").addEventListener("click", clear);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && (picked.size || filter)) clear(); });

  /* ---- pictures ---- */
  const pictures = data.pictures;
  function drawPictures() {
    if (!$("gallery")) return;
    const shown = Object.entries(pictures.roles).map(([role, i]) => ({ role, i }));
    const wanted = [...picked].filter((i) => pictures.trials[i] && !shown.some((s) => s.i === i));
    wanted.sort((a, b) => better(a, b));
    wanted.slice(0, 3).forEach((i) => shown.unshift({ role: "chosen", i }));
    if (!shown.length) Object.keys(pictures.trials).slice(0, 3).forEach((i) => shown.push({ role: "", i: Number(i) }));
    const common = pictures.panels.filter((p) => pictures.inputs.includes(p) || pictures.samples.some((s) => pictures.shared[s.name]?.[p]));
    const own = shown.map(({ i }) => pictures.panels.filter((p) => !common.includes(p) && pictures.samples.some((s) => pictures.trials[i]?.[s.name]?.[p])));
    // Trials on other data have other samples: those that nobody here has are left out.
    const wantedSamples = pictures.samples.filter((s) => shown.some(({ i }) => pictures.trials[i]?.[s.name]));
    // Where trials were given different pictures of a sample (other bands, a chip of their own choice), each has a line to itself.
    const lines = wantedSamples.map((sample) => {
      const having = shown.filter(({ i }) => pictures.trials[i]?.[sample.name]);
      const differ = shown.length > 1 && having.some(({ i }) => common.some((p) => pictures.trials[i][sample.name][p]));
      return { sample, groups: differ ? having.map((one) => [one]) : [shown] };
    });
    // If all have, nothing stands beside each other: predictions of all trials go into one column, and lines say whose they are.
    const stacked = shown.length > 1 && lines.every(({ groups }) => groups[0].length === 1);
    const facts = ({ role, i }) => {
      const value = trials.values[i];
      const what = trials.label && value !== null ? `${trials.label} ${value.toFixed(trials.digits)}` : "";
      return { role, what, name: trials.names[i] };
    };
    const columns = stacked ? [{ of: shown, panels: pictures.panels.filter((p) => own.some((o) => o.includes(p))) }]
      : shown.map((one, k) => ({ of: [one], panels: own[k] }));
    const head = element("tr", {}, element("th"), ...(stacked ? [element("th")] : []), ...common.map((p) => element("th", { scope: "col", text: p })));
    columns.forEach(({ of, panels }) => {
      if (stacked) { panels.forEach((p) => head.append(element("th", { scope: "col", text: p }))); return; }
      const { role, what, name } = facts(of[0]);
      head.append(element("th", { scope: "col", colspan: String(Math.max(1, panels.length)) },
        element("div", {}, [role, panels.length === 1 ? panels[0] : ""].filter(Boolean).join(": "),
          element("small", { text: what }), element("small", { text: name }))));
    });
    const line = (sample, whose, first, count) => {
      const row = element("tr");
      const { role, what, name } = facts(whose[0]);
      const alone = whose.length < shown.length;
      if (!stacked) row.append(element("th", { scope: "row", text: sample.title }, ...(alone ? [element("small", { text: name })] : []), element("small", { text: sample.caption })));
      else {
        if (first) row.append(element("th", { scope: "rowgroup", rowspan: String(count), text: sample.title }, element("small", { text: sample.caption })));
        row.append(element("th", { scope: "row", text: role }, element("small", { text: what }), element("small", { text: name })));
      }
      common.forEach((p) => {
        const key = pictures.shared[sample.name]?.[p] || (alone ? pictures.trials[whose[0].i][sample.name][p] : undefined);
        row.append(element("td", {}, ...image(key, `${sample.title}, ${p}`)));
      });
      columns.forEach(({ of, panels }) => {
        const one = of.find((o) => whose.includes(o));
        panels.forEach((p, place) => {
          const key = one && pictures.trials[one.i]?.[sample.name]?.[p];
          if (!key) { row.append(element("td")); return; }
          const judged = panels.includes("prediction") ? p === "prediction" : place === 0;
          const score = judged ? pictures.scores[one.i]?.[sample.name] : undefined;
          const caption = [panels.length > 1 && !stacked ? p : "", score === undefined ? "" : `${pictures.metric} ${score.toFixed(Math.abs(score) < 10 ? 2 : 0)}`].filter(Boolean).join(" ");
          row.append(element("td", {}, element("figure", {}, ...image(key, `${sample.title}, ${p} of ${trials.names[one.i]}`), element("figcaption", { text: caption }))));
        });
        if (!panels.length) row.append(element("td"));
      });
      return row;
    };
    const rows = lines.flatMap(({ sample, groups }) => groups.map((whose, k) => line(sample, whose, k === 0, groups.length)));
    $("gallery").replaceChildren(element("thead", {}, head), element("tbody", {}, ...rows));
    const asked = picked.size && ![...picked].some((i) => pictures.trials[i]);
    const roles = Object.keys(pictures.roles);
    const named = roles.length > 1 ? `${roles.slice(0, -1).join(", ")} and ${roles[roles.length - 1]}` : roles[0];
    $("who").textContent = (roles.length && count > 1 ? `The same samples for the ${named} trial by ${trials.label}.` : "")
      + (asked ? " The chosen trials have no pictures on this page." : picked.size || count === 1 ? "" : " Choose a trial above to see its own beside them.");
  }
  function better(a, b) { return (trials.goal === "min" ? 1 : -1) * (trials.values[a] - trials.values[b]); }
  function image(key, alt) {
    const source = key && pictures.images[key];
    if (!source) return [];
    const made = element("img", { alt, loading: "eager" });
    made.addEventListener("load", () => { if (made.naturalWidth <= 160) made.classList.add("fine"); });
    made.src = source;
    return [made];
  }

  /* ---- charts ---- */
  const sourcesOf = new Map();
  data.curves.sources.forEach((owners, s) => owners.forEach((i) => sourcesOf.set(i, [...(sourcesOf.get(i) || []), s])));
  const config = {
    background: "transparent",
    font: "Inter, Segoe UI, system-ui, sans-serif",
    view: { stroke: null },
    axis: {
      labelColor: "var(--ink-2)", titleColor: "var(--ink-2)", gridColor: "var(--line)", tickColor: "var(--line)", domain: false,
      grid: false, ticks: false, labelFontSize: 11, titleFontSize: 11, titleFontWeight: "normal", labelPadding: 6, labelOverlap: true,
    },
    title: { color: "var(--ink)", fontSize: 12.5, fontWeight: 600, anchor: "start", offset: 8 },
    legend: { labelColor: "var(--ink)", titleColor: "var(--ink-2)", labelFontSize: 12, symbolStrokeWidth: 2, symbolType: "square" },
  };
  function chosenKeys(kind) {
    const keys = {};
    // A line that stands for a configuration is known by its first trial.
    if (kind === "parallel") picked.forEach((i) => { keys[trials.leaders[i]] = 1; });
    else if (kind === "curve") picked.forEach((i) => (sourcesOf.get(i) || []).forEach((s) => { keys[s] = 1; }));
    else picked.forEach((i) => { keys[i] = 1; });
    return keys;
  }
  function follow({ view, kind }) {
    const keys = chosenKeys(kind);
    try { view.signal("picked", keys).signal("any", picked.size > 0 || Boolean(filter)).run(); } catch { /* a chart without it */ }
  }
  function fill(spec, name) {
    if (name.startsWith("curve:")) {
      const axis = trials.axes[data.curves.axis];
      const rows = [];
      for (const [s, xs, ys] of data.curves.lines[name.slice(6)] || []) {
        const i = data.curves.sources[s][0];
        const c = axis && axis.of[i] >= 0 ? axis.labels[axis.of[i]] : "";
        for (let k = 0; k < xs.length; k++) rows.push({ x: xs[k], y: ys[k], t: s, c, n: trials.names[i] });
      }
      for (const layer of spec.layer) if (layer.data && layer.data.name === "lines") layer.data.values = rows;
    } else if (name.startsWith("effect-")) {
      for (const layer of spec.layer) for (const row of layer.data.values) if (row.t !== undefined) row.n = trials.names[row.t];
    }
    return spec;
  }
  /* Names beside their points, as many as find room, the most wanted first: Vega can place them, Vega-Lite has no word for it. */
  function placeNames(spec) {
    const points = spec.marks.find((m) => m.type === "symbol");
    const names = spec.marks.find((m) => m.type === "text");
    if (!points || !names) return spec;
    const { fontSize, fill, limit } = names.encode.update;
    names.from = { data: points.name };
    names.encode = { update: {
      fontSize, fill, limit, text: { field: "datum.s" },
      fillOpacity: [{ test: "any && picked[datum.datum.t] !== 1", value: 0.08 }, { value: 0.9 }],
    } };
    names.transform = [{
      type: "label", size: { signal: "[max(1, width), max(1, height)]" }, padding: 2, offset: [5, 5, 5, 5, 4, 4, 4, 4],
      anchor: ["right", "left", "top", "bottom", "top-right", "bottom-right", "top-left", "bottom-left"],
      sort: { field: "datum.datum.p", order: "ascending" },
    }];
    return spec;
  }
  async function draw(place, name = place.dataset.chart, spec = data.charts[name]) {
    if (!spec) return;
    try {
      const made = await vegaEmbed(place, fill(spec, name), {
        actions: false, ast: true, logLevel: 1, renderer: "svg", defaultStyle: false, config, tooltip: { disableDefaultStyle: true },
        patch: name.startsWith("scatter-") ? placeNames : undefined,
      });
      const entry = { view: made.view, kind: name.startsWith("curve:") ? "curve" : name };
      views.push(entry);
      made.view.addEventListener("click", (event, item) => {
        const t = item && item.datum && item.datum.t;
        if (typeof t !== "number" || t < 0) return;
        pressed = null;
        if (entry.kind === "curve") select(data.curves.sources[t], trials.names[data.curves.sources[t][0]]);
        else if (entry.kind !== "parallel") select([t], trials.names[t]);
        else {
          const list = trials.leaders.flatMap((leader, i) => (leader === t ? [i] : []));
          select(list, item.datum.n);
        }
      });
      if (picked.size) follow(entry);
    } catch (error) {
      place.textContent = `This chart could not be drawn: ${error.message}`;
      place.classList.add("warning");
      console.error(error);
    }
  }
  async function drawCurves() {
    const panels = $("panels");
    if (!panels) return;
    const group = data.curves.groups[Number($("metric").value)];
    for (let k = views.length - 1; k >= 0; k--) if (views[k].kind === "curve") views.splice(k, 1)[0].view.finalize();
    panels.replaceChildren(...group.metrics.map((m) => element("div", { class: "chart", "data-chart": `curve:${m}`, role: "img", "aria-label": `Curves of ${m}` })));
    for (const place of panels.children) await draw(place);
  }

  /* ---- what one trial left: its own curves and tables ---- */
  let detailed = null;
  async function drawDetails() {
    if (!$("detail-who")) return;
    const own = data.details.trials;
    const wanted = [...picked].filter((i) => own[i]).sort(better);
    const i = wanted.length ? wanted[0] : data.details.first;
    const missing = picked.size && !wanted.length ? " The chosen trials left none, or the page had no room for it." : "";
    $("detail-who").textContent = `What ${trials.names[i]} left${trials.label && trials.values[i] !== null ? ` (${trials.label} ${trials.values[i].toFixed(trials.digits)})` : ""}.`
      + (missing || (count > 1 && !picked.size ? " Choose a trial above to see its own." : ""));
    if (i === detailed) return;
    detailed = i;
    $("detail-tables").replaceChildren(...own[i].tables.flatMap(detailTable));
    for (let k = views.length - 1; k >= 0; k--) if (views[k].kind === "detail") views.splice(k, 1)[0].view.finalize();
    const places = own[i].curves.map((curve) => element("div", { class: "chart", role: "img", "aria-label": `${curve.title} of ${trials.names[i]}` }));
    const keys = data.charts.detail && data.charts.detail.encoding;
    $("detail-curves").replaceChildren(...own[i].curves.map((curve, k) => element("figure", {}, places[k],
      element("figcaption", { class: "legend" }, ...(curve.lines.length > 1 ? curve.lines : []).map(([name], n) => key(name,
        keys.color.scale.range[n % keys.color.scale.range.length], keys.strokeDash.scale.range[n % keys.strokeDash.scale.range.length]))))));
    for (const [k, curve] of own[i].curves.entries()) {
      const spec = JSON.parse(JSON.stringify(data.charts.detail));
      spec.title = { text: curve.title };
      spec.encoding.x.axis.title = curve.x;
      spec.encoding.y.axis.title = curve.y;
      spec.data.values = curve.lines.flatMap(([name, xs, ys]) => xs.map((x, k) => ({ x, y: ys[k], k, c: name })));
      await draw(places[k], "detail", spec);
    }
  }
  function key(name, colour, dash) {
    const swatch = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    for (const [a, v] of Object.entries({ width: 26, height: 8, "aria-hidden": "true" })) swatch.setAttribute(a, v);
    for (const [a, v] of Object.entries({ x1: 0, x2: 26, y1: 4, y2: 4, stroke: colour, "stroke-dasharray": dash.join(" ") })) line.setAttribute(a, v);
    swatch.append(line);
    return element("span", { class: "key" }, swatch, name);
  }
  function detailTable(table) {
    const digits = table.columns.map((_, c) => {
      const numbers = table.rows.map((row) => row[c]).filter((v) => typeof v === "number");
      return numbers.every(Number.isInteger) ? 0 : Math.max(...numbers.map(Math.abs)) >= 100 ? 1 : 3;
    });
    const left = table.columns.map((_, c) => table.rows.some((row) => typeof row[c] === "string"));
    const cell = (v, c) => (v === null ? "–" : typeof v === "number" ? v.toFixed(digits[c]) : v);
    const head = element("tr", {}, ...table.columns.map((name, c) => element("th", { scope: "col", class: left[c] ? "text" : "", text: name })));
    const rows = table.rows.map((row) => element("tr", {}, ...row.map((v, c) => element("td", { class: left[c] ? "text" : "", text: cell(v, c) }))));
    const made = element("div", { class: "scroll" }, element("table", { class: "numbers" }, element("thead", {}, head), element("tbody", {}, ...rows)));
    const more = table.more > 0 ? [element("p", { class: "note", text: `${table.more} more rows are in the task's tables.json.` })] : [];
    return [element("h3", { text: table.title }), made, ...more];
  }

  if ($("metric")) {
    data.curves.groups.forEach((group, k) => $("metric").append(element("option", { value: String(k), text: group.metrics.join(", ") })));
    // The objective's own curve where it was measured more than once; else the loss says most.
    const place = (name) => data.curves.groups.findIndex((g) => g.name === name);
    $("metric").value = String([place(trials.label.split("/").pop()), place("loss"), 0].find((k) => k >= 0));
    $("metric").addEventListener("change", drawCurves);
  }

  async function start() {
    drawList();
    drawPictures();
    await drawDetails();
    for (const place of document.querySelectorAll("[data-chart]")) await draw(place);
    await drawCurves();
    document.documentElement.dataset.ready = "true";
  }
  start();
})();
