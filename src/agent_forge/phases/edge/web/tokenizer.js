/**
 * Byte-level BPE from a tokenizer.json, with the same tokens as the `tokenizers` library.
 *
 * Sennrich, Haddow and Birch 2016 "Neural Machine Translation of Rare Words with Subword Units", arXiv:1508.07909;
 * bytes as characters: Radford et al. 2019 (GPT-2). Known are what byte-level tokenizers are made of: the normalizers
 * NFC, NFD, NFKC, NFKD and sequences of them; the pre-tokenizers Split, Digits, ByteLevel and sequences; a BPE model
 * without dropout; the decoder ByteLevel; added tokens. Anything else is refused by name: it would give other tokens
 * without a word.
 *
 * One difference: character classes and normal forms are those of the browser's Unicode version. The library's tables
 * are older; a character that it does not know yet (U+107A7 under NFKC) may be cut or composed otherwise.
 */

import { literal, translated } from "./regex.js";

const GPT2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const CACHED_WORDS = 20000;
const LONGEST_CACHED = 64;

export class Tokenizer {
  /**
   * @param {object} file the parsed tokenizer.json.
   * @throws {Error} a part that is not known here.
   */
  constructor(file) {
    this.normalize = normalizer(file.normalizer);
    this.split = preTokenizer(file.pre_tokenizer);
    if (file.decoder?.type !== "ByteLevel") refuse("decoder", file.decoder);
    this.model = new BytePairs(file.model);
    this.vocabulary = new Map(Object.entries(file.model.vocab));
    this.added = (file.added_tokens ?? []).map(checkedAdded);
    this.specials = new Set();
    for (const token of this.added) {
      this.vocabulary.set(token.content, token.id);
      if (token.special) this.specials.add(token.id);
    }
    this.tokens = new Map([...this.vocabulary].map(([token, id]) => [id, token]));
    this.bytes = byteOfCharacter();
  }

  /** Id of a token, or undefined. */
  id(token) {
    return this.vocabulary.get(token);
  }

  /**
   * Token ids of a text; nothing is put around it.
   * @param {string} text
   * @param {{marks?: boolean}} options marks: whether special tokens that the text spells out become those tokens.
   * @returns {number[]}
   */
  encode(text, { marks = false } = {}) {
    const known = this.added.filter((token) => marks || !token.special);
    const ids = [];
    for (const [piece, id] of cutAdded(
      text.replace(/\p{Cs}/gu, "\ufffd"),
      known.filter((token) => !token.normalized),
    )) {
      if (id !== null) ids.push(id);
      else
        this.#encodeNormalized(
          this.normalize(piece),
          known.filter((token) => token.normalized),
          ids,
        );
    }
    return ids;
  }

  #encodeNormalized(text, known, ids) {
    for (const [piece, id] of cutAdded(text, known)) {
      if (id !== null) ids.push(id);
      else for (const word of this.split(piece)) for (const each of this.model.encode(word)) ids.push(each);
    }
  }

  /**
   * The text of token ids; bytes that are no UTF-8 become U+FFFD.
   * @param {Iterable<number>} ids
   * @param {{skipSpecial?: boolean}} options
   */
  decode(ids, { skipSpecial = true } = {}) {
    const bytes = [];
    for (const id of ids) {
      if (skipSpecial && this.specials.has(id)) continue;
      const token = this.tokens.get(id);
      if (token !== undefined) for (const byte of this.#bytesOf(token)) bytes.push(byte);
    }
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(new Uint8Array(bytes));
  }

  /** A token with a character that stands for no byte is its own text, as a whole. */
  #bytesOf(token) {
    const found = [...token].map((character) => this.bytes.get(character));
    return found.includes(undefined) ? new TextEncoder().encode(token) : found;
  }
}

/** A merge table. */
class BytePairs {
  constructor(model) {
    if (model.type !== "BPE" || model.dropout || model.byte_fallback || model.unk_token)
      refuse("model", { ...model, vocab: 0, merges: 0 });
    if (model.continuing_subword_prefix || model.end_of_word_suffix) refuse("model", { ...model, vocab: 0, merges: 0 });
    this.vocab = new Map(Object.entries(model.vocab));
    this.whole = model.ignore_merges === true;
    this.merges = new Map();
    model.merges.forEach((merge, rank) => {
      const [left, right] = Array.isArray(merge) ? merge : merge.split(" ");
      const pair = `${this.vocab.get(left)},${this.vocab.get(right)}`;
      this.merges.set(pair, [rank, this.vocab.get(left + right)]); // a pair that is listed twice has its last rank
    });
    this.cache = new Map();
  }

  /** Token ids of one word, whose characters stand for bytes. */
  encode(word) {
    if (this.whole && this.vocab.has(word)) return [this.vocab.get(word)];
    const known = this.cache.get(word);
    if (known) return known;
    const ids = this.#merged([...word].map((each) => this.vocab.get(each)).filter((id) => id !== undefined));
    if (word.length <= LONGEST_CACHED && this.cache.size < CACHED_WORDS) this.cache.set(word, ids);
    return ids;
  }

  /** Merges the pair of lowest rank, the leftmost of equals, until none is left: n·log n with a heap. */
  #merged(ids) {
    const next = ids.map((_, place) => (place + 1 < ids.length ? place + 1 : -1));
    const before = ids.map((_, place) => place - 1);
    const heap = new Heap();
    const offer = (left) => {
      if (left < 0 || next[left] < 0) return;
      const merge = this.merges.get(`${ids[left]},${ids[next[left]]}`);
      if (merge) heap.push([merge[0], left, ids[left], ids[next[left]], merge[1]]);
    };
    for (let place = 0; place + 1 < ids.length; place += 1) offer(place);
    for (let top = heap.pop(); top; top = heap.pop()) {
      const [, left, first, second, made] = top;
      const right = next[left];
      if (ids[left] !== first || right < 0 || ids[right] !== second) continue; // one of the two has been merged since
      ids[left] = made;
      ids[right] = -1;
      next[left] = next[right];
      if (next[right] >= 0) before[next[right]] = left;
      offer(before[left]);
      offer(left);
    }
    return ids.filter((id) => id >= 0);
  }
}

