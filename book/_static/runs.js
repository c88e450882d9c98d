/* The table of all runs: a field that keeps the rows with all the texts that are typed into it, between commas.
   The field exists where the script runs; without it the table is whole. */
function filterRuns() {
  const table = document.getElementById("livt-all-runs");
  if (!table) return;
  const rows = [...table.tBodies[0].rows].map((row) => [row, row.textContent.toLowerCase()]);
  const label = document.createElement("label");
  const field = document.createElement("input");
  const count = document.createElement("span");
  field.type = "search";
  field.placeholder = "anatomy, seed 1";
  field.style.margin = "0 0.5rem";
  count.setAttribute("role", "status");
  label.append("Only runs with: ", field);
  const filter = () => {
    const words = field.value.toLowerCase().split(",").map((word) => word.trim());
    for (const [row, text] of rows) row.hidden = !words.every((word) => text.includes(word));
    count.textContent = `${rows.filter(([row]) => !row.hidden).length} of ${rows.length} runs`;
  };
  field.addEventListener("input", filter);
  window.addEventListener("hashchange", () => { field.value = ""; filter(); });
  filter();
  table.parentElement.before(label, count);
}

if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", filterRuns);
else filterRuns();
