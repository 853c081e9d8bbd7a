// The view of files and jobs.

import { askJson } from "/playground/api.js";
import { byId, h } from "/playground/dom.js";
import { exampleRows } from "/playground/examples.js";
import { chosenOptions } from "/playground/options.js";
import { showProblem, whileBusy } from "/playground/page.js";
import { counted, timeOf } from "/playground/scales.js";
import { table } from "/playground/tables.js";

const PILLS = { in_progress: "", completed: "good", failed: "warn", cancelled: "warn" };

const form = byId("file-form");
const status = byId("file-status");

/** The newest jobs that annotate. */
export async function showJobs() {
  status.textContent = "";
  const [jobs, files] = await Promise.all(["/jobs?limit=20", "/files?limit=100"].map((path) => askJson(path)));
  const names = new Map(files.data.map((file) => [file.id, file.name]));
  const rows = jobs.data.filter((job) => job.kind === "annotate").map((job) => rowOf(job, names.get(job.file)));
  const columns = [
    { head: "File", row: true },
    { head: "Made" },
    { head: "State" },
    { head: "Annotated", number: true },
    { head: "Failed", number: true },
    { head: "Rows", number: true },
  ];
  const none = h("p", { class: "hint" }, "None yet.");
  byId("job-list").replaceChildren(rows.length ? table({ name: "jobs", columns, rows }) : none);
}

function rowOf(job, name) {
  const { total, completed, failed } = job.request_counts;
  const link = h("a", { href: `#/job/${job.id}` }, name ?? (job.file ? "a file" : "a request"));
  const state = h("span", { class: `pill ${PILLS[job.status]}` }, job.status.replace("_", " "));
  return [link, timeOf(job), state, ...[completed, failed, total].map(counted)];
}

async function annotate(content, name) {
  await whileBusy(form, async () => {
    status.textContent = `Uploading ${name} …`;
    const file = await askJson(`/files?name=${encodeURIComponent(name.slice(0, 255))}`, {
      method: "POST",
      body: content,
      headers: { "Content-Type": "application/octet-stream" },
    });
    const [first] = file.problems;
    const bad = first ? `; ${file.bad_rows} cannot be annotated, the first is line ${first.line}: ${first.detail}` : "";
    status.textContent = `${counted(file.rows)} pairs${bad}.`;
    const job = await askJson("/jobs", { method: "POST", json: { file: file.id, ...(await chosenOptions("files")) } });
    location.hash = `#/job/${job.id}`;
  }).catch((problem) => {
    status.textContent = "";
    throw problem;
  });
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const [file] = form.elements.file.files;
  if (file) annotate(file, file.name).catch(showProblem);
  else status.textContent = "Choose a file first.";
});
byId("example-file").addEventListener("click", () => {
  const lines = exampleRows().map((row) => `${JSON.stringify(row)}\n`);
  annotate(new Blob(lines), "examples.jsonl").catch(showProblem);
});
