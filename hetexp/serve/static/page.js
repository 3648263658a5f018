// The page: what was chosen, asking the server for it, and showing what it found.

import * as server from "./server.js";
import * as draw from "./draw.js";
import { pictureWithCaption } from "./sheet.js";

const $ = (id) => document.getElementById(id);
const canvas = $("canvas"), context = canvas.getContext("2d");

const state = {
  about: null,
  source: null, // what the picture came from, to give it again: { file } or { scene }
  picture: null, // token, name, shown size, the image and its grey
  found: null, // every prediction, and in `maps` the relevance of those that were looked at: row -> answer
  painted: new Map(), // row -> canvas
  pinned: null, // chosen row
  pointed: null, // row under the pointer or the focus, shown before the chosen one
  turn: 0, // of requests: an answer to an older one is dropped
};
const outlines = { key: null, canvas: null, pending: null, aborter: null }; // of the maps that are shown

const unit = () => canvas.width / (canvas.clientWidth || canvas.width); // canvas pixels per pixel of the screen
const isDetector = () => state.about.kind === "detection";
const shownRow = () => state.pointed ?? state.pinned;
const percent = (v) => `${Math.round(100 * v)} %`;
const short = (v) => (v === 0 ? "0" : Number(v.toPrecision(3)).toString().replace("-", "−"));

// -- what is chosen ------------------------------------------------------------------------------------------------

const targetChosen = () => document.querySelector("input[name=target]:checked").value;
const methodChosen = () => state.about.methods.find((m) => m.name === $("method").value);

function ask() {
  const own = methodChosen().own, target = targetChosen();
  const changed = (group) => (group in own && $(group).value ? $(group).value : null);
  const other = $("other").value;
  return {
    method: $("method").value,
    correction: changed("correction"),
    noise_link: changed("noise_link"),
    question: isDetector() ? "" : $("question").value.trim(),
    target,
    other: other === "" ? null : Number(other),
    side: $("side").value,
  };
}

const askMask = (row) => ({ ...ask(), row, scale: Number($("scale").value) });

// -- asking --------------------------------------------------------------------------------------------------------

function complain(error) {
  $("error").hidden = !error;
  $("error").textContent = error ? error.message : "";
  if (error) $("error").scrollIntoView({ block: "nearest" });
}

async function busy(work) {
  const turn = ++state.turn;
  const spinner = setTimeout(() => ($("busy").hidden = false), 150);
  $("stage").setAttribute("aria-busy", "true");
  try {
    complain(null);
    await work(() => turn === state.turn);
  } catch (error) {
    if (turn === state.turn) complain(error);
    if (!(error instanceof server.Refused)) console.error(error);
  } finally {
    clearTimeout(spinner);
    if (turn === state.turn) {
      $("busy").hidden = true;
      $("stage").setAttribute("aria-busy", "false");
    }
  }
}

const give = ({ file, scene }, before) => (file ? server.takeFile(file, before) : server.takeScene(scene, before));

async function take(source) {
  await busy(async (current) => {
    const given = await give(source, state.picture?.token);
    const image = new Image();
    image.src = given.preview;
    await image.decode();
    if (!current()) return;
    const { width, height } = given.shown;
    state.source = source;
    state.picture = { ...given, image, grey: draw.greyOf(image, width, height) };
    Object.assign(canvas, { width, height, hidden: false });
    $("empty").hidden = true;
    forget();
    for (const button of $("scenes").children) button.setAttribute("aria-pressed", button.value === String(source.scene));
    suggest(source);
    redraw();
  });
  if (state.source === source && (isDetector() || $("question").value.trim())) await explain();
  else if (state.source === source) $("status").textContent = "Now ask a question about the picture.";
}

function forget() {
  state.found = null;
  state.pinned = state.pointed = null;
  dropDrawings();
}

// What was drawn of other maps, and the outline of one of them that is on its way.
function dropDrawings() {
  state.painted.clear();
  outlines.aborter?.abort();
  Object.assign(outlines, { key: null, canvas: null, pending: null, aborter: null });
}

async function relevanceOf(wanted) {
  try {
    return await server.relevance(state.picture.token, wanted);
  } catch (error) {
    if (error.status !== 410) throw error;
    state.picture.token = (await give(state.source, null)).token; // it made room for others: give it again
    return server.relevance(state.picture.token, wanted);
  }
}

