// The view of a job's label conflicts, one after the other, decided by the keyboard.

import { askJson, placeOf, save } from "/playground/api.js";
import { marginScale } from "/playground/charts.js";
import { byId, h } from "/playground/dom.js";
import { levelEdges } from "/playground/options.js";
import { showProblem } from "/playground/page.js";
import { kept, reviewedRow, ReviewQueue } from "/playground/queue.js";
import { tokensOfPair, verdict } from "/playground/reading.js";
import { pairAt, readResults, rowsWithTexts } from "/playground/results.js";
import { counted } from "/playground/scales.js";
import { lasting } from "/playground/storage.js";

const NAME = "safemargin.reviewer";
const SHORTCUTS = "safemargin.shortcuts";
const SAID = { keep: "kept", flip: "flipped", skip: "skipped" };
const BLOB_ROWS = 1000;
const KEYS = { k: "keep", f: "flip", s: "skip" };

const status = byId("review-status");
const item = byId("review-item");
const actions = byId("review-actions");
const why = byId("review-why");
const reviewer = byId("reviewer");
const scope = byId("review-scope");
const exporting = byId("export");
const shortcuts = byId("shortcuts");
let open = null;

/** Show the conflicts of a job that is over; those that were decided before are decided. */
export async function showReview(id, signal) {
  open = null;
  byId("back-to-job").href = `#/job/${id}`;
  item.replaceChildren();
  why.replaceChildren();
  scope.textContent = "";
  byId("review-lost").hidden = true;
  allow(false);
  exporting.disabled = true;
  status.textContent = "Reading the job's conflicts …";
  try {
    await begin(id, signal);
  } catch (problem) {
    status.textContent = "";
    throw problem;
  }
}

async function begin(id, signal) {
  const job = await askJson(placeOf(id), { signal });
  if (job.status === "in_progress") {
    status.textContent = "The job is in progress: its conflicts are here once it is over.";
    return;
  }
  const { margins, conflicts, provenance } = await readResults(job, signal, (rows) => {
    status.textContent = `Reading the job's conflicts: ${counted(rows)} of ${counted(job.request_counts.completed)} rows …`;
  });
  if (signal.aborted) return;
  const store = kept(id);
  const queue = new ReviewQueue(conflicts, store);
  open = { id, provenance, queue, store, pair: null, signal, rows: margins.length };
  scope.textContent = scopeOf(job, margins.length);
  exporting.disabled = !margins.length;
  await showCurrent("");
}

/** What the reviewed set has in it, and what not. */
function scopeOf(job, annotated) {
  const left = job.request_counts.total - annotated;
  const without = left ? ` ${counted(left)} row${left > 1 ? "s" : ""} without a margin ${left > 1 ? "are" : "is"} not.` : "";
  return `${counted(annotated)} pair${annotated === 1 ? " is" : "s are"} in the reviewed set.${without}`;
}

async function showCurrent(said) {
  const { queue, store, id, signal } = open;
  const { total, decided, keep, flip, skip } = queue.counts;
  const conflict = queue.current;
  const how = decided ? ` (${keep} kept, ${flip} flipped, ${skip} skipped)` : "";
  const over = conflict ? "" : " Nothing is left: export the reviewed set.";
  status.textContent = total
    ? `${said}${counted(decided)} of ${counted(total)} decided${how}.${over}`
    : "The job has no label conflicts.";
  byId("review-lost").hidden = !store.loses();
  why.replaceChildren();
  open.pair = null;
  allow(Boolean(conflict));
  byId("undo").disabled = !decided;
  byId("why").hidden = open.provenance?.method !== "margin" || open.provenance.others !== null;
  if (!conflict) {
    item.replaceChildren();
    return;
  }
  const pair = await pairAt(id, conflict.line, signal);
  if (open?.queue !== queue || queue.current !== conflict) return;
  open.pair = pair;
  item.replaceChildren(...reviewed(conflict, pair));
}

function allow(deciding) {
  for (const button of actions.querySelectorAll("button")) button.disabled = !deciding;
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
    verdict({ margin: conflict.margin, label_conflict: true }, provenance, []),
    marginScale(conflict.margin, { calibrated: provenance.calibrated, edges: levelEdges(provenance) }),
  ];
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
  if (!open?.pair || byId("why").hidden) return;
  const { pair, provenance } = open;
  const asked = { prompt: pair.prompt, chosen: pair.chosen[0].content, rejected: pair.rejected[0].content };
  const answer = await askJson("/annotate", {
    method: "POST",
    json: { pairs: [asked], direction: provenance.direction, contributions: true, truncate: true },
  });
  if (open?.pair === pair) why.replaceChildren(tokensOfPair(answer.annotations[0]));
}

/** The set as it is labelled now, a line a pair; what is done of it lies in blobs, which a browser may keep on disk. */
async function exportSet() {
  const { id, queue, signal, rows } = open;
  const { decided } = queue;
  const before = scope.textContent;
  const done = [];
  let lines = [];
  exporting.disabled = true;
  try {
    const tell = (count) => (scope.textContent = `Exporting: ${counted(count)} of ${counted(rows)} rows …`);
    for await (const [raw, trainer] of rowsWithTexts(id, rows, signal, tell)) {
      lines.push(`${JSON.stringify(reviewedRow(raw, trainer, decided.get(raw.line)))}\n`);
      if (lines.length === BLOB_ROWS) {
        done.push(new Blob(lines));
        lines = [];
      }
    }
  } finally {
    if (open?.queue === queue) {
      exporting.disabled = false;
      scope.textContent = before;
    }
  }
  save(new Blob([...done, ...lines], { type: "application/x-ndjson" }), `reviewed-${id}.jsonl`);
}

/** The buttons say their letters as long as these decide. */
function showLetters() {
  for (const button of actions.querySelectorAll("button")) {
    const letter = button.querySelector("kbd");
    letter.hidden = !shortcuts.checked;
    if (shortcuts.checked) button.setAttribute("aria-keyshortcuts", letter.textContent.toLowerCase());
    else button.removeAttribute("aria-keyshortcuts");
  }
}

reviewer.value = lasting.get(NAME) ?? "";
reviewer.addEventListener("input", () => lasting.set(NAME, reviewer.value.trim()));
reviewer.addEventListener("keydown", (event) => {
  if (event.key === "Enter") byId("main").focus({ preventScroll: true }); // where the letters decide again
});
shortcuts.checked = lasting.get(SHORTCUTS) !== "off";
shortcuts.addEventListener("change", () => {
  lasting.set(SHORTCUTS, shortcuts.checked ? "on" : "off");
  showLetters();
});
showLetters();
actions.addEventListener("click", (event) => {
  const { decision } = event.target.closest("button")?.dataset ?? {};
  if (decision) decide(decision).catch(showProblem);
});
byId("undo").addEventListener("click", () => undo().catch(showProblem));
byId("why").addEventListener("click", () => explain().catch(showProblem));
exporting.addEventListener("click", () => open && exportSet().catch(showProblem));
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input:not([type=checkbox]), textarea, select, dialog");
  const command = event.repeat || event.ctrlKey || event.metaKey || event.altKey;
  if (byId("review-item").closest("section").hidden || !shortcuts.checked || typing || command) return;
  const pressed = event.key.toLowerCase();
  const work = KEYS[pressed] ? () => decide(KEYS[pressed]) : { u: undo, w: explain }[pressed];
  if (!work) return;
  event.preventDefault(); // the letter is not to be typed where the focus goes
  work().catch(showProblem);
});
