"use strict";
// Draws, filters and counts. Every number that is a statistic comes with its text from Python; every text from outside
// becomes a text node, never markup.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const PAGE = 50;
  const SIGNS = { higher: "▲", equivalent: "=", undecided: "?", "one seed": "1", floor: "⌄", trust: "!", note: "·" };
  const FLAGS = { unparseable: 1, empty: 2, capped: 4, overlong: 8 };
  const DEFAULTS = {
    group: 0, set: 0, budget: -1, cost: "flops", log: 1, front: 1, ref: 0, a: 0, b: 0, seed: "all", cell: "", level: "", flag: "", q: "",
    item: "", losslog: 1,
  };
  const byId = (id) => document.getElementById(id);
  const number = new Intl.NumberFormat("en-US");
  let page = null;
  let state = { ...DEFAULTS };
  const questions = new Map(); // number of the group -> its columns, or the promise of them

  // Elements ----------------------------------------------------------------------------------------------------------

  function filled(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else node.setAttribute(name, value === true ? "" : String(value));
    }
    for (const child of children.flat(9)) if (child !== null && child !== undefined) node.append(child);
    return node;
  }
  const el = (tag, attributes, ...children) => filled(document.createElement(tag), attributes, children);
  const draw = (tag, attributes, ...children) => filled(document.createElementNS(SVG, tag), attributes, children);
  const show = (id, ...children) => byId(id).replaceChildren(...children.flat(9).filter((child) => child !== null));

  function options(select, entries, chosen) {
    select.replaceChildren(...entries.map(([value, text]) => el("option", { value, selected: String(value) === String(chosen) }, text)));
    select.value = String(chosen);
  }

  // Tables and CSV ----------------------------------------------------------------------------------------------------

  const csvCell = (text) => {
    const safe = /^[=+\-@\t\r]/.test(text) && !/^[+-]?[0-9.,]+$/.test(text) ? `'${text}` : text;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  function save(name, text) {
    const link = el("a", { download: name, href: URL.createObjectURL(new Blob([text], { type: "text/csv" })) });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
  const csv = (columns, rows) => [columns, ...rows].map((row) => row.map((cell) => csvCell(String(cell))).join(",")).join("\n") + "\n";

  /** A real table; `sides`: "l" or "r" for each column. `name`: of the CSV file that a button saves. */
  function table(caption, columns, sides, rows, name) {
    const side = (k) => (sides[k] === "r" ? "n" : null);
    const head = el("thead", null, el("tr", null, columns.map((text, k) => el("th", { scope: "col", class: side(k) }, text))));
    const body = el("tbody", null, rows.map((row) =>
      el("tr", null, row.map((text, k) => (k ? el("td", { class: side(k) }, text) : el("th", { scope: "row" }, text))))));
    const button = name && el("button", { type: "button", class: "save", onclick: () => save(`${name}.csv`, csv(columns, rows)) }, "Save as CSV");
    return el("div", null, el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
      el("table", null, el("caption", null, caption), head, body)), button);
  }

  // State in the address ----------------------------------------------------------------------------------------------

  function readState() {
    const given = new URLSearchParams(location.hash.slice(1));
    state = { ...DEFAULTS };
    state.group = within(given.get("group"), page.groups.length, 0);
    if (!page.groups.length) return;
    const view = group();
    Object.assign(state, pairOf(view));
    for (const [name, value] of given) {
      if (!(name in DEFAULTS) || name === "group") continue;
      if (["set", "ref", "a", "b", "budget", "log", "front", "losslog"].includes(name)) {
        const count = { set: view.sets.length, ref: view.rows.length, a: view.rows.length, b: view.rows.length, budget: view.budgets.length };
        state[name] = name === "ref" && value === "-1" ? -1 : within(value, count[name] ?? 2, state[name]);
      } else state[name] = value;
    }
  }
  const within = (text, count, otherwise) => (/^\d+$/.test(text ?? "") && Number(text) < count ? Number(text) : otherwise);

  function writeState() {
    const base = page.groups.length ? { ...DEFAULTS, ...pairOf(group()) } : DEFAULTS;
    const out = new URLSearchParams();
    for (const [name, value] of Object.entries(state)) if (String(value) !== String(base[name])) out.set(name, value);
    const text = out.toString();
    if (location.hash.slice(1) !== text) history.replaceState(null, "", `#${text}`);
  }

  /** The two rows that are compared first: direct and rim of one budget where they are there. */
  function pairOf(view) {
    const a = Math.max(0, view.rows.findIndex((row) => row.method === "direct"));
    const like = (test) => view.rows.findIndex((row, k) => k !== a && row.budget === view.rows[a]?.budget && test(row));
    const b = [like((row) => row.method === "rim"), like(() => true), view.rows.findIndex((_, k) => k !== a), a].find((k) => k >= 0);
    return { a, b, ref: a };
  }

  /** Rows that share colour and marker with an earlier one, as of another training budget, get hollow markers. */
  function tellApart(rows) {
    const seen = new Map();
    for (const row of rows) {
      const look = `${row.color} ${row.marker}`;
      row.hollow = (seen.get(look) ?? 0) % 2 === 1;
      seen.set(look, (seen.get(look) ?? 0) + 1);
    }
  }

  const group = () => page.groups[state.group];
  const shownRow = (row) => state.budget < 0 || row.budget === state.budget;

  /** The set whose pairs and costs stand for the chosen one: levels have none of their own. */
  function testedSet() {
    const sets = group().sets;
    if (!sets[state.set].level) return state.set;
    const alike = sets.findIndex((set) => !set.level && set.ood === sets[state.set].ood);
    return Math.max(0, alike);
  }

  // Pictures ----------------------------------------------------------------------------------------------------------

  const MARKS = {
    o: (r) => draw("circle", { r }),
    s: (r) => draw("rect", { x: -r * 0.9, y: -r * 0.9, width: r * 1.8, height: r * 1.8 }),
    "^": (r) => draw("path", { d: `M0 ${-r * 1.15}L${r * 1.1} ${r * 0.85}H${-r * 1.1}Z` }),
    v: (r) => draw("path", { d: `M0 ${r * 1.15}L${r * 1.1} ${-r * 0.85}H${-r * 1.1}Z` }),
    D: (r) => draw("path", { d: `M0 ${-r * 1.25}L${r * 1.25} 0L0 ${r * 1.25}L${-r * 1.25} 0Z` }),
    P: (r) => draw("path", { d: plus(r * 1.15, r * 0.42) }),
    X: (r) => draw("path", { d: plus(r * 1.2, r * 0.42), transform: "rotate(45)" }),
    "*": (r) => draw("path", { d: star(r * 1.4) }),
  };
  const plus = (r, w) => `M${-w} ${-r}H${w}V${-w}H${r}V${w}H${w}V${r}H${-w}V${w}H${-r}V${-w}H${-w}Z`;
  const star = (r) => "M" + Array.from({ length: 10 }, (_, k) => {
    const size = k % 2 ? r * 0.42 : r, angle = (k * Math.PI) / 5;
    return `${(size * Math.sin(angle)).toFixed(2)} ${(-size * Math.cos(angle)).toFixed(2)}`;
  }).join("L") + "Z";

  function mark(row, x, y, r = 5.5) {
    const shape = MARKS[row.marker](r);
    shape.setAttribute("class", row.hollow ? "open" : "solid");
    return draw("g", { transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})` }, shape);
  }
  const line = (x1, y1, x2, y2, kind) => draw("line", { x1, y1, x2, y2, class: kind });
  const text = (x, y, content, attributes) => draw("text", { x, y, ...attributes }, content);
  const cut = (content, most) => (content.length > most ? `${content.slice(0, most - 1)}…` : content);
  const looks = (row) => `k${row.color}`;

  /** A label in at most two lines. */
  function label(x, y, content, most, attributes) {
    if (content.length <= most) return text(x, y, content, attributes);
    const at = content.lastIndexOf(" ", most);
    const [first, second] = at > 0 ? [content.slice(0, at), content.slice(at + 1)] : [content.slice(0, most), content.slice(most)];
    return [text(x, y - 7, first, attributes), text(x, y + 8, cut(second, most), attributes)];
  }

  function ticks(low, high, most) {
    const raw = (high - low) / most, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
    const out = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) out.push(k * step);
    return out;
  }
  function logTicks(low, high) {
    let out = [];
    for (const among of [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7], [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8]]) {
      const finer = [];
      for (let e = -9; e < 24; e++) for (const m of among) if (m * 10 ** e >= low && m * 10 ** e <= high) finer.push(m * 10 ** e);
      if (finer.length <= 6) out = finer;
    }
    return out;
  }
  function amount(value) {
    for (const [size, unit] of [[1e18, " E"], [1e15, " P"], [1e12, " T"], [1e9, " G"], [1e6, " M"], [1e3, " k"]])
      if (value >= size) return `${Number((value / size).toPrecision(3))}${unit}`;
    return value && Math.abs(value) < 1e-3 ? value.toExponential(0).replace("e-", "e−") : `${Number(value.toPrecision(3))}`;
  }

  function picture(width, height, name, ...parts) {
    return draw("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": name }, parts);
  }
  const room = (id) => Math.max(270, Math.floor(byId(id).clientWidth || 700));

  function drawAccuracy() {
    const view = group(), set = view.sets[state.set], rows = view.rows.filter(shownRow);
    const width = room("accuracy-picture"), narrow = width < 620;
    const left = narrow ? 6 : 236, right = narrow ? 14 : 176, step = narrow ? 60 : 46, top = 26;
    const end = top + rows.length * step;
    const highest = Math.max(0.05, set.floor.value, ...rows.flatMap((row) => [row.accuracy[state.set].high, ...row.accuracy[state.set].seeds]));
    const most = Math.min(1, highest * 1.04), x = (value) => left + (Math.max(0, Math.min(value, most)) / most) * (width - left - right);
    const parts = ticks(0, 100 * most, narrow ? 5 : 10).map((tick) => [
      line(x(tick / 100), top - 6, x(tick / 100), end, "grid"), text(x(tick / 100), end + 16, `${Number(tick.toFixed(6))}`, { class: "soft", "text-anchor": "middle" })]);
    parts.push(line(x(set.floor.value), top - 6, x(set.floor.value), end, "floor"));
    parts.push(text(x(set.floor.value), top - 11, "floor", { class: "soft", "text-anchor": x(set.floor.value) > width - 60 ? "end" : "middle" }));
    rows.forEach((row, k) => {
      const e = row.accuracy[state.set], y = top + k * step + (narrow ? 32 : 18);
      const parted = [line(x(e.low), y, x(e.high), y, "bar-line"), line(x(e.low), y - 4, x(e.low), y + 4, "bar-line"), line(x(e.high), y - 4, x(e.high), y + 4, "bar-line"), mark(row, x(e.value), y)];
      if (e.seeds.length > 1) {
        if (e.sd !== null) parted.unshift(draw("rect", { x: x(e.value - e.sd), y: y + 8, width: Math.max(1, x(e.value + e.sd) - x(e.value - e.sd)), height: 10, class: "band", rx: 2 }));
        for (const seed of e.seeds) parted.push(draw("circle", { cx: x(seed), cy: y + 13, r: 3.6, class: "open" }));
      }
      const value = `${e.text}${e.sd === null ? "" : ` ± ${e.sd_text}`}`, floor = e.at_floor ? "at the floor" : "";
      parts.push(draw("g", { class: looks(row) }, parted));
      if (narrow) parts.push(text(left, y - 14, cut(row.label, 30)), text(width - 4, y - 14, value, { class: "strong", "text-anchor": "end" }), text(width - 4, y + 17, floor, { class: "soft", "text-anchor": "end" }));
      else parts.push(label(left - 12, y + 4, row.label, 34, { "text-anchor": "end" }), text(width - right + 14, y + 2, value, { class: "strong" }), text(width - right + 14, y + 18, `${e.interval_text} ${floor}`, { class: "soft" }));
    });
    parts.push(text(left, end + 34, "accuracy, %", { class: "soft" }));
    show("accuracy-picture", picture(width, end + 40, `Accuracy by row, ${set.title}; the numbers stand in the table below`, parts));
    const most_seeds = [...new Set(rows.flatMap((row) => row.seeds))].sort((a, b) => a - b);
    const columns = ["row", "seeds", "n", "accuracy %", "± over seeds", "95 % over questions", ...most_seeds.map((s) => `seed ${s} %`), "floor"];
    show("accuracy-table",
      table(`Accuracy, ${set.title}, n = ${number.format(set.n)}. Floor ${set.floor.text}.`, columns, "l" + "r".repeat(columns.length - 2) + "l",
        rows.map((row) => {
          const e = row.accuracy[state.set];
          const seeds = most_seeds.map((s) => (row.seeds.includes(s) ? e.seed_texts[row.seeds.indexOf(s)] : "-"));
          return [row.label, String(row.seeds.length), number.format(set.n), e.text, e.sd_text, e.interval_text, ...seeds, e.at_floor ? "at the floor" : ""];
        }), "accuracy"));
  }

  /** Accuracy over the levels of a task, those out of distribution shaded. */
  function drawLevels() {
    const view = group(), rows = view.rows.filter(shownRow), levels = view.sets.map((set, k) => [set, k]).filter(([set]) => set.level);
    byId("levels").hidden = levels.length < 2 || levels.length > 16;
    if (byId("levels").hidden) return;
    const width = room("levels-picture"), height = width < 620 ? 290 : 340, left = 40, right = 10, top = 28, bottom = height - 30;
    const step = (width - left - right) / levels.length, most = Math.min(1, 1.04 * Math.max(0.05, ...levels.flatMap(([set, k]) => [set.floor.value, ...rows.map((row) => row.accuracy[k].high)])));
    const y = (value) => bottom - (Math.min(value, most) / most) * (bottom - top), x = (i, k) => left + step * (i + 0.5 + ((k + 0.5) / rows.length - 0.5) * 0.72);
    const parts = levels.map(([set], i) => (set.ood ? draw("rect", { x: left + step * i, y: top - 6, width: step, height: bottom - top + 6, class: "ood" }) : null));
    if (levels.some(([set]) => set.ood)) parts.push(text(width - right, top - 12, "shaded: out of distribution", { class: "soft", "text-anchor": "end" }));
    for (const t of ticks(0, 100 * most, 6)) parts.push(line(left, y(t / 100), width - right, y(t / 100), "grid"), text(left - 6, y(t / 100) + 4, `${Number(t.toFixed(6))}`, { class: "soft", "text-anchor": "end" }));
    levels.forEach(([set], i) => parts.push(text(left + step * (i + 0.5), height - 10, cut(set.name, Math.max(4, Math.floor(step / 7))), { class: "soft", "text-anchor": "middle" }),
      line(left + step * i + 3, y(set.floor.value), left + step * (i + 1) - 3, y(set.floor.value), "floor")));
    rows.forEach((row, k) => parts.push(draw("g", { class: looks(row) },
      levels.map(([, set], i) => { const e = row.accuracy[set]; return [line(x(i, k), y(e.low), x(i, k), y(e.high), "thin"), e.seeds.length > 1 ? e.seeds.map((s) => draw("circle", { cx: x(i, k), cy: y(s), r: 2.1, class: "open" })) : null, mark(row, x(i, k), y(e.value), 4)]; }))));
    parts.push(text(4, top - 14, "accuracy, %", { class: "soft" }));
    const legend = el("ul", { class: "legend" }, rows.map((row) => el("li", null, draw("svg", { viewBox: "0 0 34 16", class: looks(row), "aria-hidden": "true" }, mark(row, 17, 8, 4.5)), row.label)));
    show("levels-picture", picture(width, height, "Accuracy by level; the numbers stand in the table below", parts), legend);
    show("levels-table", table("Accuracy by level, % with Wilson 95 % intervals", ["row", ...levels.map(([set]) => `${set.title} (n = ${number.format(set.n)})`)], "l" + "r".repeat(levels.length),
      rows.map((row) => [row.label, ...levels.map(([, k]) => { const e = row.accuracy[k]; return `${e.text}${e.sd === null ? "" : ` ± ${e.sd_text}`} ${e.interval_text}`; })]), "levels"));
  }

  function drawCost() {
    const view = group(), number_of_set = testedSet(), set = view.sets[number_of_set];
    const shown = view.costs.find((c) => c.set === number_of_set && c.kind === state.cost) ?? view.costs[0];
    if (!shown) return show("cost-picture");
    const lines = shown.lines.filter((one) => shownRow(view.rows[one.row]));
    const points = lines.flatMap((one) => one.points);
    if (!points.length) {
      show("cost-picture", el("p", null, `Nothing to draw over ${shown.title}: ${shown.missing || "no row of this training budget has it"}.`));
      return show("cost-table");
    }
    const width = room("cost-picture"), height = width < 620 ? 330 : 420, left = 44, right = 16, top = 28, bottom = height - 48;
    const costs = points.map((p) => p.cost);
    let low = Math.min(...costs), high = Math.max(...costs);
    const log = state.log === 1, margin = Math.max(1.12, Math.sqrt(2 * low / high));
    [low, high] = log ? [low / margin, high * margin] : [0, high * 1.06];
    const x = (c) => left + (log ? Math.log(c / low) / Math.log(high / low) : (c - low) / (high - low)) * (width - left - right);
    const most = Math.min(1, 1.05 * Math.max(0.05, set.floor.value, ...points.flatMap((p) => [p.accuracy.high, ...p.accuracy.seeds])));
    const y = (value) => bottom - (value / most) * (bottom - top);
    const parts = ticks(0, 100 * most, 6).map((t) => [line(left, y(t / 100), width - right, y(t / 100), "grid"), text(left - 7, y(t / 100) + 4, `${Number(t.toFixed(6))}`, { class: "soft", "text-anchor": "end" })]);
    for (const t of log ? logTicks(low, high) : ticks(low, high, width < 620 ? 4 : 7)) parts.push(line(x(t), bottom, x(t), bottom + 5, "axis"), text(x(t), bottom + 19, amount(t), { class: "soft", "text-anchor": "middle" }));
    parts.push(line(left, bottom, width - right, bottom, "axis"), line(left, y(set.floor.value), width - right, y(set.floor.value), "floor"));
    parts.push(text(width - right, y(set.floor.value) - 4, "floor", { class: "soft", "text-anchor": "end" }));
    if (state.front === 1) view.budgets.forEach((_, budget) => {
      const best = lines.filter((one) => view.rows[one.row].budget === budget).flatMap((one) => one.points).filter((p) => p.front).sort((a, b) => a.cost - b.cost || a.accuracy.value - b.accuracy.value);
      if (best.length > 1) parts.push(draw("path", { class: "front", d: "M" + best.map((p) => `${x(p.cost).toFixed(1)} ${y(p.accuracy.value).toFixed(1)}`).join("L") }));
    });
    const dashes = lineDashes(lines);
    lines.forEach((one, k) => {
      const row = view.rows[one.row], at = one.points.map((p) => [x(p.cost), y(p.accuracy.value)]);
      parts.push(draw("g", { class: looks(row) },
        at.length > 1 ? draw("path", { class: `curve ${dashes[k]}`, d: "M" + at.map((p) => p.map((v) => v.toFixed(1)).join(" ")).join("L") }) : null,
        one.points.map((p, i) => [line(at[i][0], y(p.accuracy.low), at[i][0], y(p.accuracy.high), "thin"),
          p.accuracy.seeds.length > 1 ? p.accuracy.seeds.map((s) => draw("circle", { cx: at[i][0], cy: y(s), r: 2.2, class: "open" })) : null,
          mark(row, ...at[i], 4.5), p.default ? draw("circle", { cx: at[i][0], cy: at[i][1], r: 9, class: "ring" }) : null])));
    });
    parts.push(text(left, height - 8, shown.title + (log ? ", logarithmic" : ""), { class: "soft" }));
    parts.push(text(4, top - 14, "accuracy, %", { class: "soft" }));
    const legend = el("ul", { class: "legend" }, lines.map((one, k) => {
      const row = view.rows[one.row];
      return el("li", null, draw("svg", { viewBox: "0 0 34 16", class: looks(row), "aria-hidden": "true" }, draw("path", { d: "M0 8H34", class: `curve ${dashes[k]}` }), mark(row, 17, 8, 4.5)), one.label);
    }), el("li", null, draw("svg", { viewBox: "0 0 34 16", class: "k0", "aria-hidden": "true" }, draw("circle", { cx: 17, cy: 8, r: 7, class: "ring" })), "default setting"));
    const level = set === view.sets[state.set] ? null : el("p", { class: "hint" }, `Costs are drawn for “${set.title}”: levels have no curves of their own.`);
    show("cost-picture", level, picture(width, height, `Accuracy over ${shown.title}, ${set.title}; the numbers stand in the table below`, parts), legend);
    const rows = lines.flatMap((one) => one.points.map((p) => [one.label, p.setting, p.cost_text, p.accuracy.text, p.accuracy.sd_text, p.accuracy.interval_text, p.front ? "yes" : "no"]));
    show("cost-table", table(`Accuracy over ${shown.title}, ${set.title}`, ["row", "setting", shown.title, "accuracy %", "± over seeds", "95 % over questions", "on the Pareto line"], "llrrrrl", rows, `cost-${shown.kind}`));
  }

  function lineDashes(lines) {
    const seen = new Map();
    return lines.map((one) => {
      if (one.points.length < 2) return "d0";
      const row = group().rows[one.row], key = `${row.color} ${row.marker}`, count = seen.get(key) ?? 0;
      seen.set(key, count + 1);
      return `d${count % 4}`;
    });
  }

  function drawDifferences() {
    const view = group(), set = testedSet();
    const pairs = view.differences.filter((d) => d.set === set && shownRow(view.rows[d.first]) && shownRow(view.rows[d.second]));
    const lines = state.ref < 0
      ? pairs.map((d) => ({ d, back: false, name: `${view.rows[d.first].label} − ${view.rows[d.second].label}`, row: view.rows[d.first] }))
      : pairs.filter((d) => d.first === state.ref || d.second === state.ref).map((d) => {
        const back = d.first === state.ref, row = view.rows[back ? d.second : d.first];
        return { d, back, name: row.label, row };
      });
    const reference = state.ref < 0 ? "" : ` minus ${view.rows[state.ref].label}`;
    if (!lines.length) {
      show("differences-picture", el("p", null, "No pair is compared here."));
      return show("differences-table");
    }
    const width = room("differences-picture"), narrow = width < 700, left = narrow ? 6 : state.ref < 0 ? 290 : 236, right = narrow ? 10 : 344;
    const step = narrow ? 62 : 40, top = 12, end = top + lines.length * step;
    const ends = lines.map(({ d, back }) => (back ? [-d.high, -d.low] : [d.low, d.high]));
    const low = Math.min(-0.03, ...ends.map((e) => e[0])) * 1.03, high = Math.max(0.03, ...ends.map((e) => e[1])) * 1.03;
    const x = (value) => left + ((value - low) / (high - low)) * (width - left - right);
    const parts = [draw("rect", { x: x(-0.02), y: top - 6, width: x(0.02) - x(-0.02), height: end - top + 6, class: "zone" })];
    for (const t of ticks(100 * low, 100 * high, narrow ? 5 : 8)) parts.push(line(x(t / 100), top - 6, x(t / 100), end, "grid"), text(x(t / 100), end + 16, `${t > 0 ? "+" : ""}${Number(t.toFixed(6))}`, { class: "soft", "text-anchor": "middle" }));
    parts.push(line(x(0), top - 6, x(0), end, "zero"));
    lines.forEach(({ d, back, name, row }, k) => {
      const y = top + k * step + (narrow ? 26 : step / 2), value = back ? -d.value : d.value, [value_text, bounds] = back ? d.back : d.there;
      parts.push(draw("g", { class: looks(row) }, line(x(ends[k][0]), y, x(ends[k][1]), y, "bar-line"), line(x(ends[k][0]), y - 4, x(ends[k][0]), y + 4, "bar-line"), line(x(ends[k][1]), y - 4, x(ends[k][1]), y + 4, "bar-line"), mark(row, x(value), y, 5)));
      const verdict = `${SIGNS[d.kind]} ${d.verdict}`;
      if (narrow) parts.push(text(left, y - 13, cut(name, 34)), text(width - 4, y - 13, value_text, { class: "strong", "text-anchor": "end" }), text(left, y + 20, cut(verdict, Math.floor(width / 6.4)), { class: "soft" }));
      else parts.push(label(left - 12, y + 4, name, state.ref < 0 ? 42 : 34, { "text-anchor": "end" }), text(width - right + 14, y - 3, `${value_text} ${bounds}`, { class: "strong" }), text(width - right + 14, y + 13, cut(verdict, 54), { class: "soft" }));
    });
    parts.push(text(left, end + 34, `points of accuracy${narrow ? "" : reference}`, { class: "soft" }));
    show("differences-picture", picture(width, end + 40, `Paired differences${reference}, ${view.sets[set].title}; the numbers stand in the table below`, parts));
    const columns = ["row", "minus", "difference", "95 %", "only it / only the other", "p (questions)", "p (seeds)", "Holm p", "smallest detectable", "verdict"];
    show("differences-table", table(`Paired differences in points, ${view.sets[set].title}`, columns, "llrrrrrrrl", lines.map(({ d, back }) => {
      const [first, second] = back ? [d.second, d.first] : [d.first, d.second];
      const counts = back ? `${d.only_second} / ${d.only_first}` : `${d.only_first} / ${d.only_second}`;
      return [view.rows[first].label, view.rows[second].label, ...(back ? d.back : d.there), counts, d.p, d.p_seeds, d.holm, d.detectable, d.verdict];
    }), "differences"));
  }

  function drawTraining() {
    const view = group();
    const rows = view.rows.map((row, k) => [row, view.losses.filter((loss) => loss.row === k)]).filter(([row, losses]) => losses.length && shownRow(row));
    const figures = rows.map(([row, losses]) => {
      const width = 340, height = 180, left = 44, right = 8, top = 18, bottom = height - 26;
      const values = losses.flatMap((loss) => loss.losses), log = state.losslog === 1 && Math.min(...values) > 0;
      const low = log ? Math.min(...values) * 0.9 : 0, high = Math.max(...values) * 1.05, last = Math.max(1, ...losses.map((loss) => loss.count));
      const x = (s) => left + (s / last) * (width - left - right);
      const y = (v) => bottom - (log ? Math.log(v / low) / Math.log(high / low) : v / high) * (bottom - top);
      const parts = (log ? logTicks(low, high) : ticks(0, high, 4)).map((t) => [line(left, y(t), width - right, y(t), "grid"), text(left - 5, y(t) + 4, amount(t), { class: "soft", "text-anchor": "end" })]);
      for (const t of ticks(0, last, 3)) parts.push(text(x(t), height - 8, amount(t), { class: "soft", "text-anchor": "middle" }));
      const stages = losses[0].stages;
      stages.forEach(([start], k) => {
        if (k) parts.push(line(x(start), top, x(start), bottom, "stage"));
        const near = k && x(start) - x(stages[k - 1][0]) < 11;
        if (stages.length > 1 && !near) parts.push(text(x(start) + 2, top - 5, String(k + 1), { class: "soft" }));
      });
      parts.push(line(left, bottom, width - right, bottom, "axis"));
      losses.forEach((loss, k) => parts.push(draw("path", { class: `loss d${k % 4}`, d: "M" + loss.steps.map((s, i) => `${x(s).toFixed(1)} ${y(loss.losses[i]).toFixed(1)}`).join("L") })));
      const drawn = picture(width, height, `Training loss of ${row.label}; the numbers stand in the table below`, parts);
      drawn.classList.add(looks(row));
      const named = stages.filter(([, name]) => name).map(([, name], k) => (stages.length > 1 ? `${k + 1} ${name}` : name)).join(", ");
      return el("figure", null, el("h3", null, row.label), drawn, el("figcaption", null, `seeds ${losses.map((l) => l.seed).join(", ")}${named ? `; stages: ${named}` : ""}`));
    });
    show("training-pictures", figures.length ? figures : el("p", null, "No run has stored its training steps."));
    show("training-table", rows.length ? table("Training loss", ["row", "seed", "optimizer steps", "stages", "loss, first stretch", "loss, last stretch", "run"], "lrrrrrl",
      rows.flatMap(([row, losses]) => losses.map((l) => [row.label, String(l.seed), number.format(l.count), String(l.stages.length), l.first_text, l.last_text, l.run])), "training") : null);
  }

  // Verdicts, provenance, tables --------------------------------------------------------------------------------------

  const lines = (entries) => el("ul", { class: "lines" }, entries.map((entry) =>
    el("li", { class: entry.kind.replace(" ", "-") }, el("span", { class: "sign", "aria-hidden": "true" }, SIGNS[entry.kind]), entry.text)));

  function drawVerdicts() {
    const view = group();
    show("verdict-lines", view.verdicts.map((one) => {
      const set = view.sets[one.set];
      return [el("h3", null, `${set.title}, ${number.format(set.n)} questions`), lines(one.lines)];
    }));
    const outcomes = new Map();
    for (const claim of view.claims) outcomes.set(claim[0], (outcomes.get(claim[0]) ?? 0) + 1);
    const counted = [...outcomes].map(([outcome, count]) => `${count} ${outcome}`).join(", ");
    show("claims", view.claims.length ? [el("h3", null, "What the controls say of the claims"),
      el("details", { open: view.claims.length < 7 }, el("summary", null, `Claims tested by a control: ${counted}`),
        table("Controls, and what each says of the claim that it tests (points: method minus control)", ["control", "of", "claim it tests", "questions", "points", "the claim is"], "llllrl", view.claims.map((claim) => claim.slice(1)), "claims"))] : null);
    const [notes, warnings] = [view.trust.filter((l) => l.kind === "note"), view.trust.filter((l) => l.kind !== "note")];
    show("trust", warnings.length ? el("div", { class: "warning" }, el("h3", null, "Before you take these numbers at their word"), lines(warnings)) : null, notes.length ? lines(notes) : null);
  }

  function copyable(content) {
    const button = el("button", { type: "button", onclick: async () => {
      try {
        await navigator.clipboard.writeText(content);
      } catch { // a file of one's own disk has no clipboard: select, and copy what is selected
        const area = el("textarea", { class: "unseen" });
        area.value = content;
        document.body.append(area);
        area.select();
        document.execCommand("copy");
        area.remove();
        button.focus();
      }
      byId("announce").textContent = "Copied.";
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    } }, "Copy");
    return el("div", { class: "copy" }, el("pre", null, content), button);
  }

  function drawProvenance() {
    const view = group(), runs = view.runs;
    show("again", el("p", null, `Made by ${page.made_by}.`), page.command ? [el("p", null, "This page again:"), copyable(page.command)] : null);
    const columns = ["run", "row", "seed", "commit", "engine", "training data", "trained", "evaluation", "manifest"];
    show("provenance-table", el("details", { open: runs.length < 7 }, el("summary", null, `The runs (${runs.length})`), table("The runs", columns, "llrllllll", runs.map((r) =>
      [r.run, view.rows[r.row].label, String(r.seed), r.commits.join(" ") || "not recorded", r.engine, r.data.slice(0, 12) || "-", r.date.slice(0, 16).replace("T", " ") || "-", r.evaluation, r.sealed ? "sealed" : "unsealed"]), "runs")));
    const commands = [...new Set(runs.map((r) => r.command).filter((c) => c))];
    const places = new Map();
    for (const r of runs) if (r.machine || r.versions) places.set(`${r.machine}\n${r.versions}`, (places.get(`${r.machine}\n${r.versions}`) ?? 0) + 1);
    const chosen = el("select", null, runs.map((r, k) => el("option", { value: k }, r.run)));
    const specification = el("pre", { tabindex: 0, "aria-label": "Specification of the run" }, runs[0]?.spec ?? "");
    chosen.addEventListener("change", () => { specification.textContent = runs[Number(chosen.value)].spec; });
    show("run-details",
      commands.length ? el("details", null, el("summary", null, `The commands that trained them (${commands.length})`), commands.map(copyable)) : null,
      places.size ? el("details", null, el("summary", null, `Machines and versions (${places.size})`), [...places].map(([place, count]) => el("pre", null, `${count} runs: ${place}`))) : null,
      runs.length ? el("details", null, el("summary", null, "Specifications"), el("p", { class: "controls" }, el("label", null, "Run ", chosen)), specification) : null);
  }

  function drawTables() {
    const parts = page.tables.map((section) => {
      const body = el("div", null);
      const details = el("details", null, el("summary", null, section.title || page.title), body);
      details.addEventListener("toggle", () => {
        if (body.firstChild) return;
        section.panels.filter((panel) => panel.short !== true).forEach((panel, k) =>
          body.append(table(panel.caption || section.title, panel.columns, panel.align || "l" + "r".repeat(panel.columns.length - 1), panel.rows, `table-${k + 1}`)));
        if (section.notes.length) body.append(el("ul", null, section.notes.map((note) => el("li", null, note))));
      });
      return details;
    });
    if (page.left_out.length) parts.push(el("h3", null, "Left out"), el("ul", null, page.left_out.map((one) => el("li", null, one))));
    show("all-tables", parts);
  }

  // Questions ---------------------------------------------------------------------------------------------------------

  let columns = null; // of the group that is shown
  let listed = []; // places of the questions that all filters leave
  let firstShown = 0;
  const caches = { cells: ["", null], texts: ["", null] };

  const answersOf = (row) => columns.answers.filter((a) => a.row === row && (state.seed === "all" || String(a.seed) === state.seed));
  const kept = (place) => (place < 0 ? "" : columns.pool[place]);

  /** For every question which of a (A is right in more of its seeds), b, both (as often) and none. */
  function cellsOf() {
    const key = [state.group, state.a, state.b, state.seed].join();
    if (caches.cells[0] === key) return caches.cells[1];
    const share = (parts, k) => parts.reduce((sum, part) => sum + (part.correct[k] === "1"), 0) / parts.length;
    const [a, b] = [answersOf(state.a), answersOf(state.b)];
    const cells = columns.ids.map((_, k) => {
      const first = share(a, k), second = share(b, k);
      return Math.abs(first - second) < 1e-9 ? (first > 0 ? "both" : "none") : first > second ? "a" : "b";
    });
    caches.cells = [key, cells];
    return cells;
  }

  function textsOf() {
    const key = [state.group, state.a, state.b, state.seed].join();
    if (caches.texts[0] !== key) {
      const parts = [...answersOf(state.a), ...answersOf(state.b)];
      caches.texts = [key, columns.ids.map((id, k) =>
        [id, columns.questions[k] ?? "", columns.references[k], ...parts.flatMap((p) => [kept(p.answer[k]), kept(p.output[k])])].join("\n").toLowerCase())];
    }
    return caches.texts[1];
  }

  const blockFlags = {
    changed: (blocks) => blocks.some((answer, k) => k > 1 && k % 2 === 0 && answer !== blocks[k - 2]),
    lost: (blocks) => blocks.length > 1 && blocks[blocks.length - 1] === 0 && blocks.some((right, k) => k % 2 === 1 && right === 1),
  };

  function flagTest() {
    const parts = [...answersOf(state.a), ...answersOf(state.b)], [a, b] = [answersOf(state.a), answersOf(state.b)];
    if (state.flag in FLAGS) return (k) => parts.some((p) => p.flags[k] & FLAGS[state.flag]);
    if (state.flag === "disagree") return (k) => [a, b].some((side) => side.some((p) => p.correct[k] !== side[0].correct[k]));
    if (state.flag === "differ") return (k) => a.some((p) => b.some((o) => p.answer[k] !== o.answer[k]));
    if (state.flag in blockFlags) return (k) => parts.some((p) => p.blocks && blockFlags[state.flag](p.blocks[k]));
    return () => true;
  }

  function filter() {
    const cells = cellsOf(), wanted = state.q.trim().toLowerCase(), texts = wanted ? textsOf() : null, flagged = flagTest();
    const counts = { a: 0, b: 0, both: 0, none: 0 };
    listed = [];
    for (const k of columns.sets[state.set]) {
      if (state.level && columns.levels[k] !== state.level) continue;
      if (!flagged(k) || (texts && !texts[k].includes(wanted))) continue;
      counts[cells[k]] += 1;
      if (!state.cell || cells[k] === state.cell) listed.push(k);
    }
    return counts;
  }

  function drawCells(counts) {
    const several = answersOf(state.a).length > 1 || answersOf(state.b).length > 1;
    const names = several
      ? { a: "A right in more seeds", b: "B right in more seeds", both: "right equally often", none: "never right in either" }
      : { a: "only A right", b: "only B right", both: "both right", none: "neither right" };
    show("cells", Object.entries(names).map(([cell, name]) => el("button", { type: "button", id: `cell-${cell}`, "aria-pressed": state.cell === cell ? "true" : "false",
      onclick: () => { change({ cell: state.cell === cell ? "" : cell, item: "" }, drawFiltered); byId(`cell-${cell}`).focus(); } }, el("b", null, number.format(counts[cell])), name)));
    byId("cells-hint").textContent = several
      ? "Each question counts once, by the share of its seeds that solved it, as the paired comparison counts “only first” and “only second”."
      : "Each question counts once.";
  }

  function sign(parts, k) {
    const right = parts.filter((p) => p.correct[k] === "1").length;
    if (parts.length === 1) return el("span", { class: right ? "right" : "wrong" }, `${right ? "✓" : "✗"} ${kept(parts[0].answer[k]) || "–"}`);
    return el("span", { class: right === parts.length ? "right" : right ? null : "wrong" }, `${right === parts.length ? "✓" : right ? "◐" : "✗"} ${right} of ${parts.length}`);
  }

  /** Which of the listed questions is shown: the chosen one, else the first. */
  const chosenPlace = () => Math.max(0, listed.findIndex((k) => columns.ids[k] === state.item));

  function drawList() {
    const chosen = chosenPlace();
    firstShown = Math.floor(chosen / PAGE) * PAGE;
    const part = listed.slice(firstShown, firstShown + PAGE), [a, b] = [answersOf(state.a), answersOf(state.b)];
    const texts = columns.questions.length > 0, levels = new Set(columns.levels).size > 1;
    const head = ["question", levels ? "level" : null, "A", "B", "reference", texts ? "text" : null].filter((name) => name);
    const rows = part.map((k, i) => el("tr", { "data-place": k, class: firstShown + i === chosen ? "chosen" : null },
      el("th", { scope: "row", class: "nowrap" }, el("button", { type: "button", class: "id", tabindex: firstShown + i === chosen ? 0 : -1, "aria-current": firstShown + i === chosen ? "true" : null }, columns.ids[k])),
      levels ? el("td", { class: "nowrap" }, columns.levels[k]) : null, el("td", { class: "nowrap" }, sign(a, k)), el("td", { class: "nowrap" }, sign(b, k)),
      el("td", null, columns.references[k] || "–"), texts ? el("td", { class: "q" }, (columns.questions[k] || "–").slice(0, 160)) : null));
    const move = (to) => () => { change({ item: columns.ids[listed[to]] }, () => { drawList(); drawDetail(); }); focusChosen(); };
    const pages = listed.length > PAGE ? el("p", { class: "pages" },
      el("button", { type: "button", disabled: firstShown === 0, onclick: move(Math.max(0, firstShown - PAGE)) }, "Previous page"),
      `${number.format(firstShown + 1)} to ${number.format(firstShown + part.length)}`,
      el("button", { type: "button", disabled: firstShown + PAGE >= listed.length, onclick: move(firstShown + PAGE) }, "Next page")) : null;
    show("list", el("div", { class: "scroll", role: "region", "aria-label": "List of questions", tabindex: part.length ? null : 0 }, el("table", null, el("caption", null, "The questions, and how many seeds of A and B are right"), el("thead", null, el("tr", null, head.map((name) => el("th", { scope: "col" }, name)))), el("tbody", null, rows))), pages);
    byId("shown").textContent = `${number.format(listed.length)} of ${number.format(columns.sets[state.set].length)} questions`;
  }

  function saveQuestions() {
    const view = group(), sides = [[state.a, "A"], [state.b, "B"]].map(([row, name]) => [answersOf(row), name, view.rows[row].label]);
    const names = sides.flatMap(([parts, name, label]) => parts.flatMap((p) => ["right", "answer", "output"].map((what) => `${name} ${label} seed ${p.seed} ${what}`)));
    const rows = listed.map((k) => [columns.ids[k], columns.levels[k], columns.questions[k] ?? "", columns.references[k],
      ...sides.flatMap(([parts]) => parts.flatMap((p) => [p.correct[k], kept(p.answer[k]), kept(p.output[k])]))]);
    save("questions.csv", csv(["id", "level", "question", "reference", ...names], rows));
  }

  const focusChosen = () => byId("list").querySelector("button[aria-current=true]")?.focus({ preventScroll: false });

  function choose(at) {
    if (!listed.length) return;
    const place = Math.max(0, Math.min(listed.length - 1, at));
    state.item = columns.ids[listed[place]];
    if (place >= firstShown && place < firstShown + PAGE) { // the list stays as it is
      for (const [i, row] of [...byId("list").querySelectorAll("tbody tr")].entries()) {
        const mine = firstShown + i === place, button = row.querySelector("button");
        row.classList.toggle("chosen", mine);
        button.tabIndex = mine ? 0 : -1;
        if (mine) button.setAttribute("aria-current", "true");
        else button.removeAttribute("aria-current");
      }
    } else drawList();
    drawDetail();
    writeState();
  }

  function onListKey(event) {
    const at = chosenPlace();
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: listed.length - 1, PageDown: at + PAGE, PageUp: at - PAGE }[event.key];
    if (event.key === "Enter" && event.target.closest("button.id")) {
      choose(listed.indexOf(Number(event.target.closest("tr").dataset.place)));
      byId("detail").focus();
      event.preventDefault();
    } else if (to !== undefined && event.target.closest("tbody")) {
      choose(to);
      focusChosen();
      event.preventDefault();
    }
  }

  function blockList(blocks) {
    const items = [];
    for (let k = 0; k < blocks.length; k += 2) {
      const changed = k > 0 && blocks[k] !== blocks[k - 2];
      items.push(el("li", { class: changed ? "changed" : null }, `${k / 2 + 1}: ${kept(blocks[k]) || "–"} `, el("span", { class: blocks[k + 1] ? "right" : "wrong" }, blocks[k + 1] ? "✓" : "✗"), changed ? " changed" : ""));
    }
    return [el("p", { class: "hint" }, "The answer after each block:"), el("ol", { class: "blocks" }, items)];
  }

  function drawDetail() {
    const view = group(), k = listed[chosenPlace()];
    if (k === undefined) return show("detail", el("p", null, "No question is left by these filters."));
    const side = (row, name) => [el("h4", null, `${name}: ${view.rows[row].label}`), answersOf(row).map((p) => {
      const right = p.correct[k] === "1", flags = Object.entries(FLAGS).filter(([, bit]) => p.flags[k] & bit).map(([flag]) => flag);
      return el("div", { class: "answer" }, el("div", null, `seed ${p.seed}: `, el("span", { class: right ? "right" : "wrong" }, right ? "✓ right" : "✗ wrong"),
        `, extracted answer ${kept(p.answer[k]) ? `“${kept(p.answer[k])}”` : "none"}, ${number.format(p.tokens[k])} tokens`, flags.length ? el("b", null, ` (${flags.join(", ")})`) : null),
        p.output[k] < 0 ? null : el("pre", { tabindex: 0, "aria-label": `Output of ${name}, seed ${p.seed}` }, kept(p.output[k]) || "(nothing)"), p.blocks && p.blocks[k].length ? blockList(p.blocks[k]) : null);
    })];
    const asked = columns.questions[k];
    show("detail", el("h3", null, columns.ids[k], columns.levels[k] ? ` (${columns.levels[k]})` : ""),
      asked ? el("pre", { tabindex: 0, "aria-label": "Question" }, asked) : el("p", { class: "hint" }, "The text of the question is not in this file."),
      columns.choices[k]?.length ? el("p", null, `Choices: ${columns.choices[k].join(" | ")}`) : null,
      el("p", null, "Reference: ", el("b", null, columns.references[k] || "not stored")), side(state.a, "A"), side(state.b, "B"));
  }

  async function drawQuestions() {
    const number_of_group = state.group;
    if (!questions.has(number_of_group)) {
      byId("shown").textContent = "Unpacking the questions …";
      questions.set(number_of_group, unpack(`questions-${number_of_group}`));
    }
    columns = await questions.get(number_of_group);
    if (number_of_group !== state.group) return;
    const view = group(), shared = view.rows[state.a].seeds.filter((seed) => view.rows[state.b].seeds.includes(seed));
    if (state.seed !== "all" && !shared.map(String).includes(state.seed)) state.seed = "all";
    const rows = view.rows.map((row, k) => [k, row.label]);
    options(byId("row-a"), rows, state.a);
    options(byId("row-b"), rows, state.b);
    options(byId("seed"), [["all", "all"], ...shared.map((seed) => [seed, `seed ${seed}`])], state.seed);
    options(byId("level"), [["", "every level"], ...[...new Set(columns.sets[state.set].map((k) => columns.levels[k]))].filter((l) => l).map((l) => [l, l])], state.level);
    if (byId("level").selectedIndex < 0) { state.level = ""; byId("level").selectedIndex = 0; }
    const blocks = columns.answers.some((a) => a.blocks);
    options(byId("flag"), [["", "none"], ...Object.keys(FLAGS).map((flag) => [flag, `${flag} output`]), ["disagree", "seeds disagree"], ["differ", "A and B answer differently"],
      ...(blocks ? [["changed", "answer changes between blocks"], ["lost", "right after a block, wrong at the end"]] : [])], state.flag);
    if (byId("flag").selectedIndex < 0) { state.flag = ""; byId("flag").selectedIndex = 0; }
    if (byId("text").value !== state.q) byId("text").value = state.q;
    byId("text-note").hidden = !columns.note;
    byId("text-note").textContent = columns.note && `Texts of questions: ${columns.note}.`;
    drawFiltered();
  }

  function drawFiltered() {
    drawCells(filter());
    drawList();
    drawDetail();
  }

  // Together ----------------------------------------------------------------------------------------------------------

  async function unpack(id) {
    const raw = atob(byId(id).textContent.trim()), bytes = new Uint8Array(raw.length);
    for (let k = 0; k < raw.length; k++) bytes[k] = raw.charCodeAt(k);
    return JSON.parse(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text());
  }

  function change(values, redraw) {
    Object.assign(state, values);
    redraw();
    writeState();
  }

  function drawBar() {
    const view = group();
    options(byId("group"), page.groups.map((g, k) => [k, g.heading]), state.group);
    byId("group-label").hidden = page.groups.length < 2;
    options(byId("set"), view.sets.map((set, k) => [k, `${set.title} (n = ${number.format(set.n)})`]), state.set);
    options(byId("budget"), [[-1, "all"], ...view.budgets.map((budget, k) => [k, budget])], state.budget);
    byId("budget-label").hidden = view.budgets.length < 2;
    options(byId("cost-kind"), view.costs.filter((c) => c.set === testedSet()).map((c) => [c.kind, c.missing ? `${c.title} (none)` : c.title]), state.cost);
    if (byId("cost-kind").selectedIndex < 0) { state.cost = "flops"; byId("cost-kind").value = "flops"; }
    options(byId("reference"), [...view.rows.map((row, k) => [k, row]).filter(([, row]) => shownRow(row)).map(([k, row]) => [k, row.label]), [-1, "each other: every pair"]], state.ref);
    if (byId("reference").selectedIndex < 0) { state.ref = Math.max(0, view.rows.findIndex(shownRow)); byId("reference").value = String(state.ref); }
    for (const [id, name] of [["cost-log", "log"], ["cost-front", "front"], ["loss-log", "losslog"]]) byId(id).checked = state[name] === 1;
    const rows = view.rows.length, seeds = [...new Set(view.rows.flatMap((row) => row.seeds))].length;
    byId("facts").textContent = `${view.heading}: ${rows} rows, ${view.runs.length} runs, up to ${seeds} training seeds.`;
    byId("stamp").hidden = !view.quick;
    byId("stamp").textContent = page.stamp;
  }

  function drawPictures() {
    drawAccuracy();
    drawLevels();
    drawCost();
    drawDifferences();
  }

  function drawAll() {
    drawBar();
    drawVerdicts();
    drawPictures();
    drawTraining();
    drawProvenance();
    return drawQuestions();
  }

  function listen() {
    const on = (id, event, action) => byId(id).addEventListener(event, action);
    on("group", "change", (e) => {
      state = { ...DEFAULTS, group: Number(e.target.value) };
      change(pairOf(group()), drawAll);
    });
    on("set", "change", (e) => change({ set: Number(e.target.value), level: "", item: "" }, () => { drawBar(); drawPictures(); drawQuestions(); }));
    on("budget", "change", (e) => change({ budget: Number(e.target.value) }, () => { drawBar(); drawPictures(); drawTraining(); }));
    on("cost-kind", "change", (e) => change({ cost: e.target.value }, drawCost));
    on("cost-log", "change", (e) => change({ log: Number(e.target.checked) }, drawCost));
    on("cost-front", "change", (e) => change({ front: Number(e.target.checked) }, drawCost));
    on("loss-log", "change", (e) => change({ losslog: Number(e.target.checked) }, drawTraining));
    on("reference", "change", (e) => change({ ref: Number(e.target.value) }, drawDifferences));
    for (const [id, name] of [["row-a", "a"], ["row-b", "b"]]) on(id, "change", (e) => change({ [name]: Number(e.target.value), cell: "", item: "" }, drawQuestions));
    on("seed", "change", (e) => change({ seed: e.target.value, item: "" }, drawQuestions));
    for (const name of ["level", "flag"]) on(name, "change", (e) => change({ [name]: e.target.value, item: "" }, drawFiltered));
    on("text", "input", (e) => change({ q: e.target.value, item: "" }, drawFiltered));
    on("clear", "click", () => change({ cell: "", level: "", flag: "", q: "", item: "" }, drawQuestions));
    on("csv-questions", "click", saveQuestions);
    on("csv-all", "click", () => save("table.csv", page.csv));
    on("list", "keydown", onListKey);
    on("list", "click", (e) => {
      const row = e.target.closest("tr[data-place]");
      if (row) choose(listed.indexOf(Number(row.dataset.place)));
    });
    on("detail", "keydown", (e) => {
      if (e.key !== "Escape") return;
      focusChosen();
    });
    for (const link of document.querySelectorAll('a[href^="#"]')) link.addEventListener("click", (e) => {
      e.preventDefault(); // the address holds the state
      const section = byId(link.getAttribute("href").slice(1)), heading = section.querySelector("h2");
      section.scrollIntoView();
      heading.tabIndex = -1;
      heading.focus({ preventScroll: true });
    });
    addEventListener("hashchange", () => { readState(); drawAll(); });
    addEventListener("beforeprint", () => { for (const details of document.querySelectorAll("details")) details.open = true; });
    let width = document.documentElement.clientWidth;
    addEventListener("resize", () => {
      if (width === document.documentElement.clientWidth) return;
      width = document.documentElement.clientWidth;
      requestAnimationFrame(drawPictures);
    });
  }

  async function start() {
    page = await unpack("page-data");
    for (const view of page.groups) tellApart(view.rows);
    byId("title").textContent = page.title;
    drawTables();
    if (!page.groups.length) {
      byId("facts").textContent = "No two runs are compared here: see all tables below.";
      for (const id of ["bar", "verdicts", "accuracy", "cost", "differences", "questions", "training", "provenance"]) byId(id).hidden = true;
    } else {
      const anchor = /^#[a-z]+$/.test(location.hash) ? byId(location.hash.slice(1)) : null;
      readState();
      listen();
      const drawn = drawAll();
      performance.mark("pictures");
      if (anchor) anchor.scrollIntoView();
      await drawn;
    }
    performance.mark("ready");
    document.documentElement.dataset.ready = "1";
  }
  start();
})();
