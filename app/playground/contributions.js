// What tokens contribute, as it is drawn.

const sum = (values) => values.reduce((total, value) => total + value, 0);
const largestOf = (values) => values.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0);
const mean = (values) => (values.length ? sum(values) / values.length : 0);

/**
 * Contributions of K responses to one prompt relative to the average response, `[K][t]` numbers.
 *
 * Scores mean something by their differences alone. So the average score is taken off every response alike, evenly over
 * its tokens: what is left shows where a response differs, and differences between responses stay exactly as they were.
 */
export function centred(responses) {
  const texts = responses.map((tokens) => tokens.filter((token) => token.text !== null));
  const ends = responses.map((tokens) => sum(tokens.filter((token) => token.text === null).map((t) => t.contribution)));
  const inside = mean(texts.map((tokens) => sum(tokens.map((token) => token.contribution))));
  const after = mean(ends);
  return responses.map((tokens, i) => {
    const count = texts[i].length;
    return tokens.map((token) => {
      if (token.text === null) return token.contribution - after - (count ? 0 : inside);
      return token.contribution - inside / count;
    });
  });
}

/** Contributions as they are, `[K][t]`. */
export function plain(responses) {
  return responses.map((tokens) => tokens.map((token) => token.contribution));
}

/** How strongly each of some values is coloured, from 0 to 1, against the largest of all; small ones are still seen. */
export function strengths(values) {
  const largest = largestOf(values.map(largestOf));
  return values.map((own) => own.map((value) => (largest ? Math.sqrt(Math.abs(value) / largest) : 0)));
}

/** Tokens grouped to words, `{text, value}`: white space goes with the word after it. */
export function words(tokens, values) {
  const found = [];
  tokens.forEach((token, i) => {
    const before = found.at(-1)?.text ?? null;
    const apart = /^\s/.test(token.text ?? "") || /\s$/.test(before ?? "");
    if (before === null || token.text === null || (apart && before.trim())) {
      found.push({ text: token.text, value: values[i] });
    } else {
      found.at(-1).text += token.text;
      found.at(-1).value += values[i];
    }
  });
  return found;
}

/** The `count` words that contribute most, of one sign: positive or negative. */
export function strongest(found, count, positive) {
  return found
    .filter((word) => (positive ? word.value > 0 : word.value < 0))
    .sort((a, b) => Math.abs(b.value) - Math.abs(a.value))
    .slice(0, count);
}
