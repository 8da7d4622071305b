"use strict";
// Sorting and filtering of tables. The page is complete without it.
for (const table of document.querySelectorAll(".scroll > table")) {
  const bodies = [...table.tBodies];
  const rows = bodies.flatMap(body => [...body.rows].filter(row => !row.classList.contains("group")));
  const heads = [...table.tHead.rows[0].cells];
  if (rows.length > 2 && rows.every(row => row.cells.length === heads.length || row.querySelector(".wide"))) {
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach(other => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        for (const body of bodies) sort(body, column, down ? -1 : 1);
      });
    });
  }
  if (rows.length > 8) {
    const input = document.createElement("input");
    input.type = "search";
    input.placeholder = document.body.dataset.filter;
    input.setAttribute("aria-label", `${document.body.dataset.filter}: ${table.caption.textContent.trim()}`);
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rows) {
        const text = `${row.parentElement.querySelector(".group")?.textContent ?? ""} ${row.textContent}`.toLowerCase();
        row.hidden = !words.every(word => text.includes(word));
      }
      for (const body of bodies) {
        const group = body.querySelector(".group");
        if (group) group.hidden = [...body.rows].every(row => row === group || row.hidden);
      }
    });
    table.parentElement.before(input);
  }
}
function value(row, column) {
  const cell = row.cells[column];
  if (!cell) return [1, ""];
  const number = parseFloat((/-?\d+(\.\d+)?(e[-+]?\d+)?/.exec(cell.title) ?? [])[0]);
  return cell.classList.contains("n") && !Number.isNaN(number) ? [0, number] : [1, cell.textContent.trim()];
}
function sort(body, column, sign) {
  const rows = [...body.rows].filter(row => !row.classList.contains("group"));
  const keyed = rows.map(row => [value(row, column), row]);
  keyed.sort(([[kind, a]], [[other, b]]) =>
    kind - other || sign * (kind ? String(a).localeCompare(String(b)) : a - b));
  body.append(...keyed.map(([, row]) => row));
}
