/**
 * The step graph in onnxruntime: new tokens and the states of the past in, logits of the next token and the states out;
 * where the model has experts, what they add to each direction goes in, too, and where it has routes, what it makes of
 * the tokens comes out.
 */

const [INPUT, OUTPUT, POSITIONS] = ["input_ids", "logits", "past_positions"];
const PRUNE_SLACK = 64;

/** The step graph in onnxruntime. */
export class StepGraph {
  /**
   * @param {object} ort onnxruntime-web.
   * @param {object} session an `ort.InferenceSession` of the graph.
   * @param {object} manifest what onnx.json says of it: `states` going in and out, how far back a token sees
   *   (`window`, `global_every`), and `experts` and `features`, null where the graph has none.
   * @throws {Error} the manifest is not of this graph.
   */
  constructor(ort, session, manifest) {
    Object.assign(this, { ort, session, manifest });
    const { states, experts, features } = manifest;
    const wanted = [INPUT, ...states.map(({ input }) => input), ...(experts ? [experts.input] : [])];
    const given = [OUTPUT, ...states.map(({ output }) => output), ...(features ? [features.output] : [])];
    const missing = wanted.filter((name) => !session.inputNames.includes(name));
    missing.push(...given.filter((name) => !session.outputNames.includes(name)));
    if (missing.length > 0) throw new Error(`the graph has no ${missing.join(", ")}: its manifest is of another one`);
  }

  /** The states before the first token. */
  start() {
    return new Map(
      this.manifest.states.map(({ input, shape, dtype }) => {
        const sides = shape.map((side) => (side === "past" ? 0 : side));
        const size = sides.reduce((product, side) => product * side, 1);
        return [input, this.#tensor(dtype, new ARRAYS[dtype](size), sides)];
      }),
    );
  }

  /**
   * Reads tokens.
   * @param {number[]} ids at least one.
   * @param {Map} states of `start` or of the step before; they are used up.
   * @param {number[]|null} experts what they add in each direction; null = the model as it is.
   * @returns {Promise<[Float32Array, Map]>} logits of the next token, and the states after these.
   */
  step(ids, states, experts = null) {
    return this.#run(ids, states, experts, OUTPUT);
  }

  /**
   * What the model as it is makes of a text: what its head reads, averaged over the tokens.
   * @param {number[]} ids at least one.
   * @returns {Promise<Float64Array>}
   */
  async features(ids) {
    const { output, shape, one_by_one: apart } = this.manifest.features;
    const parts = apart ? ids.map((id) => [id]) : [ids];
    const sum = new Float64Array(shape.at(-1));
    let [found, states] = [null, this.start()];
    for (const part of parts) {
      [found, states] = await this.#run(part, states, null, output);
      found.forEach((value, place) => (sum[place] += value / parts.length));
    }
    return sum;
  }

  async #run(ids, states, experts, wanted) {
    const given = { [INPUT]: this.#tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]) };
    const { input, shape } = this.manifest.experts ?? {};
    if (input) given[input] = this.#tensor("float32", Float32Array.from(experts ?? Array(shape[1]).fill(0)), shape);
    const names = [wanted, ...this.manifest.states.map((state) => state.output)];
    const found = await this.session.run({ ...given, ...Object.fromEntries(states) }, names);
    const after = new Map(this.manifest.states.map((state) => [state.input, found[state.output]]));
    return [found[wanted].data, this.#pruned(after)];
  }

  #tensor = (dtype, data, sides) => new this.ort.Tensor(dtype, data, sides);

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
    const sides = dims.map((side, place) => (place === axis ? kept.length : side));
    return this.#tensor(dtype, made, sides);
  }
}

const ARRAYS = { float32: Float32Array, int64: BigInt64Array };
