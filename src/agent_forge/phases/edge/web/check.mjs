/**
 * Runs an exported folder in Node, with the page's own modules and its own copy of onnxruntime-web: asks it questions
 * and says what it read and what it said. `agent-forge export --to web` compares that with PyTorch. Not exported.
 *
 * Standard input: `{"folder", "questions": [text], "options", "enough"}`; standard output: `{"answers": [{"prompt",
 * "tokens", "turns", "stopped"}]}` or `{"error"}`. No question is asked any more once `enough` tokens have been said.
 */

import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const { folder, questions, options, enough } = JSON.parse(readFileSync(0, "utf8"));

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
  let said = 0;
  for (const question of questions) {
    if (said >= enough) break;
    answers.push(await answered(agent, question));
    said += answers.at(-1).tokens.length;
  }
  return { answers };
}

process.stdout.write(JSON.stringify(await run().catch((error) => ({ error: error.message }))));
