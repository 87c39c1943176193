// What the page does beyond lying there: the step slider, other layouts, the large view, the comparison, the charts
// and the sorting. The pictures, tables and texts are in the HTML already; this reads them where they are and keeps
// no second copy. Only numbers and labels come as JSON. The Content-Security-Policy forbids style attributes in markup,
// so that everything dynamic goes through element.style.

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const view = JSON.parse($("#data").textContent);
const { axes, runs, columns, seed } = view;
const column = Object.fromEntries(columns.map((c) => [c.key, c]));

// --- small helpers ---------------------------------------------------------------------------------------------------

/** Make an element; properties that are functions listen, `class` and anything with a dash is an attribute. */
function el(name, properties = {}, ...children) {
  return furnish(document.createElement(name), properties, children);
}

function svg(name, properties = {}, ...children) {
  return furnish(document.createElementNS("http://www.w3.org/2000/svg", name), properties, children);
}

function furnish(element, properties, children) {
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(key, value);
    else if (key === "style") for (const [name, v] of Object.entries(value)) element.style.setProperty(name, v);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const shortened = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
const images = ["content", "style"]; // the axes, and a run's inputs, that make a pair
const finite = (value) => typeof value === "number" && Number.isFinite(value);

/** Four significant digits, as the table has them; a real minus sign. */
function format(value) {
  const size = Math.abs(value);
  const far = size !== 0 && (size >= 1e6 || size < 1e-4);
  const digits = !far && size >= 1e4 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 4 };
  const notation = far ? "scientific" : "standard";
  return value.toLocaleString("en", { ...digits, notation, useGrouping: false }).toLowerCase().replaceAll("-", "−");
}

const textOf = (axis, index) => (index === null ? "–" : axes[axis].texts[index]);
const cellOf = runs.map((_, place) => document.getElementById(`picture-${place}`));
const stillOf = (place) => $("img.still", cellOf[place]);
const fullOf = (place) => {
  const href = $(".frame", cellOf[place]).getAttribute("href");
  return href.startsWith("#") ? null : href;
};

/** Make a group one stop of the Tab key, in which the arrow keys go to the nearest neighbour in their direction. */
function roving(container, selector) {
  const items = () => $$(selector, container);
  const settle = (chosen) => items().forEach((item) => item.setAttribute("tabindex", item === chosen ? "0" : "-1"));
  settle(items()[0]);
  if (container.dataset.roving) return;
  container.dataset.roving = "yes";
  container.addEventListener("focusin", (event) => {
    const item = event.target.closest(selector);
    if (item) settle(item);
  });
  container.addEventListener("keydown", (event) => {
    const from = event.target.closest?.(selector);
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!from || event.altKey || event.ctrlKey || event.metaKey) return;
    const all = items();
    let next = { Home: all[0], End: all.at(-1) }[event.key];
    if (way) {
      const middle = (item) => {
        const box = item.getBoundingClientRect();
        return [box.left + box.width / 2, box.top + box.height / 2];
      };
      const [x, y] = middle(from);
      let least = Infinity;
      for (const item of all) {
        const [dx, dy] = middle(item).map((v, i) => v - [x, y][i]);
        const along = dx * way[0] + dy * way[1];
        const aside = Math.abs(dx * way[1]) + Math.abs(dy * way[0]);
        if (along > 1 && along + 3 * aside < least) [next, least] = [item, along + 3 * aside];
      }
    }
    if (!next) return;
    event.preventDefault();
    next.focus();
    next.scrollIntoView({ block: "nearest", inline: "nearest" });
  });
}

/** Do it when the page has been shown, or before it is printed if that comes first. */
function soon(task) {
  let done = false;
  const once = () => {
    if (!done) task();
    done = true;
  };
  requestAnimationFrame(() => setTimeout(once));
  window.addEventListener("beforeprint", once);
}

// --- choices in the address ------------------------------------------------------------------------------------------

// What is chosen in a form stands in the address, by the words that are shown: report.html#table&across=style. So it
// outlives a reload and can be sent. Before it stands the place on the page, as in any address.
const words = () => location.hash.slice(1).split("&");
const placeOf = () => words().find((word) => !word.includes("=")) ?? "";
const chosen = new URLSearchParams(words().filter((word) => word.includes("=")).join("&"));
if (chosen.size) document.getElementById(placeOf())?.scrollIntoView();

const remember = () => history.replaceState(null, "", `#${[placeOf(), chosen].filter(String).join("&")}`);
window.addEventListener("hashchange", remember);

const wordOf = (control) => (control.type === "checkbox" ? String(control.checked) : control.selectedOptions[0]?.text);

/** Choose what the address says; without it, what is chosen now is the default, which is not written down. */
function restore(control) {
  control.dataset.default = wordOf(control);
  const word = chosen.get(control.name);
  if (control.type === "checkbox") control.checked = word === null ? control.checked : word === "true";
  else for (const option of control.options) if (option.text === word) control.value = option.value;
}

/** Choose as a person does. */
function choose(select, value) {
  select.value = value;
  select.dispatchEvent(new Event("change", { bubbles: true }));
}

document.addEventListener("change", ({ target }) => {
  if (!target.dataset.default) return;
  for (const control of $$("select, input[type=checkbox]", target.form)) {
    if (wordOf(control) === control.dataset.default) chosen.delete(control.name);
    else if (wordOf(control)) chosen.set(control.name, wordOf(control));
  }
  remember();
});

// --- theme, copying, where we are ------------------------------------------------------------------------------------

const root = document.documentElement;
const themes = ["auto", "light", "dark"];
function paintTheme() {
  $("#theme").textContent = `Theme: ${root.dataset.theme || "auto"}`;
}
$("#theme").addEventListener("click", () => {
  root.dataset.theme = themes[(themes.indexOf(root.dataset.theme || "auto") + 1) % themes.length];
  try {
    localStorage.setItem("nst-report-theme", root.dataset.theme);
  } catch {
    // Storage may be off for files; the choice then lasts as long as the page.
  }
  paintTheme();
});
paintTheme();

document.addEventListener("click", async (event) => {
  const button = event.target.closest(".copy");
  if (!button) return;
  const text = $("pre", button.parentElement);
  // A page from plain http has no clipboard; then the text is selected, to be copied by hand.
  if (navigator.clipboard) await navigator.clipboard.writeText(text.textContent);
  else getSelection().selectAllChildren(text);
  button.textContent = navigator.clipboard ? "Copied" : "Selected";
  setTimeout(() => (button.textContent = "Copy"), 1500);
});

const marks = new Map($$(".bar a").map((link) => [link.hash.slice(1), link]));
const reading = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const other of marks.values()) other.removeAttribute("aria-current");
      marks.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  },
  { rootMargin: "-30% 0px -65% 0px" },
);
$$("header, main > section").forEach((part) => reading.observe(part));

