// What came of a job, read as a stream: of every row only what the page shows of it.

import { ask } from "/playground/api.js";
import { rowsOf } from "/playground/streams.js";

const TELL_MS = 200;

let last = { id: null, found: null };

/**
 * Margins of a job that is over, its conflicts `{line, id, margin}`, and the provenance of its rows. Of the job looked at
 * last they are remembered. `tell(rows)` hears now and then how many were read; `signal` ends the reading.
 */
export async function readResults(job, signal, tell = () => {}) {
  if (last.id === job.id) return last.found;
  const found = { margins: [], conflicts: [], provenance: null };
  const told = every(TELL_MS, tell);
  for await (const row of rowsOf(await ask(`/jobs/${job.id}/results`, { signal }))) {
    const { annotation } = row;
    found.margins.push(annotation.margin);
    if (annotation.label_conflict) found.conflicts.push({ line: row.line, id: annotation.id, margin: annotation.margin });
    found.provenance = row.provenance;
    told(found.margins.length);
  }
  last = { id: job.id, found };
  return found;
}

/** The pair of a line: the first row after the line before it. */
export async function pairAt(id, line, signal) {
  for await (const row of rowsOf(await ask(`/jobs/${id}/results?format=trl&cursor=${line - 1}`, { signal })))
    return row;
  throw new Error("this row is not there any more");
}

/** The job's rows and their texts, `[raw, trainer]`, joined from its two streams of the same rows. */
export async function* rowsWithTexts(id, signal, tell) {
  const [raw, trainer] = await Promise.all(
    ["raw", "trl"].map((format) => ask(`/jobs/${id}/results?format=${format}`, { signal })),
  );
  const texts = rowsOf(trainer);
  const told = every(TELL_MS, tell);
  let count = 0;
  for await (const row of rowsOf(raw)) {
    yield [row, (await texts.next()).value];
    told((count += 1));
  }
}

/** A function that passes on at most one call in so many milliseconds. */
function every(milliseconds, listen) {
  let next = performance.now() + milliseconds;
  return (value) => {
    if (performance.now() < next) return;
    next = performance.now() + milliseconds;
    listen(value);
  };
}
