// The inspection page: pictures in, a verdict out. A verdict is shown only for the pictures that are on the page.
import { drawScores } from "./chart.js";
import { showModels } from "./models.js";
import { number } from "./numbers.js";
import { getFile, getJson, useKey } from "./service.js";
import * as view from "./view.js";

const find = (id) => document.getElementById(id);
const ROLES = ["test", "golden"];
const chosen = { test: new Map(), golden: new Map() }; // light -> files
let model = null; // facts of the selected model
let running = null; // the request under way
let selecting = null; // likewise, of a model's facts
let registered = []; // of the golden that the verdict names: light -> SHA-256, for each of its pictures

function show(state, title, sentence = "", problem = "") {
  find("result").dataset.state = state;
  find("verdict").textContent = title;
  find("sentence").textContent = sentence;
  find("problem").textContent = problem;
  find("problem").hidden = !problem;
  find("status").textContent = "";
}

function showFacts(rows) {
  find("facts").replaceChildren(
    ...rows.map(([name, value]) => {
      const pair = document.createElement("div");
      pair.append(document.createElement("dt"), document.createElement("dd"));
      pair.firstChild.textContent = name;
      pair.lastChild.textContent = value;
      return pair;
    }),
  );
}

function modelFacts() {
  const { width, height, lights } = model.input;
  return [
    ["Version", model.version],
    ["Engine", model.engine],
    ["Compares", `${lights.length > 1 ? `${lights.length} lights of ` : ""}${width} × ${height}`],
    ["Encoder", model.backbone.split("/").pop()],
  ];
}

function buildSlots() {
  const { lights } = model.input;
  find("golden-id").value = "";
  find("view-light-label").hidden = lights.length < 2;
  find("view-light").replaceChildren(...lights.map((light) => new Option(light, light)));
  find("form").querySelector(".pictures").classList.toggle("many", model.input.lights.length > 1);
  for (const role of ROLES) {
    chosen[role].clear();
    const several = role === "golden" && model.num_golden > 1;
    find(role).querySelector(".slots").replaceChildren(
      ...model.input.lights.map((light) => {
        const slot = find("slot").content.firstElementChild.cloneNode(true);
        const input = slot.querySelector("input");
        slot.dataset.light = light;
        input.multiple = several;
        input.setAttribute("aria-label", [role, light, several ? "pictures" : "picture"].filter(Boolean).join(" "));
        if (light) {
          const title = document.createElement("span");
          title.className = "light";
          title.textContent = light;
          slot.prepend(title);
        }
        input.addEventListener("change", () => input.files.length && place(role, [...input.files], light));
        return slot;
      }),
    );
  }
}

// Several files at once go to the lights that their names end with (part_SolderLight.png), else to the slots in order.
function place(role, files, light) {
  const lights = model.input.lights;
  const groups = new Map();
  if (lights.length === 1 || files.length === 1) {
    const byName = files.length === 1 && light === undefined ? lights.find((name) => endsWith(files[0], name)) : undefined;
    groups.set(light ?? byName ?? lights.find((name) => !chosen[role].has(name)) ?? lights[0], files);
  } else {
    files.forEach((file, index) => {
      const target = lights.find((name) => endsWith(file, name)) ?? lights[index % lights.length];
      groups.set(target, [...(groups.get(target) ?? []), file]);
    });
  }
  for (const [target, group] of groups) {
    chosen[role].set(target, group.slice(0, role === "golden" ? model.num_golden : 1));
    fill(role, target);
  }
  changed();
}

const endsWith = (file, light) => light !== "" && file.name.replace(/\.[^.]*$/, "").endsWith(`_${light}`);

function fill(role, light) {
  const slot = [...find(role).querySelectorAll(".slot")].find((candidate) => candidate.dataset.light === light);
  const files = chosen[role].get(light);
  const picture = slot.querySelector("img");
  if (picture.src) URL.revokeObjectURL(picture.src);
  picture.onload = () => (picture.hidden = false);
  picture.onerror = () => (picture.hidden = true); // TIFF and the like: the service reads them, browsers do not
  picture.src = URL.createObjectURL(files[0]);
  slot.title = files.map((file) => file.name).join(", ");
  slot.querySelector(".name").textContent = slot.title;
  slot.classList.add("filled");
}

const goldenId = () => find("golden-id").value.trim();
const filled = (role) => model.input.lights.every((light) => chosen[role].has(light));
const complete = () => model && filled("test") && (goldenId() ? find("golden-id").checkValidity() : filled("golden"));

const modelUrl = () => `v1/models/${encodeURIComponent(model.name)}`;
const goldenUrl = () => `${modelUrl()}/goldens/${encodeURIComponent(goldenId())}`;

function look() {
  const light = find("view-light").value;
  const select = find("view-golden");
  const count = goldenId() ? registered.length : (chosen.golden.get(light)?.length ?? 0);
  find("view-golden-label").hidden = count < 2;
  if (select.options.length !== count) {
    select.replaceChildren(...Array.from({ length: count }, (_, number) => new Option(`${number + 1} of ${count}`, number)));
  }
  const number = Number(select.value);
  const digest = registered[number]?.[light];
  const golden = goldenId() ? digest && getFile(`${goldenUrl()}/pictures/${digest}`) : chosen.golden.get(light)?.[number];
  view.show(chosen.test.get(light)?.[0], golden);
}

