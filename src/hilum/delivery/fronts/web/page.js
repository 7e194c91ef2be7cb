"use strict";
// Sends images to the server that gave this page, one after the other, and shows what it answers. Nothing is stored.

const $ = (id) => document.getElementById(id);
const results = [];
let shown = -1;
let working = false;
let models = { embeddings: null };
let covariates = {}; // by question: what its heads take beside the image

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "style") Object.assign(element.style, value);
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((one) => one !== null && one !== undefined));
  return element;
}

const percent = (value) => (value === null || value === undefined ? "unknown" : `${(100 * value).toFixed(value < 0.1 || value > 0.9 ? 1 : 0)}%`);
const between = (measured) => measured.low === null || measured.high === null ? "insufficient data" : `${percent(measured.value ?? measured.observed)} (${percent(measured.low)} to ${percent(measured.high)}, n = ${measured.n})`;
const spoken = (label) => label.replaceAll("_", " ");
const headers = () => ($("token").value ? { Authorization: `Bearer ${$("token").value.trim()}` } : {});

async function start() {
  let about;
  try {
    about = await (await fetch("about.json")).json();
  } catch {
    $("status").textContent = "The server cannot be reached; see whether it still runs, then load this page again.";
    return;
  }
  models = about.models;
  covariates = about.covariates;
  $("locked").hidden = !about.token_needed;
  for (const name of [...about.models].reverse()) {
    $("question").append(make("option", { value: name }, name === "embeddings" ? "embedding" : spoken(name)));
  }
  $("use").textContent = about.intended_use.join(" ");
  $("foot").replaceChildren(...about.releases.map((one) => make("p", {}, `${one.name} ${one.version} (${one.modality}), dossier ${one.dossier}, gate: ${one.gate}, engine ${one.engine}`)));
  wire();
}