// --- the step slider -------------------------------------------------------------------------------------------------

// A film is one JPEG with a run's previews side by side. The slider's positions are all steps of all runs; a run whose
// steps differ shows its latest picture at or before the position. At its end a run shows its larger final picture.
const positions = [...new Set(runs.flatMap((run) => run.steps))].sort((a, b) => a - b);
const inSight = new Set();
let position = positions.length - 1;

function filmOf(cell, count) {
  let film = $(".film", cell);
  if (!film) {
    film = el("img", { class: "film", alt: "" });
    film.src = cell.dataset.film;
    delete cell.dataset.film;
    $(".still", cell).after(film);
    // The shape of one picture follows from the frame, so that rounding cannot show a neighbour's edge.
    film.style.width = `${count * 100}%`;
  }
  return film;
}

function showStep(cell) {
  const place = Number(cell.dataset.run);
  const { steps } = runs[place];
  if (!steps.length) return;
  const k = Math.max(0, steps.findLastIndex((step) => step <= positions[position]));
  if (k === steps.length - 1) {
    const film = $(".film", cell);
    if (film) film.hidden = true;
  } else {
    const film = filmOf(cell, steps.length);
    film.hidden = false;
    film.style.transform = `translateX(${(-100 * k) / steps.length}%)`;
  }
  let note = $(".note", cell);
  const text = steps[k] === positions[position] ? "" : `step ${steps[k]}`;
  if (!note && text) $(".frame", cell).append((note = el("span", { class: "note" })));
  if (note && note.textContent !== text) note.textContent = text;
}

function goTo(index) {
  position = index;
  const last = index === positions.length - 1;
  const text = last ? `final, step ${positions[index]}` : `step ${positions[index]}`;
  const slider = $("#step");
  slider.value = index;
  slider.setAttribute("aria-valuetext", text);
  $("#step-text").textContent = text;
  inSight.forEach(showStep); // the others follow when they come into sight
}

if ($("#scrubber")) {
  const sight = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (entry.isIntersecting) {
          inSight.add(entry.target);
          showStep(entry.target);
        } else inSight.delete(entry.target);
      }
    },
    { rootMargin: "100px" },
  );
  cellOf.forEach((cell) => sight.observe(cell));
  const slider = $("#step");
  const play = $("#play");
  let timer = 0;
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    play.setAttribute("aria-pressed", "false");
  };
  slider.max = positions.length - 1;
  slider.addEventListener("input", () => {
    stop();
    goTo(Number(slider.value));
  });
  slider.addEventListener("change", () => {
    if (position === positions.length - 1) chosen.delete("step");
    else chosen.set("step", positions[position]);
    remember();
  });
  play.addEventListener("click", () => {
    if (timer) return stop();
    play.setAttribute("aria-pressed", "true");
    goTo(position === positions.length - 1 ? 0 : position + 1);
    timer = setInterval(() => {
      goTo(position + 1);
      if (position === positions.length - 1) stop();
    }, 600);
  });
  const asked = chosen.has("step") ? positions.indexOf(Number(chosen.get("step"))) : -1;
  goTo(asked < 0 ? position : asked);
}

// --- other layouts of the pictures -----------------------------------------------------------------------------------

const matrix = $("#matrix");
const layout = $("#layout");

function face(axis, value) {
  const item = value === null ? null : view.faces[axis][value];
  const thumb = item === null ? null : $(`#input-${item} img`);
  return thumb ? el("img", { class: "face", src: thumb.src, alt: "" }) : null;
}

function valuesOf(axis) {
  const none = runs.some((run) => run.axis[axis] === null) ? [null] : [];
  return [...axes[axis].texts.keys(), ...none];
}

/** A name that may be broken after its dots and underscores. */
const breakable = (name) => name.split(/(?<=[._])/).flatMap((part) => [el("wbr"), part]);

const repeats = new Map(view.repeats.map(([first]) => [first, document.getElementById(`repeat-${first}`)]));
const picked = (axis) => layout[`only-${axes[axis].key}`]?.value || null;

/** Lay the pictures out anew. The same elements move, so that nothing is decoded again. */
function lay() {
  const only = seed === null ? null : picked(seed);
  const isShown = (place) => runs[place].axis[seed] === Number(only);
  for (const [place, cell] of cellOf.entries()) cell.hidden = only !== null && !isShown(place);
  for (const list of $$(".spread")) {
    const { of } = list.dataset; // a run; none for those of all seeds
    list.hidden = of === undefined ? only !== null : only === null || !isShown(of);
  }
  if (!layout.across) return;
  const across = Number(layout.across.value);
  const down = Number(layout.down.value);
  const others = [...axes.keys()].filter((i) => i !== across && i !== down && i !== seed);
  for (const label of $$(".facet-value", layout))
    label.hidden = [across, down].includes(Number(label.dataset.axis));
  const keyOf = (place) => others.map((i) => runs[place].axis[i]);
  const places = [...repeats.keys()].filter((place) =>
    others.every((i) => picked(i) === null || runs[place].axis[i] === Number(picked(i))),
  );
  places.sort((a, b) => {
    const [x, y] = [keyOf(a), keyOf(b)];
    const i = x.findIndex((value, n) => value !== y[n]);
    return i < 0 ? a - b : (x[i] ?? Infinity) - (y[i] ?? Infinity);
  });
  const head = (scope, axis, value) =>
    el("th", { scope }, face(axis, value), el("span", {}, ...breakable(textOf(axis, value))));
  const made = [...Map.groupBy(places, (place) => keyOf(place).join()).values()].map((those) => {
    const heading = keyOf(those[0])
      .map((value, n) => `${axes[others[n]].label} = ${textOf(others[n], value)}`)
      .join(", ");
    const top = el(
      "tr",
      {},
      el(
        "td",
        { class: "corner" },
        el("span", {}, "↓\u00a0", ...breakable(axes[down].label)),
        " ",
        el("span", {}, "→\u00a0", ...breakable(axes[across].label)),
      ),
      ...valuesOf(across).map((value) => head("col", across, value)),
    );
    const rows = valuesOf(down).map((row) =>
      el(
        "tr",
        {},
        head("row", down, row),
        ...valuesOf(across).map((value) => {
          const here = those.find((place) => runs[place].axis[down] === row && runs[place].axis[across] === value);
          return el("td", {}, repeats.get(here) ?? el("span", { class: "none" }, "no run"));
        }),
      ),
    );
    const caption = `Pictures: ${axes[across].label} across, ${axes[down].label} down${heading && `, ${heading}`}`;
    const grid = el(
      "table",
      { class: "grid" },
      el("caption", { class: "hidden" }, caption),
      el("thead", {}, top),
      el("tbody", {}, ...rows),
    );
    return el("div", { class: "facet" }, heading ? el("h3", {}, heading) : null, el("div", { class: "scroll" }, grid));
  });
  root.style.setProperty("--columns", valuesOf(across).length);
  matrix.replaceChildren(...(made.length ? made : [el("p", { class: "quiet" }, "No run has these values.")]));
  roving(matrix, ".frame");
}

