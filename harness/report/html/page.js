"use strict";
/* Sorting, the tips of charts, light and dark, and the samples. Texts of the run are only ever set as text. */

const byId = (id) => document.getElementById(id);

function element(tag, name, ...children) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  made.append(...children);
  return made;
}

/* Light and dark */
const theme = byId("theme");
const root = document.documentElement;
const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
const nameTheme = () => { theme.textContent = dark() ? "Light" : "Dark"; };
theme.hidden = false;
theme.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; nameTheme(); });
nameTheme();

/* Tables that can be sorted: what has no value stays last */
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, place) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const value = (row) => row.cells[place].dataset.value;
      const rows = [...table.tBodies[0].rows];
      const numeric = rows.every((row) => value(row) === "" || Number.isFinite(Number(value(row))));
      const before = head.getAttribute("aria-sort");
      const falling = before === "none" ? numeric : before === "ascending";
      for (const other of heads) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const compare = (a, b) => (numeric ? Number(value(a)) - Number(value(b)) : value(a).localeCompare(value(b)));
      rows.sort((a, b) => (value(a) === "") - (value(b) === "") || (falling ? compare(b, a) : compare(a, b)));
      table.tBodies[0].append(...rows);
    });
  });
}

/* Tips of charts */
const tip = byId("tip");
document.addEventListener("pointerover", (event) => {
  const mark = event.target.closest(".chart [aria-label]");
  tip.hidden = !mark;
  if (!mark) return;
  tip.textContent = mark.getAttribute("aria-label");
  const place = mark.getBoundingClientRect();
  tip.style.left = `${Math.max(8, Math.min(place.left, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${place.top > tip.offsetHeight + 12 ? place.top - tip.offsetHeight - 8 : place.bottom + 8}px`;
});
addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

/* Two methods compared */
const pairs = byId("pairs") && JSON.parse(byId("pairs").textContent);
if (pairs) {
  const [one, other] = [byId("one"), byId("other")];
  for (const select of [one, other]) select.append(...pairs.methods.map((name) => new Option(name, name)));
  one.value = pairs.first;
  other.value = pairs.second;
  const signedNumber = (value, digits) => {
    const text = Math.abs(value).toFixed(digits);
    return (Number(text) === 0 ? "" : value < 0 ? "\u2212" : "+") + text;
  };
  const probability = (value) => (value === null ? "too few seeds" : value < 0.0001 ? "< 0.0001" : value.toPrecision(2));
  const compare = () => {
    const cells = pairs.rows.flatMap(([title, first, second, digits, value, low, high, p, corrected]) => {
      const turn = first === one.value && second === other.value ? 1 : second === one.value && first === other.value ? -1 : 0;
      if (!turn) return [];
      const ends = low === null ? "" : `[${[turn * low, turn * high].sort((a, b) => a - b).map((end) => signedNumber(end, digits)).join(", ")}]`;
      return [[title, signedNumber(turn * value, digits), ends, probability(p), probability(corrected)]];
    });
    const made = cells.map((row) => element("tr", "", ...row.map((text, place) => element("td", place ? "value" : "", text))));
    const none = element("tr", "", element("td", "", "These two are not compared: choose two different methods, both ranked or one the baseline."));
    none.firstChild.colSpan = 5;
    byId("compared").tBodies[0].replaceChildren(...(made.length ? made : [none]));
  };
  for (const select of [one, other]) select.addEventListener("change", compare);
  byId("versus").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["versus", "compared", "family"]) byId(id).hidden = false;
  compare();
}

/* Samples */
const PAGE = 40;
const ALL = "all";
const controls = Object.fromEntries(["benchmark", "first", "second", "seed", "filter", "category", "order", "search"].map((id) => [id, byId(id)]));
const list = byId("list");
const more = byId("more");
const unpacked = new Map();
let block = null;
let rows = [];
let shown = 0;

