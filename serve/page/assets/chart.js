// The validation scores as bars, with the threshold and the score of this pair.
import { short } from "./numbers.js";

const WIDTH = 640;
const TOP = 48; // room for the labels
const BASE = 200;

function element(name, attributes, text = "") {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.textContent = text;
  return node;
}

const sum = (counts) => counts.reduce((total, count) => total + count, 0);

// One line with its label above it; labels near a border turn inwards.
function mark(x, kind, label, y) {
  const anchor = x < 90 ? "start" : x > WIDTH - 90 ? "end" : "middle";
  return [
    element("line", { x1: x, x2: x, y1: y + 6, y2: BASE, class: kind }),
    element("text", { x, y, "text-anchor": anchor, class: `${kind}-text` }, label),
  ];
}

// Bundles part the scores of a sharp network far finer than a screen shows: bins too narrow to see are drawn as one.
function columns({ edges = [], PASS = [], defect = [] }) {
  const narrowest = ((1 - 1e-9) * (edges.at(-1) - edges[0])) / 50;
  const drawn = [];
  let from = 0;
  for (let to = 1; to < edges.length; to += 1) {
    if (edges[to] - edges[from] < narrowest && to < edges.length - 1) continue;
    const counts = { PASS: sum(PASS.slice(from, to)), defect: sum(defect.slice(from, to)) };
    drawn.push({ from: edges[from], to: edges[to], counts });
    from = to;
  }
  return drawn;
}

export function drawScores(chart, caption, model, answer = null) {
  const scores = model.validation_scores;
  const edges = scores.edges ?? [];
  const threshold = answer?.threshold ?? model.threshold.value;
  const values = [...edges, threshold, 0, ...(answer ? [answer.score] : [])];
  if (!edges.length) values.push(2 * threshold);
  const low = Math.min(...values);
  const span = Math.max(...values) - low || 1;
  const at = (value) => ((value - low) / span) * WIDTH;
  const drawn = columns(scores);
  // Square roots keep one defect visible beside a thousand good parts.
  const highest = Math.sqrt(Math.max(1, ...drawn.flatMap(({ counts }) => Object.values(counts))));
  const bars = drawn.flatMap(({ from, to, counts }) => {
    const kinds = Object.keys(counts).filter((kind) => counts[kind]);
    const width = (at(to) - at(from)) / kinds.length;
    return kinds.map((kind, position) => {
      const height = Math.max(2, (Math.sqrt(counts[kind]) / highest) * (BASE - TOP));
      return element("rect", {
        x: at(from) + position * width, y: BASE - height,
        width: Math.max(1.5, width - 1), height, class: kind.toLowerCase(),
      });
    });
  });
  const ends = [
    element("line", { x1: 0, x2: WIDTH, y1: BASE, y2: BASE, class: "axis" }),
    element("text", { x: 0, y: BASE + 22, "text-anchor": "start" }, short(low)),
    element("text", { x: WIDTH / 2, y: BASE + 22, "text-anchor": "middle" }, "score"),
    element("text", { x: WIDTH, y: BASE + 22, "text-anchor": "end" }, short(low + span)),
  ];
  const marks = mark(at(threshold), "threshold", `threshold ${short(threshold)}`, 36);
  if (answer) {
    const x = at(answer.score);
    marks.push(...mark(x, "score", `this pair ${short(answer.score)}`, 12));
    marks.push(element("path", { d: `M ${x - 7} ${BASE + 10} L ${x + 7} ${BASE + 10} L ${x} ${BASE} Z`, class: "score-head" }));
  }
  chart.replaceChildren(...bars, ...ends, ...marks);
  const summary = `threshold ${short(threshold)}${answer ? `, this pair ${short(answer.score)}` : ""}`;
  chart.setAttribute("aria-label", `Scores of the validation set from ${short(low)} to ${short(low + span)}; ${summary}`);
  caption.replaceChildren();
  if (!edges.length) {
    caption.textContent = "This bundle holds no validation scores.";
    return;
  }
  for (const [kind, words] of [["PASS", "good parts"], ["defect", "defects"]]) {
    const entry = document.createElement("span");
    const swatch = document.createElement("i");
    swatch.className = kind.toLowerCase();
    entry.append(swatch, `${sum(scores[kind] ?? [])} ${words}`);
    caption.append(entry);
  }
  caption.append("of the validation set (heights: square root of counts)");
}
