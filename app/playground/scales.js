// Numbers as people read them, and where they lie on a scale.

/** Probability of log-odds. */
export function logistic(margin) {
  return margin >= 0 ? 1 / (1 + Math.exp(-margin)) : 1 - 1 / (1 + Math.exp(margin));
}

/** A number with its sign and two decimals, more where it needs them; a true minus. */
export function signed(value) {
  const size = Math.abs(value);
  const digits = size === 0 || size >= 0.095 ? 2 : size >= 0.0095 ? 3 : 4;
  const text = size.toFixed(digits);
  if (Number(text) === 0) return text;
  return `${value < 0 ? "−" : "+"}${text}`;
}

/** A probability without its zero: .55; those that would round to 0 or 1 are said to be beyond. */
export function probability(value) {
  if (value < 0.005) return "< .01";
  if (value > 0.995) return "> .99";
  return value.toFixed(2).replace(/^0/, "");
}

/** The step, one of 1, 2 and 5 times a power of ten, that makes at most `most` of `span`. */
export function niceStep(span, most) {
  const rough = span / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const factor = [1, 2, 5, 10].find((candidate) => candidate * power >= rough * (1 - 1e-9));
  return factor * power;
}

/** Half the width of a scale around zero that holds a value: three log-odds, or twice as many until it fits. */
export function reach(value, least = 3) {
  let width = least;
  while (Math.abs(value) > width) width *= 2;
  return width;
}

/** Where a value lies on a scale of ± reach, from 0 to 1. */
export function place(value, width) {
  return Math.min(1, Math.max(0, (value + width) / (2 * width)));
}

/** Ticks of a scale of ± reach: even steps with zero among them. */
export function ticks(width) {
  const step = niceStep(2 * width, 6);
  const count = Math.floor(width / step + 1e-9);
  return Array.from({ length: 2 * count + 1 }, (_, i) => (i - count) * step);
}

/** A count with its thousands apart: 100,000. */
export function counted(value) {
  return value.toLocaleString("en");
}

/** When a job was made, as the reader's country writes it. */
export function timeOf(job) {
  return new Date(1000 * job.created_at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}
