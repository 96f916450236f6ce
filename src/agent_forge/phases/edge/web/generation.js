/**
 * Greedy decoding with the step graph: new tokens and the states of the past in, logits and the states out.
 *
 * The likeliest token is taken each time, under the thought rule of `agent_forge.model.thought_rule`: inside a thought
 * no second one opens and the text cannot end, after `budget` tokens only `</think>` may follow; outside nothing can be
 * closed; where thinking is off nothing is opened.
 */

const [INPUT, OUTPUT, POSITIONS] = ["input_ids", "logits", "past_positions"];
const PRUNE_SLACK = 64;

/** The step graph in onnxruntime. */
export class StepGraph {
  /**
   * @param {object} ort onnxruntime-web.
   * @param {object} session an `ort.InferenceSession` of the graph.
   * @param {object} manifest what onnx.json says of it: states going in and out, and how far back a token sees.
   * @throws {Error} the manifest is not of this graph.
   */
  constructor(ort, session, manifest) {
    Object.assign(this, { ort, session, manifest });
    const { states } = manifest;
    const missing = [INPUT, ...states.map((state) => state.input)].filter((name) => !session.inputNames.includes(name));
    missing.push(
      ...[OUTPUT, ...states.map((state) => state.output)].filter((name) => !session.outputNames.includes(name)),
    );
    if (missing.length > 0) throw new Error(`the graph has no ${missing.join(", ")}: its manifest is of another one`);
  }

  /** The states before the first token. */
  start() {
    return new Map(
      this.manifest.states.map(({ input, shape, dtype }) => {
        const sides = shape.map((side) => (side === "past" ? 0 : side));
        const size = sides.reduce((product, side) => product * side, 1);
        return [input, new this.ort.Tensor(dtype, new ARRAYS[dtype](size), sides)];
      }),
    );
  }

  /**
   * Reads tokens.
   * @param {number[]} ids at least one.
   * @param {Map} states of `start` or of the step before; they are used up.
   * @returns {Promise<[Float32Array, Map]>} logits of the next token, and the states after these.
   */
  async step(ids, states) {
    const tokens = new this.ort.Tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]);
    const found = await this.session.run({ [INPUT]: tokens, ...Object.fromEntries(states) });
    const after = new Map(this.manifest.states.map((state) => [state.input, found[state.output]]));
    return [found[OUTPUT].data, this.#pruned(after)];
  }

  /** Drops what no later token can see, once that is worth a copy. */
  #pruned(states) {
    const { window, global_every: every } = this.manifest;
    const positions = states.get(POSITIONS).data;
    if (window === null || positions.length <= window + PRUNE_SLACK) return states;
    const first = positions.at(-1) + 1n - BigInt(window);
    const kept = [...positions.keys()].filter(
      (place) => positions[place] > first || (every && positions[place] % BigInt(every) === 0n),
    );
    if (positions.length - kept.length < PRUNE_SLACK) return states;
    for (const { input, shape, dtype } of this.manifest.states) {
      if (shape.includes("past")) states.set(input, this.#rows(states.get(input), shape.indexOf("past"), kept, dtype));
    }
    return states;
  }

  /** Some rows of a tensor along an axis. */
  #rows({ data, dims }, axis, kept, dtype) {
    const width = dims.slice(axis + 1).reduce((product, side) => product * side, 1);
    const outer = dims.slice(0, axis).reduce((product, side) => product * side, 1);
    const made = new ARRAYS[dtype](outer * kept.length * width);
    for (let block = 0; block < outer; block += 1) {
      kept.forEach((row, place) => {
        const from = (block * dims[axis] + row) * width;
        made.set(data.subarray(from, from + width), (block * kept.length + place) * width);
      });
    }
    return new this.ort.Tensor(
      dtype,
      made,
      dims.map((side, place) => (place === axis ? kept.length : side)),
    );
  }
}

const ARRAYS = { float32: Float32Array, int64: BigInt64Array };

/** What may come next while a model thinks, or does not. */
export class ThoughtRule {
  /**
   * @param {{opening: number, closing: number, stop: number[], think: boolean|"auto", budget: number}} options
   */
  constructor({ opening, closing, stop, think, budget }) {
    Object.assign(this, { opening, closing, stop, think, budget });
  }

  /** What is put in front of the model's words. */
  prefix() {
    return this.think === true ? [this.opening] : [];
  }

  /** Changes the logits of what follows `ids`, prompt included. */
  apply(ids, logits) {
    const [opened, closed] = [ids.lastIndexOf(this.opening) + 1, ids.lastIndexOf(this.closing) + 1];
    const thinking = opened > closed;
    if (thinking && ids.length - opened >= this.budget) {
      logits.fill(-Infinity);
      logits[this.closing] = 0;
      return;
    }
    if (!thinking) logits[this.closing] = -Infinity;
    if (thinking || this.think === false) logits[this.opening] = -Infinity;
    if (thinking) for (const token of this.stop) logits[token] = -Infinity;
  }
}

/**
 * Continues a prompt, token by token; the token that ends the text is not given.
 * @param {StepGraph} graph
 * @param {number[]} prompt at least one token.
 * @param {{maxTokens: number, stop: number[], rule: ThoughtRule|null, cancelled?: () => boolean}} options
 */
export async function* generate(graph, prompt, { maxTokens, stop, rule, cancelled = () => false }) {
  const given = rule ? rule.prefix().slice(0, maxTokens) : [];
  yield* given;
  const ids = [...prompt, ...given];
  let fresh = ids;
  let states = graph.start();
  let logits;
  for (let count = given.length; count < maxTokens && !cancelled(); count += 1) {
    [logits, states] = await graph.step(fresh, states);
    rule?.apply(ids, logits);
    const token = likeliest(logits);
    if (stop.includes(token)) return;
    yield token;
    ids.push(token);
    fresh = [token];
  }
}

/** The place of the largest value, the first of equals. */
export function likeliest(values) {
  let best = 0;
  for (let place = 1; place < values.length; place += 1) if (values[place] > values[best]) best = place;
  return best;
}
