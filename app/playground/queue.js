// The review of a job's label conflicts: what is decided of which line, in which order, by whom and when.

import { lasting } from "/playground/storage.js";

/** Decisions that a reviewer makes: the label stays, is exchanged, or is left to somebody else. */
export const DECISIONS = ["keep", "flip", "skip"];

/** A queue of conflicts with the decisions so far; `store` keeps them: `read()` a list, `write(list)`. */
export class ReviewQueue {
  constructor(conflicts, store) {
    this.conflicts = [...conflicts].sort((a, b) => a.margin - b.margin);
    this.lines = new Set(this.conflicts.map((conflict) => conflict.line));
    this.store = store;
    this.first = null; // whose decision was taken back
    this.take(this.log());
  }

  /** The conflict to decide next, the strongest first; null once all are decided. */
  get current() {
    if (this.first && !this.decided.has(this.first.line)) return this.first;
    return this.conflicts.find((conflict) => !this.decided.has(conflict.line)) ?? null;
  }

  /** Decide the current one. The store is read anew: another tab may have decided meanwhile. */
  decide(decision, by, at) {
    const conflict = this.current;
    if (!conflict) return null;
    const made = { line: conflict.line, decision, by, at };
    this.keep([...this.log(), made]);
    return made;
  }

  /** Take back the latest decision, whose conflict is the current one again; null where there is none. */
  undo() {
    const log = this.log();
    const taken = log.pop() ?? null;
    this.keep(log);
    if (taken) this.first = this.conflicts.find((conflict) => conflict.line === taken.line) ?? null;
    return taken;
  }

  /** How many were decided, and how. */
  get counts() {
    const counts = { total: this.conflicts.length, decided: 0, keep: 0, flip: 0, skip: 0 };
    for (const made of this.decided.values()) {
      counts.decided += 1;
      counts[made.decision] += 1;
    }
    return counts;
  }

  log() {
    return this.store.read().filter((made) => this.lines.has(made.line) && DECISIONS.includes(made.decision));
  }

  keep(log) {
    this.store.write(log);
    this.take(log);
  }

  take(log) {
    this.decided = new Map(log.map((made) => [made.line, made])); // the latest of a line
  }
}

/** Where this browser keeps the decisions on a job. */
export function kept(job, storage = lasting) {
  const name = `safemargin.review.${job}`;
  return {
    read() {
      try {
        const found = JSON.parse(storage.get(name) ?? "[]");
        return Array.isArray(found) ? found : [];
      } catch {
        return [];
      }
    },
    write: (log) => storage.set(name, JSON.stringify(log)),
    loses: () => storage.loses(name),
  };
}

/** A row of the reviewed set: the pair as it is labelled now, and who decided that. */
export function reviewedRow(raw, trainer, made) {
  const { id, label_conflict: conflict } = raw.annotation;
  const [{ content: chosen }] = trainer.chosen;
  const [{ content: rejected }] = trainer.rejected;
  const flipped = made?.decision === "flip";
  return {
    line: raw.line,
    id,
    prompt: trainer.prompt,
    chosen: flipped ? rejected : chosen,
    rejected: flipped ? chosen : rejected,
    margin: flipped ? -trainer.margin : trainer.margin,
    label_conflict: conflict && !flipped,
    review: made ? { decision: made.decision, by: made.by, at: made.at } : null,
  };
}
