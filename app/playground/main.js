// The page: which view is shown, whether the service is ready, and with which key it is asked.

import { ask, download, key, useKey } from "/playground/api.js";
import { showDirections } from "/playground/directions.js";
import { byId } from "/playground/dom.js";
import { showJobs } from "/playground/files.js";
import { showJob } from "/playground/job.js";
import { loadOptions, showOptions } from "/playground/options.js";
import { forgetProblem, showProblem } from "/playground/page.js";
import { showReview } from "/playground/review.js";
import "/playground/pair.js";
import "/playground/responses.js";

const HEALTH_MS = 15_000;
const WITH_OPTIONS = ["pair", "responses", "files"];
const SHOW = { files: showJobs, job: showJob, review: showReview, directions: showDirections };
const TITLES = {
  pair: "Pair",
  responses: "Responses",
  files: "Files",
  job: "Job",
  review: "Review",
  directions: "Directions",
};
let leaving = new AbortController();
let away = false;

async function show(anew = false) {
  const [, view = "pair", id = ""] = location.hash.split("/");
  if (location.hash && !(view in TITLES)) return;
  leaving.abort();
  leaving = new AbortController();
  forgetProblem();
  for (const section of document.querySelectorAll("section[data-view]")) section.hidden = section.dataset.view !== view;
  const tab = { job: "files", review: "files" }[view] ?? view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#/${tab}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${TITLES[view]} · Safemargin`;
  const { signal } = leaving;
  await loadOptions(anew || view === "directions");
  if (signal.aborted) return;
  showOptions(WITH_OPTIONS.includes(view) ? view : null);
  await SHOW[view]?.(...(id ? [id, signal] : []));
}

async function showHealth() {
  const pill = byId("health");
  try {
    const { workers } = await (await ask("/readyz")).json();
    pill.className = "pill good";
    pill.textContent = `ready, ${workers.length} worker${workers.length > 1 ? "s" : ""}`;
    pill.removeAttribute("title");
    if (away) loadOptions(true).catch(() => {}); // what it has could not be asked before
    away = false;
  } catch (problem) {
    away = true;
    pill.className = "pill warn";
    pill.textContent = problem.status ? "not ready" : "not reachable";
    pill.title = problem.message;
  }
}

/** A report opens in a tab of its own; with a key, which a link cannot send, it is saved. */
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-direction]");
  if (!link || !key()) return;
  event.preventDefault();
  download(link.getAttribute("href"), `${link.dataset.direction}-report.html`, { Accept: "text/html" }).catch(
    showProblem,
  );
});

byId("key-button").addEventListener("click", () => byId("key-dialog").showModal());
byId("key-dialog").addEventListener("close", () => {
  const { returnValue } = byId("key-dialog");
  if (returnValue === "save") useKey(byId("key").value.trim());
  if (returnValue === "forget") useKey("");
  byId("key").value = "";
  byId("key-button").textContent = key() ? "API key ✓" : "API key";
  if (returnValue) show(true).catch(showProblem);
});
byId("key-button").textContent = key() ? "API key ✓" : "API key";
addEventListener("hashchange", () => show().then(() => byId("main").focus({ preventScroll: true }), showProblem));
show().catch(showProblem);
showHealth();
setInterval(showHealth, HEALTH_MS);
