// Charts: a readout under the pointer, a closer look at a range of steps, one variant picked out, smoothing.

const SMOOTH_OVER = 0.08; // Half the width of the moving mean, as a part of a curve's points.
let smoothed = false;

function nearest(sorted, wanted) {
  let best = 0;
  for (let i = 1; i < sorted.length; i++) {
    if (Math.abs(sorted[i] - wanted) <= Math.abs(sorted[best] - wanted)) best = i;
  }
  return best;
}

function movingMean(values) {
  const half = Math.floor(values.length * SMOOTH_OVER);
  return values.map((value, i) => {
    if (value === null) return null;
    const near = values.slice(Math.max(0, i - half), i + half + 1).filter((other) => other !== null);
    return near.reduce((sum, other) => sum + other, 0) / near.length;
  });
}

function niceTicks(low, high, about) {
  const raw = (high - low) / about;
  const size = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * size).find((candidate) => candidate >= raw);
  const ticks = [];
  for (let n = Math.ceil(low / step); n * step <= high; n++) ticks.push(n * step);
  return ticks;
}

function logTicks(low, high) {
  const factors = high - low > 3 ? [1] : high - low > 0.7 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9];
  const ticks = [];
  for (let decade = Math.floor(low); decade <= Math.ceil(high); decade++) {
    for (const factor of factors) ticks.push(factor * 10 ** decade);
  }
  return ticks.filter((tick) => low <= Math.log10(tick) && Math.log10(tick) <= high);
}

function shortNumber(value) {
  return Math.abs(value) >= 10000 ? `${+(value / 1000).toPrecision(5)}k` : String(+value.toPrecision(5));
}

class Chart {
  constructor(figure) {
    this.figure = figure;
    this.svg = figure.querySelector("svg");
    this.plot = figure.querySelector(".plot");
    this.cursor = figure.querySelector(".cursor");
    this.selection = figure.querySelector(".selection");
    Object.assign(this, JSON.parse(figure.dataset.chart)); // lines, marks, logarithmic
    this.whole = this.range = JSON.parse(figure.dataset.range);
    [this.left, this.right, this.top, this.bottom] = JSON.parse(figure.dataset.plot);
    this.steps = [...new Set(this.lines.flatMap((line) => line.x))].sort((a, b) => a - b);
    this.tip = make("div", { className: "tip", hidden: true });
    figure.append(this.tip);
    this.listen();
  }

  xAt(step) {
    const [low, high] = this.range;
    return this.left + ((step - low) / (high - low)) * (this.right - this.left);
  }

  stepAt(event) {
    const box = this.svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * this.svg.viewBox.baseVal.width;
    const [low, high] = this.range;
    const step = low + ((x - this.left) / (this.right - this.left)) * (high - low);
    return Math.min(high, Math.max(low, step));
  }

  shownValues(line) {
    return smoothed ? movingMean(line.y) : line.y;
  }

  redraw() {
    const [from, to] = this.range;
    const scale = (value) => (this.logarithmic ? Math.log10(value) : value);
    const shown = this.lines.map((line) => ({ line, values: this.shownValues(line) }));
    const inside = (x, i) => x[i] >= from && x[i] <= to;
    const heights = shown.flatMap(({ line, values }) =>
      values.flatMap((value, i) => {
        if (value === null || !inside(line.x, i) || (this.logarithmic && value <= 0)) return [];
        const spread = this.logarithmic ? 0 : line.spread[i] ?? 0;
        return [scale(value) - spread, scale(value) + spread];
      }),
    );
    if (!heights.length) return;
    let low = Math.min(...heights);
    let high = Math.max(...heights);
    const margin = 0.05 * (high - low) || 0.05 * Math.abs(high) || 1;
    [low, high] = [low - margin, high + margin];
    const yAt = (value) => {
      const height = this.logarithmic ? (value > 0 ? Math.log10(value) : low) : value;
      return this.top + ((high - height) / (high - low)) * (this.bottom - this.top);
    };
    const point = (x, y) => `${this.xAt(x).toFixed(1)} ${yAt(y).toFixed(1)}`;
    for (const path of this.plot.querySelectorAll(".line, .band")) {
      const { line, values } = shown[Number(path.dataset.line)];
      if (path.classList.contains("band")) {
        const edge = (sign) => values.flatMap((value, i) => (value === null ? [] : [point(line.x[i], value + sign * line.spread[i])]));
        path.setAttribute("d", `M${[...edge(1), ...edge(-1).reverse()].join("L")}Z`);
      } else {
        let pen = "M";
        const commands = values.map((value, i) => {
          const command = value === null ? "" : pen + point(line.x[i], value);
          pen = value === null ? "M" : "L";
          return command;
        });
        path.setAttribute("d", commands.join(""));
      }
    }
    for (const dot of this.plot.querySelectorAll(".dot")) dot.remove();
    for (const { line, values } of shown) {
      if (line.x.length > 12) continue;
      values.forEach((value, i) => {
        if (value === null) return;
        const [cx, cy] = point(line.x[i], value).split(" ");
        const radius = line.kind === "variant" ? 2.6 : 1.6;
        const dot = makeSvg("circle", { class: `dot ${line.kind} c${line.color % 7}`, cx, cy, r: radius });
        dot.dataset.variant = line.color;
        this.plot.append(dot);
      });
    }
    this.plot.querySelectorAll(".mark").forEach((mark, i) => {
      for (const end of ["x1", "x2"]) mark.setAttribute(end, this.xAt(this.marks[i].step));
    });
    this.drawTicks(low, high, yAt);
    fadeOthers();
  }

