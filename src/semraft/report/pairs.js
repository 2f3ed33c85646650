// Pairs: two layers side by side under a slider or in turn, and flow and error under the pointer as numbers.

const FLICKER_MS = 450;

async function decodeFields(pair, grid, { unknown, steps_per_px: steps }) {
  const packed = Uint8Array.from(atob(pair.dataset.fields), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const view = new DataView(await new Response(stream).arrayBuffer());
  const values = new Float32Array(view.byteLength / 2);
  const wrapped = new Int16Array(1);
  for (let i = 0; i < values.length; i++) {
    if (i % grid.columns === 0) wrapped[0] = 0;
    wrapped[0] += view.getInt16(2 * i, true);
    values[i] = wrapped[0] === unknown ? NaN : wrapped[0] / steps;
  }
  return values;
}

class Pair {
  constructor(details, coding) {
    this.details = details;
    this.coding = coding;
    this.grid = JSON.parse(details.dataset.grid);
    this.viewer = details.querySelector(".viewer");
    this.stage = details.querySelector(".stage");
    this.looks = [...details.querySelectorAll(".look")];
    this.layers = new Map(this.looks.map((look) => [look.firstElementChild.dataset.layer, look.firstElementChild]));
    this.crosses = [this.stage.querySelector(".cross"), ...this.looks.map((look) => look.appendChild(make("span", { className: "cross" })))];
    this.build();
  }

  build() {
    const names = [...this.layers.keys()];
    for (const [side, start] of [["left", 0], ["right", 1]]) {
      const choice = this.viewer.querySelector(`.${side}`);
      choice.append(...names.map((name) => make("option", { value: name, textContent: name })));
      choice.value = names[start];
      choice.addEventListener("change", () => this.show());
    }
    const slide = this.viewer.querySelector(".slide");
    slide.addEventListener("input", () => this.slideTo(slide.value));
    this.slideTo(slide.value);
    const flicker = this.viewer.querySelector(".flicker");
    flicker.addEventListener("click", () => this.flicker(flicker));
    for (const surface of [this.stage, ...this.looks]) {
      surface.addEventListener("pointermove", (event) => this.point(surface, event));
      surface.addEventListener("pointerdown", (event) => this.point(surface, event));
    }
    this.stage.tabIndex = 0;
    this.stage.addEventListener("keydown", (event) => this.key(event));
    this.show();
    this.viewer.hidden = false;
  }

  show() {
    const source = (side) => this.layers.get(this.viewer.querySelector(`.${side}`).value).src;
    this.stage.querySelector(".under").src = source("right");
    this.stage.querySelector(".over").src = source("left");
  }

  slideTo(percent) {
    this.stage.style.setProperty("--edge", `${percent}%`);
  }

  flicker(button) {
    press(button, !isPressed(button));
    clearInterval(this.timer);
    this.stage.classList.toggle("flickering", isPressed(button));
    this.stage.classList.remove("second");
    if (isPressed(button)) this.timer = setInterval(() => this.stage.classList.toggle("second"), FLICKER_MS);
  }

  point(surface, event) {
    const box = surface.getBoundingClientRect();
    const { rows, columns, stride, offset, size } = this.grid;
    const place = (fraction, count, length) => Math.max(0, Math.min(count - 1, Math.round((fraction * length - 0.5 - offset) / stride)));
    this.readAt(place((event.clientY - box.top) / box.height, rows, size[0]), place((event.clientX - box.left) / box.width, columns, size[1]));
  }

  key(event) {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (!(event.key in moves)) return;
    const { rows, columns } = this.grid;
    const [row, column] = this.at ?? [Math.floor(rows / 2), Math.floor(columns / 2)];
    const [down, right] = moves[event.key];
    this.readAt(Math.max(0, Math.min(rows - 1, row + down)), Math.max(0, Math.min(columns - 1, column + right)));
    event.preventDefault();
  }

  async readAt(row, column) {
    this.at = [row, column];
    this.fields ??= decodeFields(this.details, this.grid, this.coding);
    const values = await this.fields;
    if (this.at[0] !== row || this.at[1] !== column) return; // The pointer has moved on.
    const { rows, columns, stride, offset, size, names } = this.grid;
    const [y, x] = [offset + row * stride, offset + column * stride];
    const read = (plane) => values[(plane * rows + row) * columns + column];
    const [trueU, trueV] = [read(0), read(1)];
    this.viewer.querySelector(".place").textContent = `x ${x}, y ${y}`;
    const lines = this.viewer.querySelectorAll(".values tbody tr");
    names.forEach((name, i) => {
      const [u, v] = [read(2 * i), read(2 * i + 1)];
      const shown = [u, v, i ? Math.hypot(u - trueU, v - trueV) : NaN];
      [...lines[i].querySelectorAll("td")].forEach((cell, j) => {
        cell.textContent = Number.isNaN(shown[j]) ? "-" : shown[j].toFixed(2).replace("-", "−");
      });
    });
    for (const cross of this.crosses) {
      cross.style.left = `${(100 * (x + 0.5)) / size[1]}%`;
      cross.style.top = `${(100 * (y + 0.5)) / size[0]}%`;
      cross.style.display = "block";
    }
  }
}

function sortPairs(list, order) {
  const sign = order === "gain" ? 1 : -1;
  const pairs = [...list.querySelectorAll(".pair")];
  list.append(...pairs.sort((a, b) => sign * (a.dataset.difference - b.dataset.difference)));
}

const pairList = document.querySelector(".pair-list");
if (pairList) {
  const coding = JSON.parse(pairList.dataset.coding);
  for (const details of pairList.querySelectorAll(".pair")) {
    const open = () => (details.viewed ??= new Pair(details, coding));
    if (details.open) open();
    details.addEventListener("toggle", () => details.open && open());
  }
  const sorting = document.querySelector(".sorting");
  if (sorting) {
    sorting.hidden = false;
    for (const button of sorting.querySelectorAll("button")) {
      button.addEventListener("click", () => {
        for (const other of sorting.querySelectorAll("button")) press(other, other === button);
        sortPairs(pairList, button.dataset.sort);
      });
    }
  }
}
