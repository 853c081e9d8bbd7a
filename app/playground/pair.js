// The view of one pair.

import { askJson } from "/playground/api.js";
import { byId, h } from "/playground/dom.js";
import { PAIRS } from "/playground/examples.js";
import { chosenOptions } from "/playground/options.js";
import { pairReading } from "/playground/reading.js";
import { showProblem, whileBusy } from "/playground/page.js";

const form = byId("pair-form");
const { prompt, chosen, rejected } = form.elements;
const example = byId("pair-example");
const result = byId("pair-result");

/** A prompt as it is sent: text, or the conversation that its JSON is. */
export function promptOf(text) {
  try {
    const turns = JSON.parse(text);
    if (Array.isArray(turns) && turns.every((turn) => turn.role && turn.content)) return turns;
  } catch {
    return text;
  }
  return text;
}

/** A pair that a line of JSON holds; null where it holds none. */
export function pairOf(line) {
  try {
    const row = JSON.parse(line);
    const text = (side) => (Array.isArray(row[side]) ? row[side].at(-1).content : row[side]);
    if (!row.prompt || typeof text("chosen") !== "string" || typeof text("rejected") !== "string") return null;
    const asked = typeof row.prompt === "string" ? row.prompt : JSON.stringify(row.prompt, null, 1);
    return { prompt: asked, chosen: text("chosen"), rejected: text("rejected") };
  } catch {
    return null;
  }
}

function set(pair) {
  prompt.value = pair.prompt;
  chosen.value = pair.chosen;
  rejected.value = pair.rejected;
  result.replaceChildren();
}

async function annotate(event) {
  event.preventDefault();
  const pair = { prompt: promptOf(prompt.value), chosen: chosen.value, rejected: rejected.value };
  await whileBusy(form, async () => {
    const options = await chosenOptions("pair");
    const answer = await askJson("/annotate", {
      method: "POST",
      json: { pairs: [pair], ...options, ...(options.method === "margin" ? { contributions: true } : {}) },
    });
    result.replaceChildren(...pairReading(answer.annotations[0], answer.provenance));
  });
}

example.append(...PAIRS.map((pair, i) => h("option", { value: i }, pair.name)), h("option", { value: "" }, "your own"));
example.addEventListener("change", () => set(PAIRS[example.value] ?? { prompt: "", chosen: "", rejected: "" }));
form.addEventListener("submit", (event) => annotate(event).catch(showProblem));
form.addEventListener("input", (event) => {
  if (event.target !== example) example.value = "";
});
form.addEventListener("paste", (event) => {
  const pair = pairOf(event.clipboardData.getData("text"));
  if (!pair) return;
  event.preventDefault();
  set(pair);
  example.value = "";
});
byId("swap").addEventListener("click", () => {
  [chosen.value, rejected.value] = [rejected.value, chosen.value];
  result.replaceChildren();
});
set(PAIRS[0]);
