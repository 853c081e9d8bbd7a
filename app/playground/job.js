// The view of one job: its progress as it happens, and what came of it.

import { ask, askJson, download, placeOf } from "/playground/api.js";
import { histogramChart } from "/playground/charts.js";
import { byId, h } from "/playground/dom.js";
import { bins, median } from "/playground/histogram.js";
import { forgetProblem, showProblem } from "/playground/page.js";
import { source, unreliable } from "/playground/reading.js";
import { readResults } from "/playground/results.js";
import { counted, signed, timeOf } from "/playground/scales.js";
import { eventsOf } from "/playground/streams.js";
import { table } from "/playground/tables.js";

const AGAIN_MS = 1000;
const status = byId("job-status");
const progress = byId("job-progress");
const cancel = byId("cancel-job");
const result = byId("job-result");
const title = byId("job-title");
const about = byId("job-about");
let shown = null;

/** Show a job and follow it until its end, or until `signal` ends that. */
export async function showJob(id, signal) {
  shown = id;
  result.replaceChildren();
  status.textContent = "";
  cancel.hidden = true;
  title.textContent = "Job";
  about.textContent = id;
  const job = await follow(id, signal);
  if (job && !signal.aborted && job.kind === "annotate") await showResults(job, signal);
}

/** The job at its end; the connection is made again whenever it breaks. */
async function follow(id, signal) {
  while (!signal.aborted) {
    try {
      for await (const { event, data } of eventsOf(await ask(placeOf(id, "/events"), { signal }))) {
        forgetProblem();
        if (about.textContent === id) showName(data).catch(() => {}); // a job outlives its file
        showProgress(data);
        if (event === "end") return data;
      }
    } catch (problem) {
      if (problem.name === "AbortError" || signal.aborted) return null;
      if (problem.status >= 400) throw problem;
      showProblem(problem);
    }
    await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
  }
  return null;
}

/** Its title is the file's name, where there is a file that has one. */
async function showName(job) {
  about.textContent = `Job ${job.id}, made ${timeOf(job)}`;
  const { name } = job.file ? await askJson(`/files/${job.file}`) : {};
  if (name && shown === job.id) title.textContent = name;
}

function showProgress(job) {
  const { total, completed, failed } = job.request_counts;
  const done = completed + failed;
  progress.value = total ? done / total : 0;
  cancel.hidden = job.status !== "in_progress";
  const failures = failed ? `, ${counted(failed)} failed` : "";
  const pace = job.status === "in_progress" && job.throughput ? `, ${job.throughput.toFixed(1)} rows a second` : "";
  const left = job.eta_seconds ? `, about ${duration(job.eta_seconds)} left` : "";
  const state = job.status === "in_progress" ? "In progress" : job.status[0].toUpperCase() + job.status.slice(1);
  const error = job.error ? `; ${job.error}` : "";
  status.textContent = `${state}: ${counted(done)} of ${counted(total)} rows${failures}${pace}${left}${error}`;
}

function duration(seconds) {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

async function showResults(job, signal) {
  const reading = h("p", { class: "hint" }, "Reading the results …");
  const { completed } = job.request_counts;
  result.replaceChildren(reading);
  const { margins, conflicts, provenance } = await readResults(job, signal, (rows) => {
    reading.textContent = `Reading the results: ${counted(rows)} of ${counted(completed)} rows …`;
  });
  if (signal.aborted) return;
  if (!margins.length) {
    result.replaceChildren(h("p", {}, "No row was annotated."), downloads(job));
    return;
  }
  const found = bins(margins);
  const unit = provenance.calibrated ? "log-odds" : "raw units";
  result.replaceChildren(
    figures(margins, conflicts, unit),
    provenance.unreliable ? unreliable() : "",
    histogramChart(found, unit),
    h("details", {}, h("summary", {}, "The histogram as a table"), histogramTable(found)),
    conflicts.length ? reviewLink(job, conflicts.length) : h("p", {}, "No label conflicts."),
    downloads(job),
    source(provenance),
  );
}

function figures(margins, conflicts, unit) {
  const share = ((100 * conflicts.length) / margins.length).toFixed(1);
  const shown = {
    annotated: counted(margins.length),
    "label conflicts": `${counted(conflicts.length)} (${share} %)`,
    "median margin": signed(median(margins)),
    unit,
  };
  const parts = Object.entries(shown).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)));
  return h("dl", { class: "figures" }, parts);
}

function histogramTable(found) {
  const columns = ["From", "to", "Pairs"].map((head) => ({ head, number: true }));
  return table({ columns, rows: found.map((bin) => [signed(bin.low), signed(bin.high), counted(bin.count)]) });
}

function reviewLink(job, count) {
  const text = `Review ${counted(count)} label conflict${count > 1 ? "s" : ""}`;
  return h("p", {}, h("a", { class: "button primary", href: `#/review/${job.id}` }, text));
}

function downloads(job) {
  const button = (name, path, file) => {
    const onclick = () => download(path, file).catch(showProblem);
    return h("button", { type: "button", class: "secondary", onclick }, name);
  };
  const results = placeOf(job.id, "/results");
  return h(
    "p",
    { class: "row" },
    button("Rows for TRL", `${results}?format=trl`, `${job.id}.trl.jsonl`),
    button("Rows for OpenRLHF", `${results}?format=openrlhf`, `${job.id}.openrlhf.jsonl`),
    button("Everything that is known", results, `${job.id}.jsonl`),
    job.request_counts.failed ? button("Failed rows", placeOf(job.id, "/errors"), `${job.id}.errors.jsonl`) : null,
  );
}

cancel.addEventListener("click", async () => {
  cancel.disabled = true;
  await askJson(placeOf(shown, "?cancel=true"), { method: "DELETE" }).catch((problem) => {
    if (problem.status !== 409) showProblem(problem); // it ended just now, as its events say
  });
  cancel.disabled = false;
});
