// Test and golden in one place: side by side, one over the other, or what differs between them.
const find = (id) => document.getElementById(id);
const BRIGHTER = 2; // doublings of the difference, which is faint where a part is only a little off
const WORDS = { test: "test", golden: "golden" };
let pair = {}; // role -> bitmap
let shown = "test";
let latest = 0;

export const mode = () => document.querySelector('input[name="mode"]:checked').value;

function canvas(paint, label) {
  const node = document.createElement("canvas");
  const { width, height } = pair.test ?? pair.golden;
  node.width = width;
  node.height = height;
  node.setAttribute("role", "img");
  node.setAttribute("aria-label", label);
  paint(node.getContext("2d"), width, height, node);
  return node;
}

const picture = (role) => canvas((context, width, height) => context.drawImage(pair[role], 0, 0, width, height), WORDS[role]);

function difference() {
  return canvas((context, width, height, node) => {
    context.drawImage(pair.test, 0, 0, width, height);
    context.globalCompositeOperation = "difference";
    context.drawImage(pair.golden, 0, 0, width, height);
    context.globalCompositeOperation = "lighter";
    for (let step = 0; step < BRIGHTER; step += 1) context.drawImage(node, 0, 0);
  }, "difference of test and golden");
}

function draw() {
  const stage = find("stage");
  const roles = ["test", "golden"].filter((role) => pair[role]);
  stage.dataset.mode = mode();
  if (!roles.length) {
    stage.replaceChildren();
    find("view-caption").textContent = "This browser cannot show these pictures; the service reads them all the same.";
  } else if (mode() === "side" || roles.length < 2) {
    stage.replaceChildren(...roles.map(picture));
    find("view-caption").textContent = roles.length === 2 ? "Left the test, right the golden." : `Only the ${WORDS[roles[0]]} can be shown here.`;
  } else if (mode() === "flip") {
    stage.replaceChildren(picture(shown));
    find("view-caption").textContent = `Now the ${WORDS[shown]}. Click, or press F, for the other.`;
  } else {
    stage.replaceChildren(difference());
    find("view-caption").textContent = `Black where both are equal; ${2 ** BRIGHTER} times brighter than it is.`;
  }
}

const decode = async (file) => createImageBitmap(await file);

// Shows a pair of files, or promises of them; either may be missing.
export async function show(test, golden) {
  const number = (latest += 1);
  const decoded = await Promise.all([test, golden].map((file) => (file ? decode(file).catch(() => null) : null)));
  if (number !== latest) return; // others were chosen meanwhile
  pair = { test: decoded[0], golden: decoded[1] };
  shown = "test";
  find("view").hidden = !test && !golden;
  draw();
}

function flip() {
  if (mode() !== "flip") return;
  shown = shown === "test" ? "golden" : "test";
  draw();
}

find("stage").addEventListener("click", flip);
for (const input of document.querySelectorAll('input[name="mode"]')) input.addEventListener("change", draw);
document.addEventListener("keydown", (event) => {
  if (event.key.toLowerCase() !== "f" || event.ctrlKey || event.metaKey || event.altKey || find("view").hidden) return;
  if (event.target.matches('input:not([type="radio"]):not([type="file"]), select, textarea')) return;
  const wanted = document.querySelector('input[name="mode"][value="flip"]');
  if (wanted.checked) flip();
  else {
    wanted.checked = true;
    draw();
  }
});
