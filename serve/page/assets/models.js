// The list of models, and the choice among them.
import { number } from "./numbers.js";

const find = (id) => document.getElementById(id);

// What is under way beside the version that answers.
function notes({ previous, shadow, failure, behind, reason }) {
  return [
    reason && `away: ${reason}`,
    previous && `before: ${previous}`,
    shadow && `in the shadow: ${shadow}`,
    failure && `the last change failed: ${failure.reason}`,
    behind,
  ].filter(Boolean).join("; ");
}

function row(each, choose) {
  const node = document.createElement("tr");
  node.dataset.model = each.name;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "link";
  button.textContent = each.name;
  button.addEventListener("click", choose);
  node.insertCell().append(button);
  const threshold = each.threshold === undefined ? "" : number(each.threshold);
  for (const value of [each.version, each.engine, each.difference_module, threshold, notes(each)]) {
    node.insertCell().textContent = value ?? "";
  }
  return node;
}

// A model with replicas of its own may be away; of it the name and the reason are known.
export function showModels({ models, away }, selected) {
  const all = [...models, ...away];
  const select = find("model");
  const before = select.value;
  select.replaceChildren(...all.map(({ name }) => new Option(name, name)));
  if (all.some(({ name }) => name === before)) select.value = before;
  const choose = (name) => () => {
    select.value = name;
    selected();
  };
  find("models").querySelector("tbody").replaceChildren(...all.map((each) => row(each, choose(each.name))));
  find("models").hidden = false;
}
