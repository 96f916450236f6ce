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

// An agent without a graph: what it says is not asked.
async function withTokenizer({ tokenizer, manifest = null, dialogue }) {
  const [{ Tokenizer }, { Agent }, { Toolbox }] = [await part("tokenizer"), await part("agent"), await part("tools")];
  const toolbox = manifest && new Toolbox(manifest);
  return new Agent({ tokenizer: new Tokenizer(tokenizer), graph: null, toolbox, dialogue });
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
    const { answer } = await import(pathToFileURL(`${page}/design.js`));
    const designed = await opened(page);
    const { agent } = designed;
    let [states, logits, longest] = [agent.graph.start(), null, 0];
    const found = [];
    for (const id of ids) {
      [logits, states] = await agent.graph.step([id], states);
      found.push(likeliest(logits));
      longest = Math.max(longest, states.get("past_positions").data.length);
    }
    const prompt = agent.prompt(messages.map((message) => ({ ...message, ids: null })));
    let [count, stopped] = [0, null];
    for await (const step of answer(designed, messages, { maxTokens: 50, cancelled: () => count >= stopAfter })) {
      if (step.type === "token") count += 1;
      if (step.type === "end") stopped = step.stopped;
    }
    return { found, longest, prompt, count, stopped };
  },
  async prompt({ conversations, ...given }) {
    const agent = await withTokenizer(given);
    return conversations.map((said) => agent.prompt(said.map((message) => ({ ...message, ids: null }))));
  },
  async open({ page }) {
    return [...(await opened(page)).agent.toolbox.tools.keys()];
  },
  async graph({ inputs, outputs, manifest }) {
    const { StepGraph } = await part("graph");
    return new StepGraph(null, { inputNames: inputs, outputNames: outputs }, manifest).manifest;
  },
  // A runtime that gives back what went in: the ids, the experts, how many tokens went before.
  async read({ ids, apart, experts }) {
    const { StepGraph } = await part("graph");
    const seen = [];
    const run = async ({ input_ids, experts: worn, past_positions: past }, wanted) => {
      const [read, before] = [[...input_ids.data].map(Number), past.data.length];
      seen.push({ ids: read, worn: [...worn.data], before, wanted });
      const mean = apart ? read.at(-1) : read.reduce((sum, id) => sum + id, 0) / read.length;
      const positions = BigInt64Array.from({ length: before + read.length }, (_, place) => BigInt(place));
      const found = { logits: [before], features: [mean, before], present_positions: positions };
      return Object.fromEntries(wanted.map((name) => [name, { data: found[name] }]));
    };
    const Tensor = class {
      constructor(dtype, data, dims) {
        Object.assign(this, { dtype, data, dims });
      }
    };
    const state = { input: "past_positions", output: "present_positions", shape: [1, "past"], dtype: "int64" };
    const ways = {
      experts: { input: "experts", shape: [1, 2] },
      features: { output: "features", shape: [1, 2], one_by_one: apart },
    };
    const names = {
      inputNames: ["input_ids", "past_positions", "experts"],
      outputNames: ["logits", "features", "present_positions"],
    };
    const graph = new StepGraph(
      { Tensor },
      { ...names, run },
      { states: [state], window: null, global_every: 0, ...ways },
    );
    const features = [...(await graph.features(ids))];
    await graph.step(ids, graph.start(), experts);
    return { features, seen };
  },
  // What is decided before anything is read.
  async attempt({ messages, row, ...given }) {
    const agent = await withTokenizer(given);
    const options = { tools: false, calculated: false, temperature: 0, maxTokens: 9 };
    const steps = [];
    for await (const step of agent.attempt(messages, row, options)) steps.push(step);
    return steps;
  },
  // Seeds are text: they have more bits than a number of JSON.
  async draws({ conversations, attempts, turns, count }) {
    const { attemptSeed, turnSeed, uniform } = await part("random");
    return conversations.map((messages) => {
      const seed = attemptSeed(messages, ...attempts);
      const numbers = uniform(turnSeed(seed, turns));
      const drawn = Array.from({ length: count }, () => numbers.next().value);
      return { seed: String(seed), turn: String(turnSeed(seed, turns)), numbers: drawn };
    });
  },
  async digest({ texts }) {
    const { blake2b64 } = await part("random");
    return texts.map((text) => String(blake2b64(new TextEncoder().encode(text))));
  },
  async choose({ cases }) {
    const { drawn } = await part("generation");
    return cases.map(({ logits, temperature, number }) =>
      drawn(Float32Array.from(logits.map((each) => each ?? -Infinity)), temperature, number),
    );
  },
  async insert({ texts, ...given }) {
    const { resultsFor } = await part("equations");
    const agent = await withTokenizer(given);
    const insert = resultsFor(agent.tokenizer, agent.toolbox, given.dialogue);
    return insert && texts.map((ids) => insert(ids));
  },
  async checks({ cases, ...given }) {
    const [{ bareWords, failedChecks }, { Toolbox }] = [await part("checks"), await part("tools")];
    const toolbox = given.manifest && new Toolbox(given.manifest);
    return cases.map(({ question, turns }) => ({
      failed: [...failedChecks(question, turns, toolbox)].sort(),
      words: turns.map(({ text }) => bareWords(text)),
    }));
  },
  async poll({ cases }) {
    const { Poll } = await part("design");
    return cases.map(({ row, attempts }) => {
      const [poll, made] = [new Poll(row), []];
      for (let step = poll.next(); step; step = poll.next()) {
        const { failed, ...attempt } = attempts[made.length];
        made.push([step.number, step.temperature === 0, step.tools, step.calculated]);
        poll.take({ ...attempt, failed: new Set(failed), number: made.length });
      }
      return { made, votes: [...poll.votes()], won: poll.outcome().number };
    });
  },
  async kinds({ classifier, features }) {
    const { kindOf } = await part("routes");
    return features.map((each) => kindOf(classifier, each));
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