/** A binary heap of [rank, place, …], smallest first. */
class Heap {
  #items = [];

  push(item) {
    const items = this.#items;
    let at = items.push(item) - 1;
    for (let up = (at - 1) >> 1; at > 0 && less(item, items[up]); at = up, up = (at - 1) >> 1) items[at] = items[up];
    items[at] = item;
  }

  pop() {
    const items = this.#items;
    const top = items[0];
    const last = items.pop();
    if (items.length === 0) return top;
    let at = 0;
    for (let down = 1; down < items.length; down = 2 * at + 1) {
      if (down + 1 < items.length && less(items[down + 1], items[down])) down += 1;
      if (!less(items[down], last)) break;
      items[at] = items[down];
      at = down;
    }
    items[at] = last;
    return top;
  }
}

const less = (one, other) => one[0] < other[0] || (one[0] === other[0] && one[1] < other[1]);

function normalizer(part) {
  if (!part) return (text) => text;
  if (["NFC", "NFD", "NFKC", "NFKD"].includes(part.type)) return (text) => text.normalize(part.type);
  if (part.type !== "Sequence") refuse("normalizer", part);
  const steps = part.normalizers.map(normalizer);
  return (text) => steps.reduce((done, step) => step(done), text);
}

/** What cuts a text into words whose characters stand for bytes. */
function preTokenizer(part) {
  const steps = part?.type === "Sequence" ? part.pretokenizers.map(cutter) : [cutter(part)];
  const kinds = part?.type === "Sequence" ? part.pretokenizers.map((each) => each.type) : [part.type];
  if (kinds.filter((kind) => kind === "ByteLevel").length !== 1 || kinds.at(-1) !== "ByteLevel")
    refuse("pre_tokenizer", part);
  return (text) => steps.reduce((pieces, step) => pieces.flatMap(step), text === "" ? [] : [text]);
}

function cutter(part) {
  if (part?.type === "Digits")
    return part.individual_digits ? (text) => isolated(text, /\p{N}/gu) : (text) => isolated(text, /\p{N}+/gu);
  if (part?.type === "Split") return splitter(part);
  if (part?.type !== "ByteLevel") refuse("pre_tokenizer", part);
  const pattern = translated(GPT2);
  const characters = characterOfByte();
  const encoder = new TextEncoder();
  const spelled = (piece) => [...encoder.encode(piece)].map((byte) => characters[byte]).join("");
  return (text) => {
    const given = part.add_prefix_space && !text.startsWith(" ") ? ` ${text}` : text;
    return (part.use_regex === false ? [given] : isolated(given, pattern)).map(spelled);
  };
}

function splitter(part) {
  const { Regex, String: text } = part.pattern ?? {};
  const pattern = Regex === undefined ? new RegExp(literal(text), "gu") : translated(Regex);
  if (part.behavior === "Isolated") return (given) => isolated(given, pattern); // inverted or not: the same pieces
  if (part.behavior === "Removed")
    return (given) =>
      cut(given, pattern)
        .filter(([, hit]) => hit === Boolean(part.invert))
        .map(([piece]) => piece);
  return refuse("pre_tokenizer", part);
}

const isolated = (text, pattern) => cut(text, pattern).map(([piece]) => piece);

/** Pieces of a text: [piece, whether the pattern found it]; none is empty. */
function cut(text, pattern) {
  const pieces = [];
  let end = 0;
  for (const found of text.matchAll(pattern)) {
    if (found.index > end) pieces.push([text.slice(end, found.index), false]);
    if (found[0] !== "") pieces.push([found[0], true]);
    end = found.index + found[0].length;
  }
  if (end < text.length) pieces.push([text.slice(end), false]);
  return pieces;
}

function checkedAdded(token) {
  if (token.single_word) refuse("added token", token);
  return token;
}

/** Pieces of a text: [piece, null] or [token, its id]; the leftmost token counts, of two there the longer. */
function cutAdded(text, tokens) {
  if (tokens.length === 0 || text === "") return text === "" ? [] : [[text, null]];
  const blank = { before: /\p{White_Space}*$/u, after: /^\p{White_Space}*/u };
  const longest = [...tokens].sort((one, other) => other.content.length - one.content.length);
  const pattern = new RegExp(longest.map(({ content }) => literal(content)).join("|"), "gu");
  const pieces = [];
  let end = 0;
  for (const found of text.matchAll(pattern)) {
    if (found.index < end) continue; // inside the blank space that a token before it took
    const token = longest.find(({ content }) => content === found[0]);
    const start = token.lstrip ? end + text.slice(end, found.index).search(blank.before) : found.index;
    if (start > end) pieces.push([text.slice(end, start), null]);
    pieces.push([found[0], token.id]);
    end = found.index + found[0].length;
    if (token.rstrip) end += blank.after.exec(text.slice(end))[0].length;
  }
  if (end < text.length) pieces.push([text.slice(end), null]);
  return pieces;
}

/** GPT-2's table: the character that stands for each byte. */
function characterOfByte() {
  const kept = (byte) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  let moved = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(kept(byte) ? byte : moved++));
}

const byteOfCharacter = () => new Map(characterOfByte().map((character, byte) => [character, byte]));

function refuse(what, part) {
  throw new Error(`the page cannot read this tokenizer: its ${what} is ${JSON.stringify(part)}`);
}