if (layout) {
  let before = [];
  const { across, down } = layout;
  layout.addEventListener("change", ({ target }) => {
    // The same axis in both directions: the other one takes the place that became free.
    const first = target === across;
    if (across && across.value === down.value) (first ? down : across).value = before[first ? 0 : 1];
    before = [across?.value, down?.value];
    lay();
  });
  for (const control of layout.elements) restore(control);
  before = [across?.value, down?.value];
  if ([...layout.elements].some((control) => chosen.has(control.name))) lay();
}
if (matrix) roving(matrix, ".frame");

/** Make sure that a picture is on the page, and not filtered away by a picker. */
function reveal(place) {
  if (cellOf[place].isConnected && !cellOf[place].hidden) return;
  for (const select of $$(".facet-value select", layout)) choose(select, "");
}

// --- the large view --------------------------------------------------------------------------------------------------

const viewer = $("#viewer");
let viewed = 0;

/** Show a run's final picture: its preview at once, the file beside the page as soon as it is there. */
function showPicture(image, place) {
  image.dataset.place = place;
  const still = stillOf(place);
  image.src = still.src;
  const full = fullOf(place);
  if (!full || still.naturalWidth >= image.clientWidth * devicePixelRatio) return;
  const probe = new Image();
  probe.src = full;
  // Without the folder beside it, as on a course page, the preview has to do.
  probe.decode().then(
    () => image.dataset.place === String(place) && (image.src = probe.src),
    () => {},
  );
}

const textInTable = (place, c) => $(`#results tr[data-run="${place}"]`).cells[1 + columns.indexOf(c)].textContent;

function order() {
  const shown = $$(".cell:not([hidden])", matrix).map((cell) => Number(cell.dataset.run));
  return shown.includes(viewed) ? shown : [...runs.keys()];
}

function fillViewer(place) {
  viewed = place;
  const run = runs[place];
  const all = order();
  const image = $("#viewer-image");
  const picture = stillOf(place) !== null;
  image.hidden = !picture;
  image.alt = run.label;
  if (picture) showPicture(image, place);
  $("#viewer-nothing").textContent = picture ? "" : "No picture";
  $("#viewer-place").textContent = `Run ${run.id} · ${all.indexOf(place) + 1} of ${all.length}`;
  $("#viewer-title").textContent = run.label;
  const state = run.status === "done" ? "" : [run.status, run.reason].filter(Boolean).join(": ");
  $("#viewer-state").textContent = state;
  const several = new Set(columns.map((c) => c.evaluator)).size > 2; // one of them is none
  const scores = columns.filter((c) => (c.kind === "score" || c.kind === "loss") && finite(run.values[c.key]));
  $("#viewer-scores").replaceChildren(
    ...scores.map((c) => {
      const by = c.evaluator && several ? el("span", { class: "quiet" }, ` ${c.evaluator}`) : null;
      return el("div", {}, el("dt", { title: c.help }, c.label, by ?? ""), el("dd", {}, textInTable(place, c)));
    }),
  );
  $("#viewer-inputs").replaceChildren(
    ...images.flatMap((kind) => {
      const thumb = $(`#input-${view.inputs.findIndex((input) => input.id === run[kind])} img`);
      return thumb ? [el("figure", {}, el("img", { src: thumb.src, alt: "" }), el("figcaption", {}, kind))] : [];
    }),
  );
  const full = fullOf(place);
  $("#viewer-full").hidden = full === null;
  if (full !== null) $("#viewer-full").href = full;
  $("#viewer-details").href = `#run-${place}`;
  for (const button of $$("[data-wipe]", viewer)) button.disabled = !picture;
  tellWipe();
}

function openViewer(place) {
  if (!viewer.open) viewer.showModal(); // first, since how large the picture is depends on it
  fillViewer(place);
}

function turn(by) {
  const all = order();
  fillViewer(all[(all.indexOf(viewed) + by + all.length) % all.length]);
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (link.matches(".frame, .to-picture, .point")) {
    event.preventDefault();
    openViewer(Number(link.dataset.of ?? link.closest("[data-run]").dataset.run));
    return;
  }
  const hash = link.getAttribute("href") ?? "";
  const [, kind, number] = /^#(run|picture)-(\d+)$/.exec(hash) ?? [];
  if (viewer.open && hash.startsWith("#")) viewer.close();
  if (kind === "run") openDetails(Number(number));
  if (kind === "picture") reveal(Number(number));
});
$("#viewer-image").addEventListener("load", ({ target }) => {
  target.style.setProperty("--widest", `${4 * target.naturalWidth}px`);
  target.style.setProperty("--tallest", `${4 * target.naturalHeight}px`);
});
$("#viewer-close").addEventListener("click", () => viewer.close());
$("#viewer-previous").addEventListener("click", () => turn(-1));
$("#viewer-next").addEventListener("click", () => turn(1));
viewer.addEventListener("click", (event) => event.target === viewer && viewer.close());
viewer.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (by) turn(by);
});
// The browser gives the focus back to where it was; after leafing, the picture that was seen last is the better place.
viewer.addEventListener("close", () => {
  if (matrix.contains(document.activeElement) && cellOf[viewed].isConnected) $(".frame", cellOf[viewed]).focus();
});

// --- two pictures, one divider ---------------------------------------------------------------------------------------

const wipe = $("#wipe");

function tellWipe() {
  if (!wipe) return;
  for (const button of $$("[data-wipe]", viewer)) {
    const chosen = $(`#wipe-${button.dataset.wipe}`).value === `run-${viewed}`;
    button.setAttribute("aria-pressed", String(chosen));
  }
}

function showWipe() {
  for (const side of ["a", "b"]) {
    const select = $(`#wipe-${side}`);
    const image = $(`img.${side}`, wipe);
    const [kind, place] = select.value.split("-");
    image.hidden = false;
    image.alt = select.selectedOptions[0].textContent;
    if (kind === "run") showPicture(image, Number(place));
    else {
      image.dataset.place = "";
      image.src = $(`#input-${place} img`).src;
    }
  }
  const name = (side) => $(`#wipe-${side}`).selectedOptions[0].textContent;
  $("#wipe-text").textContent = `Left of the line: A, ${name("a")}. Right of it: B, ${name("b")}.`;
  $("#divide").setAttribute("aria-label", `Divider between A, ${name("a")}, and B, ${name("b")}`);
  tellWipe();
}