async function explain() {
  if (!state.picture) return;
  const start = performance.now();
  const row = state.pinned ?? 0;
  await busy(async (current) => {
    let found;
    try {
      found = await relevanceOf({ ...ask(), row });
    } catch (error) {
      if (current()) {
        forget();
        redraw();
        list();
      }
      throw error;
    }
    if (!current()) return;
    state.found = { ...found, maps: new Map([[row, found]]), asked: ask() };
    dropDrawings();
    state.pinned = row;
    state.pointed = null;
    if (targetChosen() === "predicted" && found.contrast !== undefined) chooseOther(found.contrast); // what suggests itself
    list();
    redraw();
    await new Promise(requestAnimationFrame);
    const { model, method } = found.milliseconds;
    $("status").textContent =
      `${found.method.label} shown after ${Math.round(performance.now() - start)} ms ` +
      `(model ${Math.round(model)} ms, method ${Math.round(method)} ms).`;
  });
  fetchOthers(state.found);
}

// The maps of the other predictions, one after the other, so that pointing at them shows them at once; whatever is asked
// for meanwhile comes first.
async function fetchOthers(found) {
  const turn = state.turn;
  for (let row = 0; found && row < found.rows.length && turn === state.turn; row++) await fetchMap(row, found);
}

// The map of one prediction, unless it is there or on its way; null stands for one on its way.
async function fetchMap(row, found) {
  if (found.maps.has(row)) return;
  found.maps.set(row, null);
  try {
    found.maps.set(row, await relevanceOf({ ...found.asked, row }));
    if (found === state.found && row === shownRow()) redraw();
  } catch (error) {
    found.maps.delete(row);
    if (found === state.found) complain(error);
  }
}

// What was found of a row, or null until it is there.
function mapAt(row) {
  if (row === null || !state.found) return null;
  if (!state.found.maps.has(row)) fetchMap(row, state.found);
  return state.found.maps.get(row) ?? null;
}

// The outline of the mask of a row at the slider's threshold; asked for when it is not at hand.
function outlineOf(row) {
  const key = `${row}@${$("scale").value}`;
  if (outlines.key === key) return outlines.canvas;
  if (outlines.pending !== key) {
    outlines.pending = key;
    outlines.aborter?.abort();
    outlines.aborter = new AbortController();
    fetchOutline(key, row, outlines.aborter.signal);
  }
  return null;
}

async function fetchOutline(key, row, signal) {
  try {
    const bitmap = await createImageBitmap(await server.mask(state.picture.token, askMask(row), signal));
    if (signal.aborted) return;
    outlines.key = key;
    outlines.canvas = draw.outline(bitmap, canvas.width, canvas.height, unit());
    redraw();
  } catch (error) {
    if (error.name !== "AbortError") complain(error);
  } finally {
    if (!signal.aborted) outlines.pending = null;
  }
}

// -- showing -------------------------------------------------------------------------------------------------------

const valuesOf = (map) => map.relevance[isDetector() ? "image" : "painted"];

const tableOf = (signed) => state.about.colours[signed ? "diverging" : "sequential"];

function mapOf(row, scale) {
  if (!state.painted.has(row)) {
    const { shape, values } = valuesOf(mapAt(row));
    const { width, height } = canvas;
    state.painted.set(row, draw.paint(values, shape, state.picture.grey, width, height, scale, tableOf(scale.signed), isDetector()));
  }
  return state.painted.get(row);
}

function redraw() {
  if (!state.picture) return;
  context.drawImage(state.picture.image, 0, 0, canvas.width, canvas.height);
  const row = state.found ? shownRow() : null, map = mapAt(row);
  const scale = map && draw.scaleOf(valuesOf(map).values, map.method.signed);
  const flat = scale !== null && scale.low === scale.high;
  if (scale && !flat && $("mapped").checked) context.drawImage(mapOf(row, scale), 0, 0);
  if (state.found && isDetector()) drawDetections(row, scale && !flat);
  if (state.found && !isDetector() && scale && !flat) drawRegions(map);
  describe(row, map, scale, flat);
}

function drawDetections(row, hasMap) {
  if (hasMap && $("masked").checked) {
    const outline = outlineOf(row);
    if (outline) context.drawImage(outline, 0, 0);
    canvas.toggleAttribute("data-outlined", Boolean(outline));
  }
  const label = (r) => `${r.label} ${r.score.toFixed(2)}`;
  state.found.rows.forEach((r, i) => i !== row && draw.box(context, r.box, row === null ? label(r) : "", false, unit()));
  if (row !== null) draw.box(context, state.found.rows[row].box, label(state.found.rows[row]), true, unit());
}

