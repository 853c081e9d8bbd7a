// What came of a job, read as a stream: of every row only what the page shows of it.

import { ask, placeOf } from "/playground/api.js";
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
  for await (const row of rowsOf(await ask(placeOf(job.id, "/results"), { signal }))) {
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
  for await (const row of rowsOf(await ask(placeOf(id, `/results?format=trl&cursor=${line - 1}`), { signal })))
    return row;
  throw new Error("this row is not there any more");
}

/**
 * The job's rows and their texts, `[raw, trainer]`, joined from its two streams of the same `total` rows. Throws where
 * they do not fit together: rows out of order, margins that differ, or one that ends before the other or too early.
 */
export async function* rowsWithTexts(id, total, signal, tell) {
  const [raw, trainer] = await Promise.all(
    ["raw", "trl"].map((format) => ask(placeOf(id, `/results?format=${format}`), { signal })),
  );
  const texts = rowsOf(trainer);
  const told = every(TELL_MS, tell);
  let count = 0;
  let line = 0;
  try {
    for await (const row of rowsOf(raw)) {
      const { value: text } = await texts.next();
      if (!text || row.line <= line || !fits(row.annotation, text)) throw new Misfit(`from line ${row.line} on`);
      yield [row, text];
      line = row.line;
      told((count += 1));
    }
    if (!(await texts.next()).done || count !== total) throw new Misfit(`after ${count} of ${total} rows`);
  } finally {
    await texts.return();
  }
}

class Misfit extends Error {
  constructor(where) {
    super(`the results and their texts do not fit together ${where}: nothing was saved, try again`);
  }
}

/** Whether a text is the annotation's own: it has the same margin, or zero where the rules call a tie. */
function fits({ margin, rules }, text) {
  return text.margin === (rules?.tie && rules.margin === margin ? 0 : margin);
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
