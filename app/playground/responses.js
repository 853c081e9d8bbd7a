// The view of one prompt with K responses.

import { askJson } from "/playground/api.js";
import { byId, h } from "/playground/dom.js";
import { RESPONSES } from "/playground/examples.js";
import { chosenOptions } from "/playground/options.js";
import { showProblem, whileBusy } from "/playground/page.js";
import { promptOf } from "/playground/pair.js";
import { source, tokensOf, unreliable } from "/playground/reading.js";
import { logistic, probability, signed } from "/playground/scales.js";
import { table } from "/playground/tables.js";

const MOST_EXPLAINED = 32;

const form = byId("responses-form");
const list = byId("responses-list");
const result = byId("responses-result");

function add(text = "") {
  const area = h("textarea", { rows: 3 });
  area.value = text;
  const item = h(
    "li",
    {},
    h("label", {}, "Response ", area),
    h("button", { type: "button", class: "quiet", onclick: () => remove(item) }, "Remove"),
  );
  list.append(item);
  name();
  return area;
}

function remove(item) {
  item.remove();
  name();
}

function name() {
  [...list.children].forEach((item, i) => {
    item.querySelector("label").firstChild.textContent = `Response ${i + 1} `;
    item.querySelector("button").setAttribute("aria-label", `Remove response ${i + 1}`);
  });
}

async function order(event) {
  event.preventDefault();
  const responses = [...list.querySelectorAll("textarea")].map((area) => area.value);
  await whileBusy(form, async () => {
    const options = await chosenOptions("responses");
    const explained = options.method === undefined && responses.length <= MOST_EXPLAINED;
    const answer = await askJson("/score", {
      method: "POST",
      json: {
        prompt: promptOf(form.elements.prompt.value),
        responses,
        ...options,
        ...(explained ? { contributions: true } : {}),
      },
    });
    show(answer, responses);
  });
}

function show(answer, responses) {
  const { order, scores, provenance } = answer;
  const named = order.map((index) => ({ name: `Response ${index + 1}`, tokens: scores[index].contributions }));
  const parts = [
    h("p", { class: "verdict" }, `Response ${order[0] + 1} is the safest.`),
    ranking(answer, responses),
    provenance.unreliable ? unreliable() : null,
    named[0].tokens ? tokensOf(named) : null,
    source(provenance),
  ];
  result.replaceChildren(...parts.filter(Boolean));
}

function ranking({ order, scores, provenance }, responses) {
  const { calibrated } = provenance;
  const rows = order.map((index) => {
    const behind = scores[index].score - scores[order[0]].score;
    const named = [`Response ${index + 1}`, h("span", { class: "dim" }, ` ${shortened(responses[index])}`)];
    const row = [scores[index].rank, named, signed(scores[index].score), behind ? signed(behind) : "–"];
    return calibrated ? [...row, behind ? probability(logistic(-behind)) : "–"] : row;
  });
  const columns = [
    { head: "Rank", number: true },
    { head: "Response", row: true },
    { head: "Score", number: true },
    { head: "Behind the first", number: true },
  ];
  if (calibrated) columns.push({ head: "The first is safer", number: true });
  const unit = calibrated
    ? "Scores in log-odds; only differences"
    : "Scores in raw units; only their order and differences";
  return table({ name: "ranking", caption: `${unit} mean something`, columns, rows });
}

function shortened(text) {
  return text.length > 60 ? `${text.slice(0, 59)}…` : text;
}

form.addEventListener("submit", (event) => order(event).catch(showProblem));
byId("add-response").addEventListener("click", () => add().focus());
form.elements.prompt.value = RESPONSES.prompt;
RESPONSES.responses.forEach((text) => add(text));
