// The map: one WebGL trace of what is visible, rings of what is selected, the current image with its neighbours.
const $ = (id) => document.getElementById(id);
const map = $("map"),
  card = $("card");
const state = { column: 0, hidden: new Set(), order: [], current: -1, pinned: -1, selected: new Set(), former: [] };
const dark = matchMedia("(prefers-color-scheme: dark)");
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const unknownColour = () => (dark.matches ? "#4d5866" : "#c3cad3");
const say = (text) => {
  $("said").textContent = text;
};

// A shuffled order, the same each time: drawn level by level, the last one would lie over all others.
const shuffled = Uint32Array.from({ length: data.n }, (_, i) => i);
for (let i = data.n - 1, seed = 1; i > 0; i--) {
  seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
  const j = seed % (i + 1);
  [shuffled[i], shuffled[j]] = [shuffled[j], shuffled[i]];
}
const pointSize = data.n <= 2000 ? 8 : data.n <= 10000 ? 5.5 : data.n <= 40000 ? 4 : 3;

function colourOf(column) {
  const unknown = unknownColour();
  if (column.level) {
    const colours = column.levels.map((name, i) => (name === "other" ? raw.palette[7] : raw.palette[i]));
    return (i) => (column.known(i) ? colours[column.codes[i]] : unknown);
  }
  return (i) => (column.known(i) ? raw.scale[Math.floor((column.codes[i] / 65535) * raw.scale.length)] : unknown);
}
const levelOf = (column, i) => (column.known(i) ? (column.level ? column.codes[i] : "known") : UNKNOWN);

function points() {
  const column = columns[state.column],
    colour = colourOf(column);
  const shown = Array.from(shuffled).filter((i) => !state.hidden.has(levelOf(column, i)));
  state.order = [...shown.filter((i) => !column.known(i)), ...shown.filter((i) => column.known(i))];
  return {
    x: Float32Array.from(state.order, (i) => data.x[i]),
    y: Float32Array.from(state.order, (i) => data.y[i]),
    color: state.order.map(colour),
  };
}
const rings = (numbers) => ({ x: numbers.map((i) => data.x[i]), y: numbers.map((i) => data.y[i]) });

function bounds() {
  const [low, high] = [data.x, data.y]
    .map((v) => [v.reduce((a, b) => Math.min(a, b)), v.reduce((a, b) => Math.max(a, b))])
    .reduce(
      ([lows, highs], [a, b]) => [
        [...lows, a],
        [...highs, b],
      ],
      [[], []],
    );
  const pad = 0.04 * Math.max(high[0] - low[0], high[1] - low[1], 1e-6);
  return [
    [low[0] - pad, high[0] + pad],
    [low[1] - pad, high[1] + pad],
  ];
}
const [wholeX, wholeY] = bounds();

function traces() {
  const { x, y, color } = points(),
    none = { hoverinfo: "skip", showlegend: false };
  return [
    {
      type: "scattergl",
      mode: "markers",
      x,
      y,
      hoverinfo: "none",
      showlegend: false,
      marker: { size: pointSize, color, opacity: data.n > 10000 ? 0.8 : 0.9 },
    },
    {
      type: "scattergl",
      mode: "markers",
      ...rings([...state.selected]),
      ...none,
      marker: { size: pointSize + 4, color: style("--ink"), symbol: "circle-open", line: { width: 1.5 } },
    },
    {
      type: "scatter",
      mode: "lines",
      x: [],
      y: [],
      ...none,
      line: { color: style("--ink"), width: 1 },
      opacity: 0.5,
    },
    {
      type: "scatter",
      mode: "markers",
      x: [],
      y: [],
      ...none,
      marker: { size: pointSize + 8, color: style("--ink"), symbol: "circle-open", line: { width: 2 } },
    },
  ];
}
const axis = (range) => ({ range: [...range], visible: false, showgrid: false, zeroline: false });
const layout = {
  margin: { l: 0, r: 0, t: 0, b: 0 },
  paper_bgcolor: "rgba(0,0,0,0)",
  plot_bgcolor: "rgba(0,0,0,0)",
  hovermode: "closest",
  hoverdistance: 12,
  dragmode: "pan",
  clickmode: "event",
  showlegend: false,
  xaxis: axis(wholeX),
  yaxis: { ...axis(wholeY), scaleanchor: "x" },
  newselection: { line: { color: style("--ink"), dash: "dot" } },
};
const config = {
  displayModeBar: false,
  scrollZoom: true,
  doubleClick: false,
  responsive: true,
  plotGlPixelRatio: Math.min(devicePixelRatio || 1, 2),
};

