// Names for what Django's own widgets leave without one: the boxes of select2, and the signs beside a filter.
"use strict";

function nameOf(select) {
  const label = select.id && document.querySelector(`label[for="${CSS.escape(select.id)}"]`);
  return label ? label.textContent.replace(/[:\s]+$/, "").trim() : select.name;
}

function nameBoxes(root) {
  for (const box of root.querySelectorAll(".select2-container")) {
    const select = box.previousElementSibling;
    if (!select) continue;
    const name = nameOf(select);
    for (const part of box.querySelectorAll("[role=combobox], [role=textbox], [role=searchbox]")) {
      // What it points to is empty until something is chosen.
      part.removeAttribute("aria-labelledby");
      part.setAttribute("aria-label", name);
    }
  }
  for (const sign of root.querySelectorAll(".help-tooltip[aria-label]")) sign.setAttribute("role", "img");
}

// They are put in when their own scripts are ready, and again with each row that is added to a form.
new MutationObserver(() => nameBoxes(document)).observe(document.documentElement, { childList: true, subtree: true });
document.addEventListener("DOMContentLoaded", () => nameBoxes(document));
