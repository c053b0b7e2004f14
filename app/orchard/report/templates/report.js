// Tooltips, sorting, tabs and the legend. The page can be read without it; every text goes in as text, never as HTML.
(() => {
  "use strict";
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const data = JSON.parse($("#block").textContent);
  const tip = $("#tip"), live = $("#live");
  document.documentElement.classList.add("js");

  const element = (name, text) => Object.assign(document.createElement(name), { textContent: text });
  const count = (n, one, many) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

  function show(parts, x, y, say) {
    tip.replaceChildren(...parts);
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect(), gap = 16;
    const left = x + gap + width > innerWidth - 8 ? x - gap - width : x + gap;
    tip.style.left = `${Math.max(8, Math.min(left, innerWidth - width - 8))}px`;
    tip.style.top = `${Math.max(8, Math.min(y - height / 2, innerHeight - height - 8))}px`;
    if (say) live.textContent = parts.map((part) => part.textContent).filter(Boolean).join(", ");
  }
  const hide = () => { tip.hidden = true; };
  const inside = (svg, event) => new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  const onScreen = (svg, x, y) => new DOMPoint(x, y).matrixTransform(svg.getScreenCTM());
  addEventListener("scroll", hide, { passive: true });
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });

  // The map: the nearest point answers, so that a finger need not be exact.
  const scatter = $("#scatter");
  if (scatter) {
    const cursor = $("#cursor"), layer = $(".points", scatter), chosen = new Set();
    const marks = $$("use", layer).reverse(); // drawn last to first
    let current = -1, pictured = false;
    const visible = (i) => !chosen.size || chosen.has(data.points[i][2]);
    const leave = () => { cursor.setAttribute("visibility", "hidden"); hide(); };
    const point = (i, say) => {
      current = i;
      const [x, y, label, path, split] = data.points[i], at = onScreen(scatter, x, y);
      const parts = [element("b", data.labels[label]), element("span", split ? `${split}: ${path}` : path)];
      if (data.pictures[i]) {
        const image = new Image();
        image.alt = "";
        image.src = `data:image/webp;base64,${data.pictures[i]}`;
        parts.unshift(image);
      }
      cursor.setAttribute("transform", `translate(${x} ${y})`);
      cursor.setAttribute("visibility", "visible");
      show(parts, at.x, at.y, say);
    };
    const nearest = (event) => {
      const at = inside(scatter, event), reach = 18 / scatter.getScreenCTM().a;
      let found = -1, least = reach * reach;
      data.points.forEach(([x, y], i) => {
        // Of points close together one with a picture answers.
        if (pictured && !data.pictures[i]) return;
        const far = ((x - at.x) ** 2 + (y - at.y) ** 2) * (data.pictures[i] ? 1 : 9);
        if (far < least && visible(i)) { least = far; found = i; }
      });
      if (found < 0) leave(); else point(found, false);
    };
    scatter.addEventListener("pointermove", nearest);
    scatter.addEventListener("pointerdown", nearest);
    scatter.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") leave(); });
    scatter.addEventListener("blur", leave);
    scatter.addEventListener("keydown", (event) => {
      const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!way) return;
      event.preventDefault();
      const [fromX, fromY] = current < 0 ? [360, 250] : data.points[current];
      let found = -1, least = Infinity;
      data.points.forEach(([x, y], i) => {
        const along = (x - fromX) * way[0] + (y - fromY) * way[1];
        const aside = Math.abs((x - fromX) * way[1]) + Math.abs((y - fromY) * way[0]);
        if (i !== current && visible(i) && along > 0 && along + 2 * aside < least) { least = along + 2 * aside; found = i; }
      });
      if (found >= 0) point(found, true);
    });

    const all = $("#all"), buttons = $$("#legend button");
    const paint = () => {
      layer.classList.toggle("chosen", chosen.size > 0);
      for (const mark of layer.children) mark.classList.toggle("on", chosen.has(+mark.dataset.l));
      for (const button of buttons) button.setAttribute("aria-pressed", chosen.has(+button.dataset.l));
      all.disabled = !chosen.size;
      leave();
    };
    for (const button of buttons) button.addEventListener("click", () => {
      const label = +button.dataset.l;
      if (!chosen.delete(label)) chosen.add(label);
      paint();
    });
    all.addEventListener("click", () => { chosen.clear(); paint(); });
    $("#find").addEventListener("input", (event) => {
      const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const button of buttons) {
        const name = button.textContent.toLowerCase();
        button.parentElement.hidden = !words.every((word) => name.includes(word));
      }
    });
    $("#as-pictures")?.addEventListener("click", (event) => {
      const on = event.currentTarget.getAttribute("aria-pressed") !== "true";
      event.currentTarget.setAttribute("aria-pressed", on);
      pictured = on;
      if (on && !$("image", layer)) data.pictures.forEach((picture, i) => {
        if (!picture) return;
        const image = document.createElementNS(scatter.namespaceURI, "image"), side = 30;
        const [x, y, label] = data.points[i];
        for (const [name, value] of Object.entries({ x: x - side / 2, y: y - side / 2, width: side, height: side,
          href: `data:image/webp;base64,${picture}`, "data-l": label })) image.setAttribute(name, value);
        layer.append(image);
      });
      for (const image of $$("image", layer)) image.style.display = on ? "" : "none";
      marks.forEach((mark, i) => { mark.style.display = on && data.pictures[i] ? "none" : ""; });
      paint();
    });
  }

  // Confusion matrices.
  for (const svg of $$(".matrix")) {
    const matrix = data.matrices[+svg.dataset.matrix], n = matrix.labels.length;
    const counts = new Map(matrix.cells.map(([row, column, c]) => [row * n + column, c]));
    const opens = new Map(matrix.sheets.map(([row, column, id]) => [row * n + column, id]));
    const cross = $(".cross", svg), cell = $(".cell", svg);
    let at = null;
    const open = () => {
      const id = at && opens.get(at[0] * n + at[1]);
      if (!id) return;
      leave();
      document.getElementById(id).showPopover();
    };
    const leave = () => { for (const part of [cross, cell]) part.setAttribute("visibility", "hidden"); hide(); };
    const go = (row, column, say) => {
      if (row < 0 || column < 0 || row >= n || column >= n) { at = null; return leave(); }
      at = [row, column];
      const x = matrix.left + column * matrix.cell, y = matrix.top + row * matrix.cell;
      $(".row", cross).setAttribute("y", y);
      $(".column", cross).setAttribute("x", x);
      cell.setAttribute("x", x);
      cell.setAttribute("y", y);
      for (const part of [cross, cell]) part.setAttribute("visibility", "visible");
      const c = counts.get(row * n + column) ?? 0, total = matrix.totals[row];
      const share = total ? ` (${(100 * c / total).toFixed(1)}%)` : "";
      const title = row === column ? `${matrix.labels[row]}: right` : `${matrix.labels[row]} → ${matrix.labels[column]}`;
      const where = onScreen(svg, x + matrix.cell, y + matrix.cell / 2);
      const parts = [element("b", title), element("span", `${c.toLocaleString("en")} of ${count(total, "image", "images")}${share}`)];
      if (opens.has(row * n + column)) parts.push(element("span", "click, tap or Enter: see them"));
      show(parts, where.x, where.y, say);
    };
    const follow = (event) => {
      const p = inside(svg, event);
      go(Math.floor((p.y - matrix.top) / matrix.cell), Math.floor((p.x - matrix.left) / matrix.cell), false);
    };
    svg.addEventListener("pointermove", follow);
    svg.addEventListener("pointerdown", follow);
    svg.addEventListener("click", (event) => { follow(event); open(); });
    svg.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") leave(); });
    svg.addEventListener("blur", leave);
    svg.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); return open(); }
      const way = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (!way) return;
      event.preventDefault();
      const [row, column] = at ? [at[0] + way[0], at[1] + way[1]] : [0, 0];
      go(Math.max(0, Math.min(n - 1, row)), Math.max(0, Math.min(n - 1, column)), true);
    });
  }

  // Sortable tables: numbers first fall, names first rise.
  const collator = new Intl.Collator("en", { numeric: true });
  for (const table of $$("table.sortable")) {
    const body = table.tBodies[0], heads = $$("thead th", table);
    heads.forEach((head, i) => {
      const button = element("button", head.textContent);
      button.type = "button";
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const before = head.getAttribute("aria-sort");
        const rising = before ? before === "descending" : i === 0;
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", rising ? "ascending" : "descending");
        const value = (row) => row.cells[i].dataset.v;
        const order = i === 0
          ? (a, b) => collator.compare(a.cells[0].textContent, b.cells[0].textContent)
          : (a, b) => value(a) - value(b);
        body.append(...[...body.rows].sort((a, b) => (rising ? order(a, b) : order(b, a))));
      });
    });
  }

  // One classifier at a time.
  const panels = $$(".classifier"), tabs = $("#tabs");
  if (panels.length > 1) {
    const choose = (chosen, focus) => panels.forEach((panel, i) => {
      panel.hidden = i !== chosen;
      const tab = tabs.children[i];
      tab.setAttribute("aria-selected", i === chosen);
      tab.tabIndex = i === chosen ? 0 : -1;
      if (focus && i === chosen) tab.focus();
    });
    panels.forEach((panel, i) => {
      const tab = element("button", panel.dataset.title);
      Object.assign(tab, { type: "button", id: `tab-${i}` });
      tab.setAttribute("role", "tab");
      tab.setAttribute("aria-controls", panel.id);
      panel.setAttribute("role", "tabpanel");
      panel.setAttribute("aria-labelledby", tab.id);
      panel.classList.add("tabbed");
      tab.addEventListener("click", () => choose(i, false));
      tabs.append(tab);
    });
    tabs.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const now = panels.findIndex((panel) => !panel.hidden);
      choose((now + step + panels.length) % panels.length, true);
    });
    tabs.hidden = false;
    choose(0, false);
  }

  addEventListener("beforeprint", () => { for (const details of $$("details")) details.open = true; });
})();
