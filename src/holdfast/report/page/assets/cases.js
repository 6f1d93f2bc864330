// ---- shards: texts in sandboxed frames, accepted only with the right SHA-256 -----------------------------------

const shards = new Map();

function loadShard(number) {
  if (!shards.has(number)) {
    shards.set(number, readShard(number));
    if (shards.size > 8) shards.delete(shards.keys().next().value);
  }
  return shards.get(number);
}

async function readShard(number) {
  const [name, digest] = index.shards[number];
  const packed = await frameText("shards/" + name);
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(packed)));
  if (btoa(String.fromCharCode(...hash)) !== digest) throw new Error(`${name} is not the file this report was made with`);
  return unpack(packed);
}

function frameText(source) {
  return new Promise((resolve, reject) => {
    const frame = document.createElement("iframe");
    const finish = (settle, value) => {
      clearTimeout(timer);
      removeEventListener("message", listen);
      frame.remove();
      settle(value);
    };
    const listen = (event) => {
      if (event.source === frame.contentWindow && typeof event.data === "string") finish(resolve, event.data);
    };
    const giveUp = () => finish(reject, new Error(`${source} could not be read; is it beside this page?`));
    let timer = setTimeout(giveUp, 20000);
    // A shard posts its text before it is loaded; a file that is not there is loaded as an error page and posts nothing.
    frame.addEventListener("load", () => { clearTimeout(timer); timer = setTimeout(giveUp, 1500); });
    addEventListener("message", listen);
    frame.hidden = true;
    frame.setAttribute("sandbox", "allow-scripts");
    frame.src = source;
    document.body.append(frame);
  });
}

// ---- the list of cases -----------------------------------------------------------------------------------------

let index = null;
const list = { column: 0, falling: false, limit: SHOWN_CASES, texts: null, reading: false };

function mean(values) {
  const there = values.filter((value) => value !== null);
  return there.length ? there.reduce((sum, value) => sum + value, 0) / there.length : null;
}

function scoreOn(run, objective) {
  return mean(run[5].filter((_, slot) => index.slots[slot][1] === objective));
}

const plural = (number, word) => `${count(number)} ${number === 1 ? word : word.replace(/y$/, "ie") + "s"}`;
const score = (value) => (value === null ? "–" : value.toFixed(2));
const flagsOf = (bits) => index.flags.filter((_, place) => bits & index.flagBits[place]);
const checkpointName = (place) => {
  const point = index.checkpoints[place];
  return [point.l, point.b, point.a].filter(Boolean).join(" · ");
};

function prepareCases() {
  const numbers = new Set(index.cases.map((item) => item.k));
  for (const item of index.cases) {
    item.key = numbers.size === index.cases.length ? item.k : index.cases.indexOf(item);
    item.words = `${item.k} ${item.f} ${item.t}`.toLowerCase();
  }
  [...new Set(index.cases.map((item) => item.f))].sort().forEach((family) => addOption(byId("case-family"), family, family));
  for (const [name, words, masks] of index.findings) {
    if (index.cases.some((item) => item.r.some((run) => shows(run, masks)))) addOption(byId("case-flag"), name, words);
  }
  const used = new Set(index.cases.flatMap((item) => item.r.map((run) => index.checkpoints[run[1]].l)));
  used.forEach((lineage) => addOption(byId("case-lineage"), lineage, lineage));
  const parts = new Set(index.cases.flatMap((item) => item.r.map((run) => run[6])));
  for (const option of [...byId("case-part").options]) if (option.value && !parts.has(Number(option.value))) option.remove();
  byId("case-part").value = parts.has(1) ? "1" : "";
  byId("case-part").parentNode.hidden = parts.size < 2;
}

const shows = (run, masks) => masks.every((mask) => run[3] & mask);

// The trajectories of a case that pass the filters; what the list says of a case it says of these.
function chosenRuns(item) {
  const part = byId("case-part").value, lineage = byId("case-lineage").value, finding = byId("case-flag").value;
  const masks = (index.findings.find(([name]) => name === finding) ?? [])[2] ?? [];
  return item.r.filter((run) => (!part || run[6] === Number(part)) && (!lineage || index.checkpoints[run[1]].l === lineage)
    && shows(run, masks) && (!list.texts || list.texts.found.has(run[0])));
}

// By how much the first objective changed from the parents of the shown trajectories to these; null where none is known.
function changeOf(item) {
  const groups = groupRuns(item), shown = new Set(item.shown);
  const found = [...groups].map(([child, runs]) => {
    const mine = runs.filter((run) => shown.has(run)), parent = groups.get(index.checkpoints[child].p);
    const after = parent && mine.length ? runMean(mine) : null, before = parent ? runMean(parent) : null;
    return after === null || before === null ? null : after - before;
  });
  return mean(found);
}

