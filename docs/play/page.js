// Reads the controls, asks recursions.js, and draws: numbers, a map of the policy, and where q and the true world go.
"use strict";

const TARGET = { believed: "#0072b2", real: "#d55e00" };
const APPLIES = {
  bridge: new Set(["slip", "temperature", "horizon", "eta"]),
  lottery: new Set(["temperature", "eta"]),
};
const RANGES = ["slip", "temperature", "horizon", "eta"];
const CELL = 60;
const element = (id) => document.getElementById(id);

function shown(number, digits) {
  const text = number.toFixed(digits);
  return Number(text) === 0 ? (0).toFixed(digits) : text.replace("-", "\u2212");
}

function svg(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  children.forEach((child) => made.append(child));
  return made;
}

function figure(title, picture, words) {
  const made = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const strong = document.createElement("strong");
  strong.textContent = title;
  caption.append(strong, ` ${words}`);
  made.append(caption, picture);
  return made;
}

// A colour between white and another one.
function tint(color, share) {
  const parts = [1, 3, 5].map((place) => parseInt(color.slice(place, place + 2), 16));
  return `rgb(${parts.map((part) => Math.round(255 + (part - 255) * Math.min(1, share))).join(" ")})`;
}

function arrow(x, y, [down, right], share) {
  const length = CELL * (0.12 + 0.26 * share);
  const [dx, dy] = [right * length, down * length];
  const width = 1.2 + 3 * share;
  const head = 4 + 4 * share;
  const [tipX, tipY] = [x + dx, y + dy];
  const left = `${tipX - right * head - down * head * 0.6},${tipY - down * head - right * head * 0.6}`;
  const other = `${tipX - right * head + down * head * 0.6},${tipY - down * head + right * head * 0.6}`;
  return svg(
    "g",
    { class: "arrow", "data-share": share },
    svg("line", { x1: x, y1: y, x2: tipX - right * head * 0.8, y2: tipY - down * head * 0.8, "stroke-width": width }),
    svg("polygon", { points: `${tipX},${tipY} ${left} ${other}` }),
  );
}

function gridMap(model, fill, words, policy) {
  const width = 1 + Math.max(...model.cells.map(({ column }) => column));
  const height = 1 + Math.max(...model.cells.map(({ row }) => row));
  const picture = svg("svg", { viewBox: `0 0 ${width * CELL} ${height * CELL}`, role: "img" });
  picture.append(svg("rect", { class: "wall", x: 0, y: 0, width: width * CELL, height: height * CELL }));
  model.cells.forEach(({ row, column, kind }, state) => {
    const [x, y] = [column * CELL, row * CELL];
    const classes = model.terminal[state] ? "cell end" : kind === "=" ? "cell slippery" : "cell";
    const cell = svg("rect", { class: classes, x: x + 1, y: y + 1, width: CELL - 2, height: CELL - 2, fill: fill(state) });
    cell.append(svg("title", {}, `${{ S: "start", G: "goal", "~": "chasm", "=": "bridge" }[kind] ?? "floor"}: ${words(state)}`));
    picture.append(cell);
    const name = { S: "start", G: "goal", "~": "chasm", "=": "bridge" }[kind];
    if (name) picture.append(svg("text", { class: "name", x: x + 5, y: y + 13 }, name));
    if (policy && !model.terminal[state]) {
      [[-1, 0], [0, 1], [1, 0], [0, -1]].forEach((move, action) => {
        if (policy[state][action] > 0.03) picture.append(arrow(x + CELL / 2, y + CELL / 2, move, policy[state][action]));
      });
    } else if (!policy) {
      picture.append(svg("text", { class: "number", x: x + CELL / 2, y: y + CELL / 2 + 8 }, words(state)));
    }
  });
  return picture;
}

