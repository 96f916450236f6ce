/**
 * The draws of an agent, number for number those of Python: the seed of an attempt is a digest of the question
 * (`agent_forge.agent.interpreter`), that of a turn follows from it (`.runtime`), and the numbers of a turn are what
 * PyTorch's generator gives for that seed (`agent_forge.model.row_generation`).
 *
 * The digest is BLAKE2b (Saarinen and Aumasson 2015, RFC 7693), the generator the Mersenne Twister (Matsumoto and
 * Nishimura 1998): PyTorch seeds it with the low 32 bits and makes a double of the low 53 bits of two of its words.
 */

const MASK = (1n << 64n) - 1n;
const TURN = 0x9e3779b97f4a7c15n;

/**
 * The seed of an attempt.
 * @param {{role: string, content: string}[]} messages the conversation that it answers.
 * @param {number} number which attempt.
 * @param {number} seed of all attempts.
 * @returns {bigint} of 63 bits.
 */
export function attemptSeed(messages, number, seed) {
  const rows = messages.map(({ role, content }) => `{"role": ${ascii(role)}, "content": ${ascii(content)}}`);
  const said = `[[${rows.join(", ")}], ${number}, ${seed}]`;
  return blake2b64(new TextEncoder().encode(said)) >> 1n;
}

/** The seed of one of the model's turns in an attempt. */
export const turnSeed = (seed, turn) => (seed + BigInt(turn) * TURN) & (MASK >> 1n);

/** Text as `json.dumps` writes it. */
const ascii = (text) =>
  JSON.stringify(text).replace(/[^ -~]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);

/** Endless numbers in [0, 1): `torch.rand` in float64. */
export function* uniform(seed) {
  const words = mersenneTwister(Number(seed & 0xffffffffn));
  for (;;) {
    const high = words.next().value & 0x1fffff;
    yield (high * 2 ** 32 + words.next().value) * 2 ** -53;
  }
}

const [SIZE, MIDDLE] = [624, 397];

/** Endless whole numbers of 32 bits. */
function* mersenneTwister(seed) {
  const state = new Uint32Array(SIZE);
  state[0] = seed;
  for (let at = 1; at < SIZE; at += 1) state[at] = Math.imul(1812433253, state[at - 1] ^ (state[at - 1] >>> 30)) + at;
  for (;;) {
    for (let at = 0; at < SIZE; at += 1) {
      const joined = (state[at] & 0x80000000) | (state[(at + 1) % SIZE] & 0x7fffffff);
      state[at] = state[(at + MIDDLE) % SIZE] ^ (joined >>> 1) ^ (joined & 1 ? 0x9908b0df : 0);
    }
    for (let word of state) {
      word ^= word >>> 11;
      word ^= (word << 7) & 0x9d2c5680;
      word ^= (word << 15) & 0xefc60000;
      yield (word ^ (word >>> 18)) >>> 0;
    }
  }
}

const BLOCK = 128;
// prettier-ignore
const START = [
  0x6a09e667f3bcc908n, 0xbb67ae8584caa73bn, 0x3c6ef372fe94f82bn, 0xa54ff53a5f1d36f1n, 0x510e527fade682d1n,
  0x9b05688c2b3e6c1fn, 0x1f83d9abfb41bd6bn, 0x5be0cd19137e2179n,
];
// prettier-ignore
const ORDERS = [
  "0123456789abcdef", "ea489fd61c02b753", "b8c052fdae367194", "7931dcbe265a40f8", "905724afe1bc683d",
  "2c6a0b834d75fe19", "c51fed4a0763928b", "db7ec13950f4862a", "6fe9b308c2d714a5", "a2847615fb9e3cd0",
].map((row) => [...row].map((digit) => parseInt(digit, 16)));
// prettier-ignore
const LANES = [
  [0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15],
  [0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14],
];

/** BLAKE2b with a digest of 8 bytes, read as one number, first byte highest. */
export function blake2b64(bytes) {
  const hash = [...START];
  hash[0] ^= 0x01010008n; // no key, one lane, 8 bytes
  for (let at = 0; at === 0 || at < bytes.length; at += BLOCK) {
    const end = Math.min(at + BLOCK, bytes.length);
    compress(hash, bytes.subarray(at, end), BigInt(end), end === bytes.length);
  }
  const digest = new DataView(new ArrayBuffer(8));
  digest.setBigUint64(0, hash[0], true);
  return digest.getBigUint64(0);
}

function compress(hash, bytes, count, last) {
  const block = new Uint8Array(BLOCK);
  block.set(bytes);
  const view = new DataView(block.buffer);
  const words = Array.from({ length: BLOCK / 8 }, (_, place) => view.getBigUint64(8 * place, true));
  const v = [...hash, ...START];
  v[12] ^= count;
  if (last) v[14] ^= MASK;
  for (let round = 0; round < 12; round += 1) {
    const order = ORDERS[round % 10];
    LANES.forEach((lane, place) => mix(v, lane, words[order[2 * place]], words[order[2 * place + 1]]));
  }
  for (let place = 0; place < 8; place += 1) hash[place] ^= v[place] ^ v[place + 8];
}

function mix(v, [a, b, c, d], x, y) {
  v[a] = (v[a] + v[b] + x) & MASK;
  v[d] = turned(v[d] ^ v[a], 32n);
  v[c] = (v[c] + v[d]) & MASK;
  v[b] = turned(v[b] ^ v[c], 24n);
  v[a] = (v[a] + v[b] + y) & MASK;
  v[d] = turned(v[d] ^ v[a], 16n);
  v[c] = (v[c] + v[d]) & MASK;
  v[b] = turned(v[b] ^ v[c], 63n);
}

const turned = (word, bits) => ((word >> bits) | (word << (64n - bits))) & MASK;