  drawTicks(low, high, yAt) {
    const heights = this.logarithmic ? logTicks(low, high) : niceTicks(low, high, 5);
    this.figure.querySelector(".y-ticks").replaceChildren(
      ...heights.flatMap((value) => [
        makeSvg("line", { class: "grid", x1: this.left, x2: this.right, y1: yAt(value), y2: yAt(value) }),
        makeSvg("text", { x: this.left - 6, y: yAt(value) + 4, "text-anchor": "end" }, shortNumber(value)),
      ]),
    );
    const y = this.svg.viewBox.baseVal.height - 6;
    const steps = niceTicks(...this.range, 4);
    this.figure.querySelector(".x-ticks").replaceChildren(
      ...steps.map((step) => makeSvg("text", { x: this.xAt(step), y, "text-anchor": "middle" }, shortNumber(step))),
    );
  }

  zoom(low, high) {
    const known = this.steps.filter((step) => step >= low && step <= high);
    if (known.length < 2) return;
    this.range = [low, high];
    this.hide();
    this.redraw();
    refreshTools();
  }

  reset() {
    this.range = this.whole;
    this.hide();
    this.redraw();
    refreshTools();
  }

  show(step) {
    this.step = step;
    const x = this.xAt(step);
    for (const end of ["x1", "x2"]) this.cursor.setAttribute(end, x);
    this.cursor.style.visibility = "visible";
    this.tip.replaceChildren(make("div", { textContent: `${this.figure.dataset.axis} ${step}` }));
    for (const line of this.lines) {
      const index = line.x.indexOf(step);
      if (index < 0) continue;
      const value = this.shownValues(line)[index];
      const row = make("div");
      const key = make("span", { className: `key c${line.color % 7} d${Math.floor(line.color / 7)}` });
      const spread = line.spread.length ? ` ± ${line.spread[index]}` : "";
      const text = value === null ? "-" : `${+value.toPrecision(5)}${spread}`;
      row.append(key, line.label, make("b", { textContent: text }));
      this.tip.append(row);
    }
    this.tip.hidden = false;
    const box = this.svg.getBoundingClientRect();
    const width = this.svg.viewBox.baseVal.width;
    const beside = (x / width) * box.width + (x > width / 2 ? -this.tip.offsetWidth - 10 : 10);
    const room = this.figure.clientWidth - this.tip.offsetWidth;
    this.tip.style.left = `${Math.max(0, Math.min(room, beside))}px`;
  }

  hide() {
    this.tip.hidden = true;
    this.cursor.style.visibility = "hidden";
    this.selection.setAttribute("width", 0);
  }

  inRange() {
    return this.steps.filter((step) => step >= this.range[0] && step <= this.range[1]);
  }

  drag(event) {
    const [low, high] = [this.from, this.stepAt(event)].sort((a, b) => a - b);
    this.selection.setAttribute("x", this.xAt(low));
    this.selection.setAttribute("width", this.xAt(high) - this.xAt(low));
  }

  listen() {
    this.svg.addEventListener("pointermove", (event) => {
      if (this.from !== undefined) this.drag(event);
      const steps = this.inRange();
      this.show(steps[nearest(steps, this.stepAt(event))]);
    });
    this.svg.addEventListener("pointerleave", () => this.hide());
    this.svg.addEventListener("pointerdown", (event) => {
      this.from = this.stepAt(event);
      this.svg.setPointerCapture(event.pointerId);
    });
    this.svg.addEventListener("pointerup", (event) => {
      const [low, high] = [this.from, this.stepAt(event)].sort((a, b) => a - b);
      this.from = undefined;
      this.selection.setAttribute("width", 0);
      if (this.xAt(high) - this.xAt(low) > 8) this.zoom(low, high);
    });
    this.svg.addEventListener("pointercancel", () => {
      this.from = undefined;
      this.hide();
    });
    this.svg.addEventListener("dblclick", () => this.reset());
    this.figure.addEventListener("blur", () => this.hide());
    this.figure.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const steps = this.inRange();
    const at = this.step === undefined ? -1 : steps.indexOf(this.step);
    const [low, high] = this.range;
    const centre = this.step ?? (low + high) / 2;
    const moves = { ArrowRight: at + 1, ArrowLeft: at < 0 ? steps.length - 1 : at - 1 };
    if (event.key in moves) this.show(steps[Math.min(steps.length - 1, Math.max(0, moves[event.key]))]);
    else if (event.key === "+") this.zoom(Math.max(low, centre - (high - low) / 4), Math.min(high, centre + (high - low) / 4));
    else if (event.key === "-" || event.key === "Escape") this.reset();
    else return;
    event.preventDefault();
  }
}

const charts = [...document.querySelectorAll(".chart")].map((figure) => new Chart(figure));
const variantButtons = [...document.querySelectorAll(".legend button[data-variant]")];
const smoothButton = document.querySelector(".smooth");
const wholeButton = document.querySelector(".whole");

function fadeOthers() {
  const picked = variantButtons.find(isPressed);
  for (const mark of document.querySelectorAll(".line, .dot, .band")) {
    mark.classList.toggle("faded", Boolean(picked) && mark.dataset.variant !== picked.dataset.variant);
  }
}

function refreshTools() {
  wholeButton.disabled = charts.every((chart) => chart.range === chart.whole);
}

for (const button of variantButtons) {
  button.addEventListener("click", () => {
    const picked = !isPressed(button);
    for (const other of variantButtons) press(other, picked && other === button);
    fadeOthers();
  });
}
smoothButton.addEventListener("click", () => {
  smoothed = !smoothed;
  press(smoothButton, smoothed);
  for (const chart of charts) chart.redraw();
});
wholeButton.addEventListener("click", () => charts.forEach((chart) => chart.reset()));
document.querySelector(".tools").hidden = charts.length === 0;
