"use strict";
// What the page holds: columns as typed arrays, thumbnails on sheets that are decoded when they are needed.
const raw = JSON.parse(document.getElementById("data").textContent);
const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const array = (text, Type) => new Type(bytesOf(text).buffer); // little-endian, as every browser's machine is
const data = {
  n: raw.n,
  k: raw.k,
  x: array(raw.x, Float32Array),
  y: array(raw.y, Float32Array),
  near: array(raw.near, Uint32Array),
  distance: array(raw.distance, Float32Array),
  patient: array(raw.patient, Uint32Array),
  keys: bytesOf(raw.keys),
  outliers: raw.outliers,
  duplicates: raw.duplicates,
};
const UNKNOWN = "unknown";
const columns = raw.columns.map((one) => {
  const level = one.levels.length > 0;
  const codes = array(one.values, level ? Uint8Array : Uint16Array);
  const none = level ? 255 : 65535;
  const known = (i) => codes[i] !== none;
  const number = (i) => one.low + (codes[i] / 65534) * (one.high - one.low);
  const text = (i) =>
    !known(i) ? UNKNOWN : level ? one.levels[codes[i]] : one.whole ? String(Math.round(number(i))) : short(number(i));
  return { ...one, level, codes, known, number, text };
});
function short(value) {
  if (Number.isInteger(value) || Math.abs(value) >= 1000) return String(Math.round(value));
  return Math.abs(value) >= 100 ? value.toFixed(0) : Math.abs(value) >= 10 ? value.toFixed(1) : value.toPrecision(3);
}
const key = (i) => Array.from(data.keys.subarray(8 * i, 8 * i + 8), (b) => b.toString(16).padStart(2, "0")).join("");

const KEPT_SHEETS = 24; // decoded, 4 MB each
const sheets = new Map();
function sheet(number) {
  const held = sheets.get(number);
  if (held) {
    sheets.delete(number);
    sheets.set(number, held);
    return held;
  }
  const picture = new Image();
  picture.src = "data:image/jpeg;base64," + document.getElementById("sheet-" + number).textContent;
  const decoded = picture.decode().then(() => picture);
  sheets.set(number, decoded);
  if (sheets.size > KEPT_SHEETS) sheets.delete(sheets.keys().next().value);
  return decoded;
}
function drawThumb(canvas, i) {
  const across = raw.across,
    place = i % (across * across);
  canvas.dataset.of = i;
  return sheet(Math.floor(i / (across * across))).then((picture) => {
    if (Number(canvas.dataset.of) !== i) return; // it was asked for another image meanwhile
    canvas.width = canvas.height = raw.side;
    const [left, top] = [(place % across) * raw.side, Math.floor(place / across) * raw.side];
    canvas.getContext("2d").drawImage(picture, left, top, raw.side, raw.side, 0, 0, raw.side, raw.side);
    canvas.dataset.drawn = i;
  });
}