const MARKED = 3; // regions that are outlined and numbered, the most relevant first

function drawRegions(map) {
  const { values } = map.relevance.image;
  const order = Array.from(values.keys()).sort((a, b) => Math.abs(values[b]) - Math.abs(values[a]));
  order.slice(0, MARKED).reverse().forEach((i, n) => draw.box(context, state.found.regions[i], String(Math.min(MARKED, values.length) - n), false, unit()));
}

function describe(row, map, scale, flat) {
  const { found } = state;
  $("legend").hidden = !scale || flat;
  for (const id of ["png", "npz"]) $(id).disabled = !map;
  showWords(map);
  if (!map) {
    const alone = found ? `The picture with ${found.rows.length} detections` : "The picture";
    canvas.setAttribute("aria-label", row === null ? alone : `${alone}; the map of ${found.rows[row].label} is on its way`);
    $("note").textContent = "";
    return;
  }
  const { target } = found.rows[row];
  const by = `${found.method.label}, y = ${target}`;
  if (!scale || flat) {
    const why = scale ? `the same everywhere (${short(scale.low)})` : "not finite";
    $("note").textContent = `Relevance is ${why}: there is nothing to show. ${by}.`;
    canvas.setAttribute("aria-label", $("note").textContent);
    return;
  }
  drawBar(tableOf(scale.signed));
  $("low").textContent = scale.signed ? `${short(scale.low)} lowers y` : short(scale.low);
  $("high").textContent = scale.signed ? `${short(scale.high)} raises y` : short(scale.high);
  const more = isDetector() ? "" : " Words and regions have a scale each; the bar is that of the regions.";
  $("note").textContent = `${by}.${more}`;
  canvas.setAttribute("aria-label", `Relevance of ${found.rows[row].label} by ${by}; ${strongest(map)}`);
}

// Where the largest value lies, for those who cannot see it.
function strongest(map) {
  const { shape: [h, w], values } = valuesOf(map);
  let best = 0;
  values.forEach((v, i) => Math.abs(v) > Math.abs(values[best]) && (best = i));
  return `strongest ${percent(((best % w) + 0.5) / w)} from the left and ${percent((Math.floor(best / w) + 0.5) / h)} from the top`;
}

function drawBar(table) {
  const bar = $("bar").getContext("2d");
  table.forEach((colour, i) => {
    bar.fillStyle = draw.css(colour);
    bar.fillRect(i, 0, 1, 1);
  });
}

function shadedWords({ words, special, relevance, method }) {
  const { values } = relevance.text;
  const scale = draw.scaleOf(values.filter((_, i) => !special[i]), method.signed);
  return words.map((text, i) => {
    const colour = scale && !special[i] ? draw.colourAt(values[i], scale, tableOf(scale.signed)) : null;
    return { text, special: special[i], value: values[i], colour };
  });
}

function showWords(map) {
  const line = $("words");
  line.hidden = isDetector() || !map;
  if (line.hidden) return;
  line.replaceChildren(
    ...shadedWords(map).map(({ text, special, value, colour }) => {
      const word = Object.assign(document.createElement("span"), { textContent: text, title: `relevance ${short(value)}` });
      if (special) word.className = "special";
      if (colour) Object.assign(word.style, { background: draw.css(colour), color: draw.readable(colour) });
      return word;
    }),
  );
}

// -- the list of detections or answers -----------------------------------------------------------------------------

function item(name, number, detail, pressed) {
  const button = document.createElement("button");
  button.type = "button";
  const part = (tag, text, cls = "") => Object.assign(document.createElement(tag), { textContent: text, className: cls });
  button.append(part("span", name), part("span", number, "number"));
  if (detail) button.append(part("small", detail));
  button.setAttribute("aria-pressed", pressed);
  return button;
}

function list() {
  const had = document.activeElement?.closest("#rows") ? [...$("rows").querySelectorAll("button")].indexOf(document.activeElement) : -1;
  const buttons = !state.found ? [] : isDetector() ? detectionItems() : answerItems();
  $("rows").replaceChildren(...buttons.map((button) => {
    const li = document.createElement("li");
    li.append(button);
    return li;
  }));
  buttons[had]?.focus();
  const all = state.found?.detected;
  if (isDetector()) {
    $("found-title").textContent = !all ? "Detections" : all > buttons.length ? `Detections: ${buttons.length} of ${all}, the most probable` : `Detections: ${all}`;
  }
}

