"use strict";
// Without scripts the page has all its tables and pictures; scripts add values under the pointer, zoom and sliders.

function make(tag, properties) {
  return Object.assign(document.createElement(tag), properties);
}

function press(button, pressed) {
  button.setAttribute("aria-pressed", String(pressed));
}

function isPressed(button) {
  return button.getAttribute("aria-pressed") === "true";
}

const bubble = make("div", { className: "tip bubble", hidden: true, role: "status" });
document.body.append(bubble);

function explain(cell) {
  bubble.textContent = cell.dataset.tip;
  bubble.hidden = false;
  const box = cell.getBoundingClientRect();
  const left = Math.min(box.left, document.documentElement.clientWidth - bubble.offsetWidth - 8);
  bubble.style.left = `${Math.max(8, left) + window.scrollX}px`;
  bubble.style.top = `${box.bottom + 6 + window.scrollY}px`;
}

for (const cell of document.querySelectorAll("[data-tip]")) {
  for (const event of ["pointerenter", "focus"]) cell.addEventListener(event, () => explain(cell));
  for (const event of ["pointerleave", "blur"]) cell.addEventListener(event, () => (bubble.hidden = true));
}
