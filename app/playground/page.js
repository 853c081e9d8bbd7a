// What every view needs of the page around it.

import { byId, h } from "/playground/dom.js";

const banner = byId("problem");

/** Say what went wrong; a missing key is asked for. */
export function showProblem(problem) {
  if (problem.name === "AbortError") return;
  banner.textContent = `${problem.message.charAt(0).toUpperCase()}${problem.message.slice(1)}.`;
  banner.hidden = false;
  if (problem.status === 401) {
    banner.append(
      " ",
      h("button", { type: "button", class: "secondary", onclick: () => byId("key-dialog").showModal() }, "Enter a key"),
    );
  }
}

/** What went wrong is over. */
export function forgetProblem() {
  banner.hidden = true;
  banner.textContent = "";
}

/** Do something while the buttons of a form wait. */
export async function whileBusy(form, work) {
  const buttons = form.querySelectorAll("button");
  forgetProblem();
  form.setAttribute("aria-busy", "true");
  for (const button of buttons) button.disabled = true;
  try {
    return await work();
  } finally {
    form.removeAttribute("aria-busy");
    for (const button of buttons) button.disabled = false;
  }
}

/** Ctrl+Enter in any text sends its form. */
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.form) event.target.form.requestSubmit();
});