function detectionItems() {
  return state.found.rows.map((row, i) => {
    const plain = row.target === `logit(${row.label})`;
    const button = item(row.label, row.score.toFixed(2), plain ? "" : `y = ${row.target}`, i === state.pinned);
    button.addEventListener("focus", () => button.matches(":focus-visible") && point(i));
    button.addEventListener("blur", () => point(null));
    button.addEventListener("pointerenter", () => point(i));
    button.addEventListener("pointerleave", () => point(null));
    button.addEventListener("click", () => pin(i));
    return button;
  });
}

function answerItems() {
  const { target, other } = ask();
  const held = other ?? state.found.answers[1]?.index;
  return state.found.answers.map((answer, i) => {
    const detail = i === 0 ? "predicted" : target === "predicted" ? "" : held === answer.index ? (target === "difference" ? "held against it" : "explained") : "";
    const pressed = target === "predicted" ? i === 0 : held === answer.index;
    const button = item(answer.answer, percent(answer.probability), detail, pressed);
    button.addEventListener("click", () => {
      if (i > 0) chooseOther(answer.index);
      setTarget(i === 0 ? "predicted" : targetChosen() === "predicted" ? "difference" : targetChosen());
    });
    return button;
  });
}

function point(row) {
  if (state.pointed === row || !state.found) return;
  state.pointed = row;
  redraw();
}

function pin(row) {
  if (!state.found) return;
  state.pinned = row;
  state.pointed = null;
  [...$("rows").querySelectorAll("button")].forEach((b, i) => b.setAttribute("aria-pressed", i === row));
  redraw();
}

// The smallest detection under a point of the canvas.
function rowAt(event) {
  if (!state.found || !isDetector()) return null;
  const frame = canvas.getBoundingClientRect();
  const x = (event.clientX - frame.left) / frame.width, y = (event.clientY - frame.top) / frame.height;
  const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);
  const under = [...state.found.rows.entries()].filter(([, { box: [x1, y1, x2, y2] }]) => x >= x1 && x <= x2 && y >= y1 && y <= y2);
  return under.sort(([, a], [, b]) => area(a.box) - area(b.box))[0]?.[0] ?? null;
}

// -- the controls --------------------------------------------------------------------------------------------------

function option(value, text) {
  return Object.assign(document.createElement("option"), { value, textContent: text });
}

function chooseOther(index) {
  const value = String(index);
  if (![...$("other").options].some((o) => o.value === value)) {
    const named = state.found?.answers?.find((a) => a.index === index);
    $("other").append(option(value, named?.answer ?? value));
  }
  $("other").value = value;
}

function setTarget(target) {
  document.querySelector(`input[name=target][value=${target}]`).checked = true;
  fit();
  explain();
}

// What the chosen method and target have a use for.
function fit() {
  const method = methodChosen(), target = targetChosen();
  for (const [group, values] of [["correction", state.about.corrections], ["noise_link", state.about.noise_links]]) {
    const own = method.own[group], before = $(group).value;
    $(group).disabled = own === undefined;
    $(group).replaceChildren(option("", own === undefined ? "not used" : `${own} (its own)`), ...(own === undefined ? [] : values.filter((v) => v !== own).map((v) => option(v, v))));
    if ([...$(group).options].some((o) => o.value === before)) $(group).value = before;
  }
  $("reference").textContent = method.reference + (method.passes ? ". Needs further passes of the model, which may take a minute." : "");
  $("other-line").hidden = !["other", "difference"].includes(target);
  $("side-line").hidden = target !== "box";
}

function fillControls() {
  const { about } = state;
  const noun = isDetector() ? "class" : "answer";
  const named = { predicted: `The ${noun} found`, other: `Another ${noun}`, difference: `Difference to another ${noun}`, box: "A side of the box" };
  for (const [label, passes] of [["From the first pass", false], ["With further passes (slower)", true]]) {
    const group = Object.assign(document.createElement("optgroup"), { label });
    group.append(...about.methods.filter((m) => m.passes === passes).map((m) => option(m.name, m.label)));
    if (group.children.length) $("method").append(group);
  }
  $("method").value = about.start.method;
  for (const target of about.targets) {
    const line = Object.assign(document.createElement("label"), { className: "check" });
    line.append(Object.assign(document.createElement("input"), { type: "radio", name: "target", value: target, checked: target === about.start.target }), ` ${named[target]}`);
    $("targets").append(line);
  }
  $("other-label").textContent = isDetector() ? "Class" : "Answer";
  const labels = [...about.labels].sort((a, b) => a.name.localeCompare(b.name));
  $("other").append(option("", "second best"), ...labels.map((l) => option(String(l.index), l.name)));
  $("side").append(...about.sides.map((s) => option(s, s)));
  $("side").value = about.start.side;
  $("scale").value = about.start.scale;
  $("scale-out").value = Number($("scale").value).toFixed(2);
  $("mask-line").hidden = !isDetector();
  if (!isDetector()) {
    $("found-title").textContent = "Answers";
    $("hint").textContent = "Pick one to hold it against the best.";
  }
  $("ask").hidden = isDetector();
  fit();
}