if (wipe) {
  const entries = {
    Runs: [...runs.keys()].filter(stillOf).map((place) => [`run-${place}`, runs[place].label]),
    Inputs: view.inputs
      .map((input, i) => [`input-${i}`, `${input.kind}: ${input.name}`])
      .filter(([id]) => $(`#${id} img`)),
  };
  for (const [n, side] of ["a", "b"].entries()) {
    const select = $(`#wipe-${side}`);
    for (const [label, list] of Object.entries(entries).filter(([, list]) => list.length))
      select.append(el("optgroup", { label }, ...list.map(([value, text]) => el("option", { value }, text))));
    select.value = view.compared[n];
    restore(select);
    select.addEventListener("change", showWipe);
  }
  $("img.a", wipe).addEventListener("load", (event) => {
    wipe.style.aspectRatio = `${event.target.naturalWidth} / ${event.target.naturalHeight}`;
    wipe.style.setProperty("--ratio", event.target.naturalWidth / event.target.naturalHeight);
    wipe.style.maxWidth = `${Math.max(320, 3 * event.target.naturalWidth)}px`; // no postage stamp as a poster
  });
  $("#swap").addEventListener("click", () => {
    const [a, b] = [$("#wipe-a"), $("#wipe-b")];
    const was = a.value;
    choose(a, b.value);
    choose(b, was);
  });
  $("#divide").addEventListener("input", ({ target }) => wipe.style.setProperty("--at", `${target.value}%`));
  for (const button of $$("[data-wipe]", viewer))
    button.addEventListener("click", () => choose($(`#wipe-${button.dataset.wipe}`), `run-${viewed}`));
  soon(showWipe);
}

// --- colours ---------------------------------------------------------------------------------------------------------

// Numbers are coloured along a ramp whose lightness changes all the way, which every kind of colour vision can follow;
// names get distinct colours. A second axis is told by dashes, or by the shape of points. The colours
// are CSS properties: they follow the theme.
const DASHES = ["none", "7 4", "2 3", "9 3 2 3"];
const numeric = (axis) => axes[axis].numbers !== null;
const isKnob = (i) => i !== seed || axes.length === 1;
const knobs = [...axes.keys()].filter(isKnob).sort((a, b) => numeric(b) - numeric(a));

function ramp(t) {
  const k = Math.min(3, Math.floor(t * 4));
  const percent = Math.round((t * 4 - k) * 100);
  return `color-mix(in oklab, var(--ramp-${k + 1}) ${percent}%, var(--ramp-${k}))`;
}

/** The colour of a value of an axis: by rank, so that close values stay apart. */
function colourOf(axis, value) {
  if (value === null) return "var(--soft)";
  if (!numeric(axis)) return `var(--hue-${value % 8})`;
  const ranked = [...axes[axis].numbers.keys()].sort((a, b) => axes[axis].numbers[a] - axes[axis].numbers[b]);
  return ramp(ranked.length < 2 ? 0.3 : ranked.indexOf(value) / (ranked.length - 1));
}

function lookOf(place, { colour, dash }) {
  if (!axes.length)
    return { colour: runs.length <= 8 ? `var(--hue-${place})` : ramp(place / (runs.length - 1)), kind: 0 };
  const { axis } = runs[place];
  return { colour: colourOf(colour, axis[colour]), kind: dash === null ? 0 : kindOf(axis[dash]) };
}

/** The axis that colours, and that of few values which dashes, of those that there are: names twice, for grey paper. */
function told(among, colour = among[0] ?? knobs[0]) {
  const second = among.find((axis) => axis !== colour && axes[axis].texts.length <= 4);
  return { colour, dash: second ?? (axes.length && !numeric(colour) ? colour : null) };
}

/** Which of the four dashes or shapes stands for a value of the second axis. */
const kindOf = (value) => (value === null ? 0 : value % 4);

/** The outline of a disc, square, triangle or rhombus of about the same area. */
function shape(kind, x, y, r) {
  if (kind === 0) return `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`;
  const [a, b] = [0.9 * r, 1.25 * r];
  if (kind === 1) return `M${x - a} ${y - a}h${2 * a}v${2 * a}h${-2 * a}z`;
  if (kind === 2) return `M${x} ${y - b}L${x + b} ${y + a}H${x - b}z`;
  return `M${x} ${y - b}L${x + b} ${y}L${x} ${y + b}L${x - b} ${y}z`;
}

function swatch({ colour, kind }, points) {
  const mark = points
    ? svg("path", { d: shape(kind, 12, 6, 5), style: { "--c": colour } })
    : svg("line", { x1: 0, x2: 24, y1: 6, y2: 6, style: { stroke: colour, "stroke-dasharray": DASHES[kind] } });
  return svg("svg", { class: "swatch", viewBox: "0 0 24 12", "aria-hidden": "true" }, mark);
}

/** Buttons beside a chart: for each value of the axes that colour and dash, and one for each run (or line).
 *
 * Hovering or focusing one brings its lines forward, a click keeps them there. Returns how to go back to what is kept.
 */
function makeKey(host, groups, highlight, points = false) {
  let kept = null;
  const rest = () => highlight(kept ? kept.members : null);
  const button = (entry) => {
    const over = () => highlight(entry.members);
    const keep = ({ currentTarget }) => {
      kept = kept === entry ? null : entry;
      for (const other of $$("button", host))
        other.setAttribute("aria-pressed", kept !== null && other === currentTarget);
      rest();
    };
    const events = { pointerenter: over, pointerleave: rest, focus: over, blur: rest, click: keep };
    const about = { type: "button", "aria-pressed": "false", ...events };
    return el("button", about, swatch(entry, points), el("span", {}, entry.text));
  };
  host.parentElement.classList.toggle("alone", !groups.length);
  host.replaceChildren(
    ...groups.map(({ title, entries, tall }) =>
      el(
        "div",
        { class: tall ? "group tall" : "group", role: "group", "aria-label": title },
        el("p", { class: "over" }, title),
        el("div", { class: "entries" }, ...entries.map(button)),
      ),
    ),
  );
  for (const entries of $$(".entries", host)) {
    if (entries.children.length) roving(entries, "button");
    if (entries.scrollHeight > entries.clientHeight + 1) entries.previousSibling.append(" · scroll to see all");
  }
  return rest;
}

/** The groups of a key for runs: values of the axes that colour and dash, and the settings; those that differ in other
 * axes only (the seed, or the images where each pair has a chart of its own) are one entry. */
