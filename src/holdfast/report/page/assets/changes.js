// ---- broken and fixed: the cases whose first listed objective fell or rose most from a parent to its child -----

const MOST_CHANGED = 8;
const changes = new Map(); // "child/part" → [{item, before, after, change}]

const visible = (text) => text.replace(UNSAFE, symbol);
const runMean = (runs) => mean(runs.map((run) => scoreOn(run, index.objectives[0])));

function groupRuns(item) {
  const groups = new Map();
  for (const run of item.r) {
    if (!groups.has(run[1])) groups.set(run[1], []);
    groups.get(run[1]).push(run);
  }
  return groups;
}

function collectChanges() {
  for (const item of index.cases) {
    const groups = groupRuns(item);
    for (const [child, runs] of groups) {
      const parent = groups.get(index.checkpoints[child].p), part = runs[0][6];
      if (!parent || !part || part === 5) continue; // training cases are no test, and a user pleased less is no case broken
      const before = runMean(parent), after = runMean(runs);
      if (before === null || after === null) continue;
      const key = `${child}/${part}`;
      if (!changes.has(key)) changes.set(key, []);
      changes.get(key).push({ item, before, after, change: after - before, parent, runs });
    }
  }
}

// A second stage of a main lineage first, then first stages, then controls; among them the one that lost most.
function firstChange() {
  let best = null;
  for (const [key, found] of changes) {
    const [child, part] = key.split("/").map(Number), point = index.checkpoints[child];
    const rank = 4 * (part === 1) + 2 * point.m + (index.checkpoints[point.p].p >= 0);
    const fall = -mean(found.map((one) => one.change));
    if (!best || rank > best.rank || (rank === best.rank && fall > best.fall)) best = { rank, fall, child, part };
  }
  return best;
}

function prepareChanges() {
  const section = byId("changes");
  if (!section) return;
  collectChanges();
  const first = firstChange();
  if (!first) {
    section.hidden = true;
    document.querySelector("nav a[href='#changes']").hidden = true;
    return;
  }
  const groups = new Map(), select = byId("change-child");
  const children = [...new Set([...changes.keys()].map((key) => Number(key.split("/")[0])))].sort((a, b) => a - b);
  for (const child of children) {
    const point = index.checkpoints[child], name = `${point.l} against ${index.checkpoints[point.p].l}`;
    if (!groups.has(name)) {
      const group = make("optgroup");
      group.label = visible(name);
      groups.set(name, group);
      select.append(group);
    }
    addOption(groups.get(name), child, checkpointName(child));
  }
  const parts = new Set([...changes.keys()].map((key) => key.split("/")[1]));
  for (const option of [...byId("change-part").options]) if (!parts.has(option.value)) option.remove();
  byId("change-part").parentNode.hidden = parts.size < 2;
  select.value = String(first.child);
  byId("change-part").value = String(first.part);
  makeSearchable(select, byId("change-find"));
  for (const id of ["change-child", "change-part"]) byId(id).addEventListener("change", drawChanges);
  drawChanges();
}

function drawChanges() {
  const child = Number(byId("change-child").value), found = changes.get(`${child}/${byId("change-part").value}`) ?? [];
  const fell = found.filter((one) => one.change < 0).sort((a, b) => a.change - b.change || a.item.k - b.item.k);
  const rose = found.filter((one) => one.change > 0).sort((a, b) => b.change - a.change || a.item.k - b.item.k);
  const same = found.length - fell.length - rose.length, name = visible(index.objectives[0]);
  byId("change-count").textContent = found.length
    ? `${plural(found.length, "case")}: ${name} fell in ${count(fell.length)}, rose in ${count(rose.length)}, stayed in ${count(same)}`
    : "no case of this kind was met by both";
  byId("broken").replaceChildren(changeList(`Broken: ${name} fell most`, fell, child), changeList(`Fixed: ${name} rose most`, rose, child));
}

function changeList(words, found, child) {
  const box = make("div"), list = make("ol", "changed"), point = index.checkpoints[child];
  box.append(make("h3", "", words));
  for (const one of found.slice(0, MOST_CHANGED)) {
    const entry = make("li"), button = make("button", "open"), by = index.checkpoints[point.p].l;
    appendVisible(button, one.item.t || "(no instruction)");
    button.type = "button";
    button.addEventListener("click", () => openCase(one.item, extremes(one)));
    entry.append(button, appendVisible(make("p", "note"), `case ${one.item.k} · ${one.item.f} · ${score(one.before)} in ${by}, ${score(one.after)} in ${point.l}`));
    list.append(entry);
  }
  box.append(found.length ? list : make("p", "note", "no case"));
  if (found.length > MOST_CHANGED) box.append(make("p", "note", `${count(found.length - MOST_CHANGED)} more are in the list of cases below`));
  return box;
}

// The two episodes that show the change best: of the parent's and the child's rollouts those that lie farthest apart.
function extremes(one) {
  const value = (run) => scoreOn(run, index.objectives[0]) ?? NaN, sign = Math.sign(one.change);
  const pick = (runs, most) => runs.filter((run) => !Number.isNaN(value(run))).reduce((best, run) => (most * value(run) > most * value(best) ? run : best));
  return { left: pick(one.parent, -sign), right: pick(one.runs, sign) };
}

start();
