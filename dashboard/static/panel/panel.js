"use strict";
// Small comforts; every page works without them.
document.addEventListener("change", (event) => {
  if (event.target.matches("[data-submit-on-change]")) event.target.form.requestSubmit();
  // Fields that only some countries have: shown there, and wherever something stands in them.
  if (event.target.name === "country") {
    for (const field of event.target.form.querySelectorAll("[data-countries]")) {
      field.hidden = !field.dataset.countries.split(" ").includes(event.target.value) && !field.querySelector("input").value;
    }
  }
});
document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !window.confirm(question)) event.preventDefault();
});
document.addEventListener("click", async (event) => {
  const menu = event.target.closest("[data-menu]");
  if (menu) {
    const open = document.body.classList.toggle("menu-open");
    menu.setAttribute("aria-expanded", String(open));
  }
  const copy = event.target.closest("[data-copy]");
  if (copy) {
    const source = document.querySelector(copy.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent.trim());
      copy.textContent = copy.dataset.done;
    } catch {
      // Without the right to the clipboard the text is marked, ready to be copied.
      window.getSelection().selectAllChildren(source);
    }
  }
});
// A page that only leads on to a payment service: no second click is needed.
const leave = document.querySelector("[data-go-to]");
if (leave) window.location.assign(leave.href);