const changed = (value, wanted) => value !== null && (wanted === "fell" ? value < 0 : wanted === "rose" ? value > 0 : value === 0);

function followFilter(link, event) {
  event.preventDefault();
  setFilters({ part: byId("case-part").value, flag: link.dataset.finding, lineage: link.dataset.lineage });
  byId("cases").scrollIntoView();
}

// ---- the address: filters, search and the pair of an open case -------------------------------------------------

const FILTERS = ["search", "part", "lineage", "family", "flag", "change"];

function setFilters(values) {
  FILTERS.forEach((name) => { byId(`case-${name}`).value = values[name] ?? ""; });
  list.limit = SHOWN_CASES;
  list.texts = null;
  redrawCases();
}

function redrawCases() {
  drawCases();
  const chosen = FILTERS.map((name) => [name, byId(`case-${name}`).value]).filter(([, value]) => value);
  keepAddress("cases", chosen);
}

function keepAddress(name, values, push = false) {
  const asked = new URLSearchParams(values).toString(), address = `#${name}${asked && "&"}${asked}`;
  if (address !== location.hash) history[push ? "pushState" : "replaceState"](null, "", address);
}

function followAddress() {
  const [name, ...rest] = location.hash.slice(1).split("&"), values = Object.fromEntries(new URLSearchParams(rest.join("&")));
  const key = /^case-(\d+)$/.exec(name)?.[1], item = key && index.cases.find((one) => one.key === Number(key));
  if (name === "cases" && rest.length) {
    setFilters(values);
    byId("cases").scrollIntoView();
  } else if (item) {
    const run = (number) => item.r.find((one) => one[0] === Number(number));
    const right = values.right && run(values.right);
    openCase(item, right ? { left: values.left ? run(values.left) ?? null : null, right } : undefined);
  }
}

// ---- search in all texts ---------------------------------------------------------------------------------------

function runText(run) {
  const messages = run.m.flatMap((one) => [one.c, ...(one.t ?? []).flatMap((call) => [call.n, call.c])]);
  return [run.i, ...messages, ...run.s.map((one) => one.r?.c ?? "")].join("\n").toLowerCase();
}

// Reads the files one after the other and keeps the numbers of the trajectories that hold the words.
async function searchTexts() {
  const words = byId("case-search").value.trim().toLowerCase(), button = byId("case-texts"), found = new Set();
  if (list.reading || !words) {
    list.reading = false;
    if (!words) byId("case-count").textContent = "type the words to look for";
    return;
  }
  list.reading = true;
  button.textContent = "Stop";
  let read = 0;
  for (; read < index.shards.length && list.reading; read++) {
    byId("case-count").textContent = `${count(read)} of ${count(index.shards.length)} files read, ${plural(found.size, "trajectory")} hold it`;
    const { runs } = await readShard(read);
    for (const [number, run] of Object.entries(runs)) if (runText(run).includes(words)) found.add(Number(number));
  }
  list.reading = false;
  button.textContent = "Search all texts";
  list.texts = { found, words, whole: read === index.shards.length };
  drawCases();
}

function caseColumns() {
  return [
    ["Case", (item) => item.k], ["Family", (item) => item.f], ["Instruction", (item) => item.t],
    ...index.objectives.map((objective, place) => [`Mean ${objective}`, (item) => item.means[place] ?? ""]),
    ...(byId("case-change").value ? [[`Change of ${index.objectives[0]}`, (item) => item.change ?? ""]] : []),
    ["Trajectories", (item) => item.shown.length], ["Flagged", (item) => item.flagged],
  ];
}

