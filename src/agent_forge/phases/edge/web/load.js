/**
 * Makes an agent of the files of this folder: page.json says which there are, how long they are and their digests; the
 * large ones are stored gzipped, which every static host can serve.
 */

import { Agent } from "./agent.js";
import { StepGraph } from "./graph.js";
import { Tokenizer } from "./tokenizer.js";
import { Toolbox } from "./tools.js";

const FORMAT = 2;

/** What page.json says. */
export async function readPage(read) {
  const page = JSON.parse(new TextDecoder().decode(await read("page.json")));
  if (page.format !== FORMAT) throw new Error(`page.json has format ${page.format}, this page reads ${FORMAT}`);
  return page;
}

/**
 * @param {object} page of `readPage`.
 * @param {(name: string) => Promise<Uint8Array>} read the bytes of a file of the folder.
 * @param {(done: number, total: number) => void} progress told after each file, in bytes.
 * @returns {Promise<{agent: Agent, design: object, classifier: object|null}>} what `answer` of design.js takes.
 * @throws {Error} a file that is not the one that was written, or a model or tokenizer that cannot be used.
 */
export async function openAgent(page, read, progress = () => {}) {
  const wanted = page.loaded;
  const total = wanted.reduce((sum, { bytes }) => sum + bytes, 0);
  const found = new Map();
  let done = 0;
  for (const file of wanted) {
    found.set(file.name, await content(file, await read(file.name, (part) => progress(done + part, total))));
    progress((done += file.bytes), total);
  }
  const ort = await import(`./${page.runtime.module}`);
  ort.env.wasm.wasmBinary = found.get(page.runtime.binary);
  ort.env.wasm.numThreads = 1; // threads need headers that a plain static host does not send
  const session = await ort.InferenceSession.create(found.get(page.model), { executionProviders: ["wasm"] });
  const graph = new StepGraph(ort, session, page.graph);
  const json = (name) => JSON.parse(new TextDecoder().decode(found.get(name)));
  const toolbox = page.tools && new Toolbox(page.tools, page.knowledge);
  const agent = new Agent({ tokenizer: new Tokenizer(json(page.tokenizer)), graph, toolbox, dialogue: page.dialogue });
  return { agent, ...json(page.design) };
}

/** The bytes that a file stands for, after the check that it is the right one. */
async function content({ name, bytes, sha256, gzip }, given) {
  const packed = gzip && given[0] === 0x1f && given[1] === 0x8b; // some hosts unpack on the way
  if (!gzip || packed) await check(name, bytes, sha256, given);
  if (!packed) return given;
  const stream = new Blob([given]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function check(name, bytes, sha256, given) {
  const damaged = `${name} is not the file that was exported: it was damaged or cut off on its way; load it again`;
  if (given.length !== bytes) throw new Error(`${damaged} (${given.length} bytes of ${bytes})`);
  if (!globalThis.crypto?.subtle) return; // only pages that came safely (https, localhost) may compute digests
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", given));
  if ([...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("") !== sha256) throw new Error(damaged);
}
