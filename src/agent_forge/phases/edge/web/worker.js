/** The agent in a thread of its own, so that the page stays quick: messages in, steps of answers out. */

import { answer } from "./design.js";
import { openAgent, readPage } from "./load.js";

let designed = null;
let cancelled = false;

/** The bytes of a file of the folder, told as they come. */
async function read(name, progress = () => {}) {
  const response = await fetch(new URL(name, import.meta.url));
  if (!response.ok) throw new Error(`${name} could not be loaded (${response.status} ${response.statusText})`);
  const parts = [];
  let done = 0;
  for (let reader = response.body.getReader(), step = await reader.read(); !step.done; step = await reader.read()) {
    parts.push(step.value);
    progress((done += step.value.length));
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

async function open() {
  const page = await readPage(read);
  postMessage({ type: "page", page });
  designed = await openAgent(page, read, (done, total) => postMessage({ type: "progress", done, total }));
  postMessage({ type: "ready" });
}

async function ask({ messages, options }) {
  cancelled = false;
  const start = performance.now();
  const tokens = [];
  for await (const step of answer(designed, messages, { ...options, cancelled: () => cancelled })) {
    if (step.type === "token") {
      tokens.push(step.id);
      await turnOfTheLoop();
    } else {
      postMessage(step.type === "end" ? { ...step, tokens, seconds: (performance.now() - start) / 1000 } : step);
    }
  }
}

/** Lets messages in, such as the wish to stop; a timer would wait 4 ms each time. */
function turnOfTheLoop() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

const acts = { open, ask, stop: () => (cancelled = true) };

onmessage = async ({ data }) => {
  try {
    await acts[data.type](data);
  } catch (error) {
    postMessage({ type: "error", message: error.message });
  }
};
