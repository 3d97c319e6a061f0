"use strict";
function show(figure, layer) {
  figure.dataset.show = layer;
  for (const button of figure.querySelectorAll("button"))
    button.setAttribute("aria-pressed", button.dataset.layer === layer);
}
const figures = document.querySelectorAll("figure");
for (const figure of figures) {
  show(figure, figure.dataset.show ?? "error");
  for (const button of figure.querySelectorAll("button"))
    button.addEventListener("click", () => show(figure, button.dataset.layer));
}
for (const button of document.querySelectorAll("#everywhere button"))
  button.addEventListener("click", () => figures.forEach((figure) => show(figure, button.dataset.layer)));
document.getElementById("opacity")?.addEventListener("input", (event) =>
  document.documentElement.style.setProperty("--opacity", event.target.value));

function sortBy(table, column, descending) {
  const value = (row) => row.cells[column].dataset.value;
  const rows = [...table.tBodies[0].rows];
  const numeric = rows.some((row) => row.cells[column].classList.contains("number"));
  const order = (a, b) => {
    const x = value(a), y = value(b);
    if (x === "" || y === "") return (x === "") - (y === "");  // without a value: always last
    const sign = descending ? -1 : 1;
    return sign * (numeric ? Number(x) - Number(y) : x.localeCompare(y));
  };
  table.tBodies[0].append(...rows.sort(order));
}
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const descending = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    sortBy(table, column, descending);
  }));
}
