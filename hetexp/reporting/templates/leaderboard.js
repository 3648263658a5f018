// The leaderboard: sorted by a click on a heading, filtered by model and method.
(function () {
  const table = document.getElementById("board");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const model = document.getElementById("b-model");
  const text = document.getElementById("b-text");
  const status = document.querySelector(".board [role=status]");
  const filter = () => {
    const wanted = text.value.trim().toLowerCase();
    for (const row of rows) {
      const [its, , method] = [...row.cells].map((cell) => cell.textContent);
      row.hidden = (model.value !== "" && its !== model.value) || !method.toLowerCase().includes(wanted);
    }
    const used = (column) => rows.some((row) => !row.hidden && row.cells[column].textContent !== "");
    heads.forEach((head, column) => {  // measures of other models would be empty columns
      const hidden = !used(column) && rows.some((row) => !row.hidden);
      for (const cell of [head, ...rows.map((row) => row.cells[column])]) cell.hidden = hidden;
    });
    status.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
  };
  const sort = (column) => {
    const rising = heads[column].getAttribute("aria-sort") === "descending";
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", rising ? "ascending" : "descending");
    const value = (row) => row.cells[column].textContent;
    const compare = (a, b) => {
      if ((value(a) === "") !== (value(b) === "")) return value(a) === "" ? 1 : -1;  // without a value: last
      const [x, y] = [Number(value(a)), Number(value(b))];
      const order = Number.isNaN(x) || Number.isNaN(y) ? value(a).localeCompare(value(b)) : x - y;
      return rising ? order : -order;
    };
    body.replaceChildren(...rows.sort(compare));
  };
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => sort(column)));
  model.addEventListener("change", filter);
  text.addEventListener("input", filter);
  filter();
})();
