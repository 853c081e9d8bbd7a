// Answers that come while they are made: lines of JSON, and server-sent events. `EventSource` could send no key.

/** Whole parts of a text that comes in pieces: `push` returns those that are complete, `end` what is left. */
export class Splitter {
  constructor(separator) {
    this.separator = separator;
    this.rest = "";
  }

  push(piece) {
    const parts = (this.rest + piece).split(this.separator);
    this.rest = parts.pop();
    return parts;
  }

  end() {
    const rest = this.rest;
    this.rest = "";
    return rest ? [rest] : [];
  }
}

/** One server-sent event as `{event, data}`; null for a comment. */
export function parseEvent(block) {
  const lines = block.split("\n");
  const fields = (name) =>
    lines.filter((line) => line.startsWith(`${name}:`)).map((line) => line.slice(name.length + 1).trim());
  const data = fields("data").join("\n");
  return data ? { event: fields("event")[0] ?? "message", data } : null;
}

/** The rows of an NDJSON answer, one at a time. */
export async function* rowsOf(response) {
  for await (const line of partsOf(response, "\n")) if (line.trim()) yield JSON.parse(line);
}

/** The events of an event stream, one at a time, their data parsed. */
export async function* eventsOf(response) {
  for await (const block of partsOf(response, "\n\n")) {
    const found = parseEvent(block);
    if (found) yield { event: found.event, data: JSON.parse(found.data) };
  }
}

async function* partsOf(response, separator) {
  const splitter = new Splitter(separator);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) yield* splitter.push(piece.value);
    yield* splitter.end();
  } finally {
    await reader.cancel().catch(() => {});
  }
}
