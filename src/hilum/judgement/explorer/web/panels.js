// What stands around the map: legend, the open image, the selection and its export, duplicates, outliers.
function element(name, content = "", css = "") {
  const made = document.createElement(name);
  if (css) made.className = css;
  made.append(content);
  return made;
}
function thumb(i, caption) {
  const button = element("button"),
    canvas = element("canvas");
  button.append(canvas, caption);
  button.setAttribute("aria-label", `Open the image: ${button.textContent}`);
  button.dataset.image = i;
  button.classList.toggle("chosen", state.selected.has(i));
  button.onclick = () => pin(i);
  drawThumb(canvas, i);
  return button;
}

function legend() {
  const column = columns[state.column],
    box = $("legend"),
    counts = new Map();
  for (let i = 0; i < data.n; i++) {
    const l = levelOf(column, i);
    counts.set(l, (counts.get(l) || 0) + 1);
  }
  const levels = column.level ? column.levels.map((name, i) => [i, name]) : [];
  const colours = (level) =>
    level === UNKNOWN ? unknownColour() : column.levels[level] === "other" ? raw.palette[7] : raw.palette[level];
  box.replaceChildren();
  if (!column.level) {
    const scale = element("span");
    scale.id = "scale";
    scale.style.background = `linear-gradient(90deg, ${raw.scale.join(",")})`;
    box.append(element("small", short(column.low)), scale, element("small", short(column.high)));
  }
  for (const [level, name] of [...levels, [UNKNOWN, UNKNOWN]]) {
    const count = counts.get(level) || 0;
    if (!count) continue;
    const button = element("button"),
      dot = element("i");
    dot.style.background = colours(level);
    button.append(dot, `${name} `, element("small", count.toLocaleString("en")));
    button.setAttribute("aria-pressed", !state.hidden.has(level));
    button.dataset.level = level;
    button.onclick = (event) => {
      const all = [...counts.keys()];
      const alone = event.shiftKey && all.filter((one) => one !== level).some((one) => !state.hidden.has(one));
      if (event.shiftKey) state.hidden = new Set(alone ? all.filter((one) => one !== level) : []);
      else if (!state.hidden.delete(level)) state.hidden.add(level);
      legend();
      box.querySelector(`[data-level="${level}"]`).focus(); // the button was made anew
      repaint();
    };
    box.append(button);
  }
  if (column.note) box.append(element("small", column.note));
}
function recolour(number) {
  state.column = number;
  state.hidden = new Set();
  legend();
  return repaint();
}

const tabs = [...document.querySelectorAll("[role=tab]")];
function open(name) {
  for (const tab of tabs) {
    const chosen = tab.getAttribute("aria-controls") === name;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    $(tab.getAttribute("aria-controls")).hidden = !chosen;
  }
}
function pin(i) {
  state.current = state.pinned = i;
  bringIntoView(i);
  showCurrent();
  const panel = $("image"),
    large = element("canvas", "", "large"),
    facts = element("table", "", "facts");
  drawThumb(large, i);
  const select = element("button", state.selected.has(i) ? "Take out of the selection" : "Add to the selection");
  select.onclick = () => {
    toggle(i);
    pin(i);
  };
  const near = element("div", "", "thumbs");
  neighboursOf(i).forEach((j, place) => {
    const caption = element("span", short(data.distance[i * data.k + place]));
    if (data.patient[j] === data.patient[i]) caption.append(element("br"), element("b", "same patient"));
    near.append(thumb(j, caption));
  });
  for (const one of columns.filter((column) => column.known(i))) {
    const row = facts.insertRow(),
      prefix = one.group.startsWith("Probe ") ? `${one.group.slice(6, -1)}: ` : "";
    row.append(element("td", prefix + one.name), element("td", one.text(i)));
  }
  panel.replaceChildren(
    large,
    element("p"),
    element("h3", "Nearest in the embedding, and how far"),
    near,
    element("h3", "What is known of it"),
    facts,
  );
  panel.children[1].append(select);
  open("image");
  panel.scrollTop = 0;
}

function choose(numbers, what) {
  state.former.push(new Set(state.selected));
  const before = state.selected.size;
  for (const i of numbers) state.selected.add(i);
  say(`${what}: ${(state.selected.size - before).toLocaleString("en")} images added`);
  selectionChanged();
}
function toggle(i) {
  state.former.push(new Set(state.selected));
  if (!state.selected.delete(i)) state.selected.add(i);
  selectionChanged();
}
const SHOWN = 60; // thumbnails of a large selection
function selectionChanged() {
  const chosen = [...state.selected],
    patients = new Set(chosen.map((i) => data.patient[i])).size;
  const counted = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;
  const rest = chosen.length > SHOWN ? `; the first ${SHOWN} are shown` : "";
  $("chosen").textContent = chosen.length
    ? `${counted(chosen.length, "image")} of ${counted(patients, "patient")}${rest}.`
    : "Nothing is selected. Draw a lasso on the map, or add images one by one.";
  $("n-selection").textContent = chosen.length || "";
  for (const id of ["export", "clear"]) $(id).disabled = !chosen.length;
  $("undo").disabled = !state.former.length;
  $("chosen-thumbs").replaceChildren(...chosen.slice(0, SHOWN).map((i) => thumb(i, "")));
  for (const button of document.querySelectorAll("[data-image]"))
    button.classList.toggle("chosen", state.selected.has(Number(button.dataset.image)));
  return showSelected();
}
function listOf() {
  return [
    raw.csv.join(","),
    ...[...state.selected].sort((a, b) => a - b).map((i) => `${raw.dataset},${key(i)}`),
    "",
  ].join("\n");
}
function exportList() {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([listOf()], { type: "text/csv" }));
  link.download = "exclude.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const LISTED = 40; // groups at once; the button lists more
function listGroups(from = 0) {
  const box = $("groups");
  if (!data.duplicates.length) box.replaceChildren(element("p", "None was found."));
  if (!from && raw.n_duplicates > data.duplicates.length)
    box.append(element("p", `The first ${data.duplicates.length} of ${raw.n_duplicates.toLocaleString("en")} groups.`));
  for (const one of data.duplicates.slice(from, from + LISTED)) {
    const group = element("div", "", "pair"),
      line = element("p"),
      thumbs = element("div", "", "thumbs");
    const about = element("span", `${one.members.length} images, ${one.same ? "same pixels" : "near-identical"}`);
    if (one.patients > 1) about.append(" · ", element("b", `${one.patients} patients`));
    if (one.splits.length > 1) about.append(" · ", element("b", one.splits.join(" and ")));
    about.querySelectorAll("b").forEach((part) => (part.className = "doubt"));
    const button = element("button", "All but one");
    button.onclick = () => choose(one.members.slice(1), "Duplicates");
    line.append(about, button);
    thumbs.append(...one.members.slice(0, 8).map((i) => thumb(i, "")));
    group.append(line, thumbs);
    box.append(group);
  }
  if (data.duplicates.length > from + LISTED) {
    const more = element("button", "More");
    more.onclick = () => {
      more.remove();
      listGroups(from + LISTED);
    };
    box.append(more);
  }
}
