"use strict";
(() => {
  const specs = JSON.parse(document.getElementById("specs").textContent);
  const tip = document.getElementById("tip");
  const narrow = window.matchMedia("(max-width: 560px)");
  const views = new Map();

  // Texts are set as text: a name of a collection never becomes markup.
  function part(tag, text, into) {
    const element = document.createElement(tag);
    element.textContent = text;
    into.append(element);
    return element;
  }

  function hide() {
    tip.hidden = true;
  }

  function show(_, event, item, value) {
    // Where the nearest point counts, the item is a cell around it, and its datum is the point with the texts.
    const told = item?.datum?.tooltip ?? value;
    if (!told || typeof told !== "object") return hide();
    tip.replaceChildren();
    Object.entries(told).forEach(([name, text], place) => {
      if (place === 0) return part("b", text, tip);
      const row = part("div", "", tip);
      part("span", name, row);
      part("span", text, row);
    });
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = Math.min(event.clientX + 14, window.innerWidth - box.width - 8);
    const below = event.clientY + 18;
    const top = below + box.height > window.innerHeight ? event.clientY - box.height - 12 : below;
    tip.style.transform = `translate(${Math.max(8, left)}px, ${Math.max(8, top)}px)`;
  }

  // A phone has less room for names. Their ends stay, as names often differ there.
  function fitted(spec) {
    const copy = structuredClone(spec);
    if (!narrow.matches) return copy;
    copy.config.axisY.labelLimit = 150;
    copy.config.text.limit = 110;
    const axis = copy.encoding?.y?.axis;
    if (axis?.labelExpr) {
      axis.labelExpr = "length(datum.label) > 20 ? slice(datum.label, 0, 9) + '…' + slice(datum.label, -10) : datum.label";
    }
    for (const layer of copy.layer ?? []) {
      if (layer.mark.type !== "text") continue;
      for (const row of layer.data.values) {
        if (row.name.length > 15) row.name = `${row.name.slice(0, 6)}…${row.name.slice(-8)}`;
      }
    }
    return copy;
  }

  // What is wider than the window says so, until it is scrolled to its end.
  function hint() {
    for (const box of document.querySelectorAll(".scroll, nav ul")) {
      const more = box.scrollWidth - box.clientWidth - box.scrollLeft > 4;
      box.classList.toggle("cut", more);
      const said = box.previousElementSibling;
      if (said?.classList.contains("hint")) said.hidden = box.scrollWidth - box.clientWidth <= 4;
    }
  }

  async function draw(element) {
    const name = element.dataset.chart;
    const old = views.get(name);
    if (old) old.finalize();
    const result = await window.vegaEmbed(element, fitted(specs[name]), {
      actions: false, ast: true, renderer: "svg", tooltip: show, defaultStyle: false,
    });
    views.set(name, result);
    pick(name);
  }

  function pick(name) {
    const select = document.querySelector(`select[data-for="${name}"]`);
    const result = views.get(name);
    if (select && result) result.view.signal("picked", select.value).runAsync();
  }

  const elements = document.querySelectorAll("[data-chart]");
  const drawn = new Set();
  // What is folded may have no width to be drawn in; it waits until it is opened.
  function drawOpen() {
    for (const element of elements) {
      if (drawn.has(element) || element.closest("details:not([open])")) continue;
      drawn.add(element);
      draw(element);
    }
  }
  drawOpen();
  narrow.addEventListener("change", () => { drawn.clear(); drawOpen(); });
  document.querySelectorAll("select[data-for]").forEach((select) => {
    select.addEventListener("change", () => pick(select.dataset.for));
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  document.addEventListener("scroll", hide, { passive: true });
  hint();
  window.addEventListener("resize", hint);
  // The window may have changed while a chart was folded: charts take their width anew on resize.
  document.addEventListener("toggle", () => { drawOpen(); window.dispatchEvent(new Event("resize")); }, true);
  document.addEventListener("scroll", hint, { capture: true, passive: true });
})();