function repaint() {
  const { x, y, color } = points();
  return Plotly.restyle(map, { x: [x], y: [y], "marker.color": [color] }, [0]);
}
function showSelected() {
  const { x, y } = rings([...state.selected]);
  return Plotly.restyle(map, { x: [x], y: [y] }, [1]);
}
function showCurrent() {
  const i = state.current,
    around = i >= 0 && i === state.pinned ? neighboursOf(i) : [];
  const spokes = around.flatMap((j) => [i, j, null]);
  const lines = {
    x: spokes.map((j) => (j === null ? null : data.x[j])),
    y: spokes.map((j) => (j === null ? null : data.y[j])),
  };
  const { x, y } = rings(i < 0 ? [] : [i, ...around]);
  return Plotly.restyle(map, { x: [lines.x, x], y: [lines.y, y] }, [2, 3]);
}
const neighboursOf = (i) => Array.from(data.near.subarray(i * data.k, (i + 1) * data.k));

const view = () => ["xaxis", "yaxis"].map((name) => [...map._fullLayout[name].range]);
const look = ([x, y]) => Plotly.relayout(map, { "xaxis.range": x, "yaxis.range": y });
const zoom = (factor, middle) =>
  look(
    view().map(([low, high], axis) => {
      const at = middle ? middle[axis] : (low + high) / 2;
      return [at - ((high - low) / 2) * factor, at + ((high - low) / 2) * factor];
    }),
  );
function bringIntoView(i) {
  const at = [data.x[i], data.y[i]],
    out = view().some(([low, high], axis) => at[axis] < low || at[axis] > high);
  return out ? zoom(1, at) : null;
}
function pixelOf(i) {
  const { xaxis, yaxis } = map._fullLayout,
    box = map.getBoundingClientRect();
  return [box.left + xaxis._offset + xaxis.d2p(data.x[i]), box.top + yaxis._offset + yaxis.d2p(data.y[i])];
}

function inside(px, py, polygon) {
  // even-odd rule
  let within = false;
  for (let a = 0, b = polygon.x.length - 1; a < polygon.x.length; b = a++) {
    const [ax, ay, bx, by] = [polygon.x[a], polygon.y[a], polygon.x[b], polygon.y[b]];
    if (ay > py !== by > py && px < ((bx - ax) * (py - ay)) / (by - ay) + ax) within = !within;
  }
  return within;
}

function hover(i, x, y) {
  if (i < 0) {
    card.hidden = true;
    return;
  }
  drawThumb(card.querySelector("canvas"), i);
  const named = [
    columns[state.column],
    ...columns.filter((one) => one.group === "Attributes" && one.known(i) && one.levels.length !== 1).slice(0, 4),
  ];
  const found = columns.filter((one) => one.group === "Labels" && one.text(i) === "present").map((one) => one.name);
  const lines = [...new Set(named)].map((one) => `${one.name.split(" (")[0]}: ${one.text(i)}`);
  card.lastElementChild.textContent = [...lines, found.length ? `findings: ${found.join(", ")}` : ""]
    .filter(Boolean)
    .join("\n");
  card.lastElementChild.style.whiteSpace = "pre-line";
  card.hidden = false;
  const [width, height] = [card.offsetWidth, card.offsetHeight];
  card.style.left = Math.min(x + 18, innerWidth - width - 8) + "px";
  card.style.top = Math.max(8, Math.min(y + 12, innerHeight - height - 8)) + "px";
}

function step(dx, dy) {
  // to the nearest visible image within 45 degrees of a direction
  const from =
    state.current >= 0 ? [data.x[state.current], data.y[state.current]] : view().map(([a, b]) => (a + b) / 2);
  let best = -1,
    least = Infinity;
  for (const i of state.order) {
    const x = data.x[i] - from[0],
      y = data.y[i] - from[1],
      along = x * dx + y * dy,
      off = Math.abs(x * dy) + Math.abs(y * dx);
    const far = x * x + y * y;
    if (i !== state.current && far < least && (state.current < 0 || (along > 0 && off <= along)))
      [best, least] = [i, far];
  }
  if (best < 0) return;
  state.current = best;
  bringIntoView(best);
  showCurrent();
  hover(best, ...pixelOf(best));
  say(card.lastElementChild.textContent.replaceAll("\n", ", "));
}
