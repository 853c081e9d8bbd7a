// The view of a job's label conflicts, one after the other, decided by the keyboard.

import { ask, askJson, save } from "/playground/api.js";
import { marginScale } from "/playground/charts.js";
import { byId, h } from "/playground/dom.js";
import { readResults } from "/playground/job.js";
import { showProblem } from "/playground/page.js";
import { kept, reviewedRow, ReviewQueue } from "/playground/queue.js";
import { levelEdges, pairReading } from "/playground/reading.js";
import { rowsOf } from "/playground/streams.js";

const NAME = "safemargin.reviewer";
const SAID = { keep: "kept", flip: "flipped", skip: "skipped" };
const KEYS = { k: "keep", f: "flip", s: "skip" };

const status = byId("review-status");
const item = byId("review-item");
const actions = byId("review-actions");
const why = byId("review-why");
const reviewer = byId("reviewer");
let open = null;

/** Show the conflicts of a job; those that were decided before are decided. */
export async function showReview(id, signal) {
  open = null;
  byId("back-to-job").href = `#/job/${id}`;
  item.replaceChildren();
  status.textContent = "Reading the job's conflicts …";
  const { conflicts, provenance } = await readResults(id, signal);
  if (signal.aborted) return;
  open = { id, provenance, queue: new ReviewQueue(conflicts, kept(id)), pair: null, signal };
  await showCurrent("");
}

async function showCurrent(said) {
  const { queue, id, signal } = open;
  const { total, decided, keep, flip, skip } = queue.counts;
  const conflict = queue.current;
  const how = decided ? ` (${keep} kept, ${flip} flipped, ${skip} skipped)` : "";
  const over = conflict || !total ? "" : " Nothing is left: export the reviewed set.";
  status.textContent = `${said}${decided} of ${total} decided${how}.${over}`;
  why.replaceChildren();
  open.pair = null;
  for (const button of actions.querySelectorAll("button")) button.disabled = !conflict;
  byId("undo").disabled = !decided;
  byId("why").hidden = open.provenance?.method !== "margin" || open.provenance.others !== null;
  if (!conflict) {
    item.replaceChildren();
    return;
  }
  const pair = await textOf(id, conflict.line, signal);
  if (open?.queue !== queue || queue.current !== conflict) return;
  open.pair = pair;
  item.replaceChildren(...reviewed(conflict, pair));
}

function reviewed(conflict, pair) {
  const { provenance } = open;
  const side = (name, text) =>
    h("article", { class: "response" }, h("h3", {}, name), h("p", { class: "text" }, text || "(empty)"));
  return [
    h(
      "h2",
      {},
      `Line ${conflict.line}`,
      conflict.id === String(conflict.line) ? "" : h("span", { class: "dim" }, ` ${conflict.id}`),
    ),
    h(
      "div",
      { class: "prompt" },
      pair.prompt.map((turn) => h("p", {}, h("b", {}, `${turn.role}: `), turn.content)),
    ),
    h(
      "div",
      { class: "columns" },
      side("labelled chosen", pair.chosen[0].content),
      side("labelled rejected", pair.rejected[0].content),
    ),
    marginScale(conflict.margin, { calibrated: provenance.calibrated, edges: levelEdges(provenance) }),
  ];
}

/** The pair of a line: the first row after the line before it. */
async function textOf(id, line, signal) {
  for await (const row of rowsOf(await ask(`/jobs/${id}/results?format=trl&cursor=${line - 1}`, { signal })))
    return row;
  throw new Error("this row is not there any more");
}

async function decide(decision) {
  if (!open?.pair) return;
  const by = reviewer.value.trim();
  if (!by) {
    status.textContent = "Say your name first: the reviewed set says who decided.";
    reviewer.focus();
    return;
  }
  const made = open.queue.decide(decision, by, new Date().toISOString());
  await showCurrent(`Line ${made.line} ${SAID[decision]}. `);
}

async function undo() {
  const taken = open?.queue.undo();
  if (taken) await showCurrent(`Line ${taken.line} is open again. `);
}

async function explain() {
  if (!open?.pair) return;
  const { pair, provenance } = open;
  const asked = { prompt: pair.prompt, chosen: pair.chosen[0].content, rejected: pair.rejected[0].content };
  const answer = await askJson("/annotate", {
    method: "POST",
    json: { pairs: [asked], direction: provenance.direction, contributions: true, truncate: true },
  });
  if (open?.pair === pair) why.replaceChildren(...pairReading(answer.annotations[0], answer.provenance));
}

/** The set as it is labelled now, a line a pair, joined from the job's two streams of the same rows. */
async function exportSet() {
  const { id, queue, signal } = open;
  const decided = queue.decided;
  const [raw, trainer] = await Promise.all(
    ["raw", "trl"].map((format) => ask(`/jobs/${id}/results?format=${format}`, { signal })),
  );
  const texts = rowsOf(trainer);
  const lines = [];
  for await (const row of rowsOf(raw)) {
    const { value } = await texts.next();
    lines.push(`${JSON.stringify(reviewedRow(row, value, decided.get(row.line)))}\n`);
  }
  save(new Blob(lines, { type: "application/x-ndjson" }), `reviewed-${id}.jsonl`);
}

reviewer.value = localStorage.getItem(NAME) ?? "";
reviewer.addEventListener("change", () => localStorage.setItem(NAME, reviewer.value.trim()));
actions.addEventListener("click", (event) => {
  const { decision } = event.target.closest("button")?.dataset ?? {};
  if (decision) decide(decision).catch(showProblem);
});
byId("undo").addEventListener("click", () => undo().catch(showProblem));
byId("why").addEventListener("click", () => explain().catch(showProblem));
byId("export").addEventListener("click", () => open && exportSet().catch(showProblem));
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select, dialog");
  if (byId("review-item").closest("section").hidden || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const pressed = event.key.toLowerCase();
  const work = KEYS[pressed] ? () => decide(KEYS[pressed]) : { u: undo, w: explain }[pressed];
  if (!work) return;
  event.preventDefault(); // the letter is not to be typed where the focus goes
  work().catch(showProblem);
});
