// Sorting, filtering and copying. Without it the page reads the same.
for (const table of document.querySelectorAll("table[data-tools]")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells], tools = document.getElementById(table.dataset.tools);
  const rows = [...body.rows], search = tools.querySelector("input[type=search]"), best = tools.querySelector("input[type=checkbox]");
  const select = tools.querySelector("select"), count = tools.querySelector("output");
  const number = text => text !== "" && !isNaN(text);
  const order = (a, b) => number(a) && number(b) ? a - b : a.localeCompare(b, undefined, { numeric: true });
  const sort = (column, down) => {
    heads.forEach((head, i) => i === column ? head.setAttribute("aria-sort", down ? "descending" : "ascending") : head.removeAttribute("aria-sort"));
    const value = row => row.cells[column].dataset.value ?? "";
    body.append(...rows.sort((a, b) => (value(a) === "") - (value(b) === "") || (down ? -1 : 1) * order(value(a), value(b))));
    if (select) select.value = `${column} ${down}`;
  };
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of body.rows) {
      const text = row.dataset.text.toLowerCase();
      row.hidden = !words.every(word => text.includes(word)) || (best?.checked && row.dataset.best !== "yes");
      for (const point of document.querySelectorAll(`[data-row="${row.id}"]`)) point.classList.toggle("faded", row.hidden);
    }
    const shown = rows.filter(row => !row.hidden).length;
    count.value = shown === rows.length ? `${rows.length} rows` : `${shown} of ${rows.length} rows`;
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button"; button.title = "Sort by this column"; button.append(...head.childNodes);
    head.append(button); head.classList.add("sorts");
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      sort(column, now ? now === "ascending" : head.dataset.down === "yes");
    });
    if (select) for (const down of head.dataset.down === "yes" ? [true, false] : [false, true])
      select.add(new Option(`${button.textContent.trim()} ${down ? "\u2193" : "\u2191"}`, `${column} ${down}`));
  });
  select?.addEventListener("change", () => { const [column, down] = select.value.split(" "); sort(+column, down === "true"); });
  if (select) select.selectedIndex = -1;
  search.addEventListener("input", filter);
  best?.addEventListener("change", filter);
  tools.hidden = false;
  filter();
}
for (const line of document.querySelectorAll(".line")) {
  if (!navigator.clipboard) break;
  const button = document.createElement("button");
  button.type = "button"; button.className = "copy"; button.textContent = "Copy";
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(line.querySelector("code").textContent);
    button.textContent = "Copied"; setTimeout(() => button.textContent = "Copy", 1500);
  });
  line.append(button);
}
const reveal = () => { // a link into a closed part opens it
  const place = location.hash && document.getElementById(location.hash.slice(1));
  if (!place) return;
  place.closest("details")?.setAttribute("open", "");
  place.scrollIntoView();
};
addEventListener("hashchange", reveal);
reveal();
