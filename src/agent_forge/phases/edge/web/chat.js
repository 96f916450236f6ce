/** The page: shows a conversation and what the agent does on its way to an answer. The agent runs in worker.js. */

const element = (id) => document.getElementById(id);
const [log, form, question, send, stop] = ["log", "form", "question", "send", "stop"].map(element);
const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
const memory = [];
let page = null;
let turn = null; // the answer that is being written

const made = (tag, className = "", text = "") =>
  Object.assign(document.createElement(tag), { className, textContent: text });

/** Shows one more thing, and keeps the end in sight if it was. */
function shown(change) {
  const main = document.querySelector("main");
  const atEnd = main.scrollHeight - main.scrollTop - main.clientHeight < 80;
  change();
  if (atEnd) main.scrollTop = main.scrollHeight;
}

function fail(message) {
  element("error").textContent = message;
  element("error").hidden = false;
  element("loading").hidden = true;
  finish("");
}

/** What the agent is. */
function introduce(given) {
  page = given;
  document.title = page.name;
  element("name").textContent = page.name;
  element("facts").textContent = `${page.summary} It runs in this page: what you write stays on this device.`;
  for (const [term, told] of page.card) element("card").append(made("dt", "", term), made("dd", "", told));
  element("think-option").hidden = page.dialogue.opening === null;
  if (page.think !== null) element("think").firstElementChild.remove(); // all questions are gone about alike
  element("think").value = page.think ?? "";
  for (const example of page.examples) {
    const button = made("button", "", example);
    button.type = "button";
    button.addEventListener("click", () => ask(example));
    element("examples").append(button);
  }
}

function ready() {
  element("loading").hidden = true;
  element("examples").hidden = page.examples.length === 0;
  question.disabled = send.disabled = false;
  question.focus();
  document.body.dataset.state = "ready";
}

/** Puts a question to the agent. */
function ask(text) {
  if (turn || send.disabled || text.trim() === "") return;
  shown(() => {
    turn = { asked: text.trim(), place: made("li", "agent"), thought: null, answer: null, attempt: null };
    log.append(made("li", "user", turn.asked), turn.place);
  });
  document.body.dataset.state = "busy";
  element("examples").hidden = true;
  element("status").textContent = "";
  [send.hidden, stop.hidden] = [true, false];
  const earlier = element("remember").checked ? memory : [];
  worker.postMessage({
    type: "ask",
    messages: [...earlier, { role: "user", content: turn.asked }],
    options: { maxTokens: page.maxTokens, think: element("think").value || undefined },
  });
}

/** A folded step of the agent: a thought, or a call and its result. */
function step(summary, ...content) {
  const details = made("details", "step");
  details.open = element("unfold").checked;
  details.append(made("summary", "", summary), ...content);
  turn.place.append(details);
  return details;
}

/** Of several attempts only the one that wins is shown: here is a sign that they are being made. */
function attempted({ number, most }) {
  if (most === 1) return;
  if (!turn.attempt) turn.place.append((turn.attempt = made("p", "attempt writing")));
  turn.attempt.setAttribute("aria-live", "off"); // the log would read out each of them
  turn.attempt.textContent = `Attempt ${number} of ${number === most ? "" : "up to "}${most}`;
}

const written = {
  thought(text) {
    turn.thought ??= step("Thought", made("p"));
    turn.thought.lastChild.textContent += text;
  },
  answer(text) {
    if (!turn.answer) turn.place.append((turn.answer = made("p", "answer writing")));
    turn.answer.textContent = (turn.answer.textContent + text).trimStart();
  },
};

const turns = {
  thought({ text }) {
    turn.thought ??= step("Thought", made("p"));
    turn.thought.lastChild.textContent = text;
    turn.thought = null;
  },
  call({ text }) {
    const [name] = text.split("(");
    turn.call = step(`Used ${name}`, made("p"));
    turn.call.lastChild.append(made("code", "", text));
  },
  result({ text, ok }) {
    turn.call.append(made("p", ok ? "" : "wrong", `${ok ? "" : "error: "}${text}`));
    if (!ok) turn.call.firstChild.textContent += " (it did not work)";
  },
  answer({ text }) {
    if (!turn.answer) turn.place.append((turn.answer = made("p", "answer")));
    turn.answer.textContent = text;
  },
};

const ENDS = {
  answer: "",
  calls: "It asked for more calls than are allowed for one answer.",
  tokens: "The answer was cut off: it was getting too long.",
  context: "There is no room for more of this conversation.",
  cancelled: "Stopped.",
};

function finish(note) {
  turn?.answer?.classList.remove("writing");
  turn?.attempt?.remove();
  if (turn?.place.childElementCount === 0) turn.place.remove();
  turn = null;
  [send.hidden, stop.hidden] = [false, true];
  element("status").textContent = note;
  if (document.body.dataset.state === "busy") document.body.dataset.state = "ready";
}

function ended({ stopped, number, attempts, tokens, seconds }) {
  const answer = turn.answer?.textContent ?? "";
  turn.place.dataset.tokens = tokens.join(" ");
  turn.place.dataset.stopped = stopped;
  if (element("remember").checked)
    memory.push({ role: "user", content: turn.asked }, { role: "assistant", content: answer });
  const which = attempts > 1 ? `Attempt ${number} of ${attempts} was chosen.` : "";
  const speed = `${tokens.length} tokens in ${seconds.toFixed(2)}\u00a0s`;
  finish([ENDS[stopped], which, speed].filter(Boolean).join(" "));
}

const told = {
  page: ({ page: given }) => introduce(given),
  progress({ done, total }) {
    element("loading").hidden = false;
    element("progress").value = done / total;
    element("progress-text").textContent =
      `Loading the model: ${(done / 1e6).toFixed(1)} of ${(total / 1e6).toFixed(1)} MB`;
  },
  ready,
  attempt: (given) => shown(() => attempted(given)),
  piece: ({ kind, text }) => shown(() => written[kind](text)),
  turn: (given) => shown(() => turns[given.kind](given)),
  end: (given) => shown(() => ended(given)),
  error: ({ message }) => fail(message),
};

worker.onmessage = ({ data }) => told[data.type](data);
worker.onerror = (event) =>
  fail(`The agent could not be started: ${event.message ?? "this browser may be too old for module workers"}`);

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (turn) return;
  ask(question.value);
  question.value = "";
});
question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});
stop.addEventListener("click", () => worker.postMessage({ type: "stop" }));
element("clear").addEventListener("click", () => {
  if (turn) return;
  memory.length = 0;
  log.replaceChildren();
  element("status").textContent = "";
});
element("unfold").addEventListener("change", ({ target }) => {
  for (const details of document.querySelectorAll("details.step")) details.open = target.checked;
});
element("theme").addEventListener("change", ({ target }) => {
  document.documentElement.dataset.theme = target.value;
});

element("closed").hidden = true;
worker.postMessage({ type: "open" });
