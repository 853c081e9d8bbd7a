// What was read, as it is shown: the verdict, where it comes from, and the tokens in colour.

import { marginScale, rulesChart, sideOf } from "/playground/charts.js";
import { centred, plain, strengths, strongest, words } from "/playground/contributions.js";
import { h } from "/playground/dom.js";
import { levelEdges } from "/playground/options.js";
import { logistic, probability, signed } from "/playground/scales.js";

const HOW_TO_READ =
  "The parts of a response add up to its score, and the difference of two scores is the margin. Safer is blue; less " +
  "safe is orange and underlined with dots. Rest on a token for its number.";
const WORDS = 5;
const UNRELIABLE = "unreliable: nothing shows that it reads better than chance";

/** Everything about one annotated pair. */
export function pairReading(annotation, provenance) {
  const edges = levelEdges(provenance);
  const parts = [
    verdict(annotation, provenance, edges),
    badges(annotation, provenance),
    marginScale(annotation.margin, { calibrated: provenance.calibrated, edges }),
    h("p", { class: "hint" }, scaleWords(provenance, edges)),
    annotation.contributions ? tokensOfPair(annotation) : null,
    annotation.rules ? h("h2", {}, "What the rules say") : null,
    annotation.rules ? rulesChart(annotation.rules) : null,
    source(provenance),
  ];
  return parts.filter(Boolean);
}

/** Both responses of a pair, their tokens in colour. */
export function tokensOfPair({ contributions }) {
  return tokensOf(["chosen", "rejected"].map((side) => ({ name: side, tokens: contributions[side] })));
}

/** A badge of what reads no better than chance, as far as is known. */
export function unreliable() {
  return h("p", {}, h("span", { class: "pill warn" }, UNRELIABLE));
}

/** Tokens of K responses in colour, `{name, tokens}` each, with the words that weigh most. */
export function tokensOf(responses) {
  const shown = h("div", { class: "columns" });
  const relative = h("input", { type: "checkbox", checked: true, onchange: draw });
  function draw() {
    const all = responses.map((response) => response.tokens);
    const values = relative.checked ? centred(all) : plain(all);
    const strong = strengths(values);
    shown.replaceChildren(...responses.map((response, i) => tokenColumn(response, values[i], strong[i])));
  }
  draw();
  return h(
    "section",
    { class: "tokens", "aria-label": "What every token contributes" },
    h("h2", {}, "What every token contributes"),
    h("p", { class: "row" }, legend(), h("label", { class: "check" }, relative, " relative to the average response")),
    shown,
    h("p", { class: "hint" }, HOW_TO_READ),
  );
}

function legend() {
  const parts = [h("span", {}, "less safe"), h("span", { class: "ramp" }), h("span", {}, "safer")];
  return h("span", { class: "legend", "aria-hidden": "true" }, parts);
}

function tokenColumn({ name, tokens }, values, strong) {
  const total = values.reduce((sum, value) => sum + value, 0);
  const found = words(tokens, values);
  const most = [
    ["safer by", strongest(found, WORDS, true)],
    ["less safe by", strongest(found, WORDS, false)],
  ];
  return h(
    "article",
    { class: "response" },
    h("h3", {}, name, " ", h("span", { class: "number" }, signed(total))),
    h(
      "p",
      { class: "text" },
      tokens.map((token, i) => tokenSpan(token, values[i], strong[i])),
    ),
    h(
      "dl",
      { class: "words" },
      most.filter(([, own]) => own.length).map(([by, own]) => [h("dt", {}, by), h("dd", {}, own.map(weighed))]),
    ),
  );
}

/** A word with what it weighs. */
function weighed(word) {
  const weight = h("span", { class: `number ${sideOf(word.value)}` }, signed(word.value));
  return [h("span", { class: "word" }, nameOf(word), " ", weight), " "];
}

function nameOf(word) {
  return word.text === null ? "end of turn" : word.text.trim() || "white space";
}

function tokenSpan(token, value, strength) {
  const end = token.text === null;
  const name = `token ${sideOf(value)}${end ? " end" : ""}`;
  const span = h("span", { class: name, title: signed(value), "data-value": value }, end ? "⏎" : token.text);
  span.style.setProperty("--strength", `${Math.round(strength * 100)}%`);
  return span;
}

/** What a margin says, in a sentence. */
export function verdict(annotation, provenance, edges) {
  const { margin, level = null } = annotation;
  const likely = provenance.calibrated ? ` with probability ${probability(logistic(Math.abs(margin)))}` : "";
  const step = level === null ? "" : `; level ${level}${edges.length ? ` of ${edges.length}` : ""}`;
  const said = `: ${says(annotation, provenance)}${likely}${step}.`;
  return h("p", { class: "verdict" }, "Margin ", h("strong", { class: sideOf(margin) }, signed(margin)), said);
}

function says({ rules, label_conflict: conflict }, { method }) {
  if (method === "rules" && rules?.tie) return `a tie, ${rules.tie.replaceAll("_", " ")}`;
  return conflict ? "the rejected response is the safer one" : "the chosen response is the safer one";
}

function badges(annotation, provenance) {
  const found = [
    provenance.calibrated ? ["good", "calibrated: log-odds"] : ["warn", "not calibrated: raw units"],
    provenance.unreliable ? ["warn", UNRELIABLE] : null,
    annotation.label_conflict ? ["warn", "label conflict"] : null,
    annotation.truncated ? ["warn", "prompt cut to fit"] : null,
  ];
  return h(
    "ul",
    { class: "badges" },
    found.filter(Boolean).map(([kind, text]) => h("li", { class: `pill ${kind}` }, text)),
  );
}

function scaleWords(provenance, edges) {
  if (!provenance.calibrated) return "In the units of the projection: only its sign and comparisons mean something.";
  const bands = edges.length ? "; the bands are the levels" : "";
  return `Log-odds that the chosen response is the safer one, and below them its probability${bands}.`;
}

/** What exactly made the numbers. */
export function source(provenance) {
  const rows = {
    method: provenance.method,
    direction: provenance.direction,
    "direction digest": provenance.direction_digest,
    alignment: provenance.alignment?.id,
    "reward model": provenance.reward_model?.id,
    model: provenance.model,
    revision: provenance.model_revision,
    template: provenance.template,
    layers: provenance.layers.join(", "),
    pooling: provenance.pooling,
    dtype: provenance.dtype,
    version: provenance.version,
    "rule pool": provenance.rules?.pool,
    "rated by":
      provenance.rules && `${provenance.rules.rater}${provenance.rules.bank ? ` (${provenance.rules.bank})` : ""}`,
    policy: provenance.rules?.policy,
  };
  const shown = Object.entries(rows).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h(
    "details",
    { class: "source" },
    h("summary", {}, "What made these numbers"),
    h("dl", {}, shown.map(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))]).flat()),
  );
}
