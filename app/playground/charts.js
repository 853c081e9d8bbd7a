// Charts as inline SVG, each with its words for who does not see it.

import { h, svg } from "/playground/dom.js";
import { counted, logistic, place, probability, reach, signed, ticks } from "/playground/scales.js";
import { table } from "/playground/tables.js";

const EDGE = 28;

/** Units across a chart: fewer where there is little room, so that its words stay as large as others. */
const across = () => (matchMedia("(max-width: 40rem)").matches ? 360 : 720);

/** A margin on its scale: log-odds above, probabilities below, the levels as bands; raw units where uncalibrated. */
export function marginScale(margin, { calibrated, edges = [] }) {
  const width = calibrated ? reach(margin) : reach(margin, Math.max(1e-6, Math.abs(margin)) * 1.25);
  const full = across();
  const x = (value) => EDGE + place(value, width) * (full - 2 * EDGE);
  const bands = [-width, ...edges.filter((edge) => Math.abs(edge) < width), width];
  const side = sideOf(margin);
  const label = calibrated
    ? `Margin ${signed(margin)} log-odds, probability ${probability(logistic(margin))}, on a scale of ± ${width}`
    : `Margin ${signed(margin)} in raw units`;
  return svg(
    "svg",
    { class: "scale", viewBox: `0 0 ${full} 92`, role: "img", "aria-label": label },
    edges.length
      ? bands.slice(1).map((stop, level) =>
          svg("rect", {
            class: `band band-${level % 4}`,
            x: x(bands[level]),
            y: 34,
            width: x(stop) - x(bands[level]),
            height: 16,
          }),
        )
      : [],
    svg("line", { class: "axis", x1: EDGE, x2: full - EDGE, y1: 42, y2: 42 }),
    svg("line", { class: "axis zero", x1: x(0), x2: x(0), y1: 26, y2: 58 }),
    ticks(width)
      .map((tick) => [
        svg("line", { class: "axis", x1: x(tick), x2: x(tick), y1: 38, y2: 46 }),
        svg(
          "text",
          { x: x(tick), y: 66, "text-anchor": "middle" },
          tick === 0 ? "0" : signed(tick).replace(/\.?0+$/, ""),
        ),
        calibrated
          ? svg("text", { class: "dim", x: x(tick), y: 84, "text-anchor": "middle" }, probability(logistic(tick)))
          : [],
      ])
      .flat(2),
    svg("line", { class: `stem ${side}`, x1: x(0), x2: x(margin), y1: 42, y2: 42 }),
    svg("circle", { class: `dot ${side}`, cx: x(margin), cy: 42, r: 9 }),
    svg("text", { class: "value", x: x(margin), y: 20, "text-anchor": "middle" }, signed(margin)),
  );
}

/** The critical rules: of each how well both responses keep it, and its part of the margin that the rules give. */
export function rulesChart(verdict) {
  const sides = [h("span", { class: "key chosen" }, "chosen"), " ", h("span", { class: "key rejected" }, "rejected")];
  const rows = verdict.critical.map((rule) => [
    [rule.text, h("span", { class: "dim" }, ` ${rule.category}`)],
    ruleBars(rule),
    rule.relevance.toFixed(2),
    h("span", { class: sideOf(rule.contribution) }, signed(rule.contribution)),
  ]);
  return table({
    name: "rules",
    caption: `The critical rules and their parts of the rules' own margin, ${signed(verdict.margin)}`,
    columns: [
      { head: "Rule", row: true },
      { head: [sides, h("div", { class: "dim" }, "left breaks it, right keeps it")] },
      { head: "Relevance", number: true },
      { head: "Part", number: true },
    ],
    rows: verdict.rest ? [...rows, ["All other critical rules", "", "", signed(verdict.rest)]] : rows,
  });
}

/** Which side a number speaks for, as a class. */
export function sideOf(value) {
  return value < 0 ? "against" : "safer";
}

function ruleBars(rule) {
  const x = (value) => 110 + 100 * Math.max(-1, Math.min(1, value));
  const bar = (value, y, side) =>
    svg("rect", {
      class: `bar ${side}`,
      x: Math.min(x(0), x(value)),
      y,
      width: Math.max(1.5, Math.abs(x(value) - x(0))),
      height: 9,
      rx: 2,
    });
  return svg(
    "svg",
    {
      class: "bars",
      viewBox: "0 0 220 30",
      role: "img",
      "aria-label": `chosen ${signed(rule.chosen)}, rejected ${signed(rule.rejected)}`,
    },
    svg("line", { class: "axis", x1: x(-1), x2: x(1), y1: 15, y2: 15 }),
    svg("line", { class: "axis zero", x1: x(0), x2: x(0), y1: 1, y2: 29 }),
    bar(rule.chosen, 4, "chosen"),
    bar(rule.rejected, 17, "rejected"),
  );
}

/** Margins of a job in bins; the table below it says the same. */
export function histogramChart(found, unit) {
  const full = across();
  const height = 240;
  const floor = height - 44;
  const most = Math.max(...found.map((bin) => bin.count));
  const [low, high] = [found[0].low, found.at(-1).high];
  const x = (value) => EDGE + 14 + ((value - low) / (high - low)) * (full - 2 * EDGE - 14);
  const y = (count) => floor - (count / most) * (floor - 22);
  const step = found[0].high - found[0].low;
  const every = Math.max(1, Math.ceil((found.length * 72) / full));
  const edges = [...found.map((bin) => bin.low), high].filter((edge) => Math.round(edge / step) % every === 0);
  const said = found.map((bin) => `${bin.count} from ${signed(bin.low)} to ${signed(bin.high)}`);
  const label = `Histogram of margins in ${unit}: ${said.join("; ")}`;
  return svg(
    "svg",
    { class: "histogram", viewBox: `0 0 ${full} ${height}`, role: "img", "aria-label": label },
    found.map((bin) =>
      svg(
        "rect",
        {
          class: `bar ${bin.high <= 0 ? "against" : "safer"}`,
          x: x(bin.low) + 1,
          y: y(bin.count),
          width: Math.max(1, x(bin.high) - x(bin.low) - 2),
          height: floor - y(bin.count),
        },
        svg("title", {}, `${bin.count} from ${signed(bin.low)} to ${signed(bin.high)}`),
      ),
    ),
    svg("line", { class: "axis", x1: x(low), x2: x(high), y1: floor, y2: floor }),
    low < 0 && high > 0 ? svg("line", { class: "axis zero", x1: x(0), x2: x(0), y1: 12, y2: floor }) : [],
    edges.map((edge) =>
      svg(
        "text",
        { x: x(edge), y: floor + 18, "text-anchor": "middle" },
        Math.abs(edge) < step / 2 ? "0" : signed(edge),
      ),
    ),
    svg("text", { class: "dim", x: full / 2, y: height - 6, "text-anchor": "middle" }, `margin, ${unit}`),
    svg("text", { class: "dim", x: EDGE + 6, y: y(most) + 4, "text-anchor": "end" }, counted(most)),
    low < 0 && x(0) > 150 ? svg("text", { class: "dim", x: x(0) - 8, y: 12, "text-anchor": "end" }, "label conflicts") : [],
  );
}
