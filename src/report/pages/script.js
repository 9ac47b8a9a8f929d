"use strict";
(() => {
  // What a mark of a figure stands for, where the pointer is.
  const tip = document.getElementById("tip");
  const show = (mark, x, y) => {
    const title = mark.querySelector("title");
    if (title) {
      // The browser would show it a second time.
      mark.setAttribute("aria-label", title.textContent);
      title.remove();
    }
    tip.textContent = mark.getAttribute("aria-label") || "";
    tip.hidden = !tip.textContent;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 4))}px`;
    tip.style.top = `${y + 18 + box.height > innerHeight ? Math.max(4, y - box.height - 10) : y + 18}px`;
  };
  const markAt = (event) => (event.target instanceof Element ? event.target.closest(".mark") : null);
  for (const kind of ["pointerover", "pointermove", "pointerdown"]) {
    document.addEventListener(kind, (event) => {
      const mark = markAt(event);
      if (mark) show(mark, event.clientX, event.clientY);
      else tip.hidden = true;
    });
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    const key = (row, column) => {
      const cell = row.cells[column];
      return cell.dataset.sort !== undefined ? Number(cell.dataset.sort) : cell.textContent.trim();
    };
    heads.forEach((head, column) => {
      // Not a button element: browsers do not print the heads of tables again that hold one.
      const button = head.querySelector("[role=button]");
      button.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") {
          event.preventDefault();
          button.click();
        }
      });
      button.addEventListener("click", () => {
        const direction = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", direction);
        const sign = direction === "ascending" ? 1 : -1;
        const compare = (a, b) => {
          const [x, y] = [key(a, column), key(b, column)];
          // What is empty stays at the end.
          if (x === "" || y === "") return (x === "") - (y === "");
          if (typeof x === "number" && typeof y === "number") return sign * (x - y);
          return sign * String(x).localeCompare(String(y), undefined, { numeric: true });
        };
        body.append(...rows.slice().sort(compare));
      });
    });
    const tools = table.closest("section, div.table").querySelector(".tools");
    if (!tools) continue;
    const [input, count] = [tools.querySelector("input"), tools.querySelector("output")];
    const filter = () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        shown += row.hidden ? 0 : 1;
      }
      count.textContent = `${shown} of ${rows.length} rows`;
    };
    input.addEventListener("input", filter);
    filter();
  }
})();
