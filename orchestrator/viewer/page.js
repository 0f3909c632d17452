// The rollout viewer. The element #data has {live, answers, rows, left_out, broken}: summaries of answers as lists
// [step, prompt_id, sample_index, status, reward, route, prompt, group_size], and their rows, which a live page fetches instead.
// Texts of answers reach the page as text nodes only, never as HTML.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const GROUPS = 10, TOKENS = 2000, TEXT = 2000, KEPT = 400, POLL = 2000;
const COLOURS = {
  entropy: { label: "entropy (nats)", of: (t, i) => t.entropy && t.entropy[i] },
  logp: { label: "surprise (-log-prob, nats)", of: (t, i) => t.logp_sampler && negative(t.logp_sampler[i]) },
  divergence: { label: "divergence from the reference", both: true, of: (t, i) => t.divergence && t.divergence[i] },
  advantage: { label: "advantage", both: true, of: (t, i) => t.advantage && t.advantage[i] },
  mismatch: { label: "mismatch, learner - sampler", both: true, of: (t, i) => t.mismatch && t.mismatch[i] },
  staleness: { label: "staleness (steps)", of: (t, i) => t.staleness && t.staleness[i] },
  none: { label: "no colour", of: () => null },
};
const answers = data.answers.map((row, number) => summary(row, number));
const rows = new Map(data.rows.map((row, number) => [number, row]));
let generation = 0, next = 0, shown = GROUPS, waiting = 0, drawing = 0, told = ["", ""], lost = false;

