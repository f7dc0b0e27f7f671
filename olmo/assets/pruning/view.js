"use strict";
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
for (const level of data.levels) level.scores = decodeScores(level.scores);
const base = data.levels.length ? data.levels.at(-1).scores : null;
const span = base ? scoreRange(base.subarray(data.cells)) : null;
const ranks = base ? rankOf(removalOrder(base, data.cells, data.spreadTies)) : null;
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);
const TILE_PIXELS = 480, LARGE_PIXELS = 1100;
const columns = data.edges.columns.length - 1, rows = data.edges.rows.length - 1;
const tiles = [];
let selection = null;
let enlarged = -1;
let byRank = false;
let topk = data.topk;
let waiting = false;

function scoreRange(values) {
  let low = Infinity, high = -Infinity;
  for (const v of values) { low = Math.min(low, v); high = Math.max(high, v); }
  return [low, high];
}

function rankOf(order) {
  const rank = new Uint32Array(data.frames * data.cells);
  order.forEach((cell, place) => { rank[cell] = place + 1; });
  return rank;
}

function element(tag, parent, className = "") {
  const made = document.createElement(tag);
  made.className = className;
  parent.append(made);
  return made;
}

/** Pixel box [x, y, width, height] of a cell; neighbours share their border. */
function box(cell, width, height) {
  const { rows: ys, columns: xs } = data.edges;
  const r = Math.floor(cell / columns), c = cell % columns;
  const [x0, x1] = [xs[c], xs[c + 1]].map((x) => Math.round(x * width));
  const [y0, y1] = [ys[r], ys[r + 1]].map((y) => Math.round(y * height));
  return [x0, y0, x1 - x0, y1 - y0];
}

/** Place of a cell on the colour scale in [0, 1], by its score or by the rank of its score. */
function heatPlace(cell) {
  const share = byRank
    ? (ranks[cell] - 1) / Math.max(data.cells * (data.frames - 1) - 1, 1)
    : (base[cell] - span[0]) / Math.max(span[1] - span[0], 1e-12);
  return Math.min(Math.max(share, 0), 1);
}

function heatColour(cell) {
  const place = heatPlace(cell) * (data.heat.length - 1);
  const i = Math.min(Math.floor(place), data.heat.length - 2);
  const mixed = data.heat[i].map((low, k) => low + (place - i) * (data.heat[i + 1][k] - low));
  return `rgb(${mixed.map(Math.round).join(" ")})`;
}

/** Mark the highest score that goes in the colour bar. */
function showCut() {
  let cut = 0;
  selection.keep.forEach((kept, cell) => { if (!kept && (!cut || ranks[cell] > ranks[cut])) cut = cell; });
  $("cut").hidden = !cut;
  $("cut").style.left = `${100 * (cut ? heatPlace(cut) : 0)}%`;
  const value = cut && (byRank ? `rank ${ranks[cut]}` : Number(base[cut].toPrecision(3)));
  $("cutText").textContent = cut ? `line: the cut, ${value}` : "nothing removed";
}

/** A canvas as wide as `pixels`, with the frame on it. */
function prepare(canvas, image, pixels) {
  canvas.width = pixels;
  canvas.height = Math.max(Math.round((pixels * image.height) / image.width), 1);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return context;
}

/** Grey of what is below, inside the current path or clip. */
function desaturate(context) {
  context.globalCompositeOperation = "saturation";
  context.fillStyle = "hsl(0 0% 50%)";
  context.fillRect(0, 0, context.canvas.width, context.canvas.height);
  context.globalCompositeOperation = "source-over";
}

function drawFrame(canvas, frame, pixels) {
  const context = prepare(canvas, tiles[frame].image, pixels);
  const { width, height } = canvas;
  context.save();
  context.clip(cellsPath(frame, 0, canvas));
  desaturate(context);
  context.fillStyle = `rgb(0 0 0 / ${1 - data.dim})`;
  context.fillRect(0, 0, width, height);
  context.beginPath(); // a hatch, because a black frame cannot get darker
  for (let x = 0; x < width + height; x += Math.max(7, width / 40)) {
    context.moveTo(x, 0);
    context.lineTo(x - height, height);
  }
  context.lineWidth = Math.max(1, width / 320);
  context.strokeStyle = "rgb(255 255 255 / 18%)";
  context.stroke();
  context.restore();
  context.fillStyle = "rgb(255 255 255 / 22%)";
  const thin = Math.max(1, Math.round(width / 400));
  for (const x of data.edges.columns.slice(1, -1)) context.fillRect(Math.round(x * width), 0, thin, height);
  for (const y of data.edges.rows.slice(1, -1)) context.fillRect(0, Math.round(y * height), width, thin);
  drawOutline(context, frame);
}