async function unpack(benchmark) {
  if (!unpacked.has(benchmark)) {
    const option = [...controls.benchmark.options].find((each) => each.value === benchmark);
    const bytes = Uint8Array.from(atob(byId(option.dataset.block).textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const content = await new Response(stream).json();
    unpacked.set(benchmark, Object.assign(content, { name: benchmark, of: Number(option.dataset.of) }));
  }
  return unpacked.get(benchmark);
}

function choose(select, values, wanted) {
  const texts = values.map(String);
  select.replaceChildren(...texts.map((text) => new Option(text, text)));
  select.value = texts.includes(wanted) ? wanted : texts[0];
}

const armOf = (method) => block.arms.findIndex(([name, seed]) => name === method && String(seed) === controls.seed.value);
const label = (index) => block.texts[index];
const format = (value, sign) => {
  if (value === null) return "–";
  const text = Math.abs(value).toFixed(block.digits);
  return (Number(text) === 0 ? "" : value < 0 ? "\u2212" : sign ? "+" : "") + text;
};

async function showBenchmark(wanted = {}) {
  block = await unpack(controls.benchmark.value);
  const methods = [...new Set(block.arms.map(([name]) => name))];
  const seeds = [...new Set(block.arms.map(([, seed]) => seed))];
  const [first, second] = isTraining() ? methods : [methods[1], methods[0]];
  choose(controls.first, methods, wanted.first ?? (methods.includes(controls.first.value) ? controls.first.value : first));
  choose(controls.second, methods, wanted.second ?? (methods.includes(controls.second.value) ? controls.second.value : second));
  choose(controls.seed, seeds, wanted.seed ?? controls.seed.value);
  const categories = [...new Set(block.questions.map(([, group]) => group).filter(Boolean))].sort();
  choose(controls.category, [ALL, ...categories], wanted.category ?? controls.category.value);
  byId("categories").hidden = categories.length < 2;
  search();
}

const isTraining = () => block.kind === "pairs";

function compared() {
  const sides = [controls.first.value, controls.second.value].map((method) => block.answers[armOf(method)] ?? []);
  return block.questions.map((question, place) => {
    const cells = sides.map((side) => side[place] ?? null);
    const values = cells.map((cell) => (cell ? cell[0] : null));
    const difference = values.includes(null) ? null : values[0] - values[1];
    return { question, cells, values, difference, open: cells.some((cell) => !cell || cell[1]) };
  }).filter((row) => !isTraining() || row.cells.some(Boolean)); /* a seed has examples of its own */
}

const kept = {
  all: () => true,
  wins: (row) => row.difference > 0,
  losses: (row) => row.difference !== null && row.difference < 0,
  ties: (row) => row.difference === 0,
  open: (row) => row.open,
};

function mentions(row, word) {
  if (!word || row.question[0].toLowerCase().includes(word) || row.question[1].toLowerCase().includes(word)) return true;
  const parts = [row.question[2], ...row.cells.map((cell) => (cell ? cell[2] : []))].flat();
  return parts.some(([, , text]) => label(text).toLowerCase().includes(word));
}

function search() {
  const word = controls.search.value.trim().toLowerCase();
  const all = compared();
  const category = controls.category.value;
  const within = (row) => category === ALL || row.question[1] === category;
  rows = all.filter((row) => within(row) && kept[controls.filter.value](row) && mentions(row, word));
  if (controls.order.value === "difference") {
    rows.sort((a, b) => Math.abs(b.difference ?? -1) - Math.abs(a.difference ?? -1));
  }
  const left = isTraining() ? ` The first of each seed; ${block.of} examples were trained on in all.` : block.of > all.length
    ? ` This page has ${all.length} of ${block.of} questions, those that differ most; harness show has all.` : "";
  const times = (test) => all.filter(test).length;
  byId("found").textContent = `${rows.length} of ${all.length} questions. A better on ${times(kept.wins)}, B on `
    + `${times(kept.losses)}, no difference on ${times(kept.ties)}.${left}`;
  offerCsv();
  const heads = element("li", "heads", ...["Question", controls.first.value, controls.second.value, "difference"].map((text, place) => element("span", place ? "score" : "", text)));
  list.replaceChildren(heads);
  shown = 0;
  showMore();
}

/* The rows that are listed; a text that a spreadsheet would compute begins with an apostrophe */
function offerCsv() {
  const safe = (text) => (/^[=+\-@\t\r]/.test(text) ? `'${text}` : text);
  const quoted = (value) => (typeof value === "number" ? String(value) : `"${safe(value ?? "").replaceAll('"', '""')}"`);
  const text = (cell, kind) => (cell ? cell[2].filter(([each]) => each === kind).map(([, , place]) => label(place)).join("\n") : "");
  const [first, second] = [controls.first.value, controls.second.value];
  const head = ["question", "category", "text", ...[first, second].flatMap((name) => [`${name}: value`, `${name}: answer`, `${name}: judgment`])];
  const lines = rows.map((row) => [
    row.question[0], row.question[1], row.question[2].filter(([kind]) => kind === "t").map(([, , place]) => label(place)).join("\n"),
    ...row.cells.flatMap((cell, place) => [row.values[place], text(cell, "t"), text(cell, "j")]),
  ]);
  const link = byId("csv");
  if (link.href) URL.revokeObjectURL(link.href);
  const content = [head, ...lines].map((line) => line.map(quoted).join(",")).join("\r\n");
  link.href = URL.createObjectURL(new Blob([`\ufeff${content}\r\n`], { type: "text/csv" }));
  link.download = `${block.name}-seed${controls.seed.value}.csv`;
  link.hidden = false;
}

function showMore() {
  list.append(...rows.slice(shown, shown + PAGE).map(listed));
  shown = Math.min(rows.length, shown + PAGE);
  more.hidden = shown === rows.length;
  more.textContent = `Show more (${rows.length - shown})`;
}

function hashOf(row) {
  const names = [block.name, row.question[0], controls.first.value, controls.second.value, controls.seed.value];
  return `#sample/${names.map(encodeURIComponent).join("/")}`;
}

function listed(row) {
  const first = row.question[2].find(([kind]) => kind === "t");
  const asked = element("span", "asked", element("span", "small", row.question[0]), first ? label(first[2]) : row.question[1]);
  const difference = element("span", "score", format(row.difference, true));
  if (row.difference) difference.classList.add(row.difference > 0 ? "up" : "down");
  const summary = element("summary", "", asked, ...row.values.map((value) => element("span", "score", format(value))), difference);
  const details = element("details", "", summary);
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) details.append(body(row, details));
    if (details.open) history.replaceState(null, "", hashOf(row));
  });
  return element("li", "", details);
}

