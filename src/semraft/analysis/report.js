"use strict";
// The page is whole without this: it adds a readout to the charts, and picks one variant out of the curves.

function nearest(sorted, wanted) {
  let best = 0;
  for (let i = 1; i < sorted.length; i++) {
    if (Math.abs(sorted[i] - wanted) <= Math.abs(sorted[best] - wanted)) best = i;
  }
  return best;
}

function readout(figure) {
  const svg = figure.querySelector("svg");
  const cursor = svg.querySelector(".cursor");
  const lines = JSON.parse(figure.dataset.lines);
  const [low, high] = JSON.parse(figure.dataset.range);
  const [left, right] = JSON.parse(figure.dataset.plot);
  const width = svg.viewBox.baseVal.width;
  const steps = [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  figure.append(tip);

  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * width;
    const span = high - low;
    const step = steps[nearest(steps, low + ((at - left) / (right - left)) * span)];
    const x = left + ((step - low) / span) * (right - left);
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    cursor.style.visibility = "visible";
    tip.replaceChildren(Object.assign(document.createElement("div"), { textContent: `${figure.dataset.axis} ${step}` }));
    for (const line of lines) {
      const index = line.x.indexOf(step);
      if (index < 0) continue;
      const row = document.createElement("div");
      const key = Object.assign(document.createElement("span"), { className: `key c${line.color % 7} d${Math.floor(line.color / 7)}` });
      const value = Object.assign(document.createElement("b"), { textContent: line.y[index] ?? "-" });
      row.append(key, line.label, value);
      tip.append(row);
    }
    tip.hidden = false;
    const beside = (x / width) * box.width + (x > width / 2 ? -tip.offsetWidth - 10 : 10);
    tip.style.left = `${Math.max(0, Math.min(figure.clientWidth - tip.offsetWidth, beside))}px`;
  });
  svg.addEventListener("pointerleave", () => {
    tip.hidden = true;
    cursor.style.visibility = "hidden";
  });
}

function pickOut(button) {
  const picked = button.getAttribute("aria-pressed") !== "true";
  for (const other of document.querySelectorAll(".legend button")) {
    other.setAttribute("aria-pressed", String(picked && other === button));
  }
  for (const mark of document.querySelectorAll(".line, .dot")) {
    mark.classList.toggle("faded", picked && mark.dataset.variant !== button.dataset.variant);
  }
}

document.querySelectorAll(".chart").forEach(readout);
document.querySelectorAll(".legend button").forEach((button) => button.addEventListener("click", () => pickOut(button)));