function drawHeat(canvas, frame, pixels) {
  const context = prepare(canvas, tiles[frame].image, pixels);
  const { width, height } = canvas;
  desaturate(context);
  if (frame === 0 || data.flat) {
    context.fillStyle = "rgb(255 255 255 / 65%)";
    context.fillRect(0, 0, width, height);
    context.fillStyle = colour("--halo");
    context.font = `${Math.round(width / 17)}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.fillText(frame ? "all scores are equal" : "first frame: always kept", width / 2, height / 2);
    return;
  }
  context.globalAlpha = 0.7;
  for (let i = 0; i < data.cells; i++) {
    context.fillStyle = heatColour(frame * data.cells + i);
    context.fillRect(...box(i, width, height));
  }
  context.globalAlpha = 1;
  drawOutline(context, frame);
}

/** The cells of a frame that are kept (1) or removed (0). */
function cellsPath(frame, kept, { width, height }) {
  const path = new Path2D();
  for (let i = 0; i < data.cells; i++) {
    if (selection.keep[frame * data.cells + i] === kept) path.rect(...box(i, width, height));
  }
  return path;
}

/** A closed line along the inner border of the kept regions, set off by a thin dark one. */
function drawOutline(context, frame) {
  const { width, height } = context.canvas;
  const kept = (r, c) => r >= 0 && c >= 0 && c < columns && selection.keep[frame * data.cells + r * columns + c];
  const border = new Path2D();
  for (let i = 0; i < data.cells; i++) {
    const [x, y, w, h] = box(i, width, height), r = Math.floor(i / columns), c = i % columns;
    for (const [inside, x0, y0, x1, y1] of [
      [kept(r - 1, c), x, y, x + w, y], [r + 1 < rows && kept(r + 1, c), x, y + h, x + w, y + h],
      [kept(r, c - 1), x, y, x, y + h], [kept(r, c + 1), x + w, y, x + w, y + h],
    ]) {
      if (inside) continue;
      border.moveTo(x0, y0);
      border.lineTo(x1, y1);
    }
  }
  const thick = Math.max(2, Math.round(width / 120));
  context.save();
  context.clip(cellsPath(frame, 1, context.canvas)); // half of every line is cut off
  context.lineCap = "square";
  for (const [lineWidth, name] of [[2 * thick + 3, "--halo"], [2 * thick, "--edge"]]) {
    context.lineWidth = lineWidth;
    context.strokeStyle = colour(name);
    context.stroke(border);
  }
  context.restore();
}

function isProtected(frame) {
  if (!selection.scores || frame === 0) return false;
  const at = frame * data.cells;
  for (let i = at; i < at + data.cells; i++) if (selection.scores[i] !== base[i]) return true;
  return false;
}

function countText(frame) {
  const at = frame * data.cells;
  const kept = selection.keep.subarray(at, at + data.cells).reduce((sum, k) => sum + k, 0);
  return [kept, isProtected(frame) ? "new: all kept" : `${kept} / ${data.cells} kept`];
}

function cellText(canvas, frame, event) {
  const rect = canvas.getBoundingClientRect();
  const at = (edges, share) => edges.findIndex((edge, i) => i && share < edge) - 1;
  const c = at(data.edges.columns, (event.clientX - rect.left) / rect.width);
  const r = at(data.edges.rows, (event.clientY - rect.top) / rect.height);
  if (r < 0 || c < 0) return "";
  const cell = frame * data.cells + r * columns + c;
  const place = `row ${r + 1}, column ${c + 1}: `;
  if (frame === 0 || !base) return `${place}first frame, always kept`;
  const state = selection.keep[cell] ? "kept" : "removed";
  return `${place}score ${base[cell].toPrecision(3)}, ${state}; rank ${ranks[cell]} from below`;
}

function setCanvases(parent, frame) {
  const pair = ["frame", "heat"].map((name) => element("canvas", parent, name));
  for (const canvas of pair) {
    canvas.onmousemove = (event) => { canvas.title = cellText(canvas, frame, event); };
  }
  return pair;
}

function buildTiles() {
  const every = Math.ceil(data.frames / 6);
  if (data.frames > 60) document.documentElement.style.setProperty("--gap", "0px");
  data.images.forEach((source, frame) => {
    const figure = element("figure", $("tiles"));
    figure.tabIndex = frame ? -1 : 0;
    figure.setAttribute("role", "button");
    figure.onkeydown = (event) => tileKey(event, frame);
    const caption = element("figcaption", figure);
    element("b", caption).textContent = `${data.timestamps[frame].toFixed(1)} s`;
    const count = element("span", caption);
    const [frameCanvas, heat] = setCanvases(figure, frame);
    const bar = element("div", $("bars"));
    const tile = { figure, count, frameCanvas, heat, bar, fill: element("i", bar), image: new Image() };
    bar.onclick = figure.onclick = () => enlarge(frame);
    for (const part of [bar, figure]) {
      part.onmouseenter = () => [bar, figure].forEach((x) => x.classList.add("now"));
      part.onmouseleave = () => [bar, figure].forEach((x) => x.classList.remove("now"));
    }
    const tick = element("span", $("ticks"));
    if (frame % every === 0) tick.textContent = `${data.timestamps[frame].toFixed(1)} s`;
    tile.loaded = new Promise((resolve, reject) => {
      tile.image.onload = resolve;
      tile.image.onerror = reject;
    });
    tile.image.src = source;
    tiles.push(tile);
  });
  element("hr", $("bars"));
}

/** Move the focus to a frame; the Tab key then comes back to it. */
function focusTile(frame) {
  const next = Math.min(Math.max(frame, 0), data.frames - 1);
  tiles.forEach((tile, i) => { tile.figure.tabIndex = i === next ? 0 : -1; });
  tiles[next].figure.focus();
}

/** Enter or Space enlarges; arrows, Home and End go to other frames. */
function tileKey(event, frame) {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const row = getComputedStyle($("tiles")).gridTemplateColumns.split(" ").length;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row };
  const goal = { Home: 0, End: data.frames - 1 }[event.key] ?? frame + steps[event.key];
  if (event.key === "Enter" || event.key === " ") enlarge(frame);
  else if (goal >= 0 && goal < data.frames) focusTile(goal);
  else if (!(event.key in steps)) return;
  event.preventDefault();
}

/** Show the selection at `share`, at most once per picture of the screen. */
function request(share) {
  topk = share;
  if (!waiting) requestAnimationFrame(update);
  waiting = true;
}

function update() {
  waiting = false;
  selection = selectAt(data, topk);
  const total = data.frames * data.cells, { nRemove } = selection, kept = total - nRemove;
  $("before").textContent = total.toLocaleString("en");
  $("after").textContent = kept.toLocaleString("en");
  $("share").textContent = `${((100 * kept) / total).toFixed(1)}%`;
  const product = `float32(${data.cells} × ${topk}) × (${data.frames} − ${data.pruneFromFrame})`;
  $("budget").textContent = `removed: int(${product}) = ${nRemove.toLocaleString("en")}`;
  const mean = kept / data.frames;
  $("mean").textContent = `mean ${mean.toFixed(1)} of ${data.cells}`;
  $("bars").querySelector("hr").style.top = `${100 * (1 - mean / data.cells)}%`;
  tiles.forEach((tile, frame) => {
    const [count, text] = countText(frame);
    tile.count.textContent = text;
    tile.fill.style.height = `${(100 * count) / data.cells}%`;
    tile.bar.title = `${data.timestamps[frame].toFixed(1)} s: ${text}`;
    const label = `frame ${frame + 1} of ${data.frames}, ${tile.bar.title}`;
    tile.figure.setAttribute("aria-label", label);
    drawFrame(tile.frameCanvas, frame, TILE_PIXELS);
    drawHeat(tile.heat, frame, TILE_PIXELS);
  });
  if (!data.flat) showCut();
  if ($("large").open) enlarge(enlarged);
}

function enlarge(frame) {
  enlarged = Math.min(Math.max(frame, 0), data.frames - 1);
  $("largeTime").textContent = `${data.timestamps[enlarged].toFixed(1)} s`;
  $("largeCount").textContent = `${countText(enlarged)[1]}, frame ${enlarged + 1} of ${data.frames}`;
  $("largeBody").replaceChildren();
  const [frameCanvas, heat] = setCanvases($("largeBody"), enlarged);
  drawFrame(frameCanvas, enlarged, LARGE_PIXELS);
  drawHeat(heat, enlarged, LARGE_PIXELS);
  if (!$("large").open) $("large").showModal();
}

function setView(name) {
  document.body.className = `view-${name}`;
  for (const b of $("view").children) b.ariaPressed = b.dataset.view === name;
}

function setColours(ranked) {
  byRank = ranked;
  for (const b of $("colours").children) b.ariaPressed = (b.dataset.by === "rank") === ranked;
  [$("low").textContent, $("high").textContent] = ranked ? ["lowest", "highest"] : data.ends;
  update();
}

function bindControls() {
  $("topk").oninput = () => {
    $("exact").value = $("topk").value;
    request($("topk").valueAsNumber);
  };
  $("exact").oninput = () => {
    const share = $("exact").valueAsNumber;
    if (!(share >= 0 && share < 1)) return;
    $("topk").value = share;
    request(share);
  };
  for (const b of $("view").children) b.onclick = () => setView(b.dataset.view);
  for (const b of $("colours").children) b.onclick = () => setColours(b.dataset.by === "rank");
  $("size").oninput = () =>
    document.documentElement.style.setProperty("--tile", `${$("size").value}px`);
  $("large").onclick = (event) => {
    const step = event.target.dataset.step;
    if (event.target === $("large") || step === "0") $("large").close();
    else if (step) enlarge(enlarged + Number(step));
  };
  $("large").onclose = () => focusTile(enlarged);
  $("large").onkeydown = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) enlarge(enlarged + step);
  };
}

async function start() {
  buildTiles();
  bindControls();
  await Promise.all(tiles.map((tile) => tile.loaded));
  $("size").value = data.frames > 24 ? 170 : 240;
  $("size").oninput();
  $("topk").value = $("exact").value = topk;
  setView("both");
  if (!data.flat) {
    const stops = data.heat.map((c) => `rgb(${c.join(" ")})`).join(", ");
    $("ramp").querySelector("i").style.background = `linear-gradient(to right, ${stops})`;
    setColours(false);
  } else {
    for (const id of ["ramp", "colours"]) $(id).hidden = true;
    update();
  }
}

start();
