// Charts by uPlot: values under the pointer, ranges picked by dragging, one variant picked out, smoothing.

const HEIGHT = 190;
const SMOOTH_OVER = 0.08; // Half the width of the moving mean, as a part of a curve's points.
const FADED = 0.08;
const DASHES = [[], [6, 4], [2, 4]]; // Seven colours; the next seven variants are dashed, then dotted.
const WHOLE_STEPS = [1, 2, 5].flatMap((factor) => [...Array(9).keys()].map((n) => factor * 10 ** n)).sort((a, b) => a - b);
let smoothed = false;

const variantButtons = [...document.querySelectorAll(".legend button[data-variant]")];
const smoothButton = document.querySelector(".smooth");
const wholeButton = document.querySelector(".whole");

// Read at every drawing: the colours follow the light and the dark scheme.
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function movingMean(values) {
  const half = Math.floor(values.length * SMOOTH_OVER);
  return values.map((value, i) => {
    if (value === null) return null;
    const near = values.slice(Math.max(0, i - half), i + half + 1).filter((other) => other !== null);
    return near.reduce((sum, other) => sum + other, 0) / near.length;
  });
}

function logTicks(low, high) {
  const decades = Math.log10(high / low);
  const factors = decades > 3 ? [1] : decades > 0.7 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9];
  const ticks = [];
  for (let decade = Math.floor(Math.log10(low)); 10 ** decade <= high; decade++) {
    for (const factor of factors) ticks.push(factor * 10 ** decade);
  }
  return ticks.filter((tick) => low <= tick && tick <= high);
}

function shortNumber(value) {
  if (value && Math.abs(value) < 1e-3) return (+value.toPrecision(4)).toExponential();
  return Math.abs(value) >= 10000 ? `${+(value / 1000).toPrecision(5)}k` : String(+value.toPrecision(5));
}

// A line takes one column, or three with a band: its upper edge, its lower edge, the line.
function columnsOf({ lines, logarithmic }) {
  const lowest = Math.min(...lines.flatMap((line) => line.y.filter((value) => value !== null)));
  const tables = lines.map((line) => {
    const y = smoothed ? movingMean(line.y) : line.y;
    if (!line.spread.length) return [line.x, y];
    // On a logarithmic axis the lower edge of a band may not be positive.
    const inside = (value) => (logarithmic ? Math.max(value, lowest) : value);
    const edge = (sign) => y.map((value, i) => (value === null ? null : inside(value + sign * line.spread[i])));
    return [line.x, edge(1), edge(-1), y];
  });
  return uPlot.join(tables); // Steps that a line lacks do not break it, values that are not finite do.
}

class Chart {
  constructor(figure) {
    this.figure = figure;
    Object.assign(this, JSON.parse(figure.dataset.chart)); // axis, logarithmic, lines, marks
    this.series = [{}];
    this.bands = [];
    for (const line of this.lines) this.addLine(line);
    this.tip = make("div", { className: "tip", hidden: true });
    this.plot = new uPlot(this.options(), columnsOf(this), figure);
    figure.classList.add("drawn");
    figure.append(this.tip);
    new ResizeObserver(() => this.plot.setSize({ width: figure.clientWidth, height: HEIGHT })).observe(figure);
    figure.addEventListener("blur", () => this.point(null));
    figure.addEventListener("keydown", (event) => this.key(event));
  }

  addLine(line) {
    if (line.spread.length) {
      const upper = this.series.length;
      this.bands.push({ series: [upper, upper + 1], fill: () => `${css(`--c${line.color % 7}`)}24` });
      for (let edge = 0; edge < 2; edge++) this.series.push({ variant: line.color, points: { show: false } });
    }
    const seed = line.kind === "seed";
    const color = () => css(`--c${line.color % 7}`) + (seed ? "73" : "");
    line.column = this.series.length;
    this.series.push({
      variant: line.color,
      stroke: color,
      width: seed ? 1 : 2,
      dash: DASHES[Math.floor(line.color / 7) % 3],
      points: { show: line.x.length <= 12, size: seed ? 3 : 5, fill: color, width: 0 },
    });
  }

  options() {
    const axis = { stroke: () => css("--soft"), font: "11px system-ui, sans-serif", ticks: { show: false } };
    const grid = { stroke: () => css("--line"), width: 1 };
    const labels = (plot, ticks) => ticks.map(shortNumber);
    const logarithmic = this.logarithmic && {
      splits: (plot, index, low, high) => logTicks(low, high),
      filter: (plot, ticks) => ticks,
    };
    return {
      width: this.figure.clientWidth,
      height: HEIGHT,
      padding: [8, 10, 0, 0],
      legend: { show: false },
      series: this.series,
      bands: this.bands,
      scales: { x: { time: false }, y: { distr: this.logarithmic ? 3 : 1, range: (plot, low, high) => this.withMargin(low, high) } },
      axes: [
        { ...axis, size: 24, gap: 4, space: 60, grid: { show: false }, incrs: WHOLE_STEPS, values: labels },
        { ...axis, size: 46, gap: 6, space: 28, grid, values: labels, ...logarithmic },
      ],
      cursor: { y: false, points: { show: false }, drag: { x: true, y: false, dist: 8 } },
      hooks: { setCursor: [(plot) => this.readOut(plot)], setScale: [refreshTools], draw: [(plot) => this.drawMarks(plot)] },
    };
  }

