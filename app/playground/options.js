// How to read: method, and direction, rules or model, of what the service has.

import { askJson } from "/playground/api.js";
import { byId, h } from "/playground/dom.js";

const NAMES = {
  margin: "direction (Legend)",
  rules: "rules",
  rahf: "taught model (RAHF)",
  reward: "reward model",
};
const POLICIES = ["robust", "published", "relevance", "discrepancy", "all", "random"];

const form = byId("options");
const fields = form.elements;
let cards = new Map();
let edges = new Map();
let loading = null;

/** Ask the service what it has; once, or `anew`, or again where it could not say. */
export function loadOptions(anew = false) {
  if (!loading || anew) {
    loading = load();
    loading.catch(() => (loading = null));
  }
  return loading;
}

async function load() {
  const [directions, rules, banks, alignments, rewards] = await Promise.all([
    listed("/directions", { directions: [], default: null }),
    listed("/rules", { pools: [] }),
    listed("/rule-banks", { banks: [] }),
    listed("/alignments", { alignments: [] }),
    listed("/reward-models", { reward_models: [] }),
  ]);
  cards = new Map(directions.directions.map((card) => [card.id, card]));
  const usable = new Set(banks.banks.map((bank) => bank.pool_digest));
  const pools = rules.pools.filter((pool) => usable.has(pool.digest)).map((pool) => pool.id);
  const taught = alignments.alignments.map((card) => card.id);
  const judges = rewards.reward_models.map((card) => card.id);
  edges = new Map([
    ...[...cards].map(([id, card]) => [`margin ${id}`, card.level_edges]),
    ...alignments.alignments.map((card) => [`rahf ${card.id}`, card.level_edges]),
    ...rewards.reward_models.map((card) => [`reward ${card.id}`, card.after.level_edges]),
  ]);
  fill(fields.direction, [...cards.keys()], directions.default, (id) =>
    id === directions.default ? `${id} (default)` : id,
  );
  fill(fields.pool, pools);
  fill(fields.policy, POLICIES, "robust");
  fill(fields.alignment, taught);
  fill(fields.reward, judges);
  const methods = ["margin", pools.length && "rules", taught.length && "rahf", judges.length && "reward"].filter(
    Boolean,
  );
  fill(fields.method, methods, "margin", (name) => NAMES[name]);
  fields.explain.disabled = !pools.length;
  show();
}

/** What a request says of it, in a view: `pair`, `responses` or `files`. */
export async function chosenOptions(view) {
  await loadOptions();
  const method = view === "responses" && fields.method.value !== "reward" ? "margin" : fields.method.value;
  const rules = { pool: fields.pool.value, policy: fields.policy.value, k: Number(fields.k.value) };
  if (method === "rules") return { method, rules };
  if (method === "rahf") return { method, alignment: fields.alignment.value };
  if (method === "reward") return { method, reward_model: fields.reward.value };
  if (view === "responses") return { direction: fields.direction.value };
  return fields.explain.checked
    ? { method, direction: fields.direction.value, explain: true, rules }
    : { method, direction: fields.direction.value };
}

/** The margins at which the level of an answer goes up, as far as what said it is known here. */
export function levelEdges({ method, direction, alignment, reward_model: reward }) {
  return edges.get(`${method} ${direction ?? alignment?.id ?? reward?.id}`) ?? [];
}

/** All cards of directions. */
export function allCards() {
  return [...cards.values()];
}

/** Show the options where a view needs them; null hides them all. */
export function showOptions(view) {
  form.hidden = view === null;
  form.dataset.place = view ?? "";
  show();
}

function show() {
  const view = form.dataset.place;
  const method = fields.method.value;
  const asked = view === "responses" && !["margin", "reward"].includes(method) ? "margin" : method;
  for (const part of form.querySelectorAll("[data-for]")) {
    const judged = part.dataset.for === "rules" && asked === "margin" && fields.explain.checked && view !== "responses";
    const here = !part.dataset.in || part.dataset.in.split(" ").includes(view);
    part.hidden = !here || (part.dataset.for !== asked && !judged);
  }
  for (const option of fields.method.options) {
    option.disabled = view === "responses" && !["margin", "reward"].includes(option.value);
  }
  if (view === "responses") fields.method.value = asked;
  const link = byId("report-link");
  link.dataset.direction = fields.direction.value;
  link.href = `/directions/${encodeURIComponent(fields.direction.value)}/report`;
}

async function listed(path, none) {
  try {
    return await askJson(path);
  } catch (problem) {
    if (problem.status === 404 || problem.status === 503) return none;
    throw problem;
  }
}

function fill(select, values, chosen = null, name = (value) => value) {
  const before = select.value;
  select.replaceChildren(...values.map((value) => h("option", { value }, name(value))));
  const wanted = values.includes(before) ? before : chosen;
  if (wanted !== null && values.includes(wanted)) select.value = wanted;
}

form.addEventListener("change", show);
form.addEventListener("submit", (event) => event.preventDefault());