/* Close this sample and open the one before or after it */
function step(details, by) {
  const item = details.parentElement;
  if (by > 0 && !item.nextElementSibling) showMore();
  const next = (by > 0 ? item.nextElementSibling : item.previousElementSibling)?.querySelector("details");
  if (!next) return;
  details.open = false;
  next.open = true;
  next.querySelector("summary").focus({ preventScroll: true });
  next.scrollIntoView({ block: "start" });
}

function body(row, details) {
  const link = element("a", "link", "Link to this sample");
  link.href = hashOf(row);
  const asked = element("div", "", ...parts(row.question[2], []));
  const sides = element("div", "sides", ...row.cells.map((cell, place) => {
    const method = [controls.first, controls.second][place].value;
    const head = element("h4", "", element("span", "", `${"AB"[place]}: ${method}`), element("span", "", format(row.values[place])));
    const content = cell ? parts(cell[2], cell[1] ? [["Note", "unparsed or missing"]] : []) : [element("p", "about", "No answer is stored.")];
    return element("div", "side", head, ...content);
  }));
  const steps = [["Previous", -1], ["Next", 1]].map(([text, by]) => {
    const button = element("button", "step", text);
    button.type = "button";
    button.addEventListener("click", () => step(details, by));
    return button;
  });
  return element("div", "body", asked, sides, element("p", "steps", ...steps, link));
}

function parts(found, facts) {
  const texts = [];
  const rest = [...facts];
  for (const [kind, name, text] of found) {
    if (kind === "f") rest.push([label(name), label(text)]);
    else {
      const said = element("div", "said", ...marked(label(text)));
      texts.push(element("div", kind === "j" ? "part judged" : "part", element("span", "", label(name)), said));
    }
  }
  const terms = rest.map(([name, text]) => element("div", "", element("dt", "", name), element("dd", "", text)));
  return rest.length ? [...texts, element("dl", "facts", ...terms)] : texts;
}

function marked(text) {
  const word = controls.search.value.trim();
  if (!word) return [text];
  const found = [];
  const lower = text.toLowerCase();
  let from = 0;
  for (let at = lower.indexOf(word.toLowerCase()); at >= 0; at = lower.indexOf(word.toLowerCase(), from)) {
    found.push(text.slice(from, at), element("mark", "", text.slice(at, at + word.length)));
    from = at + word.length;
  }
  return [...found, text.slice(from)];
}

async function follow() {
  if (!location.hash.startsWith("#sample/")) return;
  let names;
  try {
    names = location.hash.slice(8).split("/").map(decodeURIComponent);
  } catch {
    return; /* no link of ours */
  }
  const [benchmark, question, first, second, seed] = names;
  if (![...controls.benchmark.options].some((option) => option.value === benchmark)) return;
  controls.benchmark.value = benchmark;
  controls.filter.value = "all";
  controls.search.value = "";
  await showBenchmark({ first, second, seed, category: ALL });
  const place = rows.findIndex((row) => row.question[0] === question);
  if (place < 0) {
    byId("found").textContent = `This page does not have the question ${question}.`;
    byId("samples").scrollIntoView();
    return;
  }
  while (shown <= place) showMore();
  const details = list.children[place + 1].firstElementChild;
  details.open = true;
  details.querySelector("summary").focus({ preventScroll: true });
  details.scrollIntoView({ block: "start" });
}

let waiting = 0;
controls.benchmark.addEventListener("change", () => showBenchmark());
for (const name of ["first", "second", "seed", "filter", "category", "order"]) controls[name].addEventListener("change", search);
controls.search.addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(search, 150);
});
byId("controls").addEventListener("submit", (event) => event.preventDefault());
more.addEventListener("click", () => {
  const next = shown + 1;
  showMore();
  list.children[next]?.querySelector("summary").focus();
});
addEventListener("hashchange", follow);
byId("controls").hidden = false;
if (location.hash.startsWith("#sample/")) follow();
else {
  const near = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    near.disconnect();
    if (!block) showBenchmark();
  }, { rootMargin: "1200px" });
  near.observe(byId("samples"));
}