  withMargin(low, high) {
    if (this.logarithmic) return [low / (high / low) ** 0.05, high * (high / low) ** 0.05];
    const margin = 0.05 * (high - low) || 0.05 * Math.abs(high) || 1;
    return [low - margin, high + margin];
  }

  drawMarks(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
    ctx.lineWidth = 1.5 * devicePixelRatio;
    for (const mark of this.marks) {
      const x = plot.valToPos(mark.step, "x", true);
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.strokeStyle = css(`--c${mark.color % 7}`);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  }

  readOut(plot) {
    const index = plot.cursor.idx;
    this.tip.hidden = plot.cursor.left < 0 || index === null;
    if (this.tip.hidden) return;
    const step = plot.data[0][index];
    const x = plot.valToPos(step, "x");
    this.tip.replaceChildren(make("div", { textContent: `${this.axis} ${step}` }));
    for (const line of this.lines) {
      const value = plot.data[line.column][index];
      if (value === undefined) continue;
      const spread = line.spread.length ? ` ± ${+line.spread[line.x.indexOf(step)].toPrecision(3)}` : "";
      const text = value === null ? "-" : `${+value.toPrecision(5)}${spread}`;
      const row = make("div");
      row.append(
        make("span", { className: `key c${line.color % 7} d${Math.floor(line.color / 7)}` }),
        line.label,
        make("b", { textContent: text }),
      );
      this.tip.append(row);
    }
    for (const mark of this.marks) {
      if (Math.abs(plot.valToPos(mark.step, "x") - x) < 5) this.tip.append(make("div", { textContent: mark.label }));
    }
    const at = plot.over.offsetLeft + x;
    const beside = x > plot.over.clientWidth / 2 ? at - this.tip.offsetWidth - 10 : at + 10;
    this.tip.style.left = `${Math.max(0, Math.min(this.figure.clientWidth - this.tip.offsetWidth, beside))}px`;
  }

  point(index) {
    const left = index === null ? -10 : this.plot.valToPos(this.plot.data[0][index], "x");
    this.plot.setCursor({ left, top: 10 });
  }

  isZoomed() {
    const { data, scales } = this.plot;
    return scales.x.min > data[0][0] || scales.x.max < data[0].at(-1);
  }

  reset() {
    this.plot.setData(columnsOf(this), true);
  }

  smooth() {
    const { min, max } = this.plot.scales.x;
    this.plot.setData(columnsOf(this), false);
    this.plot.setScale("x", { min, max });
  }

  pickOut(variant) {
    for (const series of this.plot.series.slice(1)) series.alpha = variant === null || series.variant === variant ? 1 : FADED;
    this.plot.redraw(false);
  }

  key(event) {
    const steps = this.plot.data[0];
    const { min, max } = this.plot.scales.x;
    const first = steps.findIndex((step) => step >= min);
    const last = steps.findLastIndex((step) => step <= max);
    const at = this.plot.cursor.idx ?? null;
    const moves = { ArrowRight: at === null ? first : at + 1, ArrowLeft: at === null ? last : at - 1 };
    if (event.key in moves) this.point(Math.min(last, Math.max(first, moves[event.key])));
    else if (event.key === "+") {
      const [centre, quarter] = [at === null ? (min + max) / 2 : steps[at], (max - min) / 4];
      this.plot.setScale("x", { min: Math.max(min, centre - quarter), max: Math.min(max, centre + quarter) });
    } else if (event.key === "-" || event.key === "Escape") this.reset();
    else return;
    event.preventDefault();
  }
}

const charts = [];
for (const figure of document.querySelectorAll(".chart")) charts.push(new Chart(figure));

function refreshTools() {
  wholeButton.disabled = !charts.some((chart) => chart.isZoomed());
}

for (const button of variantButtons) {
  button.addEventListener("click", () => {
    const picked = !isPressed(button);
    for (const other of variantButtons) press(other, picked && other === button);
    for (const chart of charts) chart.pickOut(picked ? Number(button.dataset.variant) : null);
  });
}
smoothButton.addEventListener("click", () => {
  smoothed = !smoothed;
  press(smoothButton, smoothed);
  for (const chart of charts) chart.smooth();
});
wholeButton.addEventListener("click", () => charts.forEach((chart) => chart.reset()));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach((chart) => chart.plot.redraw(false)));
document.querySelector(".tools").hidden = charts.length === 0;