function runGroups(places, looks, among) {
  const settingOf = (place) =>
    among
      .filter((i) => runs[place].axis[i] !== null)
      .map((i) => `${axes[i].label}=${textOf(i, runs[place].axis[i])}`)
      .join(", ") || runs[place].label;
  const entries = [...Map.groupBy(places, settingOf)].map(([text, those]) => ({
    text: those.length > 1 ? `${text} (${those.length} runs)` : text,
    ...lookOf(those[0], looks),
    members: new Set(those),
  }));
  const all = { title: `${places.length} run${places.length > 1 ? "s" : ""}`, entries, tall: true };
  if (!axes.length || entries.length <= 12) return [all];
  const shown = [...new Set([looks.colour, looks.dash])].filter((axis) => axis !== null);
  return [
    ...shown.map((axis) => ({
      title: axes[axis].label,
      entries: valuesOf(axis).map((value) => ({
        text: textOf(axis, value),
        colour: axis === looks.colour ? colourOf(axis, value) : "var(--soft)",
        kind: axis === looks.dash ? kindOf(value) : 0,
        members: new Set(places.filter((place) => runs[place].axis[axis] === value)),
      })),
    })),
    all,
  ];
}

// --- charts ----------------------------------------------------------------------------------------------------------

/** Map a domain to pixels. A logarithmic one has to be positive. */
function scale([low, high], [from, to], log) {
  const f = log ? Math.log10 : (value) => value;
  const [a, b] = [f(low), f(high)];
  const span = b - a || 1;
  return (value) => from + ((f(value) - a) / span) * (to - from);
}

function ticks([low, high], log, count = 5) {
  if (log) {
    const [a, b] = [Math.log10(low), Math.log10(high)];
    if (b - a >= 0.9) {
      const factors = b - a < 2 ? [1, 2, 5] : [1];
      const every = Math.max(1, Math.ceil((b - a) / count));
      const found = [];
      for (let k = Math.floor(a); k <= Math.ceil(b); k += 1)
        for (const factor of factors) if (k % every === 0 || factors.length > 1) found.push(Number(`${factor}e${k}`));
      const inside = found.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
      if (inside.length > 1) return inside;
    }
  }
  const rough = (high - low || Math.abs(high) || 1) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, k) =>
    Number(((first + k) * step).toPrecision(12)),
  );
}

/** Widen a domain so that no point lies on the edge. */
function widened(values, log, share = 0.05) {
  const [to, from] = log ? [Math.log10, (value) => 10 ** value] : [Number, Number];
  const known = values.filter((value) => finite(value) && (!log || value > 0)).map(to);
  if (!known.length) return log ? [0.1, 1] : [0, 1];
  const [low, high] = [Math.min, Math.max].map((most) => known.reduce((a, b) => most(a, b)));
  const room = (high - low) * share || (log ? 0.3 : Math.abs(high) * share || 1);
  return [from(low - room), from(high + room)];
}

/** An empty chart with axes.
 *
 * x and y: {domain, log, label, ticks: [[value, text]]?}. Returns its parts and the two scales.
 */
