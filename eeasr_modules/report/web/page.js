"use strict";
(() => {
  const DATA = JSON.parse(document.getElementById("data").textContent);
  const S = DATA.summary;
  const SETS = Object.keys(S.sets);
  const PER_PAGE = 20;
  const state = {
    set: SETS[0], cost: S.cost, budget: S.budget, below: false, whole: false, hidden: new Set(),
    policy: S.chosen_policy, kind: "over", least: 0, order: "saved", query: "", page: 0,
  };

  // ---- small tools -------------------------------------------------------------------------------------------------
  const at = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  function fill(node, attributes, children) {
    for (const [key, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else node.setAttribute(key, value === true ? "" : value);
    }
    for (const child of children.flat(2)) if (child !== null && child !== undefined) node.append(child);
    return node;
  }
  const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
  const show = (id, ...children) => at(id).replaceChildren(...children.flat().filter((child) => child !== null));
  const isNumber = (x) => typeof x === "number" && Number.isFinite(x);
  const fixed = (x, digits = 2) => (isNumber(x) ? x.toFixed(digits).replace("-", "−") : "–");
  const percent = (x, digits = 0) => (isNumber(x) ? `${(100 * x).toFixed(digits).replace(/^-(0(\.0*)?)$/, "$1").replace("-", "−")} %` : "–");
  const signed = (x, digits = 2) => (isNumber(x) ? `${x <= -0.5 * 10 ** -digits ? "−" : "+"}${Math.abs(x).toFixed(digits)}` : "–");
  const between = (pair) => (pair ? `[${fixed(pair[0])}, ${fixed(pair[1])}]` : "");
  const range = (d) => (d ? `${signed(d.difference)} [${signed(d.low)}, ${signed(d.high)}]` : "–");
  const UNITS = DATA.costs;
  const costText = (x, cost = state.cost) => `${fixed(x, UNITS[cost].digits)} ${UNITS[cost].unit}`;
  const one = () => S.sets[state.set];
  const line = () => one().costs[state.cost];

  function interpolate(points, x) {
    if (x <= points[0][0]) return points[0][1];
    for (let i = 1; i < points.length; i++) {
      const [x0, y0] = points[i - 1];
      const [x1, y1] = points[i];
      if (x <= x1) return x1 === x0 ? y1 : y0 + ((y1 - y0) * (x - x0)) / (x1 - x0);
    }
    return points[points.length - 1][1];
  }
  function table(header, rows, { left = 1, stress = () => false } = {}) {
    const head = header.map((name, i) => el("th", { scope: "col", class: i < left ? "text" : null }, name));
    const body = rows.map((row) =>
      el("tr", { class: stress(row) ? "stress" : null },
        row.map((cell, i) => (cell instanceof HTMLTableCellElement ? cell : el("td", { class: i < left ? "text" : null }, cell)))));
    return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `table: ${header[0]}, ${header[1]}` },
      el("table", {}, el("thead", {}, el("tr", {}, head)), el("tbody", {}, body)));
  }
  const words = (text) => el("td", { class: "text wrap" }, text);
  function segments(id, label, options, current, pick) {
    show(id, el("span", { class: "segments", role: "group", "aria-label": label },
      options.map(([value, text]) =>
        el("button", { type: "button", "aria-pressed": String(value === current), onclick: () => pick(value) }, text))));
  }

  // ---- one chart, for mouse, finger and keyboard -------------------------------------------------------------------
  function ticks(low, high, count) {
    const raw = (high - low) / Math.max(1, count);
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * power).find((m) => m >= raw) || raw;
    const found = [];
    for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + 1e-9 * step; v += step) found.push(Math.abs(v) < step / 1e6 ? 0 : v);
    return found;
  }
  const label = (v) => String(+v.toPrecision(6));
  const SHAPES = {
    circle: (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
    square: (r) => `M${-r},${-r}h${2 * r}v${2 * r}h${-2 * r}z`,
    diamond: (r) => `M0,${-1.3 * r}L${1.3 * r},0L0,${1.3 * r}L${-1.3 * r},0z`,
    up: (r) => `M0,${-1.2 * r}L${1.1 * r},${r}L${-1.1 * r},${r}z`,
    down: (r) => `M0,${1.2 * r}L${1.1 * r},${-r}L${-1.1 * r},${-r}z`,
    plus: (r) => `M${-0.35 * r},${-1.1 * r}h${0.7 * r}v${0.75 * r}h${0.75 * r}v${0.7 * r}h${-0.75 * r}v${0.75 * r}h${-0.7 * r}v${-0.75 * r}h${-0.75 * r}v${-0.7 * r}h${0.75 * r}z`,
    left: (r) => `M${-1.2 * r},0L${r},${1.1 * r}L${r},${-1.1 * r}z`,
    right: (r) => `M${1.2 * r},0L${-r},${1.1 * r}L${-r},${-1.1 * r}z`,
    hexagon: (r) => `M0,${-1.15 * r}L${r},${-0.57 * r}L${r},${0.57 * r}L0,${1.15 * r}L${-r},${0.58 * r}L${-r},${-0.58 * r}z`,
    pentagon: (r) => `M0,${-1.15 * r}L${1.09 * r},${-0.36 * r}L${0.68 * r},${0.93 * r}L${-0.68 * r},${0.93 * r}L${-1.09 * r},${-0.36 * r}z`,
    cross: (r) => `M${-r},${-r}L${r},${r}M${-r},${r}L${r},${-r}`,
  };
  // in the order of POLICY_MARKERS of render/figures.py
  const MARKS = ["circle", "square", "diamond", "up", "down", "plus", "left", "right", "hexagon", "pentagon"];
  const mark = (shape, r, colour, hollow) => svg("path", {
    d: SHAPES[shape](r), fill: hollow ? "#fff" : colour, stroke: colour, "stroke-width": shape === "cross" ? 3 : 1.6,
  });
  function key(series) {
    return svg("svg", { width: 26, height: 14, viewBox: "-13 -7 26 14", "aria-hidden": "true" },
      series.line ? svg("line", { x1: -13, x2: 13, y1: 0, y2: 0, stroke: series.colour, "stroke-width": series.width || 2, "stroke-dasharray": series.dash }) : null,
      series.shape ? mark(series.shape, 4.5, series.colour, series.hollow) : null);
  }
  // series: name, colour, points [{x, y, tip, big}], line, dash, shape, hollow, band [[x, low, high]]
  function chart(id, { series, xLabel, xShort, yLabel, xRange, yRange, xTicks, log, description }) {
    const box = at(id);
    const width = Math.max(300, box.clientWidth);
    const height = Math.round(Math.min(470, Math.max(300, width * 0.5)));
    const m = { left: 54, right: 14, top: 14, bottom: 44 };
    const scale = log ? Math.log : (v) => v;
    const [y0, y1] = yRange.map(scale);
    const X = (v) => m.left + ((v - xRange[0]) / (xRange[1] - xRange[0])) * (width - m.left - m.right);
    const Y = (v) => height - m.bottom - ((scale(v) - y0) / (y1 - y0)) * (height - m.top - m.bottom);
    const inside = (p) => p.x >= xRange[0] - 1e-9 && p.x <= xRange[1] + 1e-9 && p.y >= yRange[0] - 1e-9 && p.y <= yRange[1] + 1e-9;
    const clip = `clip-${id}`;
    const root = svg("svg", {
      viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: "0", "aria-label": description + ". Arrow keys walk through the points.",
    }, svg("clipPath", { id: clip }, svg("rect", { x: m.left - 7, y: m.top - 7, width: width - m.left - m.right + 14, height: height - m.top - m.bottom + 14 })));
    const yTicks = log ? [1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200].filter((v) => v >= yRange[0] && v <= yRange[1]) : ticks(yRange[0], yRange[1], 6);
    for (const v of yTicks) {
      root.append(svg("line", { x1: m.left, x2: width - m.right, y1: Y(v), y2: Y(v), stroke: "#e4e8ec" }),
        svg("text", { x: m.left - 8, y: Y(v) + 4, "text-anchor": "end" }, label(v)));
    }
    const wanted = xTicks || ticks(xRange[0], xRange[1], width < 500 ? 5 : 10);
    const every = Math.ceil(wanted.length / (width < 500 ? 8 : 16));
    for (const v of wanted.filter((_, i) => i % every === 0)) {
      root.append(svg("line", { x1: X(v), x2: X(v), y1: m.top, y2: height - m.bottom, stroke: "#eef1f4" }),
        svg("text", { x: X(v), y: height - m.bottom + 19, "text-anchor": "middle" }, label(v)));
    }
    root.append(svg("text", { x: (m.left + width - m.right) / 2, y: height - 6, "text-anchor": "middle", class: "soft" }, width < 500 ? xShort || xLabel : xLabel),
      svg("text", { x: 14, y: (m.top + height - m.bottom) / 2, "text-anchor": "middle", class: "soft", transform: `rotate(-90 14 ${(m.top + height - m.bottom) / 2})` }, yLabel));
    const drawn = svg("g", { "clip-path": `url(#${clip})` });
    root.append(drawn);
    for (const s of series) {
      if (s.band) {
        const there = s.band.map(([x, , high]) => `${X(x)},${Y(high)}`).concat(s.band.slice().reverse().map(([x, low]) => `${X(x)},${Y(low)}`));
        drawn.append(svg("polygon", { points: there.join(" "), fill: s.colour, opacity: 0.12 }));
      }
      if (s.line) {
        drawn.append(svg("polyline", { points: s.points.map((p) => `${X(p.x).toFixed(1)},${Y(p.y).toFixed(1)}`).join(" "), fill: "none", stroke: s.colour, "stroke-width": s.width || 2, "stroke-dasharray": s.dash, "stroke-linejoin": "round" }));
      }
    }
    let named = -Infinity;
    for (const s of series) {
      for (const p of s.points) {
        if (!s.shape || (s.line && s.sparse && !p.big) || !inside(p)) continue;
        const shape = mark(s.shape, p.big ? 6 : 5, s.colour, s.hollow);
        shape.setAttribute("transform", `translate(${X(p.x)},${Y(p.y)})`);
        root.append(shape);
        if (p.name && X(p.x) - named > 52) {
          named = X(p.x);
          root.append(svg("text", { x: X(p.x) + (X(p.x) > width - 90 ? -8 : 8), y: Y(p.y) - 9, "text-anchor": X(p.x) > width - 90 ? "end" : "start", class: "soft" }, p.name));
        }
      }
    }
    const halo = svg("circle", { r: 8, fill: "none", stroke: "#1b1f24", "stroke-width": 2, visibility: "hidden" });
    root.append(halo);
    const tip = el("div", { class: "tip", hidden: true, role: "status" });
    const live = series.map((s) => ({ ...s, points: s.points.filter((p) => p.tip && inside(p)) })).filter((s) => s.points.length);
    const here = { s: 0, p: 0 };
    function point(s, p) {
      Object.assign(here, { s, p });
      const found = live[s].points[p];
      const ratio = box.clientWidth / width;
      halo.setAttribute("transform", `translate(${X(found.x)},${Y(found.y)})`);
      halo.setAttribute("visibility", "visible");
      tip.replaceChildren(el("b", {}, live[s].name), ...found.tip.map((text) => el("div", {}, text)));
      tip.hidden = false;
      const x = X(found.x) * ratio;
      const y = Y(found.y) * ratio;
      tip.style.left = `${Math.max(0, Math.min(x + 14, box.clientWidth - tip.offsetWidth - 4))}px`;
      tip.style.top = `${y > height * ratio / 2 ? Math.max(0, y - tip.offsetHeight - 14) : y + 16}px`;
    }
    function leave() { tip.hidden = true; halo.setAttribute("visibility", "hidden"); }
    root.addEventListener("pointermove", (event) => {
      const frame = root.getBoundingClientRect();
      const px = ((event.clientX - frame.left) * width) / frame.width;
      const py = ((event.clientY - frame.top) * height) / frame.height;
      let best = null;
      live.forEach((s, i) => s.points.forEach((p, j) => {
        const distance = Math.hypot(X(p.x) - px, Y(p.y) - py) - (p.big ? 4 : 0);
        if (distance < 32 && (!best || distance < best[0])) best = [distance, i, j];
      }));
      if (best) point(best[1], best[2]); else leave();
    });
    root.addEventListener("pointerleave", leave);
    root.addEventListener("blur", leave);
    root.addEventListener("keydown", (event) => {
      if (!live.length) return;
      const moves = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
      if (event.key === "Escape") return leave();
      if (!moves[event.key]) return;
      event.preventDefault();
      const [ds, dp] = moves[event.key];
      const s = (here.s + ds + live.length) % live.length;
      const n = live[s].points.length;
      const p = ds ? nearest(live[s].points, live[here.s].points[Math.min(here.p, live[here.s].points.length - 1)].x) : tip.hidden ? Math.min(here.p, n - 1) : (here.p + dp + n) % n;
      point(s, p);
    });
    box.replaceChildren(root, tip);
  }
  const nearest = (points, x) => points.reduce((best, p, i) => (Math.abs(p.x - x) < Math.abs(points[best].x - x) ? i : best), 0);

  // ---- head --------------------------------------------------------------------------------------------------------
  function head() {
    const how = [`Made on ${S.date}. `];
    if (S.dev) how.push(`Thresholds were chosen on ${S.dev.set_name} (${S.dev.n_utterances} utterances), nothing on the sets below. `);
    else how.push("Without a dev set; how thresholds were chosen stands with each set. ");
    if (S.chosen_policy) how.push("Chosen policy: ", el("code", {}, S.chosen_policy), ".");
    if (S.command) how.push(el("details", {}, el("summary", {}, "Command"), el("code", {}, S.command)));
    show("made", ...how);
    const pick = (id, values, current, then) => {
      show(id, values.map(([value, text]) => el("option", { value, selected: String(value) === String(current) }, text)));
      at(id).addEventListener("change", (event) => then(event.target.value));
    };
    pick("set", SETS.map((name) => [name, name]), state.set, (v) => { state.set = v; state.page = 0; draw(); });
    const unit = (b) => (b <= 1 ? `${+(100 * b).toFixed(2)} % of full cost` : `${b} layers`);
    pick("budget", S.budgets.map((b) => [b, unit(b)]), state.budget, (v) => { state.budget = Number(v); draw(); });
    pick("kind", KINDS.map(([value, text]) => [value, text]), state.kind, (v) => { state.kind = v; state.page = 0; browse(); });
    pick("order", Object.entries({ saved: "most errors saved by an inner exit", last: "most errors at the last exit", table: "as in the table" }), state.order,
      (v) => { state.order = v; state.page = 0; browse(); });
    const policies = Object.keys(S.sets[SETS[0]].policies);
    pick("policy", policies.map((p) => [p, p]), state.policy, (v) => { state.policy = v; state.page = 0; browse(); });
    at("policy").parentElement.hidden = !policies.length;
    at("least").addEventListener("input", (event) => { state.least = Number(event.target.value) || 0; state.page = 0; browse(); });
    at("query").addEventListener("input", (event) => { state.query = event.target.value.trim().toLowerCase(); state.page = 0; browse(); });
    at("before").addEventListener("click", () => turn(-1));
    at("after").addEventListener("click", () => turn(1));
    at("whole").addEventListener("change", (event) => { state.whole = event.target.checked; frontier(); });
    show("care", DATA.caveats.map((text) => el("li", {}, text)));
    allSets();
  }
  function allSets() {
    const rows = SETS.map((name) => {
      const s = S.sets[name];
      const wers = s.wer_per_exit;
      const chosen = S.chosen_policy ? s.policies[S.chosen_policy].at_budget : null;
      const tax = s.single_exit ? `${fixed(s.single_exit.wer)} (${signed(s.single_exit.exit_tax)})` : "–";
      return [name, DATA.labels[s.label], `${s.n_utterances} (${s.n_speakers || "not known"})`, fixed(wers[0]), `${fixed(wers[wers.length - 1])} ${between(s.wer_interval_per_exit[wers.length - 1])}`,
        ...(chosen ? [`${fixed(chosen.wer)} @ ${fixed(chosen.cost, UNITS[S.cost].digits)}`, percent(chosen.gap_closed)] : []),
        `${fixed(s.oracle_a.wer)} @ ${fixed(s.oracle_a.depth)}`, `${fixed(s.oracle_b.wer)} @ ${fixed(s.oracle_b.depth)}`, tax, percent(s.overthinking.inner_better_share, 1)];
    });
    const header = ["set", "kind", "utterances (speakers)", "WER first exit", "WER last exit [95 %]", ...(S.chosen_policy ? [`chosen policy, WER @ ${UNITS[S.cost].unit}`, "gap closed"] : []),
      "oracle A @ layers", "oracle B @ layers", "single exit (exit tax)", "over\u00adthought"];
    show("all-sets", table(header, rows, { left: 2 }),
      el("p", { class: "note" }, "WER in percent, summed errors over summed reference words. Gap closed: 0 % on the static line, 100 % on oracle C. The oracles know the reference and take the minimum of several noisy counts, so they are optimistic by selection: no policy can be expected to reach them."));
  }
  function cards() {
    const s = one();
    const k = s.wer_per_exit.length - 1;
    const card = (value, text, more) => el("div", { class: "card" }, el("span", {}, text), el("b", {}, value), el("span", {}, more || ""));
    const list = [card(`${fixed(s.wer_per_exit[k])} %`, `WER of the last exit (layer ${s.exit_layers[k]})`, between(s.wer_interval_per_exit[k]))];
    const policy = S.chosen_policy ? choiceOf(S.chosen_policy) : null;
    if (policy) {
      const c = policy.costs[state.cost];
      list.push(card(`${fixed(policy.wer)} %`, `${S.chosen_policy} at the budget`, `${between(policy.interval)}; ${costText(c.mean)}, ${percent(c.share)} of full`));
      list.push(card(percent(c.gap_closed), "of the gap closed", `static ${fixed(c.static)}, oracle C ${fixed(c.oracle_c)} at this cost`));
    }
    list.push(card(`${fixed(s.oracle_a.wer)} %`, "oracle A: fewest errors", `${between(s.oracle_a.interval)}; at ${fixed(s.oracle_a.depth)} layers; optimistic by selection`));
    if (s.single_exit) list.push(card(`${signed(s.single_exit.exit_tax)}`, "exit tax, WER points", `${between(s.single_exit.exit_tax_interval)}; single-exit model ${fixed(s.single_exit.wer)} %`));
    list.push(card(percent(s.overthinking.inner_better_share, 1), "utterances overthought", `${percent(s.overthinking.destructive_share, 1)} destructive, ${percent(s.overthinking.wasteful_share, 1)} wasteful`));
    at("h-set").textContent = `${state.set}${s.label === "unknown" ? "" : ` (${DATA.labels[s.label]})`}`;
    show("cards", list);
  }
  const choiceOf = (text) => {
    const policy = one().policies[text];
    return policy ? policy.at_budgets.find((a) => a.budget === state.budget || a.budget === null) || null : null;
  };

  // ---- WER against cost --------------------------------------------------------------------------------------------
  function frontier() {
    segments("view", "What is drawn", [[false, "WER"], [true, "distance from the static line"]], state.below, (v) => { state.below = v; frontier(); });
    const s = one();
    const l = line();
    if (l.exits.length < 2) { show("frontier", el("p", {}, "One exit only: there is nothing to decide.")); show("frontier-legend"); return; }
    const stat = (x) => interpolate(l.static_line, x);
    const shown = (x, y) => (state.below ? y - stat(x) : y);
    const full = l.exits[l.exits.length - 1];
    const best = l.static_line[l.static_line.length - 1][1];
    const grid = Array.from({ length: 201 }, (_, i) => l.exits[0] + ((full - l.exits[0]) * i) / 200);
    const single = s.single_exit && s.single_exit.costs ? s.single_exit.costs[state.cost] : null;
    const tips = (x, y, more) => [...more, `WER ${fixed(y)} % at ${costText(x)} (${percent(x / full)} of full)`,
      `static ${fixed(stat(x))}, oracle C ${fixed(interpolate(l.oracle_c, x))}; gap closed ${percent((stat(x) - y) / (stat(x) - interpolate(l.oracle_c, x)))}`];
    const all = [
      { name: "static line", colour: "#1b1f24", dash: "6 5", line: true, points: grid.map((x) => ({ x, y: shown(x, stat(x)) })) },
      { name: "oracle C (optimistic by selection)", colour: "#00805c", width: 2.6, line: true, points: grid.map((x) => ({ x, y: shown(x, interpolate(l.oracle_c, x)), tip: [`WER ${fixed(interpolate(l.oracle_c, x))} % at ${costText(x)}`] })) },
      { name: "fixed exit", colour: "#1b1f24", hollow: true, shape: "circle", points: l.exits.map((x, k) => ({ x, y: shown(x, s.wer_per_exit[k]), name: `layer ${s.exit_layers[k]}`, tip: [`after layer ${s.exit_layers[k]}: WER ${fixed(s.wer_per_exit[k])} % ${between(s.wer_interval_per_exit[k])}`, costText(x)] })) },
    ];
    if (isNumber(single)) all.push({ name: `trained with one exit only (exit tax ${signed(s.single_exit.exit_tax)})`, colour: "#1b1f24", shape: "cross", points: [{ x: single, y: shown(single, s.single_exit.wer), big: true, tip: [`WER ${fixed(s.single_exit.wer)} % ${between(s.single_exit.interval)}`, `layer ${s.single_exit.exit_layer}, ${costText(single)}`, `exit tax ${signed(s.single_exit.exit_tax)} ${between(s.single_exit.exit_tax_interval)} points`] }] });
    Object.entries(s.policies).forEach(([text, policy], i) => {
      const curve = policy.curves[state.cost].map(([x, y], j) => ({ x, y: shown(x, y), tip: tips(x, y, [`as ${policy.curve_texts[j]}`]) })).sort((a, b) => a.x - b.x || a.y - b.y);
      const points = policy.at_budgets.map((a) => {
        const x = a.costs[state.cost].mean;
        return { x, y: shown(x, a.wer), big: a.budget === state.budget || a.budget === null, wer: a.wer, tip: tips(x, a.wer, [`as ${a.calibrated}`, a.budget === null ? "as given" : `budget ${a.budget}; 95 % ${between(a.interval)}`]) };
      });
      const grey = text.includes("random");
      const look = { colour: grey ? "#6e7781" : DATA.colours[i % DATA.colours.length], shape: MARKS[i % MARKS.length] };
      all.push({ name: text, ...look, line: true, sparse: true, width: text === S.chosen_policy ? 3 : 1.7, points: curve, policy: true },
        { name: text, ...look, points: points.filter((p) => p.big), policy: true, at: true });
    });
    const series = all.filter((x) => !state.hidden.has(x.name));
    let from = l.exits[0];
    if (!state.whole) {
      const cut = grid.find((x) => stat(x) <= 2.2 * best);
      const placed = all.filter((x) => x.at).flatMap((x) => x.points.map((p) => p.x));
      from = Math.max(l.exits[0], Math.min(cut === undefined ? l.exits[0] : cut, l.exits[0] + 0.8 * (full - l.exits[0]), ...placed.map((x) => x - 0.02 * full)));
    }
    const pad = 0.02 * (full - from);
    const xRange = [from - pad, Math.max(full, isNumber(single) ? single : 0) + pad];
    const seen = series.filter((x) => !(x.policy && x.line)).flatMap((x) => x.points.filter((p) => p.x >= xRange[0] && p.x <= xRange[1]).map((p) => p.y));
    const low = Math.min(...seen);
    const high = Math.max(...seen);
    const room = 0.07 * Math.max(high - low, 0.1);
    chart("frontier", {
      series, xRange, yRange: [state.below ? low - room : Math.max(0, low - room), high + room], xLabel: UNITS[state.cost].title + (l.machine ? `, ${l.machine}` : ""), xShort: `mean cost (${UNITS[state.cost].unit})`,
      yLabel: state.below ? "WER points from the static line" : "WER (%)", description: `WER against ${UNITS[state.cost].title} on ${state.set}`,
    });
    show("frontier-legend", all.filter((x) => !x.at).map((x) =>
      el("button", { type: "button", "aria-pressed": String(!state.hidden.has(x.name)), onclick: () => { state.hidden.has(x.name) ? state.hidden.delete(x.name) : state.hidden.add(x.name); frontier(); } }, key(x), x.name)));
  }

  // ---- tables and small pictures -----------------------------------------------------------------------------------
  function policies() {
    const s = one();
    const texts = Object.keys(s.policies);
    if (!texts.length) { show("policies", el("p", { class: "note" }, "No policy is reported here.")); return; }
    const shown = texts.map((text) => [text, choiceOf(text)]), f = s.fused; // fused words stand below the policy that they belong to
    if (f && choiceOf(f.policy)?.budget === f.at_budget.budget) shown.splice(texts.indexOf(f.policy) + 1, 0, [`${f.policy} + fusion`, f.at_budget]);
    const rows = shown.map(([text, a]) => {
      if (!a) return [el("td", { class: "text" }, el("code", {}, text)), words("the budget cannot be met"), "–", "–", "–", "–", "–", "–"];
      const c = a.costs[state.cost];
      return [el("td", { class: "text" }, el("code", {}, text)), words(el("code", {}, a.calibrated)), `${fixed(a.wer)} ${between(a.interval)}`, costText(c.mean), percent(c.share),
        state.cost === S.cost ? range(a.minus_static) : signed(a.wer - c.static), range(a.minus_last), percent(c.gap_closed)];
    });
    const where = s.policies[texts[0]].calibrated_on;
    const resampled = `95 % intervals: ${s.intervals.n_draws} draws of ${s.intervals.n_blocks} ${s.intervals.resampled}; differences are paired on the same utterances.${s.n_speakers > 0 && s.n_speakers < 8 ? " Nothing is to be concluded from so few." : ""}`;
    const how = where === null ? "Thresholds were set on this very set, which flatters the policies: no dev table, and too few speakers for a cross-fit." : `Thresholds: ${where}.`;
    show("policies", table(["policy", "as calibrated", "WER [95 %]", "cost", "of full", "minus static line [95 %]", "minus last exit [95 %]", "gap closed"], rows,
      { left: 2, stress: (row) => row[0].textContent === S.chosen_policy }), el("p", { class: "note" }, `${how} ${resampled}`));
  }
  function leave() {
    const s = one();
    const figures = Object.keys(s.policies).map((text, i) => {
      const a = choiceOf(text);
      if (!a) return null;
      const total = a.exits_chosen.reduce((x, y) => x + y, 0);
      const shares = a.exits_chosen.map((x) => x / total);
      const top = Math.max(...shares);
      const n = shares.length;
      const w = 300;
      const step = w / n;
      const colour = text.includes("random") ? "#6e7781" : DATA.colours[i % DATA.colours.length];
      const bars = shares.map((x, k) => [
        svg("rect", { x: k * step + step * 0.12, width: step * 0.76, y: 112 - (92 * x) / top, height: Math.max(0.5, (92 * x) / top), fill: colour }, svg("title", {}, `layer ${s.exit_layers[k]}: ${a.exits_chosen[k]} utterances`)),
        n <= 8 ? svg("text", { x: (k + 0.5) * step, y: 106 - (92 * x) / top, "text-anchor": "middle" }, x === 0 ? "" : x < 0.0005 ? "<0.1" : (100 * x).toFixed(x < 0.1 ? 1 : 0)) : null,
        n <= 12 || k % 2 ? svg("text", { x: (k + 0.5) * step, y: 128, "text-anchor": "middle" }, String(s.exit_layers[k])) : null,
      ]);
      const words = s.exit_layers.map((layer, k) => `layer ${layer}: ${percent(shares[k], 1)}`).join(", ");
      return el("figure", { class: "chart" }, el("figcaption", {}, el("code", {}, text), ` mean depth ${fixed(a.depth)}`),
        svg("svg", { viewBox: `0 -6 ${w} 142`, role: "img", "aria-label": `Share of utterances by exit: ${words}` }, bars));
    });
    show("leave", figures.filter(Boolean), el("p", { class: "note" }, "Per cent of utterances by the layer after which they left."));
  }
  function exits() {
    const series = [];
    SETS.forEach((name, i) => {
      const s = S.sets[name];
      const colour = DATA.colours[i % DATA.colours.length];
      const dash = { in_domain: null, shifted: "7 4", ood: "2 4", unknown: null }[s.label];
      const title = s.label === "unknown" ? name : `${name} (${DATA.labels[s.label]})`;
      series.push({ name: title, colour, dash, line: true, width: s.label === "in_domain" ? 3 : 2, shape: MARKS[i % MARKS.length],
        band: SETS.length <= 3 || name === state.set ? s.exit_layers.map((x, k) => [x, ...s.wer_interval_per_exit[k]]) : null,
        points: s.exit_layers.map((x, k) => ({ x, y: s.wer_per_exit[k], tip: [`layer ${x}: WER ${fixed(s.wer_per_exit[k])} % ${between(s.wer_interval_per_exit[k])}`, `CER ${fixed(s.cer_per_exit[k])} %, ${s.errors_per_exit[k]} word errors`] })) });
      if (s.single_exit) series.push({ name: `${name}, trained with one exit only`, colour, shape: "cross", points: [{ x: s.single_exit.exit_layer, y: s.single_exit.wer, tip: [`WER ${fixed(s.single_exit.wer)} % ${between(s.single_exit.interval)}`, `exit tax ${signed(s.single_exit.exit_tax)} points`] }] });
    });
    const values = series.flatMap((s) => [...s.points.map((p) => p.y), ...(s.band || []).flatMap((b) => [b[1], b[2]])]);
    const layers = [...new Set(series.flatMap((s) => s.points.map((p) => p.x)))].sort((a, b) => a - b);
    const log = Math.min(...values) > 0.5 && Math.max(...values) / Math.min(...values) > 6;
    const pad = Math.max(0.3, 0.02 * (layers[layers.length - 1] - layers[0]));
    chart("exits", { series, log, xTicks: layers, xRange: [layers[0] - pad, layers[layers.length - 1] + pad], yRange: log ? [Math.min(...values) / 1.15, Math.max(...values) * 1.12] : [0, Math.max(...values) * 1.08 || 1],
      xLabel: "exit after layer", yLabel: log ? "WER (%), logarithmic" : "WER (%)", description: "WER per exit on every set" });
    show("exits-legend", series.map((s) => el("span", {}, key(s), s.name)));
  }
  function signals() {
    const s = one();
    const names = Object.keys(s.signals);
    if (!names.length) { show("signals", el("p", { class: "note" }, "No signals here.")); return; }
    const cell = (v) => el("td", { style: isNumber(v) ? `background: rgba(${v >= 0.5 ? "0, 114, 178" : "213, 94, 0"}, ${Math.min(0.45, Math.abs(v - 0.5) * 0.9).toFixed(2)})` : null }, fixed(v));
    show("signals", table(["signal", ...s.exit_layers.slice(0, -1).map((x) => `layer ${x}`), "all inner exits"], names.map((name) => [name, ...s.signals[name].per_exit.map(cell), cell(s.signals[name].pooled)])));
  }
  function wordCounts() {
    const s = one();
    const n = s.n_utterances;
    const o = s.overthinking;
    const count = (share) => `${Math.round(share * n)} (${percent(share, 1)})`;
    const rows = [["an inner exit has fewer errors than the last", count(o.inner_better_share)], ["destructive: right at an inner exit, wrong at the last", count(o.destructive_share)], ["wasteful: right at an inner exit, and still right", count(o.wasteful_share)]];
    const parts = [table([`utterances (of ${n})`, "count"], rows)];
    if (s.words) {
      const w = s.words;
      const of = (share) => `${Math.round(share * w.n_words)} (${percent(share, 2)})`;
      parts.push(el("p", {}, `Of ${w.n_words} reference words ${of(w.destructive)} were right at some inner exit and are wrong at the last, ${of(w.wasteful)} were right earlier and still are, ${of(w.never_right)} are wrong at every exit.`),
        table(["words, against the last exit", ...w.exit_layers.map((x) => `layer ${x}`)], [["regressive: right there, wrong at the last", ...w.regressive.map((x) => percent(x, 2))], ["progressive: wrong there, right at the last", ...w.progressive.map((x) => percent(x, 2))]]));
    }
    show("words", parts);
  }
  function pairs() {
    const rows = S.comparisons.filter((row) => row.set === state.set && (row.budget === state.budget || row.budget === null));
    if (!rows.length) { show("pairs", el("p", { class: "note" }, "There is no pair to compare here.")); return; }
    const p = (x) => (x === null ? "–" : x < 0.001 ? "< 0.001" : fixed(x, 3));
    show("pairs", table(["against", "WER difference [95 %]", "cost difference", "p, bootstrap", "p, matched pairs", "p, Holm"],
      rows.map((r) => [el("td", { class: "text" }, el("code", {}, r.other)), range(r), `${signed(r.cost_difference, UNITS[S.cost].digits)} ${UNITS[S.cost].unit}`, p(r.bootstrap_p), p(r.matched_pairs_p), p(r.holm_p)])),
      el("p", { class: "note" }, `${rows[0].policy} minus the other, on the same utterances; below 0 it is better. Costs can differ, since budgets are met where thresholds are chosen. Holm: over all ${S.comparisons.filter((r) => r.holm_p !== null).length} comparisons of this report that have a p-value; sets of fewer than 8 speakers have none.`));
  }
  function neededTable() {
    const [head, , ...body] = S.risk.speakers_needed.split("\n").map((line) => line.split("|").slice(1, -1).map((cell) => cell.trim()));
    return el("div", {}, el("p", { class: "note" }, `Speakers needed, even without any excess error, for eps at a clip of B WER points and delta ${S.risk.delta}:`), table(head, body, { left: 1 }));
  }
  function risk() {
    at("risk-section").hidden = !S.risk;
    if (!S.risk) return;
    const rows = one().risk.map((r) => r.outcome
      ? [el("td", { class: "text" }, el("code", {}, r.calibrated)), r.certified ? "yes" : "no", words(r.reason), fixed(r.smallest_eps), signed(r.outcome.excess), !r.certified ? "nothing promised" : r.outcome.violated ? "violated" : "kept", percent(r.outcome.saved, 1)]
      : [el("td", { class: "text" }, el("code", {}, r.policy)), "no", words(r.reason), "–", "–", "–", "–"]);
    const issued = one().risk.find((r) => r.certified);
    show("risk", el("p", { class: "lead" }, `Asked for: at most ${S.risk.eps} WER points above the last exit, with probability ${1 - S.risk.delta} (Learn Then Test). What is promised, over which speakers, stands in each row. ${S.dev ? "Certified on dev, judged here." : "Certified on one half of the speakers, judged on the other."} It holds for speakers like those of calibration, not under shift.`),
      rows.length ? table(["policy", "certified", "what is promised, or why not", "smallest eps (points)", "excess here", "kept here", "layers saved"], rows, { left: 3 }) : el("p", {}, "Nothing can be certified: too few speakers."),
      issued ? el("p", { class: "note" }, `Assumed: ${issued.assumptions.join("; ")}.`) : neededTable());
  }

  // ---- utterances --------------------------------------------------------------------------------------------------
  const KINDS = [
    ["over", "overthought: an inner exit has fewer errors than the last"], ["destructive", "destructive: right at an inner exit, wrong at the last"],
    ["wasteful", "wasteful: right at an inner exit, and still right"], ["lost", "the policy left too early (more errors than the last exit)"],
    ["won", "the policy gained (fewer errors than the last exit)"], ["missed", "the policy did worse than oracle A"], ["all", "all"],
  ];
  const digits = (text) => Array.from(text, (c) => c.codePointAt(0) - 48);
  function utterance(u, i) {
    const errors = u.errors[i];
    const last = errors.length - 1;
    const chosen = u.choices[state.policy];
    const key = chosen ? (String(state.budget) in chosen ? String(state.budget) : "null") : null;
    const left = chosen && chosen[key] ? chosen[key].codePointAt(i) - 48 : null;
    const a = errors.indexOf(Math.min(...errors));
    const b = errors.findIndex((e) => e <= errors[last]);
    return { i, errors, last, left, a, b, fewest: Math.min(...errors.slice(0, -1)) };
  }
  const KEEP = {
    over: (x) => x.fewest < x.errors[x.last], destructive: (x) => x.fewest === 0 && x.errors[x.last] > 0, wasteful: (x) => x.fewest === 0 && x.errors[x.last] === 0,
    lost: (x) => x.left !== null && x.errors[x.left] > x.errors[x.last], won: (x) => x.left !== null && x.errors[x.left] < x.errors[x.last],
    missed: (x) => x.left !== null && x.errors[x.left] > x.errors[x.a], all: () => true,
  };
  let matches = [];
  function browse() {
    const u = DATA.utterances[state.set];
    const finds = (i) => !state.query || [u.ids[i], u.speakers[i], u.references ? u.references[i] : "", ...u.hypotheses[i]].some((t) => t.toLowerCase().includes(state.query));
    matches = u.ids.map((_, i) => utterance(u, i)).filter((x) => KEEP[state.kind](x) && x.errors[x.last] >= state.least && finds(x.i));
    const by = { saved: (x, y) => x.fewest - x.errors[x.last] - (y.fewest - y.errors[y.last]) || x.fewest - y.fewest, last: (x, y) => y.errors[y.last] - x.errors[x.last], table: () => 0 }[state.order];
    matches.sort((x, y) => by(x, y) || x.i - y.i);
    const some = u.ids.length < u.n_all ? ` The page holds ${u.ids.length} of ${u.n_all} utterances: ${u.rule}.` : "";
    show("found", `${matches.length} of ${u.ids.length} utterances.${some} `, ...(u.references
      ? ["Marks: ", el("span", { class: "sub" }, "wrong word"), ", ", el("ins", {}, "added word"), ", ", el("del", {}, "missing word"), "."]
      : ["The table has no references, so errors are counted but not marked."]));
    page();
  }
  function page() {
    const u = DATA.utterances[state.set];
    const pages = Math.max(1, Math.ceil(matches.length / PER_PAGE));
    state.page = Math.max(0, Math.min(state.page, pages - 1));
    show("utterances", matches.slice(state.page * PER_PAGE, (state.page + 1) * PER_PAGE).map((x) => article(u, x)));
    at("where").textContent = `page ${state.page + 1} of ${pages}`;
    at("before").disabled = state.page === 0;
    at("after").disabled = state.page >= pages - 1;
  }
  function turn(step) { state.page += step; page(); at("found").scrollIntoView({ block: "start" }); }
  function article(u, x) {
    const layers = one().exit_layers;
    const which = digits(u.which[x.i]);
    const reference = u.references ? u.references[x.i] : null;
    const rows = layers.map((layer, k) => {
      const badges = [k === x.left ? el("span", { class: "badge policy" }, `${state.policy} leaves`) : null, k === x.a ? el("span", { class: "badge oracle" }, "oracle A") : null, k === x.b ? el("span", { class: "badge oracle" }, "oracle B") : null];
      const same = k > 0 && which[k] === which[k - 1];
      const text = u.hypotheses[x.i][which[k]];
      return el("div", { class: k === x.left ? "exit left" : "exit" }, el("span", {}, `layer ${layer}`), el("span", { class: "n" }, x.errors[k] === 1 ? "1 error" : `${x.errors[k] || "no"} errors`),
        el("span", { class: "what" }, badges, same ? el("span", { class: "same" }, `same as layer ${layers[k - 1]}`) : reference === null ? text || el("i", {}, "(nothing)") : marked(reference, text)));
    });
    return el("article", {}, el("h3", {}, u.ids[x.i]), el("div", { class: "about" }, [u.speakers[x.i] ? `speaker ${u.speakers[x.i]}` : "speaker not known", `${u.seconds[x.i]} s`, `${u.words[x.i]} words`].join(" · ")),
      reference === null ? null : el("div", { class: "said" }, el("b", {}, "said: "), reference || "(nothing)"), rows);
  }
  function marked(reference, hypothesis) {
    const r = reference.split(/\s+/).filter(Boolean);
    const h = hypothesis.split(/\s+/).filter(Boolean);
    const d = Array.from({ length: r.length + 1 }, (_, i) => Array.from({ length: h.length + 1 }, (_, j) => (i === 0 ? j : j === 0 ? i : 0)));
    for (let i = 1; i <= r.length; i++) for (let j = 1; j <= h.length; j++) d[i][j] = Math.min(d[i - 1][j - 1] + (r[i - 1] === h[j - 1] ? 0 : 1), d[i - 1][j] + 1, d[i][j - 1] + 1);
    const out = [];
    for (let i = r.length, j = h.length; i > 0 || j > 0;) {
      if (i > 0 && j > 0 && r[i - 1] === h[j - 1] && d[i][j] === d[i - 1][j - 1]) { out.push(h[j - 1]); i--; j--; }
      else if (i > 0 && j > 0 && d[i][j] === d[i - 1][j - 1] + 1) { out.push(el("span", { class: "sub", title: `said: ${r[i - 1]}` }, h[j - 1])); i--; j--; }
      else if (i > 0 && d[i][j] === d[i - 1][j] + 1) { out.push(el("del", { title: "missing" }, r[i - 1])); i--; }
      else { out.push(el("ins", { title: "added" }, h[j - 1])); j--; }
    }
    if (!out.length) return el("i", {}, "(nothing)");
    return el("span", {}, out.reverse().flatMap((part) => [part, " "]));
  }

  // ---- all together ------------------------------------------------------------------------------------------------
  function draw() {
    segments("costs", "Cost", S.costs.map((name) => [name, { depth: "layers", macs: "MACs", time: "time" }[name]]), state.cost, (v) => { state.cost = v; draw(); });
    cards(); frontier(); policies(); leave(); exits(); signals(); wordCounts(); pairs(); risk(); browse();
  }
  head();
  draw();
  let drawnAt = window.innerWidth;
  window.addEventListener("resize", () => { if (window.innerWidth !== drawnAt) { drawnAt = window.innerWidth; frontier(); exits(); } });
})();
