// Asks the modules of the page, for comparison with Python: JSON from standard input, JSON to standard output.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [folder] = process.argv.slice(2);
const part = (name) => import(pathToFileURL(`${folder}/${name}.js`));
const asked = JSON.parse(readFileSync(0, "utf8"));

async function opened(page) {
  const { openAgent, readPage } = await import(pathToFileURL(`${page}/load.js`));
  const read = async (name) => new Uint8Array(readFileSync(`${page}/${name}`));
  return openAgent(await readPage(read), read);
}

const answers = {
  async encode({ tokenizer, texts, marks }) {
    const { Tokenizer } = await part("tokenizer");
    const made = new Tokenizer(tokenizer);
    return texts.map((text) => made.encode(text, { marks }));
  },
  async decode({ tokenizer, ids, skipSpecial }) {
    const { Tokenizer } = await part("tokenizer");
    const made = new Tokenizer(tokenizer);
    return ids.map((each) => made.decode(each, { skipSpecial }));
  },
  async split({ patterns, texts }) {
    const { translated } = await part("regex");
    return patterns.map((pattern) => texts.map((text) => text.match(translated(pattern)) ?? []));
  },
  async call({ manifest, knowledge, turns }) {
    const { Toolbox } = await part("tools");
    const { parseCall, mayBecomeCall } = await part("calls");
    const toolbox = new Toolbox(manifest, knowledge);
    return turns.map((turn) => {
      const call = parseCall(turn);
      return { call, opening: mayBecomeCall(turn), result: call && toolbox.call(call) };
    });
  },
  // -Infinity has no JSON: null stands for it.
  async rule({ options, cases }) {
    const { likeliest, ThoughtRule } = await part("generation");
    const rule = new ThoughtRule(options);
    return cases.map(({ ids, scores }) => {
      const logits = Float32Array.from(scores);
      rule.apply(ids, logits);
      return {
        prefix: rule.prefix(),
        likeliest: likeliest(logits),
        logits: [...logits].map((each) => (each === -Infinity ? null : each)),
      };
    });
  },
  // Reads tokens one after another, the likeliest next one after each; then a conversation whose answer is stopped.
  async follow({ page, ids, messages, stopAfter }) {
    const { likeliest } = await import(pathToFileURL(`${page}/generation.js`));
    const agent = await opened(page);
    let [states, logits, longest] = [agent.graph.start(), null, 0];
    const found = [];
    for (const id of ids) {
      [logits, states] = await agent.graph.step([id], states);
      found.push(likeliest(logits));
      longest = Math.max(longest, states.get("past_positions").data.length);
    }
    const options = { maxTokens: 50, maxCalls: 8, budget: 16, think: "auto" };
    const prompt = agent.prompt(messages.map((message) => ({ ...message, ids: null })));
    let [count, stopped] = [0, null];
    for await (const step of agent.answer(messages, { ...options, cancelled: () => count >= stopAfter })) {
      if (step.type === "token") count += 1;
      if (step.type === "end") stopped = step.stopped;
    }
    return { found, longest, prompt, count, stopped };
  },
  async prompt({ tokenizer, dialogue, conversations }) {
    const [{ Tokenizer }, { Agent }] = [await part("tokenizer"), await part("agent")];
    const agent = new Agent({ tokenizer: new Tokenizer(tokenizer), graph: null, toolbox: null, dialogue });
    return conversations.map((said) => agent.prompt(said.map((message) => ({ ...message, ids: null }))));
  },
  async open({ page }) {
    return [...(await opened(page)).toolbox.tools.keys()];
  },
  async graph({ inputs, outputs, manifest }) {
    const { StepGraph } = await part("generation");
    return new StepGraph(null, { inputNames: inputs, outputNames: outputs }, manifest).manifest;
  },
  async text({ texts }) {
    const known = await part("text");
    return texts.map((text) => [known.strip(text), known.casefold(text), known.printable(text), known.words(text)]);
  },
};

try {
  process.stdout.write(JSON.stringify({ value: await answers[asked.what](asked) }));
} catch (error) {
  process.stdout.write(JSON.stringify({ error: error.message }));
}