function fillScenes() {
  $("scenes").replaceChildren(...state.about.scenes.map((scene, i) => {
    const button = Object.assign(document.createElement("button"), { type: "button", value: String(i) });
    button.setAttribute("aria-pressed", "false");
    button.append(Object.assign(new Image(), { src: `api/scenes/${i}.jpg`, alt: `Scene ${scene.name}`, loading: "lazy" }));
    button.addEventListener("click", () => take({ scene: i }));
    return button;
  }));
}

// Questions that the data ask about a scene; the first is asked.
function suggest({ scene }) {
  const questions = scene === undefined ? [] : state.about.scenes[scene].questions;
  $("suggested").replaceChildren(...questions.map((text) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: text });
    button.addEventListener("click", () => {
      $("question").value = text;
      explain();
    });
    return button;
  }));
  if (questions.length) $("question").value = questions[0];
}

// -- downloads -----------------------------------------------------------------------------------------------------

function save(blob, ending) {
  const row = shownRow(), plain = (text) => text.replace(/[^\w-]+/g, "_").replace(/^_+|_+$/g, "");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `hetexp_${plain(state.found.method.name)}_${plain(state.found.rows[row].label)}.${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function savePicture() {
  const row = shownRow(), { found, about } = state;
  const lines = [
    `${found.method.label}, y = ${found.rows[row].target}`,
    `${about.model.name} (${about.model.checkpoint}), ${found.rows[row].label} ${found.rows[row].score.toFixed(2)}`,
    isDetector() && $("masked").checked ? `outline: Otsu’s threshold × ${Number($("scale").value)}` : "",
  ].filter(Boolean);
  pictureWithCaption(canvas, lines, isDetector() ? [] : shadedWords(mapAt(row))).toBlob((blob) => save(blob, "png"));
}

// -- events --------------------------------------------------------------------------------------------------------

function listen() {
  for (const id of ["method", "correction", "noise_link", "other", "side"]) {
    $(id).addEventListener("change", () => {
      fit();
      explain();
    });
  }
  $("targets").addEventListener("change", () => setTarget(targetChosen()));
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    explain();
  });
  $("file").addEventListener("change", () => {
    if ($("file").files.length) take({ file: $("file").files[0] });
    $("file").value = "";
  });
  for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      $("drop").classList.toggle("over", over);
      if (name === "drop" && event.dataTransfer.files.length) take({ file: event.dataTransfer.files[0] });
    });
  }
  canvas.addEventListener("pointermove", (event) => event.pointerType === "mouse" && point(rowAt(event)));
  canvas.addEventListener("pointerleave", () => point(null));
  canvas.addEventListener("click", (event) => isDetector() && pin(rowAt(event)));
  $("rows").addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const buttons = [...$("rows").querySelectorAll("button")];
    buttons[(buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length].focus();
  });
  document.addEventListener("keydown", (event) => event.key === "Escape" && isDetector() && pin(null));
  $("scale").addEventListener("input", () => {
    $("scale-out").value = Number($("scale").value).toFixed(2);
    redraw();
  });
  for (const id of ["masked", "mapped"]) $(id).addEventListener("change", redraw);
  $("png").addEventListener("click", savePicture);
  $("npz").addEventListener("click", async () => {
    try {
      save(await server.archive(state.picture.token, askMask(shownRow())), "npz");
    } catch (error) {
      complain(error);
    }
  });
}

try {
  state.about = await server.about();
  $("model").textContent = `${state.about.model.name}, ${state.about.model.checkpoint}`;
  fillControls();
  fillScenes();
  listen();
  document.body.dataset.ready = "true";
} catch (error) {
  complain(error);
}