function frame(host, x, y, height) {
  const width = Math.max(260, host.clientWidth);
  const xTicks =
    x.ticks ?? ticks(x.domain, x.log, Math.max(3, Math.floor(width / 110))).map((tick) => [tick, format(tick)]);
  const yTicks = y.ticks ?? ticks(y.domain, y.log, 5).map((tick) => [tick, format(tick)]);
  const left = 14 + 7.2 * Math.max(3, ...yTicks.map(([, text]) => text.length));
  const box = { left, right: width - 14, top: 34, bottom: height - 52 };
  const px = scale(x.domain, [box.left, box.right], x.log);
  const py = scale(y.domain, [box.bottom, box.top], y.log);
  const back = svg("g", { class: "axes", "aria-hidden": "true" });
  for (const [value, text] of yTicks) {
    back.append(svg("line", { x1: box.left, x2: box.right, y1: py(value), y2: py(value) }));
    back.append(svg("text", { x: box.left - 8, y: py(value) + 4, class: "left" }, text));
  }
  let free = -Infinity; // labels that would touch are left out; their tick stays
  for (const [value, text] of xTicks) {
    const half = 3.6 * text.length;
    const at = Math.min(Math.max(px(value), half), width - half);
    back.append(svg("line", { class: "tick", x1: px(value), x2: px(value), y1: box.bottom, y2: box.bottom + 5 }));
    if (at - half < free) continue;
    back.append(svg("text", { x: at, y: box.bottom + 20, class: "middle" }, text));
    free = at + half + 8;
  }
  back.append(svg("line", { class: "base", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
  back.append(svg("text", { x: 0, y: 14, class: "name" }, shortened(y.label, width / 7)));
  back.append(svg("text", { x: box.right, y: height - 8, class: "name right" }, shortened(x.label, width / 7)));
  const front = svg("g", { class: "marks" });
  const about = { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "xMinYMid", width, height };
  const picture = svg("svg", about, back, front);
  host.replaceChildren(picture);
  return { picture, back, front, px, py, box, width, height };
}

/** Draw when the page has been shown, and again whenever the chart's width changes. */
function chart(name, draw) {
  const host = $(`[data-chart="${name}"]`);
  let width = 0;
  const drawNow = () => {
    if (!host.clientWidth || Math.abs(host.clientWidth - width) < 1) return;
    width = host.clientWidth;
    draw(host);
  };
  soon(() => {
    drawNow();
    new ResizeObserver(drawNow).observe(host);
  });
}

/** Dim all marks but those of some runs (or lines); null: none is dimmed. */
function dim(picture, members) {
  picture.classList.toggle("some", members !== null);
  for (const mark of $$("[data-of]", picture))
    mark.classList.toggle("on", members !== null && members.has(Number(mark.dataset.of)));
}

function fill(select, entries, first = entries[0]?.[0]) {
  select.replaceChildren(...entries.map(([value, text]) => el("option", { value }, text)));
  select.value = first;
  restore(select);
}

// --- loss curves -----------------------------------------------------------------------------------------------------

const curvesForm = $("#curves-form");
if (curvesForm) {
  const curves = JSON.parse($("#curve-data").textContent);
  const lossName = (name) => {
    const [kind, what] = name.split("/");
    return `${what} (${kind === "loss" ? "weighted" : kind})`;
  };
  const names = [...new Set(curves.flatMap((curve) => (curve ? Object.keys(curve.series) : [])))];
  // With the weights themselves swept, weighted losses of different runs say little beside each other.
  const weighted = axes.some((axis) => ["alpha", "beta", "tv"].includes(axis.key));
  const first = weighted && names.includes("unweighted/style") ? "unweighted/style" : names[0];
  fill(
    curvesForm.loss,
    names.map((name) => [name, lossName(name)]),
    first,
  );
  fill(
    curvesForm.colour,
    knobs.map((axis) => [axis, axes[axis].label]),
  );
  $(".colour", curvesForm).hidden = knobs.length < 2;
  restore(curvesForm.x);
  restore(curvesForm.log);
  const draw = (host) => {
    const loss = curvesForm.loss.value;
    const against = curvesForm.x.value;
    const looks = told(knobs, Number(curvesForm.colour.value || 0));
    const places = [...runs.keys()].filter((place) => curves[place]?.series[loss]);
    const ys = places.flatMap((place) => curves[place].series[loss]);
    const log = curvesForm.log.checked && ys.some((value) => value > 0);
    const xs = places.flatMap((place) => curves[place][against]);
    const x = {
      domain: [0, xs.reduce((most, value) => Math.max(most, value), 1e-9)],
      label: $(`[value=${against}]`, curvesForm.x).textContent,
    };
    const made = frame(host, x, { domain: widened(ys, log), log, label: `${lossName(loss)} loss` }, 420);
    const points = new Map();
    for (const place of places) {
      const { colour, kind } = lookOf(place, looks);
      const values = curves[place].series[loss];
      const of = [];
      let path = "";
      let pen = "M";
      curves[place][against].forEach((at, i) => {
        if (!finite(at) || !finite(values[i]) || (log && values[i] <= 0)) return void (pen = "M"); // a gap
        const [px, py] = [made.px(at), made.py(values[i])];
        path += `${pen}${px.toFixed(1)} ${py.toFixed(1)}`;
        pen = "L";
        of.push([px, py, at, values[i]]);
      });
      points.set(place, of);
      const style = { stroke: colour, "stroke-dasharray": DASHES[kind] };
      made.front.append(svg("path", { d: path || "M0 0", "data-of": place, style }));
    }
    made.picture.classList.toggle("many", places.length > 20);
    made.picture.setAttribute("role", "img");
    made.picture.setAttribute(
      "aria-label",
      `${lossName(loss)} loss against ${x.label}: ${places.length} lines. The final values are in the table.`,
    );
    const dot = svg("circle", { class: "dot", r: 4, hidden: true });
    made.front.append(dot);
    const reading = $('[data-reading="curves"]');
    const groups = runGroups(places, looks, [...axes.keys()].filter(isKnob));
    const rest = makeKey($('[data-key="curves"]'), groups, (members) => dim(made.picture, members));
    const leave = () => {
      dot.setAttribute("hidden", "");
      reading.textContent = "";
      rest();
    };
    made.picture.addEventListener("pointerleave", leave);
    made.picture.addEventListener("pointermove", (event) => {
      const box = made.picture.getBoundingClientRect();
      const zoom = made.width / box.width;
      const [mx, my] = [(event.clientX - box.left) * zoom, (event.clientY - box.top) * zoom];
      let nearest = null;
      let least = 30 ** 2;
      for (const [place, of] of points)
        for (const one of of) {
          const distance = (one[0] - mx) ** 2 + (one[1] - my) ** 2;
          if (distance < least) [nearest, least] = [[place, ...one], distance];
        }
      if (!nearest) return leave();
      const [place, cx, cy, at, value] = nearest;
      dim(made.picture, new Set([place]));
      dot.removeAttribute("hidden");
      dot.setAttribute("cx", cx);
      dot.setAttribute("cy", cy);
      dot.style.setProperty("fill", lookOf(place, looks).colour);
      reading.textContent = `${runs[place].label}: ${format(value)} at ${format(at)} ${against.replace(/p$/, "ps")}`;
    });
  };
  chart("curves", draw);
  curvesForm.addEventListener("change", () => draw($('[data-chart="curves"]')));
}

// --- effect of a parameter -------------------------------------------------------------------------------------------

const columnName = (c) =>
  [c.label, c.unit && `(${c.unit})`, c.evaluator && `· ${c.evaluator}`].filter(Boolean).join(" ");
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
/** The standard deviation of a sample: divided by one less than its number. */
const deviation = (values, middle) =>
  values.length < 2 ? 0 : Math.sqrt(values.reduce((sum, v) => sum + (v - middle) ** 2, 0) / (values.length - 1));

const effectForm = $("#effect-form");
if (effectForm) {
  const measured = columns.filter(
    (c) => ["score", "loss", "cost"].includes(c.kind) && runs.some((run) => finite(run.values[c.key])),
  );
  fill(
    effectForm.metric,
    measured.map((c) => [c.key, columnName(c)]),
  );
  fill(
    effectForm.axis,
    knobs.map((axis) => [axis, axes[axis].label]),
  );
  const fillLines = () => {
    const others = knobs.filter((axis) => axis !== Number(effectForm.axis.value));
    const single = others.length > 1 ? others.map((axis) => [axis]) : [];
    const choices = others.length ? [others, ...single, []] : [[]];
    const words = (list) => list.map((axis) => axes[axis].label).join(" and ") || "nothing: one line";
    fill(
      effectForm.lines,
      choices.map((list) => [list.join(), words(list)]),
    );
    effectForm.lines.closest("label").hidden = choices.length < 2;
  };
  fillLines();
  const draw = (host) => {
    const metric = column[effectForm.metric.value];
    if (!metric)
      return void host.replaceChildren(el("p", { class: "quiet" }, "No run has a score, a loss or a cost yet."));
    const axis = Number(effectForm.axis.value);
    const by = effectForm.lines.value === "" ? [] : effectForm.lines.value.split(",").map(Number);
    const usable = [...runs.keys()].filter(
      (place) => finite(runs[place].values[metric.key]) && runs[place].axis[axis] !== null,
    );
    const { texts, label } = axes[axis];
    const numbers = axes[axis].numbers ?? [...texts.keys()]; // names stand in their order
    const named = axes[axis].numbers === null;
    const { log } = axes[axis];
    const grouped = Map.groupBy(usable, (place) => by.map((i) => runs[place].axis[i]).join());
    const lines = [...grouped.values()].map((places) => {
      const key = by.map((i) => runs[places[0]].axis[i]);
      const marks = [...Map.groupBy(places, (place) => runs[place].axis[axis])].map(([value, those]) => {
        const values = those.map((place) => runs[place].values[metric.key]);
        const middle = mean(values);
        const spread = deviation(values, middle);
        return { x: numbers[value], value, middle, low: middle - spread, high: middle + spread, count: values.length };
      });
      return {
        marks: marks.sort((a, b) => a.x - b.x),
        text: by.map((i, k) => `${axes[i].label}=${textOf(i, key[k])}`).join(", ") || "all runs",
        colour: by.length ? colourOf(by[0], key[0]) : "var(--accent)",
        kind: by.length > 1 ? kindOf(key[1]) : by.length && !numeric(by[0]) ? kindOf(key[0]) : 0,
      };
    });
    const all = lines.flatMap((line) => line.marks);
    const most = Math.max(0, ...all.map((mark) => mark.count));
    const x = {
      domain: named ? [-0.5, texts.length - 0.5] : widened(numbers, log, 0.06),
      log,
      label: log ? `${label} (logarithmic)` : label,
      ticks: texts.map((text, i) => [numbers[i], shortened(text, 18)]).sort((a, b) => a[0] - b[0]),
    };
    const reached = all.flatMap((mark) => [mark.low, mark.high]);
    const y = { domain: widened(reached, false, 0.08), label: columnName(metric) };
    const { picture, front, px, py } = frame(host, x, y, 400);
    lines.forEach((line, n) => {
      // Where there are bars, lines stand a little beside each other, so that the bars can be told apart.
      const shift = (most > 1) * (n - (lines.length - 1) / 2) * Math.min(5, 40 / lines.length);
      const where = (mark) => (px(mark.x) + shift).toFixed(1);
      const path = line.marks.map((mark, i) => `${i ? "L" : "M"}${where(mark)} ${py(mark.middle).toFixed(1)}`).join("");
      const look = { class: named ? "line names" : "line", "data-of": n, style: { "--c": line.colour } };
      const group = svg("g", look, svg("path", { d: path, style: { "stroke-dasharray": DASHES[line.kind] } }));
      for (const mark of line.marks) {
        const [at, low, high] = [where(mark), py(mark.low), py(mark.high)];
        const bar = `M${at} ${low}V${high}m-3 0h6M${at} ${low}m-3 0h6`;
        if (mark.count > 1) group.append(svg("path", { class: "bar", d: bar }));
        const spread = mark.count > 1 ? ` ± ${format(mark.high - mark.middle)} (${mark.count} runs)` : "";
        const words = `${line.text}, ${label} ${textOf(axis, mark.value)}: ${format(mark.middle)}${spread}`;
        group.append(svg("circle", { cx: at, cy: py(mark.middle), r: 3.5 }, svg("title", {}, words)));
      }
      front.append(group);
    });
    const averaged = [...axes.keys()].filter((i) => i !== axis && !by.includes(i)).map((i) => axes[i].label);
    const better = metric.better ? ` ${metric.better === "lower" ? "Lower" : "Higher"} is better.` : "";
    const over = averaged.length ? ` over ${averaged.join(" and ")}` : "";
    $("#effect-text").textContent =
      most > 1
        ? `Each point is the mean of up to ${most} runs${over}, the bar one standard deviation to either side.${better}`
        : `Each point is one run, so that there is no spread to show.${better}`;
    const entries = lines.map((line, n) => ({ ...line, members: new Set([n]) }));
    const groups = lines.length > 1 ? [{ title: "Lines", entries, tall: true }] : [];
    makeKey($('[data-key="effect"]'), groups, (members) => dim(picture, members));
  };
  chart("effect", draw);
  effectForm.addEventListener("change", (event) => {
    if (event.target.name === "axis") fillLines();
    draw($('[data-chart="effect"]'));
  });
}

// --- content against style -------------------------------------------------------------------------------------------

const reach = (values) => {
  // Zero is shown where the points are not far from it, for then their distances can be compared by eye.
  const [low, high] = widened(values, false, 0.08);
  return low < 0.6 * high ? [Math.min(0, low), high] : [low, high];
};

/** Draw the runs of one pair of images, and the front of those that no other one beats. */
function scatter(host, { x: xKey, y: yKey }, { pair, runs: places, front }, looks) {
  const onFront = new Set(front);
  const points = places.map((place) => ({ place, x: runs[place].values[xKey], y: runs[place].values[yKey] }));
  const xs = { domain: reach(points.map((point) => point.x)), label: "content distance (lower is better)" };
  const ys = { domain: reach(points.map((point) => point.y)), label: "style distance (lower is better)" };
  const made = frame(host, xs, ys, Math.round(Math.min(560, Math.max(360, host.clientWidth * 0.7))));
  const { px, py, box } = made;
  if (1 > xs.domain[0] && 1 < xs.domain[1])
    made.back.append(svg("line", { class: "anchor", x1: px(1), x2: px(1), y1: box.top, y2: box.bottom }));
  if (1 > ys.domain[0] && 1 < ys.domain[1])
    made.back.append(svg("line", { class: "anchor", x1: box.left, x2: box.right, y1: py(1), y2: py(1) }));
  // As a staircase: what lies above and to the right of it is beaten by one of its corners.
  const best = front.map((place) => points.find((point) => point.place === place));
  const stairs = best.map(({ x, y }, i) => `${i ? `H${px(x)}` : `M${px(x)} ${box.top}`}V${py(y)}`).join("");
  made.front.append(svg("path", { class: "stairs", d: `${stairs}H${box.right}` }));
  const tip = el("div", { class: "tip", hidden: true });
  const hide = () => (tip.hidden = true);
  // Points of the front last: on top, and not hidden by others.
  points.sort((a, b) => onFront.has(a.place) - onFront.has(b.place) || a.place - b.place);
  for (const { place, x, y } of points) {
    const words = `content ${format(x)}, style ${format(y)}${onFront.has(place) ? ", on the front" : ""}`;
    const show = () => {
      const still = stillOf(place);
      tip.replaceChildren(
        ...(still ? [el("img", { src: still.src, alt: "" })] : []),
        el("p", {}, runs[place].label),
        el("p", { class: "quiet" }, words),
      );
      tip.hidden = false;
      const zoom = made.picture.getBoundingClientRect().width / made.width;
      const [cx, cy] = [px(x) * zoom, py(y) * zoom];
      const fits = cx + 14 + tip.offsetWidth <= host.clientWidth;
      tip.style.left = `${fits ? cx + 14 : Math.max(0, cx - 14 - tip.offsetWidth)}px`;
      tip.style.top = `${Math.max(0, Math.min(cy - 20, host.clientHeight - tip.offsetHeight))}px`;
    };
    const { colour, kind } = lookOf(place, looks);
    const link = svg(
      "a",
      {
        href: `#picture-${place}`,
        "aria-label": `${runs[place].label}: ${words}`,
        "data-of": place,
        class: onFront.has(place) ? "point front" : "point",
        style: { "--c": colour },
        ...{ pointerenter: show, pointerleave: hide, focus: show, blur: hide },
      },
      svg("circle", { class: "target", cx: px(x), cy: py(y), r: 11 }),
      svg("path", { d: shape(kind, px(x), py(y), onFront.has(place) ? 6 : 4.5) }),
    );
    made.front.append(link);
  }
  labelPoints(made, best.slice(0, 12));
  host.append(tip);
  if (view.pairs.length > 1) host.prepend(el("h4", {}, view.pairs[pair] ?? "images not recorded"));
  roving(made.picture, "a.point");
  return made.picture;
}

view.pareto.forEach((item, n) => {
  chart(`pareto-${n}`, (host) => {
    const scored = item.fronts.flatMap((one) => one.runs);
    const missing = runs.length - scored.length;
    // A run that is the only one of its pair has nothing to be compared with.
    const drawn = item.fronts.filter((one) => one.runs.length > 1 || item.fronts.length === 1);
    const alone = item.fronts.length - drawn.length;
    $(`[data-reading="pareto-${n}"]`).textContent = [
      missing && `${missing} of ${runs.length} runs ${missing === 1 ? "has" : "have"} no scores here.`,
      alone && `${alone} ${alone === 1 ? "pair of images has" : "pairs of images have"} one run only, and no chart.`,
    ]
      .filter(Boolean)
      .join(" ");
    const parts = drawn.map(() => el("div", { class: "part" }));
    host.classList.toggle("parts", parts.length > 1);
    host.replaceChildren(...(parts.length ? parts : [el("p", { class: "quiet" }, "No two runs can be compared yet.")]));
    // The images are the same for all points of a chart.
    const within = (axis) => !images.includes(axes[axis].key);
    const looks = told(knobs.filter(within));
    const pictures = drawn.map((one, i) => scatter(parts[i], item, one, looks));
    const shown = drawn.flatMap((one) => one.runs).sort((a, b) => a - b);
    const groups = shown.length ? runGroups(shown, looks, [...axes.keys()].filter(isKnob).filter(within)) : [];
    makeKey($(`[data-key="pareto-${n}"]`), groups, (members) => pictures.forEach((p) => dim(p, members)), true);
  });
});

/** Write names beside points of the front where there is room: none over another name or another point. */
function labelPoints({ front: layer, px, py, box }, points) {
  const taken = $$("circle.target", layer).map((c) => [+c.getAttribute("cx") - 6, +c.getAttribute("cy") - 6, 12, 12]);
  const free = (a) =>
    taken.every((b) => a[0] + a[2] < b[0] || b[0] + b[2] < a[0] || a[1] + a[3] < b[1] || b[1] + b[3] < a[1]);
  for (const { place, x, y } of points) {
    const differing = [...axes.keys()].filter((axis) => !images.includes(axes[axis].key));
    const word = (axis) => `${axis === seed ? "seed " : ""}${textOf(axis, runs[place].axis[axis])}`;
    const name = differing.map(word).join(", ") || runs[place].label;
    const text = shortened(name, 34);
    const width = 6.4 * text.length;
    const spots = [
      [px(x) + 12, py(y) - 12],
      [px(x) + 12, py(y) + 10],
      [px(x) - 12 - width, py(y) + 10],
      [px(x) - 12 - width, py(y) - 12],
    ];
    const spot = spots.find(
      ([left, middle]) => left > box.left && left + width < box.right && free([left, middle - 8, width, 16]),
    );
    if (!spot) continue;
    taken.push([spot[0], spot[1] - 8, width, 16]);
    layer.append(
      svg("text", { class: "label", x: spot[0], y: spot[1] + 4, "data-of": place, "aria-hidden": "true" }, text),
    );
  }
}

// --- the table -------------------------------------------------------------------------------------------------------

const results = $("#results");
if (results) {
  const body = results.tBodies[0];
  const rows = $$("tr", body);
  const heads = $$("th[data-key]", results);
  const kind = (value) => (value === null || value === undefined || value === "" ? 2 : finite(value) ? 0 : 1);
  const collator = new Intl.Collator("en", { numeric: true });
  /** Numbers before words, and blanks last in either direction. */
  const compare = (a, b, sign) => {
    const [ka, kb] = [kind(a), kind(b)];
    if (ka !== kb) return ka === 2 || kb === 2 ? ka - kb : (ka - kb) * sign;
    return ka === 2 ? 0 : sign * (ka === 0 ? a - b : collator.compare(a, b));
  };
  results.tHead.addEventListener("click", (event) => {
    const head = event.target.closest("button")?.closest("th");
    if (!head) return;
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const { key } = head.dataset;
    const axis = axes.findIndex((a) => a.key === key && a.numbers);
    const valueOf = (row) => {
      const run = runs[row.dataset.run];
      if (key === "") return Number(row.dataset.run);
      if (column[key]?.kind === "status") return run.status;
      // A parameter's cell may hold the text as typed; its axis knows the number.
      return axis >= 0 && run.axis[axis] !== null ? axes[axis].numbers[run.axis[axis]] : run.values[key];
    };
    const sorted = [...rows].sort((a, b) => compare(valueOf(a), valueOf(b), sign) || a.dataset.run - b.dataset.run);
    body.append(...sorted);
  });
  // A small picture in each row, from the large one that is there already.
  const illustrate = (row) => {
    const still = stillOf(row.dataset.run);
    if (still && !$("img", row)) $(".thumb", row).append(el("img", { src: still.src, alt: "", decoding: "async" }));
  };
  soon(() => rows.forEach(illustrate));
}

// --- details of the runs ---------------------------------------------------------------------------------------------

/** Make elements of what the noscript holds as text: it was escaped by the template. */
function fillDetails(details) {
  const waiting = $("noscript", details);
  if (waiting) waiting.outerHTML = waiting.textContent;
}

function openDetails(place) {
  const details = document.getElementById(`run-${place}`);
  fillDetails(details);
  details.open = true;
  details.scrollIntoView();
  $("summary", details).focus({ preventScroll: true });
}

for (const details of $$(".runs details"))
  details.addEventListener("toggle", () => details.open && fillDetails(details));
const asked = /^run-(\d+)$/.exec(placeOf());
if (asked && runs[asked[1]]) openDetails(Number(asked[1]));

// --- printing --------------------------------------------------------------------------------------------------------

// The appendix is off until it is asked for; of very many runs it has those that were opened, or it would be a book.
const PRINTED = 24;
let opened = [];
if ($("#appendix")) restore($("#appendix"));
window.addEventListener("beforeprint", () => {
  const whole = $("#appendix")?.checked && runs.length <= PRINTED;
  opened = $$("details:not([open])").filter((details) => whole || !details.closest(".runs"));
  for (const details of opened) {
    fillDetails(details);
    details.open = true;
  }
  if ($("#scrubber")) cellOf.forEach(showStep);
});
window.addEventListener("afterprint", () => opened.forEach((details) => (details.open = false)));
