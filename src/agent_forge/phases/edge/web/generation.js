/**
 * Decoding with the step graph, as `agent_forge.model.row_generation`: the likeliest token each time, or a draw.
 *
 * The thought rule is that of `agent_forge.model.thought_rule`: inside a thought no second one opens and the text
 * cannot end, after `budget` tokens only `</think>` may follow; outside nothing can be closed; where thinking is off
 * nothing is opened.
 */

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
 * @param {{maxTokens: number, stop: number[], rule: ThoughtRule|null, experts?: number[]|null, temperature?: number,
 *   numbers?: Iterator<number>, insert?: ((said: number[]) => number[])|null, cancelled?: () => boolean}} options
 *   temperature: 0 = always the likeliest token; above it `numbers` in [0, 1), one for each step, decide.
 *   insert: asked after each token for tokens that come next in any case.
 */
export async function* generate(graph, prompt, options) {
  const { maxTokens, stop, rule, experts = null, temperature = 0, numbers, insert, cancelled = () => false } = options;
  const said = rule ? rule.prefix().slice(0, maxTokens) : [];
  yield* said;
  let [fresh, waiting, logits, states] = [[...prompt, ...said], [], null, graph.start()];
  for (let count = said.length; count < maxTokens && !cancelled(); count += 1) {
    [logits, states] = await graph.step(fresh, states, experts);
    rule?.apply([...prompt, ...said], logits);
    const chosen = temperature ? drawn(logits, temperature, numbers.next().value) : likeliest(logits);
    const token = waiting.shift() ?? chosen;
    if (stop.includes(token)) return;
    yield token;
    said.push(token);
    if (insert && waiting.length === 0) waiting = insert(said);
    fresh = [token];
  }
}

/** The place of the largest value, the first of equals. */
export function likeliest(values) {
  let best = 0;
  for (let place = 1; place < values.length; place += 1) if (values[place] > values[best]) best = place;
  return best;
}

/**
 * The first token whose cumulative probability exceeds a number.
 * @param {Float32Array} logits
 * @param {number} temperature above 0.
 * @param {number} number in [0, 1).
 */
export function drawn(logits, temperature, number) {
  const largest = logits[likeliest(logits)];
  const summed = new Float64Array(logits.length);
  let sum = 0;
  logits.forEach((logit, place) => (summed[place] = sum += Math.exp((logit - largest) / temperature)));
  const place = summed.findIndex((each) => each > number * sum);
  return place < 0 ? logits.length - 1 : place;
}
