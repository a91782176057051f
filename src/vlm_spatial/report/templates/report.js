"use strict";
(async () => {
  const BOTH = "both axes";
  const EVERY = "every set";
  const DATA_NAME = "rows";
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const root = document.documentElement;

  // ---- data ------------------------------------------------------------------------------------------------------
  const bytes = Uint8Array.from(atob($("#data").textContent.trim()), (letter) => letter.charCodeAt(0));
  const data = JSON.parse(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text());

  const cell = (column, row) => Array.isArray(column) ? column[row] : (column.index[row] < 0 ? null : column.values[column.index[row]]);
  const size = (table) => { const first = Object.values(table)[0]; return first === undefined ? 0 : (Array.isArray(first) ? first : first.index).length; };
  const record = (table, row) => Object.fromEntries(Object.entries(table).map(([name, column]) => [name, cell(column, row)]));
  function select(table, wanted) {
    const tests = Object.entries(wanted).filter(([name]) => table[name] !== undefined);
    const found = [];
    for (let row = 0; row < size(table); row++) {
      if (tests.every(([name, value]) => { const here = cell(table[name], row); return here === value || here === EVERY; })) found.push(record(table, row));
    }
    return found;
  }
  const values = (table, name) => [...new Set(Array.from({ length: size(table) }, (_, row) => cell(table[name], row)))].filter((value) => value !== null && value !== EVERY).sort();

  // ---- state, kept in the address so that a view can be sent to a colleague ----------------------------------------
  const names = Object.keys(data.models);
  const asked = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
  const state = { model: names.includes(asked.get("model")) ? asked.get("model") : names[0], dataset: asked.get("dataset"), axis: asked.get("axis") || BOTH, site: asked.get("site") || "connector", scene: asked.get("scene") };
  function remember() { history.replaceState(null, "", "#" + new URLSearchParams(Object.entries(state).filter(([, value]) => value))); }

  function fill(control, options, chosen, label = (value) => value) {
    control.replaceChildren(...options.map((value) => new Option(label(value), value)));
    if (options.includes(chosen)) control.value = chosen; else if (options.length) control.selectedIndex = 0;
    return control.value;
  }

  // ---- charts --------------------------------------------------------------------------------------------------------
  const dark = () => root.dataset.theme === "dark";
  const views = new Map();
  const narrow = matchMedia("(max-width: 46rem)");
  function themed() {
    const theme = data.themes[dark() ? "dark" : "light"];
    return narrow.matches ? { ...theme, legend: { ...theme.legend, columns: 2, labelLimit: 130 } } : theme;
  }
  async function embed(place, spec, rows, signals = {}) {
    views.get(place)?.finalize();
    const result = await vegaEmbed(place, { ...fitted(spec, rows), datasets: { [DATA_NAME]: rows } }, {
      renderer: "svg", actions: false, config: themed(), tooltip: { theme: dark() ? "dark" : "light" },
      patch: (vega) => { for (const signal of vega.signals || []) if (signal.name in signals) signal.value = signals[signal.name]; return vega; },
    });
    views.set(place, result);
    return result.view;
  }

  // Legends name only the series that have a row (the colours of the others stay reserved); dark pages get lighter colours.
  function fitted(spec, rows) {
    const present = new Set(rows.flatMap((row) => Object.values(row)));
    const walk = (part) => {
      if (Array.isArray(part)) return part.map(walk);
      if (typeof part === "string") return dark() ? data.darkColours[part] ?? part : part;
      if (part === null || typeof part !== "object") return part;
      const copy = Object.fromEntries(Object.entries(part).map(([key, value]) => [key, walk(value)]));
      const domain = copy.scale?.domain;
      if (copy.field && Array.isArray(domain) && domain.every((name) => typeof name === "string") && copy.legend !== null) copy.legend = { ...copy.legend, values: domain.filter((name) => present.has(name)) };
      return copy;
    };
    return walk(spec);
  }

  function chosen(figure) {
    const wanted = { dataset: state.dataset };
    if (data.figures[figure].controls.includes("axis")) wanted.axis = state.axis;
    for (const control of $$(`#figure-${figure} [data-control]`)) if (control.options.length) wanted[control.dataset.control] = control.value;
    return wanted;
  }

  async function draw(figure) {
    const element = $(`#figure-${figure}`);
    const table = data.rows[state.model][figure];
    // What rests on nothing (n = 0) has no estimate and is not drawn.
    const rows = select(table, chosen(figure)).filter((row) => row.estimate !== null);
    const place = $(".chart", element);
    // What is of a model alone, such as a training curve, says nothing where the model has none.
    element.hidden = (data.figures[figure].ofModel && rows.length === 0) || (data.figures[figure].optional && size(table) === 0);
    $(".empty", element).hidden = rows.length > 0;
    place.hidden = rows.length === 0;
    $("figcaption", element).textContent = rows.length ? data.captions[state.model][figure] : "";
    numbers(element, rows);
    element.dataset.rows = rows.length;
    if (!rows.length) return;
    const view = await embed(place, data.figures[figure].spec, rows, { site: state.site });
    if (data.figures[figure].bySite) view.addEventListener("click", (_event, item) => { const site = item?.datum?.site; if (site) setSite(site); });
  }

  function controlsOf(figure) {
    const table = data.rows[state.model][figure];
    for (const control of $$(`#figure-${figure} [data-control]`)) {
      const name = control.dataset.control;
      const there = size(table) && table[name] ? [...new Set(select(table, { dataset: state.dataset }).map((row) => row[name]))].filter((value) => value !== null && value !== EVERY).sort() : [];
      const before = control.value || data.figures[figure].preferred[name];
      fill(control, there, there.includes(before) ? before : data.figures[figure].preferred[name]);
      control.parentElement.hidden = there.length < 2;
    }
  }

  const SHOWN = ["site", "other", "template", "axis", "where", "series", "step", "alpha", "measure", "outcome", "chosen_on", "fitted_on", "group", "errors", "corrected", "broken", "p_value", "p_holm", "angles", "estimate", "low", "high", "n"];
  const written = (value) => typeof value === "number" && !Number.isInteger(value) ? value.toFixed(4) : value ?? "–";
  function numbers(element, rows) {
    const place = $(".table", element);
    if (!place) return;
    const columns = rows.length ? SHOWN.filter((name) => name in rows[0]) : [];
    const table = document.createElement("table");
    const head = table.createTHead().insertRow();
    for (const name of columns) { const th = document.createElement("th"); th.scope = "col"; th.textContent = name.replaceAll("_", " "); head.append(th); }
    const body = table.createTBody();
    for (const row of rows) { const line = body.insertRow(); for (const name of columns) line.insertCell().textContent = written(row[name]); }
    place.replaceChildren(table);
  }
  function saveCsv(figure) {
    const table = data.rows[state.model][figure];
    const quote = (value) => /[",\n]/.test(String(value ?? "")) ? `"${String(value).replaceAll('"', '""')}"` : String(value ?? "");
    const lines = [Object.keys(table).join(","), ...Array.from({ length: size(table) }, (_, row) => Object.values(record(table, row)).map(quote).join(","))];
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
    link.download = `${state.model}-${figure}.csv`;
    link.click();
    URL.revokeObjectURL(link.href);
  }

  // Figures of all models: where their rows are chosen, and by what. Those that say nothing here are not in the page.
  const CHOOSERS = Object.fromEntries(Object.entries({ comparison: ["#claim", "claim"], sizes: ["#sized", "claim"], amplified_models: ["#amplified", "dataset"] }).filter(([, [chooser]]) => $(chooser)));
  function drawModels(name) {
    const [chooser, column] = CHOOSERS[name], element = $(`#figure-${name}`);
    const rows = select(data[name].rows, { [column]: $(chooser).value }).filter((row) => row.estimate !== null);
    $(".empty", element).hidden = rows.length > 0;
    $(".chart", element).hidden = rows.length === 0;
    return rows.length ? embed($(".chart", element), data[name].spec, rows) : undefined;
  }
  const drawComparisons = () => Object.keys(CHOOSERS).map(drawModels);

  // ---- pictures ------------------------------------------------------------------------------------------------------
  const SVG = "http://www.w3.org/2000/svg";
  function shape(name, attributes, text) {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  }
  const scenes = () => data.explorer[state.dataset];
  const ofModel = () => scenes().models[state.model];
  const scene = (id) => scenes().scenes.find((one) => one.id === id);

  function picture(one, { overlay, site, boxes, digits, caption }) {
    const svg = shape("svg", { viewBox: `0 0 ${one.width} ${one.height}`, role: "img", "aria-label": `${one.objects.join(", ")} along the ${one.axis} axis` });
    svg.append(shape("image", { href: one.image, width: one.width, height: one.height, preserveAspectRatio: "none" }));
    const grid = ofModel()?.grids[`${one.width}x${one.height}`] ?? ofModel()?.grid;
    if (grid && overlay !== "none") {
      const [rows, cols] = grid;
      const [high, wide] = [one.height / rows, one.width / cols];
      const sets = one.sets[`${rows}x${cols}`];
      const map = ofModel().maps[one.id]?.[site];
      for (let token = 0; token < rows * cols; token++) {
        const inObject = sets && sets.object[token] !== ".";
        const bySet = { strip: sets?.strip[token], object: inObject ? sets.object[token] : ".", rim: inObject ? "." : sets?.strip[token], background: inObject || sets?.strip[token] === "." ? "." : "b" };
        const slot = overlay === "map" ? map?.slot[token] : bySet[overlay];
        if (slot === undefined || slot === ".") continue;
        // A probability of one third is a guess: nearly clear.
        const sure = overlay === "map" ? Math.max(0, (parseInt(map.sure[token], 36) / 35 - 1 / 3) * 1.5) : 0.7;
        const [x, y] = [(token % cols) * wide, Math.floor(token / cols) * high];
        svg.append(shape("rect", { x, y, width: wide, height: high, fill: data.slotColours[slot] ?? "#8a8a8a", "fill-opacity": (0.05 + 0.5 * sure).toFixed(3) }));
        if (digits && slot !== "b") svg.append(shape("text", { x: x + wide / 2, y: y + high / 2, "font-size": Math.min(wide, high) * 0.5, "text-anchor": "middle", "dominant-baseline": "central", fill: "#000", stroke: "#fff", "stroke-width": Math.min(wide, high) * 0.06, "paint-order": "stroke" }, slot));
      }
    }
    if (boxes) one.boxes.forEach(([left, top, right, bottom], slot) => {
      const line = Math.max(one.width, one.height) / 160;
      svg.append(shape("rect", { x: left, y: top, width: right - left, height: bottom - top, fill: "none", stroke: "#fff", "stroke-width": 2 * line }));
      svg.append(shape("rect", { x: left, y: top, width: right - left, height: bottom - top, fill: "none", stroke: data.slotColours[slot], "stroke-width": line }));
    });
    const element = document.createElement("figure");
    element.className = "picture";
    element.append(svg);
    if (caption) { const text = document.createElement("figcaption"); text.textContent = caption; element.append(text); }
    return element;
  }
  function slotKey() {
    const key = document.createElement("p");
    key.className = "slots";
    data.slotColours.forEach((colour, slot) => {
      const item = document.createElement("span"), swatch = document.createElement("span");
      swatch.className = "swatch"; swatch.style.background = colour;
      item.append(swatch, `slot ${slot}`);
      key.append(item);
    });
    return key;
  }
  const mapSites = () => [...new Set(Object.values(ofModel()?.maps ?? {}).flatMap((sites) => Object.keys(sites)))];

  function drawGallery() {
    const element = $("#figure-strip_maps"), place = $(".chart", element), control = $('[data-control="map-site"]', element);
    const sites = mapSites();
    const before = sites.includes(state.site) ? state.site : control.value;
    const site = fill(control, sites, sites.includes(before) ? before : "connector");
    const mapped = scenes().scenes.filter((one) => one.listed && ofModel()?.maps[one.id] && (state.axis === BOTH || one.axis === state.axis));
    const of = (axis, count) => mapped.filter((one) => one.axis === axis).slice(0, count);
    const shown = state.axis === BOTH ? [...of("horizontal", 3), ...of("vertical", 3)] : of(state.axis, 6);
    $(".empty", element).hidden = shown.length > 0;
    place.hidden = shown.length === 0;
    $("figcaption", element).textContent = shown.length ? `The slot that the logistic probe reads at every visual token, at ${site}, over held-out scenes (n = ${shown.length} shown); the fuller the colour, the surer the probe. Outlines are the objects. Single cells carry no interval; the scores by token set above do.` : "";
    place.replaceChildren(...shown.map((one) => picture(one, { overlay: "map", site, boxes: true, digits: false })), ...(shown.length ? [slotKey()] : []));
  }

  // ---- explorer ------------------------------------------------------------------------------------------------------
  function line(table, cells, header = false) {
    const row = table.insertRow();
    for (const text of cells) { const td = document.createElement(header ? "th" : "td"); if (header) td.scope = "col"; td.textContent = text; row.append(td); }
    return row;
  }
  function heading(text) { const element = document.createElement("h3"); element.textContent = text; return element; }
  function paragraph(text) { const element = document.createElement("p"); element.textContent = text; return element; }
  function scrolling(table, label) { const box = document.createElement("div"); box.className = "scroll"; box.tabIndex = 0; box.setAttribute("role", "region"); box.setAttribute("aria-label", label); box.append(table); return box; }

  function listScenes() {
    const control = $("#scene"), known = scenes();
    control.replaceChildren();
    const group = (label, items) => { if (!items.length) return; const part = document.createElement("optgroup"); part.label = label; part.append(...items.map(([value, text]) => new Option(text, value))); control.append(part); };
    for (const axis of ["horizontal", "vertical"]) group(`Scenes, ${axis}`, known.scenes.filter((one) => one.listed && one.axis === axis).map((one) => [one.id, `${one.id}: ${one.objects.join(", ")}`]));
    for (const experiment of ["vision", "language", "conflict"]) group(`Pairs, ${experiment}`, known.pairs.filter((pair) => pair.experiment === experiment).map((pair) => [pair.id, pair.id]));
    const there = [...control.options].map((option) => option.value);
    state.scene = there.includes(state.scene) ? state.scene : there[0] ?? null;
    if (state.scene) control.value = state.scene;
    const sites = mapSites();
    fill($("#map-site"), sites, sites.includes(state.site) ? state.site : "connector");
  }

  function drawExplorer() {
    const pictures = $("#pictures"), answers = $("#answers");
    pictures.replaceChildren(); answers.replaceChildren();
    if (!state.scene) { answers.append(paragraph("This dataset has no scenes to show.")); return; }
    const look = { overlay: $("#overlay").value, site: $("#map-site").value, boxes: $("#boxes").checked, digits: $("#numbers").checked };
    const pair = scenes().pairs.find((one) => one.id === state.scene);
    pictures.classList.toggle("two", pair !== undefined && pair.experiment !== "conflict");
    pictures.dataset.scene = state.scene;
    if (pair) drawPair(pair, look, pictures, answers); else drawScene(scene(state.scene), look, pictures, answers);
  }
  function drawScene(one, look, pictures, answers) {
    pictures.append(picture(one, { ...look, caption: one.id }), slotKey());
    const asked = ofModel()?.answers[one.id] ?? [];
    answers.append(heading(one.objects.join(", ")));
    if (!asked.length) { answers.append(paragraph(`${state.model} was not asked about this scene.`)); return; }
    const table = document.createElement("table");
    line(table.createTHead(), ["Question", "Right", `${state.model} says`, "p(right)"], true);
    const body = table.createTBody();
    for (const [prompt, right, predicted, probability] of asked) {
      const row = line(body, [prompt, right, `${predicted === right ? "✓" : "✗"} ${predicted}`, probability.toFixed(2)]);
      row.cells[2].className = predicted === right ? "supported" : "refuted";
    }
    answers.append(scrolling(table, "Answers"));
  }
  function drawPair(pair, look, pictures, answers) {
    // A pair's scenes have no strip map: their strips are shown in its place.
    const overlay = look.overlay === "map" ? "strip" : look.overlay;
    const ids = pair.experiment === "conflict" ? [pair.clean] : [pair.clean, pair.counterfactual];
    ids.forEach((id, index) => pictures.append(picture(scene(id), { ...look, overlay, caption: `${index ? "Counterfactual" : "Clean"}: ${id}` })));
    pictures.append(slotKey());
    answers.append(heading(pair.prompt), paragraph("Predicted by hypothesis: " + Object.entries(pair.hypotheses).map(([name, answer]) => `${name} → ${answer}`).join(", ") + "."));
    const found = ofModel()?.patched[pair.id];
    if (!found) { answers.append(paragraph(`${state.model} was not run on this pair.`)); return; }
    answers.append(paragraph(`Untouched, ${state.model} answers “${found.clean}” to the clean picture` + (pair.experiment === "conflict" ? "." : ` and “${found.counterfactual}” to the counterfactual.`) + (found.included ? "" : " One is wrong, so this pair is set aside.")));
    const sets = [...new Set(found.rows.map((row) => row[1]))], sites = [...new Set(found.rows.map((row) => row[0]))];
    const table = document.createElement("table");
    line(table.createTHead(), ["Patched at", ...sets], true);
    const body = table.createTBody();
    for (const site of sites) {
      const row = line(body, [site]);
      for (const set of sets) {
        const hit = found.rows.find((one) => one[0] === site && one[1] === set), td = row.insertCell();
        td.textContent = hit ? `${hit[2]} (${hit[3]})` : "";
        if (hit) { td.className = ["flip", "ordering", "move"].includes(hit[3]) ? "refuted" : hit[3] === "stay" ? "" : "inconclusive"; td.title = `${hit[4]} tokens replaced`; }
      }
    }
    answers.append(scrolling(table, "Answers after patching"));
  }

  // ---- changes -------------------------------------------------------------------------------------------------------
  const figures = Object.keys(data.figures);
  function setSite(site) {
    state.site = site;
    if ([...$("#site").options].some((option) => option.value === site)) $("#site").value = site;
    for (const figure of figures) {
      const place = $(`#figure-${figure} .chart`);
      if (data.figures[figure].bySite && !place.hidden && views.has(place)) views.get(place).view.signal("site", site).runAsync();
    }
    drawGallery();
    if (mapSites().includes(site)) { $("#map-site").value = site; drawExplorer(); }
    remember();
  }
  async function show() {
    const model = data.models[state.model];
    state.dataset = fill($("#dataset"), model.datasets, state.dataset);
    const axes = [...new Set(figures.flatMap((figure) => { const table = data.rows[state.model][figure]; return table.axis ? values(table, "axis") : []; }))].sort();
    state.axis = fill($("#axis"), axes.length ? axes : [BOTH], state.axis);
    state.site = fill($("#site"), model.sites, model.sites.includes(state.site) ? state.site : "connector");
    for (const element of $$(".verdicts")) element.hidden = !(element.dataset.model === state.model && element.dataset.dataset === state.dataset);
    figures.forEach(controlsOf);
    listScenes();
    drawGallery();
    drawExplorer();
    remember();
    await Promise.all(figures.map(draw));
  }

  function setTheme(theme) {
    root.dataset.theme = theme;
    $("#theme").textContent = theme === "dark" ? "Light" : "Dark";
    $("#theme").setAttribute("aria-pressed", String(theme === "dark"));
  }
  setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  $("#theme").addEventListener("click", async () => { setTheme(dark() ? "light" : "dark"); await Promise.all([...drawComparisons(), ...figures.map(draw)]); });

  $("#model").value = state.model;
  $("#model").addEventListener("change", (event) => { state.model = event.target.value; show(); });
  $("#dataset").addEventListener("change", (event) => { state.dataset = event.target.value; show(); });
  $("#axis").addEventListener("change", (event) => { state.axis = event.target.value; show(); });
  $("#site").addEventListener("change", (event) => setSite(event.target.value));
  for (const [name, [chooser]] of Object.entries(CHOOSERS)) $(chooser).addEventListener("change", () => drawModels(name));
  for (const figure of figures) {
    for (const control of $$(`#figure-${figure} [data-control]`)) control.addEventListener("change", () => draw(figure));
    $(`#figure-${figure} .csv`).addEventListener("click", () => saveCsv(figure));
  }
  $('#figure-strip_maps [data-control="map-site"]').addEventListener("change", (event) => setSite(event.target.value));
  const openScene = (id) => { state.scene = id; $("#scene").value = id; remember(); drawExplorer(); };
  $("#scene").addEventListener("change", (event) => openScene(event.target.value));
  for (const [button, step] of [["#previous", -1], ["#next", 1]]) {
    $(button).addEventListener("click", () => {
      const options = [...$("#scene").options], place = options.findIndex((option) => option.value === state.scene);
      if (options.length) openScene(options[(place + step + options.length) % options.length].value);
    });
  }
  for (const control of ["#overlay", "#map-site", "#boxes", "#numbers"]) $(control).addEventListener("change", drawExplorer);

  await Promise.all([show(), ...drawComparisons()]);
  root.dataset.ready = "true";
})();
