"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const rows = data.rows;
  const PAGE = 10;
  const get = (id) => document.getElementById(id);
  const filters = ["entry", "status", "reason", "label", "proposal", "category"];
  let found = rows;
  let page = 0;

  // Text of a model is only ever set as textContent. What a reader could not see, or what would turn lines around
  // (terminal escapes, bidirectional overrides), is shown by its code point.
  const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]/g;
  const visible = (text) =>
    text.replace(HIDDEN, (c) => "[U+" + c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0") + "]");

  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };

  // A paragraph with the search words marked, by position: no markup is ever parsed.
  const passage = (text, query) => {
    const shown = visible(text);
    const box = make("p", "text");
    if (!query) {
      box.textContent = shown;
      return box;
    }
    const low = shown.toLowerCase();
    let from = 0;
    for (let at = low.indexOf(query); at >= 0; at = low.indexOf(query, from)) {
      box.append(shown.slice(from, at), make("mark", "", shown.slice(at, at + query.length)));
      from = at + query.length;
    }
    box.append(shown.slice(from));
    return box;
  };

  const fold = (title, text, query) => {
    const box = make("details");
    box.append(make("summary", "", title), passage(text, query));
    box.open = Boolean(query) && visible(text).toLowerCase().includes(query);
    return box;
  };

  const response = (title, thinking, answer, query) => {
    const box = make("div");
    box.append(make("h4", "", title));
    if (thinking) box.append(fold("Thought, " + thinking.length.toLocaleString("en") + " characters", thinking, query));
    box.append(answer ? passage(answer, query) : make("p", "muted small", "No answer."));
    return box;
  };

  const facts = (row) => {
    const box = make("dl", "facts");
    const add = (name, value) => {
      if (value === undefined) return;
      const pair = make("div");
      pair.append(make("dt", "", name), make("dd", "", visible(String(value))));
      box.append(pair);
    };
    const shift = [row.before, row.after].map((x) => (x === undefined ? "not scored" : x.toFixed(3)));
    if (row.before !== undefined || row.after !== undefined) {
      add("NLL per token", "reference " + shift[0] + ", trained on " + shift[1]);
    }
    if (row.tokens) add("Tokens", "prompt " + row.tokens[0] + ", thought " + row.tokens[1] + ", answer " + row.tokens[2]);
    add("Completions", row.tried);
    add("Guard", row.verdict);
    add("Category", row.category);
    add("Row", row.id);
    return box;
  };

  const article = (row, query) => {
    const box = make("article", "sample");
    const head = make("header");
    head.append(make("span", "chip " + row.status, row.status));
    for (const value of [row.reason, row.label, row.proposal]) {
      if (value) head.append(make("span", "chip other", visible(value)));
    }
    box.append(head);
    if (data.texts) {
      box.append(make("h4", "", "Prompt"), passage(row.prompt || "", query));
      const kept = row.status !== "rejected";
      const pair = make("div", "pair");
      if (row.reference_answer || row.reference_thinking) {
        pair.append(response("Reference", row.reference_thinking, row.reference_answer, query));
      }
      if (kept) pair.append(response("Trained on", row.thinking, row.answer, query));
      box.append(pair);
      if (!kept && (row.thinking || row.answer)) {
        const hidden = make("details");
        const notice = "Show what was rejected (" + row.reason + "): nobody vouches for it, and it may be harmful";
        hidden.append(make("summary", "", notice), response("Rejected", row.thinking, row.answer, query));
        box.append(hidden);
      }
    }
    box.append(facts(row));
    return box;
  };

  const draw = (focus) => {
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    const query = get("query").value.trim().toLowerCase();
    const part = found.slice(page * PAGE, page * PAGE + PAGE);
    get("list").replaceChildren(...part.map((row) => article(row, query)));
    const first = found.length ? page * PAGE + 1 : 0;
    get("place").textContent =
      first + " to " + (page * PAGE + part.length) + " of " + found.length.toLocaleString("en") + " matching, " +
      rows.length.toLocaleString("en") + " of " + data.total.toLocaleString("en") + " rows in this file";
    get("back").disabled = page === 0;
    get("next").disabled = page >= pages - 1;
    if (focus) get("samples").scrollIntoView();
  };

  const words = (row) =>
    [row.prompt, row.thinking, row.answer, row.reference_thinking, row.reference_answer, row.id, row.verdict, row.category]
      .filter(Boolean).map(visible).join("\n").toLowerCase();
  const indexed = rows.map(() => undefined);

  const apply = () => {
    const query = get("query").value.trim().toLowerCase();
    const chosen = filters.map((name) => [name, get("by-" + name).value]).filter((pair) => pair[1] !== "");
    found = rows.filter((row, at) => {
      if (!chosen.every(([name, value]) => String(row[name] === undefined ? "-" : row[name]) === value)) return false;
      if (!query) return true;
      if (indexed[at] === undefined) indexed[at] = words(row);
      return indexed[at].includes(query);
    });
    page = 0;
    draw(false);
  };

  for (const name of filters) {
    const counts = new Map();
    for (const row of rows) {
      const value = String(row[name] === undefined ? "-" : row[name]);
      counts.set(value, (counts.get(value) || 0) + 1);
    }
    const select = get("by-" + name);
    for (const [value, count] of [...counts].sort((a, b) => (a[0] < b[0] ? -1 : 1))) {
      const shown = name === "entry" ? data.entries[Number(value)] : value === "-" ? "none" : value;
      const option = make("option", "", visible(shown) + " (" + count.toLocaleString("en") + ")");
      option.value = value;
      select.append(option);
    }
    select.closest("label").hidden = counts.size < 2;
    select.addEventListener("change", apply);
  }
  let waiting;
  get("query").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(apply, 150);
  });
  get("query").closest("label").hidden = !data.texts;
  get("back").addEventListener("click", () => { page -= 1; draw(true); });
  get("next").addEventListener("click", () => { page += 1; draw(true); });
  get("browser").hidden = false;
  draw(false);
})();