function wire() {
  const drop = $("drop");
  drop.addEventListener("click", () => $("files").click());
  $("files").addEventListener("change", () => { take($("files").files); $("files").value = ""; });
  for (const name of ["dragover", "dragenter"]) {
    document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  for (const name of ["dragleave", "drop"]) document.addEventListener(name, () => drop.classList.remove("over"));
  document.addEventListener("drop", (event) => { event.preventDefault(); take(event.dataTransfer.files); });
  $("question").addEventListener("change", fields);
  fields();
  document.addEventListener("paste", (event) => take(event.clipboardData.files));
  $("ask").addEventListener("submit", (event) => event.preventDefault());
  if (!$("locked").hidden) $("token").focus();
}

const inputs = () => [...$("covariates").querySelectorAll("input")];
const asked = () => ({ question: $("question").value, modality: $("modality").value, saliency: $("saliency").checked, covariates: measured() });

// The fields of the question's covariates; what was typed in is kept for those of the same name.
function fields() {
  const typed = Object.fromEntries(inputs().map((one) => [one.name, one.value]));
  const known = covariates[$("question").value] ?? [];
  $("covariates").hidden = !known.length;
  $("covariates").replaceChildren($("covariates").querySelector("legend"), ...known.map((one) => make("label", {},
    `${spoken(one.unit ? one.name.slice(0, one.name.length - one.ending.length) : one.name)}${one.unit ? ` (${one.unit})` : ""} `,
    make("input", { type: "number", name: one.name, step: "any", min: one.low, max: one.high, value: typed[one.name] ?? "", placeholder: "unknown", autocomplete: "off", title: `usual: ${one.usual_low.toPrecision(3)} to ${one.usual_high.toPrecision(3)}; answered from ${one.low} to ${one.high}` }))));
}

const measured = () => Object.fromEntries(inputs().filter((one) => one.value !== "").map((one) => [one.name, Number(one.value)]));

function take(files) {
  const wrong = inputs().find((one) => one.validity.badInput);
  if (files.length && wrong) { // its value would read as unknown
    $("status").textContent = `${sentence(spoken(wrong.name))} Nothing was sent: what stands there is not a number.`;
    wrong.focus();
    return;
  }
  for (const file of files) {
    results.push({ file, number: results.length + 1, ...asked() });
  }
  if (files.length) for (const one of inputs()) one.value = ""; // the next image may be of another patient
  if (files.length) { listed(); work(); }
}

async function work() {
  if (working) return;
  working = true;
  for (let one; (one = results.find((each) => !each.done)); ) {
    const left = results.filter((each) => !each.done).length;
    $("status").textContent = left > 1 ? `Image ${one.number} of ${results.length} is being read ...` : `Image ${one.number} is being read ...`;
    await ask(one);
    one.done = true;
    listed();
    if (shown < 0 || results[shown] === one) show(results.indexOf(one)); // nobody is taken away from what they read
  }
  const refused = results.filter((each) => each.error).length;
  $("status").textContent = `Done: ${results.length - refused} answered${refused ? `, ${refused} refused` : ""}.`;
  working = false;
}

async function ask(one) {
  const query = new URLSearchParams({ seen: "true" });
  if (one.modality) query.set("modality", one.modality);
  if (one.question !== "embeddings") query.set("neighbours", "5");
  if (one.saliency && one.question !== "embeddings") query.set("saliency", "true");
  try {
    const answer = await fetch(`predictions/${one.question}?${query}`, {
      // In a header, not in the query: proxies write addresses into their logs.
      method: "POST", body: one.file, headers: { ...headers(), "Content-Type": "application/octet-stream", ...(Object.keys(one.covariates).length ? { "X-Covariates": JSON.stringify(one.covariates) } : {}) },
    });
    const said = await answer.json().catch(() => null);
    if (answer.ok && said) one.body = said;
    else one.error = said?.message ? said : { message: `what answered is not this server (status ${answer.status})`, right: "ask whoever runs the proxy before it" };
  } catch {
    one.error = { message: "the server cannot be reached", right: "see whether it still runs, then send the image again" };
  }
}

function listed() {
  const nav = $("results");
  nav.hidden = results.length < 2;
  const held = [...nav.children].indexOf(document.activeElement);
  nav.replaceChildren(...results.map((one, place) => make("button", {
    type: "button", "aria-current": place === shown ? "true" : null, disabled: !one.done, onclick: () => show(place),
  }, `Image ${one.number}${one.done ? `: ${summary(one)}` : " ..."}`)));
  if (held >= 0) nav.children[held].focus();
}

function summary(one) {
  if (one.error) return "refused";
  if (one.question === "embeddings") return "embedded";
  return one.body.abstention ? "abstained" : percent(one.body.probability);
}

function show(place) {
  shown = place;
  listed();
  const one = results[place];
  const article = $("answer");
  article.hidden = false;
  article.replaceChildren(...(one.error ? refusal(one) : one.question === "embeddings" ? embedded(one) : predicted(one)));
  article.focus({ preventScroll: true });
}

function refusal(one) {
  return [
    make("h2", {}, `Image ${one.number}`),
    make("p", { class: "verdict refused" }, "Refused"),
    make("div", { class: "wrong" }, make("p", {}, sentence(one.error.message)), one.error.right ? make("p", {}, sentence(one.error.right)) : null),
    make("button", { type: "button", class: "act", onclick: () => again(one) }, "Ask again as set above"),
  ];
}

function again(one) {
  const typed = Object.keys(measured()).length > 0;
  Object.assign(one, { ...asked(), covariates: typed ? measured() : one.covariates, done: false, error: null });
  listed();
  work();
}

const sentence = (words) => `${words.charAt(0).toUpperCase()}${words.slice(1)}${/[.!?]$/.test(words) ? "" : "."}`;

function pictures(body) {
  if (body.planes) return planes(body);
  if (!body.seen) return make("figure", {}, make("figcaption", {}, "The image was not read as far as this."));
  const figure = make("figure");
  const box = make("div", { class: "seen" }, make("img", { src: `data:image/png;base64,${body.seen}`, alt: "the image as the model saw it" }));
  figure.append(box, make("figcaption", {}, "As the model saw it."));
  if (body.saliency) {
    const over = make("img", { id: "overlay", src: `data:image/png;base64,${body.saliency.png}`, alt: "what moved the answer, in colours over the image", style: { opacity: "1" } });
    box.append(over);
    const strength = make("input", { id: "strength", type: "range", min: "0", max: "100", value: "100", oninput: () => { over.style.opacity = strength.value / 100; } });
    figure.append(make("div", { class: "strength" }, make("label", { for: "strength" }, "what moved it"), strength), make("figcaption", {}, body.saliency.what));
  }
  return figure;
}

function planes(body) {
  const shown = body.planes.map((plane) => make("figure", {},
    make("div", { class: "seen" }, plane.seen ? make("img", { src: `data:image/png;base64,${plane.seen}`, alt: `the ${plane.view.toLowerCase()} plane as the model saw it` }) : null),
    make("figcaption", {}, `${plane.view.toLowerCase()}, ${percent(plane.position)}`)));
  return make("div", {}, make("div", { class: "planes" }, ...shown), make("p", { class: "soft" }, "The planes of the volume as the model saw them, with their place along it."));
}

function scale(body) {
  const at = (value) => `${100 * value}%`;
  const box = make("div", { class: "scale", role: "img", "aria-label": `probability ${percent(body.probability)}, threshold ${percent(body.threshold)}` }, make("div", { class: "bar" }));
  if (body.interval && body.interval.low !== null) {
    box.append(make("div", { class: "range", style: { left: at(body.interval.low), width: at(body.interval.high - body.interval.low) } }));
  }
  box.append(make("div", { class: "threshold", style: { left: at(body.threshold) } }));
  if (body.probability !== null) box.append(make("div", { class: "point", style: { left: at(body.probability) } }));
  // Near an end the threshold's label stands in place of that end's, beside its mark and not over the other.
  const side = body.threshold < 0.25 ? "first" : body.threshold > 0.75 ? "last" : "";
  if (side !== "first") box.append(make("span", { class: "label first", style: { left: "0" } }, "0%"));
  if (side !== "last") box.append(make("span", { class: "label last", style: { left: "100%" } }, "100%"));
  box.append(make("span", { class: `label ${side}`, style: { left: at(body.threshold) } }, `threshold ${percent(body.threshold)}`));
  return box;
}

function predicted(one) {
  const body = one.body;
  const label = spoken(body.label);
  const right = make("div");
  if (body.abstention) {
    right.append(make("p", { class: "verdict abstained" }, `No prediction for ${label}`), make("div", { class: "caution" }, make("p", {}, sentence(body.abstention.words)),
      body.abstention.score !== null ? make("p", { class: "soft" }, `Measured ${body.abstention.score.toPrecision(3)}; at most ${body.abstention.limit.toPrecision(3)} is answered.`) : null));
  } else {
    right.append(make("p", { class: "number" }, percent(body.probability)), make("p", { class: "verdict" }, `${sentence(body.decision).slice(0, -1)} for ${label}`), scale(body));
    if (body.interval && body.interval.low !== null) {
      right.append(make("p", {}, `Of ${body.interval.n} held-out images with such a probability, ${body.interval.n_positive} had ${label}: ${between(body.interval)}.`));
    }
  }
  if (!body.abstention) right.append(make("div", { class: "meaning" }, make("p", {}, body.meaning)));
  if (body.covariates) {
    const { used, missing, unusual } = body.covariates;
    const rows = [...Object.entries(used).map(([name, value]) => [name, `${value}${unusual.includes(name) ? " (rare in training)" : ""}`]), ...missing.map((name) => [name, "unknown"])];
    right.append(make("h2", {}, "Measured of the patient"), make("dl", {}, ...rows.flatMap(([name, value]) => [make("dt", {}, spoken(name)), make("dd", {}, value)])));
  }
  right.append(make("h2", {}, "At the threshold, on held-out images"), make("dl", {},
    make("dt", {}, "sensitivity"), make("dd", {}, between(body.operating_point.sensitivity)),
    make("dt", {}, "specificity"), make("dd", {}, between(body.operating_point.specificity))));
  if (body.nearest && body.nearest.length) {
    right.append(make("h2", {}, "Nearest training cases"), make("div", { class: "wide" }, make("table", {}, make("thead", {}, make("tr", {}, make("th", {}, "case"), make("th", {}, label), make("th", {}, "distance"))),
      make("tbody", {}, ...body.nearest.map((near) => make("tr", {}, make("td", {}, near.case), make("td", {}, near.label === null ? "unknown" : near.label ? "yes" : "no"), make("td", {}, near.distance.toPrecision(3))))))));
  }
  right.append(...identity(body));
  return [make("h2", {}, `Image ${one.number}`), ...gate(body), make("div", { class: "split" }, pictures(body), right)];
}

function embedded(one) {
  const body = one.body;
  const right = make("div", {}, make("p", { class: "number" }, body.shape.join(" x ")), make("p", { class: "verdict" }, "numbers of its embedding"),
    make("button", { type: "button", class: "act", onclick: () => download(one) }, "Download as .npy"), ...identity(body));
  return [make("h2", {}, `Image ${one.number}`), ...gate(body), make("div", { class: "split" }, pictures(body), right)];
}

function gate(body) {
  const by = body.gate.override;
  const told = by ? `Released although the gate said "${body.gate.verdict}": ${by.by} answers for it since ${by.on}: ${by.reason}` : null;
  return [told, body.caution].filter(Boolean).map((words) => make("div", { class: "caution" }, make("p", {}, words)));
}

function identity(body) {
  const known = { model: `${body.model.name} ${body.model.version}`, encoder: body.model.encoder, engine: `${body.engine.name} (${body.engine.precision})`, dossier: body.dossier, gate: body.gate.verdict, modality: `${body.modality} (${body.modality_known_by})`, code: body.run.code_revision, data: body.run.data_digest.slice(0, 16) };
  return [make("h2", {}, "Who answered"), make("dl", {}, ...Object.entries(known).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])), make("p", { class: "soft" }, body.intended_use)];
}

// NumPy's format 1.0 from the answer that is there already: its JSON gives every float32 exactly.
function npy(body) {
  const values = new Float32Array(body.embedding.flat());
  const head = `{'descr': '<f4', 'fortran_order': False, 'shape': (${body.shape.join(", ")}${body.shape.length === 1 ? "," : ""}), }`;
  const text = `${head.padEnd(64 * Math.ceil((head.length + 11) / 64) - 11)}\n`;
  const bytes = new DataView(new ArrayBuffer(10 + text.length + 4 * values.length));
  [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0].forEach((byte, place) => bytes.setUint8(place, byte));
  bytes.setUint16(8, text.length, true);
  [...text].forEach((letter, place) => bytes.setUint8(10 + place, letter.charCodeAt(0)));
  values.forEach((value, place) => bytes.setFloat32(10 + text.length + 4 * place, value, true));
  return new Blob([bytes.buffer], { type: "application/x-npy" });
}

function download(one) {
  const link = make("a", { href: URL.createObjectURL(npy(one.body)), download: `image-${one.number}.npy` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

start();
