// The view of the directions that there are.

import { byId, h } from "/playground/dom.js";
import { allCards } from "/playground/options.js";
import { table } from "/playground/tables.js";

/** Every direction with how well it reads, and its report. */
export function showDirections() {
  const rows = allCards().map((card) => [
    [card.id, h("div", { class: "dim" }, card.recipe), h("div", { class: "dim" }, sitesOf(card))],
    card.readings.length ? card.readings.map(readingOf) : "–",
    accuracy(card.should_respond),
    accuracy(card.should_refuse),
    h("span", { class: `pill ${card.unreliable ? "warn" : "good"}` }, card.unreliable ? "unreliable" : "reliable"),
    reportLink(card.id),
  ]);
  const columns = [
    { head: "Direction", row: true },
    { head: "Reads pairs" },
    { head: "Should respond" },
    { head: "Should refuse" },
    { head: "Better than chance" },
    { head: "Report" },
  ];
  const caption = "Shares with 95 % intervals, of pairs held out";
  byId("direction-list").replaceChildren(
    rows.length ? table({ caption, columns, rows }) : h("p", {}, "No worker holds any direction now."),
  );
}

function sitesOf(card) {
  return card.sites.map((site) => `layer ${site.layer} ${site.pooling}`).join(", ");
}

function readingOf({ accuracy: value, data }) {
  return h("div", { class: "interval" }, accuracy(value), h("span", { class: "dim" }, ` ${data}`));
}

function reportLink(id) {
  return h(
    "a",
    { href: `/directions/${encodeURIComponent(id)}/report`, "data-direction": id, target: "_blank", rel: "noopener" },
    "Report",
    h("span", { class: "unseen" }, ` of ${id}`),
  );
}

function accuracy(value) {
  if (!value) return "–";
  const short = (share) => share.toFixed(3).replace(/^0/, "");
  return h("span", { class: "interval" }, `${short(value.value)} [${short(value.low)}, ${short(value.high)}]`);
}