function summary([step, prompt_id, sample_index, status, reward, route, prompt, group_size], number) {
  return { number, step, prompt_id, sample_index, status, reward, route, prompt, group_size };
}
function negative(value) { return value == null ? null : -value; }
function make(kind, properties = {}, ...children) {
  const element = Object.assign(document.createElement(kind), properties);
  element.append(...children);
  return element;
}
// Characters that are invisible, or that change the order or place of others, are shown by their number.
function printable(text) {
  return text.replace(/[\p{C}\u2028\u2029]/gu, (c) =>
    c === "\n" || c === "\t" ? c : `⟨U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
}
function number(value) { return value == null ? "none" : String(Number(value.toPrecision(4))); }
function plural(count, word) { return `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`; }

// Filters.
const controls = {};
function select(name, label, options) {
  controls[name] = make("select", { onchange: restart }, ...options.map(([value, text]) => make("option", { value }, text)));
  return make("label", {}, label, controls[name]);
}
function range(name, label, step) {
  const input = (end, hint) => (controls[name + end] = make("input", { type: "number", step, placeholder: hint, oninput: restart }));
  const [low, high] = [input("_low", "from"), input("_high", "to")];
  low.setAttribute("aria-label", `${label} from`);
  high.setAttribute("aria-label", `${label} to`);
  return make("label", {}, label, make("span", { className: "range" }, low, high));
}
function search() {
  controls.problem = make("input", { type: "search", placeholder: "id or text", oninput: restart });
  return make("label", {}, "problem", controls.problem);
}
const any = [["", "all"]];
const filters = make("form", { className: "filters", onsubmit: (event) => event.preventDefault() },
  select("colour", "colour of tokens", Object.entries(COLOURS).map(([name, { label }]) => [name, label])),
  range("step", "step", 1), select("status", "status", any), range("reward", "reward", "any"),
  search(), select("route", "route", any), select("order", "order", [["newest", "newest first"], ["oldest", "oldest first"]]));
const state = make("div", { className: "state" });
const list = make("main");
document.getElementById("page").append(filters, state, list);

function updateOptions() {
  for (const name of ["status", "route"]) {
    const known = new Set([...controls[name].options].map((option) => option.value));
    for (const value of new Set(answers.map((answer) => answer[name])))
      if (!known.has(value)) controls[name].append(make("option", { value }, printable(value)));
  }
}
function inRange(name, value) {
  const low = controls[name + "_low"].value, high = controls[name + "_high"].value;
  if (low === "" && high === "") return true;
  return value !== null && (low === "" || value >= Number(low)) && (high === "" || value <= Number(high));
}
function matches(answer) {
  const { status, route, problem } = controls, text = problem.value.toLowerCase();
  return (!status.value || answer.status === status.value) && (!route.value || answer.route === route.value)
    && inRange("step", answer.step) && inRange("reward", answer.reward)
    && (!text || answer.prompt_id.toLowerCase().includes(text) || answer.prompt.toLowerCase().includes(text));
}
function groups() {
  const found = new Map();
  for (const answer of answers) {
    const key = JSON.stringify([answer.step, answer.prompt_id]);
    if (!found.has(key)) found.set(key, Object.assign([], { recorded: 0 }));
    found.get(key).recorded += 1;
    if (matches(answer)) found.get(key).push(answer);
  }
  const ordered = [...found.values()].filter((members) => members.length);
  return controls.order.value === "newest" ? ordered.reverse() : ordered;
}

// Rows of answers.
async function row(number) {
  if (rows.has(number) || !data.live) return rows.get(number);
  const response = await fetch(`/answer?generation=${generation}&number=${number}`);
  if (!response.ok) return undefined;
  const found = await response.json();
  if (rows.size >= KEPT) rows.delete(rows.keys().next().value);
  rows.set(number, found);
  return found;
}

// Colours. A scale ends at the 95th percentile of the tokens on the page.
function scaleOf(found) {
  const { of } = COLOURS[controls.colour.value], values = [];
  for (const row of found) {
    const length = row && row.tokens.texts ? Math.min(row.tokens.texts.length, TOKENS) : 0;
    for (let i = 0; i < length; i++) {
      const value = of(row.tokens, i);
      if (value != null) values.push(Math.abs(value));
    }
  }
  values.sort((a, b) => a - b);
  const end = values[Math.floor(values.length * 0.95)] || values[values.length - 1] || 0;
  return { end: end || 1, empty: values.length === 0, zero: values.length > 0 && !end };
}
function background(share) {
  const strength = Math.min(Math.abs(share), 1) * 100;
  return `color-mix(in srgb, var(--${share < 0 ? "below" : "above"}) ${strength.toFixed(0)}%, transparent)`;
}
function legend(scale) {
  const kind = COLOURS[controls.colour.value];
  if (controls.colour.value === "none" || !answers.length) return "";
  if (scale.empty) return make("span", { className: "legend" }, `these answers have no values of: ${kind.label}`);
  if (scale.zero) return make("span", { className: "legend" }, `all values are 0: ${kind.label}`);
  const bar = make("i"), stops = (kind.both ? [-1, 0, 1] : [0, 1]).map(background);
  bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  return make("span", { className: "legend" }, kind.both ? number(-scale.end) : "0", bar, number(scale.end));
}

// One answer.
function tokenWords(row, i) {
  const t = row.tokens, words = [`token ${i + 1} of ${t.count}`];
  const names = { logp_sampler: "log-prob", logp_learner: "of the learner", mismatch: "mismatch", entropy: "entropy",
    divergence: "divergence", advantage: "advantage", staleness: "staleness" };
  for (const [name, label] of Object.entries(names)) if (t[name] && t[name][i] != null) words.push(`${label} ${number(t[name][i])}`);
  return words.join(" · ");
}
function tokenSpan(row, i, scale) {
  const { of, both } = COLOURS[controls.colour.value], text = row.tokens.texts[i], span = make("span");
  const value = of(row.tokens, i);
  if (value != null && !scale.empty) span.style.background = background(both ? value / scale.end : Math.max(value, 0) / scale.end);
  if (row.tokens.logp_sampler && row.tokens.logp_sampler[i] == null) span.className = "outside";
  if (text === "") span.append(make("span", { className: "mark" }, "·"));
  for (const part of printable(text).split(/(\n|\t)/))
    if (part === "\n") span.append(make("span", { className: "mark" }, "↵"), "\n");
    else if (part === "\t") span.append(make("span", { className: "mark" }, "→"), "\t");
    else if (part) span.append(part);
  span.dataset.i = i;
  return span;
}
function tokensOf(row, scale) {
  const box = make("div", { className: "tokens", tabIndex: 0 }), words = make("div", { className: "values" });
  box.setAttribute("aria-label", "tokens of the answer; the arrow keys move through them");
  const length = row.tokens.texts.length;
  let drawn = 0, chosen = null;
  function more(count) {
    const end = Math.min(drawn + count, length), part = document.createDocumentFragment();
    for (; drawn < end; drawn++) part.append(tokenSpan(row, drawn, scale));
    box.append(part);
    if (drawn < length) box.append(make("button", { type: "button", onclick: (event) => { event.target.remove(); more(TOKENS); } },
      `show ${plural(length - drawn, "more token")}`));
    else if (row.tokens.count > length) box.append(remainder(row, row.tokens.texts.join("")));
  }
  function choose(span) {
    if (!span || span.dataset.i === undefined) return;
    if (chosen) chosen.classList.remove("chosen");
    chosen = span;
    chosen.classList.add("chosen");
    words.textContent = tokenWords(row, Number(span.dataset.i));
  }
  const under = (event) => choose(event.target.closest("span[data-i]"));
  box.onpointerover = box.onclick = under;
  box.onkeydown = (event) => {
    const step = { ArrowLeft: "previousElementSibling", ArrowRight: "nextElementSibling" }[event.key];
    if (!step) return;
    event.preventDefault();
    choose(chosen ? chosen[step] : box.firstElementChild);
  };
  more(TOKENS);
  return [box, words];
}
function remainder(row, joined) {
  const rest = row.answer.startsWith(joined) ? row.answer.slice(joined.length) : row.answer;
  const note = `${plural(row.tokens.count - row.tokens.texts.length, "more token")} without values: `;
  return make("span", { className: "outside" }, make("span", { className: "mark" }, note), printable(rest.slice(0, TEXT * 10)));
}
function answerBox(answer, row, scale) {
  const right = answer.reward !== null && answer.reward >= 1 ? " right" : answer.reward !== null && answer.reward <= 0 ? " wrong" : "";
  const box = make("div", { className: "sampled" + right });
  if (!row) return make("div", { className: "sampled" }, make("p", {}, "this answer is no longer in the file"));
  const parts = Object.entries(row.rewards).map(([name, value]) => `${name} ${number(value)}`);
  const counted = row.tokens.texts ? [plural(row.tokens.count, "token")] : [];
  const versions = row.route === "explore" ? [row.first_version === row.last_version ? `weights ${row.first_version}`
    : `weights ${row.first_version} to ${row.last_version}`] : [];
  const ended = row.finish_reason === "length" ? ["cut off at the length limit"] : [];
  const facts = [`reward ${number(row.reward)}`, ...parts, ...counted, ...versions, row.route, `sample ${row.sample_index}`, ...ended].filter(Boolean);
  box.append(make("p", {}, make("span", { className: "verdict" }, printable(row.status) || "not graded"), ` · ${printable(facts.join(" · "))}`));
  if (row.reason) box.append(make("p", { className: "soft" }, printable(row.reason.slice(0, TEXT))));
  if (row.tokens.texts && row.tokens.texts.length) box.append(...tokensOf(row, scale));
  else box.append(folded("pre", row.answer));
  return box;
}
function folded(kind, text) {
  const box = make(kind, { className: "tokens" }, printable(text.slice(0, TEXT)));
  if (text.length > TEXT) box.append(make("button", { type: "button", onclick: () => { box.textContent = printable(text); } },
    `show ${plural(text.length - TEXT, "more character")}`));
  return box;
}
function groupBox(members, found, scale) {
  const [first] = members, row = found.find(Boolean);
  const box = make("section", { className: "group" });
  const right = members.filter((answer) => answer.reward !== null && answer.reward >= 1).length;
  const { recorded } = members, size = first.group_size;
  const counted = size >= recorded ? `${recorded} of ${plural(size, "answer")} recorded` : `${plural(recorded, "answer")} recorded`;
  const title = [printable(first.prompt_id), counted, members.length < recorded && `${members.length} shown`, `${right} right`].filter(Boolean);
  box.append(make("h2", {}, `Step ${first.step}`, make("span", {}, title.map((word) => ` · ${word}`).join(""))));
  if (row) {
    box.append(folded("pre", row.prompt));
    const more = [["as the policy saw it", row.rendered === row.prompt ? "" : row.rendered], [`problem of ${row.verifier}`, row.problem]];
    for (const [title, text] of more) if (text) box.append(make("details", {}, make("summary", {}, printable(title)), folded("pre", text)));
  }
  members.forEach((answer, i) => box.append(answerBox(answer, found[i], scale)));
  return box;
}

// The choices are in the address behind "#", so that a link shows the same answers.
function readAddress() {
  for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
    const control = controls[name];
    if (!control) continue;
    if (control.options && ![...control.options].some((option) => option.value === value))
      control.append(make("option", { value }, printable(value)));
    control.value = value;
  }
}
function writeAddress() {
  const chosen = Object.entries(controls).filter(([, control]) => control.value !== (control.options ? control.options[0].value : ""));
  const words = new URLSearchParams(chosen.map(([name, control]) => [name, control.value])).toString();
  history.replaceState(null, "", words ? `#${words}` : "#");
}

// The page.
function restart() { shown = GROUPS; writeAddress(); draw(); }
async function draw() {
  const mine = ++drawing, all = groups(), visible = all.slice(0, shown);
  const found = await Promise.all(visible.map((members) => Promise.all(members.map((answer) => row(answer.number)))))
    .catch(() => null);
  if (mine !== drawing || found === null) return;
  waiting = 0;
  const scale = scaleOf(found.flat());
  updateOptions();
  list.replaceChildren(...visible.map((members, i) => groupBox(members, found[i], scale)));
  if (all.length > shown) list.append(make("button", { type: "button", onclick: () => { shown += GROUPS; draw(); } },
    `show more of ${plural(all.length, "group")}`));
  if (!all.length) list.append(make("p", { className: "soft" }, answers.length ? "No answer has these properties."
    : data.live ? "The run has written no answers yet; they appear here." : "The run has written no answers."));
  const count = all.reduce((sum, members) => sum + members.length, 0);
  told = [`${plural(count, "answer")} of ${answers.length.toLocaleString("en")} in ${plural(all.length, "group")}`, legend(scale)];
  tell(...told);
}
function tell(text, key) {
  const notes = [];
  if (data.left_out) notes.push(`${plural(data.left_out, "older answer")} left out`);
  if (data.broken) notes.push(`${plural(data.broken, "line")} could not be read`);
  state.replaceChildren(make("span", {}, [text, ...notes].join(" · ")), key);
}
async function poll() {
  let more = true;
  try {
    while (more) {
      const response = await fetch(`/index?generation=${generation}&from=${next}`);
      const news = await response.json();
      if (news.generation !== generation || next === 0) {
        generation = news.generation;
        waiting += answers.length;
        answers.length = 0;
        rows.clear();
        next = news.from;
      }
      news.answers.forEach((each) => answers.push(summary(each, next++)));
      while (answers.length && answers[0].number < news.left_out) answers.shift();
      Object.assign(data, { left_out: news.left_out, broken: news.broken });
      waiting += news.answers.length;
      more = news.more;
    }
    if (lost) tell(...told);
    lost = false;
    // A reader who has scrolled down is not disturbed.
    if (waiting && (window.scrollY < 200 || !list.children.length)) await draw();
    else if (waiting && !document.getElementById("news")) state.append(make("button", { id: "news", type: "button",
      onclick: () => { window.scrollTo(0, 0); draw(); } }, "show new answers"));
  } catch (error) {
    lost = true;
    tell("The viewer has ended, or cannot be reached; trying again.", "");
  }
  setTimeout(poll, POLL);
}
readAddress();
draw();
if (data.live) poll();
