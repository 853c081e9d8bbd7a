// Margins in bins of equal width, with an edge at zero: on its left are the conflicts.

import { niceStep } from "/playground/scales.js";

const MOST_BINS = 32;
const TAIL = 0.005;

/** Bins `{low, high, count}`; the outermost hold what lies beyond, too, so that no outlier makes all others thin. */
export function bins(margins) {
  if (!margins.length) return [];
  const sorted = Float64Array.from(margins).sort();
  const quantile = (share) => sorted[Math.round(share * (sorted.length - 1))];
  const low = Math.min(0, quantile(TAIL));
  const high = Math.max(0, quantile(1 - TAIL));
  if (low === high) return [{ low: 0, high: 1, count: sorted.length }];
  const step = niceStep(high - low, MOST_BINS - 2);
  const first = Math.min(Math.floor(low / step + 1e-9), sorted[0] < 0 ? -1 : 0);
  const last = Math.max(Math.ceil(high / step - 1e-9) - 1, sorted.at(-1) < 0 ? -1 : 0);
  const counts = new Array(last - first + 1).fill(0);
  for (const margin of sorted) {
    const own = margin < 0 ? Math.min(-1, Math.floor(margin / step + 1e-9)) : Math.floor(margin / step + 1e-9);
    counts[Math.min(last, Math.max(first, own)) - first] += 1;
  }
  return counts.map((count, i) => ({ low: (first + i) * step, high: (first + i + 1) * step, count }));
}

/** The middle of some margins; null of none. */
export function median(margins) {
  if (!margins.length) return null;
  const sorted = Float64Array.from(margins).sort();
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