function drawCases() {
  const columns = caseColumns(), table = byId("case-table");
  const search = list.texts ? "" : byId("case-search").value.trim().toLowerCase();
  const family = byId("case-family").value, wanted = byId("case-change").value;
  list.column = Math.min(list.column, columns.length - 1);
  const found = index.cases.filter((item) => {
    item.shown = chosenRuns(item);
    item.means = index.objectives.map((objective) => mean(item.shown.map((run) => scoreOn(run, objective))));
    item.flagged = item.shown.filter((run) => run[3]).length;
    item.change = wanted ? changeOf(item) : null;
    return item.shown.length && item.words.includes(search) && (!family || item.f === family) && (!wanted || changed(item.change, wanted));
  });
  const read = columns[list.column][1];
  found.sort((a, b) => compare(read(a), read(b)) * (list.falling ? -1 : 1));
  const row = make("tr");
  columns.forEach(([name], place) => {
    const head = make("th", place > 2 ? "num" : ""), button = make("button", "sort", name);
    button.type = "button";
    if (place === list.column) head.setAttribute("aria-sort", list.falling ? "descending" : "ascending");
    button.addEventListener("click", () => {
      list.falling = place === list.column && !list.falling;
      list.column = place;
      drawCases();
      byId("case-table").tHead.rows[0].cells[place].firstChild.focus();
    });
    head.append(button);
    row.append(head);
  });
  table.tHead.replaceChildren(row);
  table.tBodies[0].replaceChildren(...found.slice(0, list.limit).map((item) => caseRow(item, columns)));
  const texts = list.texts && ` with ${plural(list.texts.found.size, "trajectory")} that ${list.texts.found.size === 1 ? "holds" : "hold"} “${list.texts.words}”${list.texts.whole ? "" : " in the files read so far"}`;
  byId("case-count").textContent = `${count(found.length)} of ${count(index.cases.length)} cases${texts || ""}`;
  const more = byId("case-more"), left = found.length - list.limit;
  more.hidden = left <= 0;
  more.textContent = `Show ${count(Math.min(left, SHOWN_CASES))} more (${count(left)} not shown)`;
}

function caseRow(item, columns) {
  const row = make("tr");
  columns.forEach(([, read], place) => {
    const value = read(item), cell = make("td", place > 2 ? "num" : "");
    if (place === 2) {
      const button = make("button", "open");
      appendVisible(button, value || "(no instruction)");
      button.type = "button";
      button.addEventListener("click", () => openCase(item));
      cell.append(button);
    } else if (typeof value === "number" && !Number.isInteger(value)) cell.textContent = value.toFixed(2);
    else appendVisible(cell, String(value));
    row.append(cell);
  });
  return row;
}

// ---- one case: two trajectories side by side -------------------------------------------------------------------

let view = null; // {item, left, right}: rows of item.r

function parentRun(item, run) {
  const parent = index.checkpoints[run[1]].p;
  const same = item.r.filter((other) => other[1] === parent);
  return same.find((other) => other[2] === run[2]) ?? same[0];
}

function firstPair(item) {
  let best = null;
  const chosen = item.shown?.length ? item.shown : item.r;
  for (const run of chosen) {
    const parent = parentRun(item, run);
    if (!parent) continue;
    const point = index.checkpoints[run[1]], second = index.checkpoints[point.p]?.p >= 0;
    const fall = (scoreOn(parent, index.objectives[0]) ?? 0) - (scoreOn(run, index.objectives[0]) ?? 0);
    const rank = 2 * point.m + second; // a second stage of a main lineage, then its first, then controls
    if (!best || rank > best.rank || (rank === best.rank && fall > best.fall)) best = { rank, fall, left: parent, right: run };
  }
  return best ?? { left: null, right: chosen[0] };
}

function openCase(item, pair = firstPair(item)) {
  view = { item, left: pair.left, right: pair.right };
  const box = byId("case-view");
  box.hidden = false;
  box.replaceChildren(
    appendVisible(make("h3"), `Case ${item.k} · ${item.f}`), make("div", "opening", "reading …"), pairControls(), make("div", "pair"), runList(item));
  keepAddress(`case-${item.key}`, pairAddress(), true);
  drawOpening(box.querySelector(".opening"), item);
  drawPair();
  box.focus({ preventScroll: true });
  box.scrollIntoView({ block: "start" });
}

const pairAddress = () => ["left", "right"].filter((side) => view[side]).map((side) => [side, view[side][0]]);

async function drawOpening(box, item) {
  try {
    const content = (await loadShard(item.s)).cases[item.i];
    const details = make("details"), tools = content.t.length;
    details.append(make("summary", "", `What every agent was given: ${plural(content.m.length, "message")}, ${plural(tools, "tool")}`));
    content.m.forEach((message) => details.append(drawMessage(message)));
    if (tools) details.append(appendVisible(make("p", "note"), "Tools: " + content.t.join(", ")));
    if (content.a) details.append(fold("Facts of the case, hidden from the agent", textBlock(content.a)));
    box.replaceChildren(appendVisible(make("p", "instruction"), item.t), details);
  } catch (error) {
    box.replaceChildren(make("p", "failure", String(error.message)));
  }
}

