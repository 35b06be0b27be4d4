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

  // A phone has less room for names.
  function fitted(spec) {
    const copy = structuredClone(spec);
    if (narrow.matches) {
      copy.config.axisY.labelLimit = 124;
      copy.config.text.limit = 96;
    }
    return copy;
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
  const drawAll = () => elements.forEach(draw);
  drawAll();
  narrow.addEventListener("change", drawAll);
  document.querySelectorAll("select[data-for]").forEach((select) => {
    select.addEventListener("change", () => pick(select.dataset.for));
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  document.addEventListener("scroll", hide, { passive: true });
})();