// A registered golden is looked at once a verdict says that there is one.
async function lookAtRegistered(signal) {
  const { pictures } = await getJson(goldenUrl(), { signal });
  registered = pictures;
  look();
}

function reset() {
  running?.abort();
  registered = [];
  const anything = ROLES.some((role) => chosen[role].size) || goldenId() !== "";
  find("golden").classList.toggle("unused", goldenId() !== "");
  find("inspect").disabled = !complete();
  find("clear").disabled = !anything;
  show("empty", "No verdict yet", anything ? "More pictures are needed." : "Choose or drop a test picture and its golden.");
  showFacts(modelFacts());
  drawScores(find("chart"), find("caption"), model);
  look();
}

function changed() {
  reset();
  if (complete()) inspect();
}

async function inspect() {
  const request = new AbortController();
  running?.abort();
  running = request;
  show("busy", "Comparing …");
  const form = new FormData();
  for (const role of goldenId() ? ["test"] : ROLES)
    for (const [light, files] of chosen[role])
      for (const file of files) form.append(light ? `${role}.${light}` : role, file, file.name || "picture");
  if (goldenId()) form.append("golden_id", goldenId());
  const started = performance.now();
  try {
    const answer = await getJson(`${modelUrl()}/inspect`, { method: "POST", body: form, signal: request.signal });
    const good = answer.prediction === "PASS";
    const relation = answer.score > answer.threshold ? "above" : "not above";
    show(
      good ? "pass" : "fail",
      answer.prediction,
      `Score ${number(answer.score)} is ${relation} the threshold ${number(answer.threshold)}.`,
    );
    drawScores(find("chart"), find("caption"), model, answer);
    const { decode, engine } = answer.timing_ms;
    showFacts([
      ["Answered in", `${Math.round(performance.now() - started)} ms`],
      ["Decoding", `${decode.toFixed(1)} ms`],
      ["Comparing", `${engine.toFixed(1)} ms`],
      ["Golden", answer.golden_cached ? "was encoded before" : "encoded now"],
      ...modelFacts(),
    ]);
    if (goldenId()) await lookAtRegistered(request.signal).catch(() => {}); // forgotten meanwhile: the verdict stands
  } catch (error) {
    if (error.name === "AbortError") return;
    show("problem", "No verdict", "", error.message);
    registered = [];
    look();
  } finally {
    if (running === request) running = null;
  }
}

// Of several choices in a row the last one counts, whichever answer comes first.
async function selectModel() {
  running?.abort();
  selecting?.abort();
  selecting = new AbortController();
  const { signal } = selecting;
  try {
    model = await getJson(`v1/models/${encodeURIComponent(find("model").value)}`, { signal });
  } catch (error) {
    if (error.name === "AbortError") return;
    // What was chosen for the model before is not for this one.
    model = null;
    for (const slot of document.querySelectorAll(".slot")) slot.remove();
    find("inspect").disabled = true;
    view.show();
    show("problem", "No model", "", error.message);
    return;
  }
  buildSlots();
  reset();
  for (const row of find("models").querySelectorAll("tbody tr")) {
    row.classList.toggle("selected", row.dataset.model === model.name);
  }
}

// The models first: a key that is not known shows here.
async function open() {
  showModels(await getJson("v1/models"), selectModel);
  await selectModel();
}

function askForKey() {
  const unlock = find("unlock");
  show("empty", "Locked", "Enter the API key to begin.");
  find("key").focus();
  unlock.addEventListener("submit", async (event) => {
    event.preventDefault();
    useKey(find("key").value.trim());
    try {
      await open();
      unlock.hidden = true;
      find("key").value = "";
    } catch (error) {
      useKey("");
      find("key-problem").textContent = error.message;
      find("key-problem").hidden = false;
      find("key").select();
    }
  });
}

for (const role of ROLES) {
  const area = find(role);
  const slotOf = (event) => event.target.closest(".slot");
  area.addEventListener("dragover", (event) => {
    event.preventDefault();
    area.querySelectorAll(".slot").forEach((slot) => slot.classList.toggle("over", slot === slotOf(event)));
  });
  area.addEventListener("dragleave", () => area.querySelectorAll(".over").forEach((slot) => slot.classList.remove("over")));
  area.addEventListener("drop", (event) => {
    event.preventDefault();
    area.querySelectorAll(".over").forEach((slot) => slot.classList.remove("over"));
    const files = [...event.dataTransfer.files];
    if (files.length && model) place(role, files, files.length === 1 ? slotOf(event)?.dataset.light : undefined);
  });
}
// A picture dropped beside the slots must not replace the page.
for (const kind of ["dragover", "drop"]) window.addEventListener(kind, (event) => event.preventDefault());
find("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (complete()) inspect();
});
find("clear").addEventListener("click", selectModel);
find("model").addEventListener("change", selectModel);
for (const id of ["view-light", "view-golden"]) find(id).addEventListener("change", look);
find("golden-id").addEventListener("input", () => model && reset());
if (find("unlock")) askForKey();
else open().catch((error) => show("problem", "No models", "", error.message));