function pairControls() {
  const bar = make("div", "controls pair-controls");
  for (const side of ["left", "right"]) {
    const select = make("select"), label = make("label", "", side === "left" ? "Left " : "Right ");
    select.id = `pick-${side}`;
    const groups = new Map();
    view.item.r.forEach((run, place) => {
      const base = index.checkpoints[run[1]].b;
      if (!groups.has(base)) {
        const group = make("optgroup");
        group.label = base;
        groups.set(base, group);
        select.append(group);
      }
      const rollout = run[2] ? ` · rollout ${run[2]}` : "";
      addOption(groups.get(base), place, `${checkpointName(run[1])}${rollout}`);
    });
    select.addEventListener("change", () => { view[side] = view.item.r[Number(select.value)]; drawPair(); });
    label.append(select);
    bar.append(label);
  }
  const find = make("input"), label = make("label", "", "Find ");
  find.type = "search";
  find.id = "pick-find";
  find.placeholder = "part of a checkpoint's name";
  bar.querySelectorAll("select").forEach((select) => makeSearchable(select, find));
  label.append(find);
  bar.append(label);
  const act = (id, text, change) => {
    const button = make("button", "", text);
    button.type = "button";
    button.id = id;
    button.addEventListener("click", () => { change(); drawPair(); });
    bar.append(button);
  };
  act("to-parent", "Compare with the parent", () => { view.left = parentRun(view.item, view.right) ?? view.left; });
  act("step-back", "One stage back", () => {
    const parent = parentRun(view.item, view.right);
    if (parent) { view.right = parent; view.left = parentRun(view.item, parent) ?? parent; }
  });
  act("swap", "Swap", () => { [view.left, view.right] = [view.right, view.left]; });
  return bar;
}

async function drawPair() {
  keepAddress(`case-${view.item.key}`, pairAddress());
  const box = byId("case-view").querySelector(".pair"), asked = { ...view };
  const sides = ["left", "right"].filter((side) => view[side]);
  box.classList.toggle("alone", !view.left);
  byId("pick-left").value = view.left ? view.item.r.indexOf(view.left) : "";
  byId("pick-right").value = view.item.r.indexOf(view.right);
  byId("to-parent").hidden = byId("step-back").hidden = !parentRun(view.item, view.right);
  byId("swap").hidden = !view.left;
  box.replaceChildren(...sides.map((side) => make("article", "run " + side, "reading …")));
  await Promise.all(sides.map(async (side) => {
    try {
      const content = (await loadShard(asked[side][4])).runs[asked[side][0]];
      if (view[side] === asked[side] && view.item === asked.item) box.querySelector("." + side).replaceChildren(...drawRun(asked[side], content));
    } catch (error) {
      box.querySelector("." + side).replaceChildren(make("p", "failure", String(error.message)));
    }
  }));
}

function drawRun(run, content) {
  const point = index.checkpoints[run[1]], title = make("h4");
  title.append(make("i", `dot b${point.c % 8}`));
  appendVisible(title, checkpointName(run[1]));
  const [calls, refused, tokens] = content.n;
  const facts = `ended ${content.e.replaceAll("_", " ")} · ${plural(calls, "call")} executed, ${refused} refused` + (tokens === null ? "" : ` · ${count(tokens)} tokens`);
  const flags = make("p", "flag-list");
  flagsOf(run[3]).forEach((words) => flags.append(make("span", "flag", words)));
  const parts = [title, make("p", "trajectory", `trajectory ${content.i}`), make("p", "note", facts), flags, drawScores(content.s)];
  content.m.forEach((message) => parts.push(drawMessage(message)));
  if (content.b) parts.push(fold("World before", textBlock(content.b)));
  if (content.w) parts.push(fold("World after", textBlock(content.w)));
  return parts;
}

function drawScores(scores) {
  const box = make("div", "scores");
  const rank = (one) => index.objectives.indexOf(one.o);
  for (const one of [...scores].sort((a, b) => rank(a) - rank(b))) {
    const line = make("div", "score"), head = make(one.r ? "summary" : "p");
    head.append(make("b", "", one.v === null ? "missing" : String(one.v)), " ");
    appendVisible(head, [one.o, one.j, one.l, one.m].filter(Boolean).join(" · ") + (one.k ? ` · repeat ${one.k}` : ""));
    if (one.r) {
      const reason = make("details", "reason");
      head.title = "Open the judge's reply";
      reason.append(head, textBlock(one.r));
      line.append(reason);
    } else line.append(head);
    box.append(line);
  }
  if (!scores.length) box.append(make("p", "note", "not judged"));
  return box;
}

function fold(words, content) {
  const details = make("details");
  details.append(make("summary", "", words), content);
  return details;
}

