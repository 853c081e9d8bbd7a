// Tables that scroll where they are too wide.

import { h } from "/playground/dom.js";

/**
 * A table. A column is `{head, number, row}`: what stands above it, whether it holds numbers, and whether it names the
 * rows. A row is a list of cells, each what `h` takes for a child, or a list of such.
 */
export function table({ caption, columns, rows, name = null }) {
  const kind = (column) => (column.number ? "number" : null);
  const heads = columns.map((column) => h("th", { scope: "col", class: kind(column) }, column.head));
  const cell = (content, column) =>
    column.row ? h("th", { scope: "row", class: kind(column) }, content) : h("td", { class: kind(column) }, content);
  const lines = rows.map((row) =>
    h(
      "tr",
      {},
      row.map((content, i) => cell(content, columns[i])),
    ),
  );
  return h(
    "div",
    { class: "scroll" },
    h(
      "table",
      { class: name },
      caption ? h("caption", {}, caption) : null,
      columns.some((column) => column.head) ? h("thead", {}, h("tr", {}, heads)) : null,
      h("tbody", {}, lines),
    ),
  );
}
