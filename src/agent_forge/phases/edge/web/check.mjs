/**
 * Runs an exported folder in Node, with the page's own modules and its own copy of onnxruntime-web: asks it questions
 * and says what it read and what it said. `agent-forge export --to web` compares that with PyTorch. Not exported.
 *
 * Standard input: `{"folder", "questions": [text], "maxTokens", "enough"}`; standard output: `{"answers": [{"prompt",
 * "attempts": [tokens], "turns"}]}` or `{"error"}`. No question is asked any more once `enough` tokens have been said
 * in first attempts.
 */

import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const { folder, questions, maxTokens, enough } = JSON.parse(readFileSync(0, "utf8"));

const part = (name) => import(pathToFileURL(join(folder, name)));

async function answered(answer, designed, content) {
  const messages = [{ role: "user", content }];
  const prompt = designed.agent.prompt([{ role: "user", content, ids: null }]);
  const found = { prompt, attempts: [], turns: [] };
  for await (const step of answer(designed, messages, { maxTokens })) {
    if (step.type === "attempt") found.attempts.push([]);
    else if (step.type === "token") found.attempts.at(-1).push(step.id);
    else if (step.type === "turn") found.turns.push({ kind: step.kind, text: step.text });
  }
  return found;
}

async function run() {
  const [{ openAgent, readPage }, { answer }] = [await part("load.js"), await part("design.js")];
  const read = async (name) => new Uint8Array(await readFile(join(folder, name)));
  const designed = await openAgent(await readPage(read), read);
  const answers = [];
  let said = 0;
  for (const question of questions) {
    if (said >= enough) break;
    answers.push(await answered(answer, designed, question));
    said += answers.at(-1).attempts[0].length;
  }
  return { answers };
}

process.stdout.write(JSON.stringify(await run().catch((error) => ({ error: error.message }))));