// Lines from an Observation heading to the next heading are an answer that the agent gave itself.
const HEADING = /^[\s*#>`_-]*(Observation|Action|Action Input|Thought|Final Answer)[\s*_`]*:/;

function appendSpoken(node, text) {
  let inside = false, held = "";
  const flush = () => {
    if (!held) return;
    const part = inside ? make("span", "written") : node;
    if (inside) node.append(part);
    appendVisible(part, held);
    held = "";
  };
  for (const line of text.match(/[^\n]*\n|[^\n]+$/g) ?? []) {
    const found = HEADING.exec(line);
    if (found && inside !== (found[1] === "Observation")) { flush(); inside = found[1] === "Observation"; }
    held += line;
  }
  flush();
  return node;
}

function textBlock(text, spoken) {
  const append = spoken ? appendSpoken : appendVisible;
  const block = make("div", "text"), body = make("div", "body");
  append(body, text.c.slice(0, SHOWN_CHARACTERS));
  block.append(body);
  if (text.c.length > SHOWN_CHARACTERS) {
    const more = make("button", "more", `Show ${count(text.c.length - SHOWN_CHARACTERS)} more characters`);
    more.type = "button";
    more.addEventListener("click", () => { body.replaceChildren(); append(body, text.c); more.remove(); });
    block.append(more);
  }
  if (text.x) block.append(make("p", "note", `${count(text.x)} characters are left out of this report`));
  return block;
}

function drawMessage(message) {
  const box = make("section", `message ${message.r}`);
  box.append(appendVisible(make("h5"), message.n ? `${message.r} · ${message.n}` : message.r));
  if (message.c) box.append(textBlock(message, message.r === "assistant"));
  for (const call of message.t ?? []) {
    const row = make("div", "call");
    row.append(appendVisible(make("b"), call.n), textBlock(call));
    box.append(row);
  }
  if (message.d) box.append(make("p", "note", `${count(message.d)} characters that the agent never saw are left out`));
  return box;
}

function runList(item) {
  const details = make("details", "run-list"), table = make("table"), head = make("tr");
  details.append(make("summary", "", `All ${count(item.r.length)} trajectories of this case`));
  const names = ["Checkpoint", ...index.objectives, "Flags"];
  names.forEach((name, place) => {
    const cell = make("th", place && place <= index.objectives.length ? "num" : ""), button = make("button", "sort", name);
    button.type = "button";
    cell.append(button);
    head.append(cell);
  });
  table.append(make("thead"), make("tbody"));
  table.tHead.append(head);
  const add = (runs) => runs.forEach((run) => {
    const row = make("tr"), cell = make("td"), button = make("button", "open");
    appendVisible(button, checkpointName(run[1]) + (run[2] ? ` · rollout ${run[2]}` : ""));
    button.type = "button";
    button.addEventListener("click", () => {
      view.right = run;
      view.left = parentRun(item, run) ?? view.left;
      drawPair();
      byId("case-view").scrollIntoView({ block: "start" });
    });
    cell.append(button);
    row.append(cell, ...index.objectives.map((objective) => make("td", "num", score(scoreOn(run, objective)))), make("td", "", flagsOf(run[3]).join(", ")));
    table.tBodies[0].append(row);
  });
  add(item.r.slice(0, SHOWN_RUNS));
  wireTable(table);
  const box = make("div", "scroll tall");
  box.tabIndex = 0;
  box.append(table);
  details.append(box);
  if (item.r.length > SHOWN_RUNS) {
    const more = make("button", "more", `Show ${count(item.r.length - SHOWN_RUNS)} more`);
    more.type = "button";
    more.addEventListener("click", () => { add(item.r.slice(SHOWN_RUNS)); more.remove(); });
    details.append(more);
  }
  return details;
}

async function start() {
  document.querySelectorAll("table.sortable").forEach(wireTable);
  index = await unpack(byId("index").textContent);
  prepareCases();
  drawCases();
  prepareChanges();
  byId("case-filter").addEventListener("submit", (event) => event.preventDefault());
  const redraw = () => { list.limit = SHOWN_CASES; redrawCases(); };
  byId("case-search").addEventListener("input", () => { list.texts = null; redraw(); });
  byId("case-texts").addEventListener("click", searchTexts);
  FILTERS.slice(1).forEach((name) => byId(`case-${name}`).addEventListener("change", redraw));
  document.querySelectorAll("a[href='#cases'][data-finding], a[href='#cases'][data-lineage]").forEach((link) => link.addEventListener("click", (event) => followFilter(link, event)));
  byId("case-more").addEventListener("click", () => { list.limit += SHOWN_CASES; drawCases(); });
  addEventListener("hashchange", followAddress);
  followAddress();
  markSections();
  openForPrint();
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
}