function drawBridge(model, found) {
  const live = found.values.filter((_, state) => !model.terminal[state]);
  const [low, high] = [Math.min(...live), Math.max(...live)];
  const shade = (state) =>
    model.terminal[state] ? "#ffffff" : tint("#009e73", (0.8 * (found.values[state] - low)) / (high - low || 1));
  const percent = (visits) => (state) => `${(100 * visits[state]).toFixed(visits[state] < 0.0995 ? 1 : 0)}%`;
  const plain = (visits) => (state) =>
    visits[state] < 5e-4 ? "" : model.terminal[state] ? percent(visits)(state) : visits[state].toFixed(2);
  return [
    figure(
      "The policy at the first step.",
      gridMap(model, shade, (state) => `value ${shown(found.values[state], 2)}`, found.policy),
      "The longer an arrow, the more probable the action; the greener a cell, the higher its value.",
    ),
    figure(
      "Where it believes it goes.",
      gridMap(model, (state) => tint(TARGET.believed, 0.75 * found.hopedVisits[state]), plain(found.hopedVisits)),
      "Expected visits under q; of the goal and the chasm, how probable it is to end there.",
    ),
    figure(
      "Where it really goes.",
      gridMap(model, (state) => tint(TARGET.real, 0.75 * found.realVisits[state]), plain(found.realVisits)),
      "The same policy in the true world.",
    ),
  ];
}

function bars(rows) {
  const picture = svg("svg", { viewBox: `0 0 420 ${rows.length * 44 + 4}`, role: "img" });
  rows.forEach(([label, share, color], place) => {
    const y = place * 44 + 4;
    picture.append(
      svg("text", { class: "bar-label", x: 0, y: y + 13 }, label),
      svg("rect", { class: "bar-rest", x: 0, y: y + 18, width: 360, height: 18 }),
      svg("rect", { x: 0, y: y + 18, width: 360 * share, height: 18, fill: color }),
      svg("text", { class: "bar-number", x: 366, y: y + 32 }, `${(100 * share).toFixed(1)}%`),
    );
  });
  return picture;
}

function drawLottery(model, found) {
  const [safe, gamble] = found.policy[model.start];
  const won = found.dynamics[model.start][1][0];
  return [
    figure("The policy.", bars([["safe", safe, "#009e73"], ["gamble", gamble, "#009e73"]]), "Probability of each action."),
    figure(
      "If it gambles.",
      bars([
        ["wins, as it believes", won, TARGET.believed],
        ["wins, really", model.outcomes[model.start][1][0].chance, TARGET.real],
      ]),
      `Won, the gamble costs nothing; lost, it costs ${-TABLES.lottery.lose_reward}. The safe action costs ${-TABLES.lottery.safe_reward}.`,
    ),
  ];
}

function tell(found) {
  const gap = found.believed - found.real;
  const chance = Math.exp(-found.luck);
  if (found.luck < 5e-4) return "The plan counts on no luck: what it believes is what it gets.";
  const side = gap >= 0 ? "more than it gets" : "less than it gets: it plans for a world that is unkind";
  return `The plan expects ${shown(Math.abs(gap), 2)} ${side}. What it counts on has a probability of about exp(\u2212luck) = ${chance.toPrecision(2)}.`;
}

function update() {
  const name = element("model").value;
  const values = {};
  RANGES.forEach((range) => {
    const input = element(range);
    input.disabled = !APPLIES[name].has(range);
    values[range] = Number(input.value);
    document.querySelector(`output[for=${range}]`).textContent = input.disabled ? "" : input.value;
    document.querySelector(`label[for=${range}]`).classList.toggle("off", input.disabled);
  });
  const model = RECURSIONS.models[name](TABLES[name], values);
  const found = RECURSIONS.answer(model, values.eta);
  ["believed", "real", "luck"].forEach((key) => {
    element(key).dataset.value = String(found[key]);
    element(key).textContent = shown(found[key], 2);
  });
  element("sentence").textContent = tell(found);
  element("pictures").replaceChildren(...(name === "bridge" ? drawBridge : drawLottery)(model, found));
}

element("controls").addEventListener("input", update);
element("controls").addEventListener("change", update);
element("controls").addEventListener("submit", (event) => event.preventDefault());
element("controls").addEventListener("reset", () => setTimeout(update));
update();
