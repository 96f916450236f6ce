/**
 * Runs an exported folder in Node, with the page's own modules and its own copy of onnxruntime-web: asks it questions
 * and says what it read and what it said. `agent-forge export --to web` compares that with PyTorch. Not exported.
 *
 * Standard input: `{"folder", "questions": [text], "options"}`; standard output: `{"answers": [{"prompt", "tokens",
 * "turns", "stopped"}]}` or `{"error"}`.
 */

import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const { folder, questions, options } = JSON.parse(readFileSync(0, "utf8"));

async function answered(agent, content) {
  const prompt = agent.prompt([{ role: "user", content, ids: null }]);
  const answer = { prompt, tokens: [], turns: [], stopped: null };
  for await (const step of agent.answer([{ role: "user", content }], options)) {
    if (step.type === "token") answer.tokens.push(step.id);
    else if (step.type === "turn") answer.turns.push({ kind: step.kind, text: step.text });
    else if (step.type === "end") answer.stopped = step.stopped;
  }
  return answer;
}

async function run() {
  const { openAgent, readPage } = await import(pathToFileURL(join(folder, "load.js")));
  const read = async (name) => new Uint8Array(await readFile(join(folder, name)));
  const agent = await openAgent(await readPage(read), read);
  const answers = [];
  for (const question of questions) answers.push(await answered(agent, question));
  return { answers };
}

process.stdout.write(JSON.stringify(await run().catch((error) => ({ error: error.message }))));
