// Fills the lists, draws the map once, and ties buttons and keys to what they do.
function begin() {
  const groups = new Map();
  columns.forEach((one, i) => groups.set(one.group, [...(groups.get(one.group) || []), [one, i]]));
  for (const [name, members] of groups) {
    const list = element("optgroup");
    list.label = name;
    list.append(
      ...members.map(([one, i]) => {
        const option = element("option", one.name);
        option.value = i;
        return option;
      }),
    );
    $("colour").append(list);
  }
  const first = columns.findIndex((one) => one.level && one.levels.length > 1);
  state.column = Math.max(first, 0);
  $("colour").value = state.column;
  $("colour").onchange = (event) => recolour(Number(event.target.value));
  $("n-duplicates").textContent = raw.n_duplicates || "";
  $("n-outliers").textContent = data.outliers.length || "";
  legend();
  Plotly.newPlot(map, traces(), layout, config).then(() => {
    map.on("plotly_hover", ({ points: [point], event }) =>
      hover(state.order[point.pointNumber], event.clientX, event.clientY),
    );
    map.on("plotly_unhover", () => hover(-1));
    map.on("plotly_click", ({ points: [point] }) => {
      if (point.curveNumber === 0) pin(state.order[point.pointNumber]);
    });
    map.on("plotly_selected", (event) => {
      if (!event || !event.lassoPoints) return;
      choose(
        state.order.filter((i) => inside(data.x[i], data.y[i], event.lassoPoints)),
        "Lasso",
      );
      open("selection");
      Plotly.relayout(map, { selections: [] });
      Plotly.restyle(map, { selectedpoints: [null] }); // plotly's own dimming of what is not selected
    });
    requestAnimationFrame(() => {
      document.documentElement.dataset.drawn = Math.round(performance.now());
    });
  });
  const mode = (name) => {
    for (const one of ["pan", "lasso"]) $(one).setAttribute("aria-pressed", one === name);
    Plotly.relayout(map, { dragmode: name });
  };
  $("pan").onclick = () => mode("pan");
  $("lasso").onclick = () => mode("lasso");
  $("closer").onclick = () => zoom(0.6);
  $("wider").onclick = () => zoom(1 / 0.6);
  $("whole").onclick = () => look([wholeX, wholeY]);
  $("view").onclick = () => {
    const [[x0, x1], [y0, y1]] = view();
    choose(
      state.order.filter((i) => data.x[i] >= x0 && data.x[i] <= x1 && data.y[i] >= y0 && data.y[i] <= y1),
      "View",
    );
    open("selection");
  };
  $("export").onclick = exportList;
  $("clear").onclick = () => {
    state.former.push(state.selected);
    state.selected = new Set();
    selectionChanged();
  };
  $("undo").onclick = () => {
    state.selected = state.former.pop() || new Set();
    selectionChanged();
  };
  $("all-duplicates").onclick = () =>
    choose(
      data.duplicates.flatMap((one) => one.members.slice(1)),
      "Duplicates",
    );
  $("all-duplicates").disabled = !data.duplicates.length;
  tabs.forEach((tab, place) => {
    tab.onclick = () => open(tab.getAttribute("aria-controls"));
    tab.onkeydown = ({ key: pressed }) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[pressed];
      if (by) {
        const next = tabs[(place + by + tabs.length) % tabs.length];
        next.click();
        next.focus();
      }
    };
  });
  const keys = {
    ArrowLeft: () => step(-1, 0),
    ArrowRight: () => step(1, 0),
    ArrowUp: () => step(0, 1),
    ArrowDown: () => step(0, -1),
    Enter: () => state.current >= 0 && pin(state.current),
    s: () => state.current >= 0 && toggle(state.current),
    "+": () => zoom(0.6),
    "=": () => zoom(0.6),
    "-": () => zoom(1 / 0.6),
    0: () => look([wholeX, wholeY]),
    Escape: () => {
      state.current = state.pinned = -1;
      hover(-1);
      showCurrent();
    },
  };
  map.addEventListener("keydown", (event) => {
    const act =
      event.ctrlKey || event.metaKey || event.altKey ? null : keys[event.key] || keys[event.key.toLowerCase()];
    if (act) {
      event.preventDefault();
      act();
    }
  });
  dark.addEventListener("change", () => {
    legend();
    Plotly.react(map, traces(), map.layout, config).then(showCurrent);
  });
  open("image");
  selectionChanged();
  listGroups();
  $("far-thumbs").append(...data.outliers.map((i) => thumb(i, short(data.distance[(i + 1) * data.k - 1]))));
}
begin();
