// Asks the modules of the page, for comparison with Python: JSON from standard input, JSON to standard output.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [folder] = process.argv.slice(2);
const part = (name) => import(pathToFileURL(`${folder}/${name}.js`));
const asked = JSON.parse(readFileSync(0, "utf8"));

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
      return { prefix: rule.prefix(), likeliest: likeliest(logits), logits: [...logits].map((each) => (each === -Infinity ? null : each)) };
    });
  },
  // Reads tokens one after another; the likeliest next one after each.
  async follow({ page, ids }) {
    const { openAgent, readPage } = await import(pathToFileURL(`${page}/load.js`));
    const { likeliest } = await import(pathToFileURL(`${page}/generation.js`));
    const read = async (name) => new Uint8Array(readFileSync(`${page}/${name}`));
    const { graph } = await openAgent(await readPage(read), read);
    let [states, logits, longest] = [graph.start(), null, 0];
    const found = [];
    for (const id of ids) {
      [logits, states] = await graph.step([id], states);
      found.push(likeliest(logits));
      longest = Math.max(longest, states.get("past_positions").data.length);
    }
    return { found, longest };
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
