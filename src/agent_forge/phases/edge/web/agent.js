/**
 * One attempt at an answer: the loop of `agent_forge.agent.runtime`. The model speaks; if it called a tool, the result
 * is its next turn; else it has answered. And a conversation as tokens, as `agent_forge.agent.dialogue` writes it.
 */

import { mayBecomeCall, parseCall, resultTurn } from "./calls.js";
import { resultsFor } from "./equations.js";
import { generate, ThoughtRule } from "./generation.js";
import { turnSeed, uniform } from "./random.js";
import { strip } from "./text.js";

const UNFINISHED = "\ufffd";
const THINK = { auto: "auto", on: true, off: false };

export class Agent {
  /**
   * @param {{tokenizer: Tokenizer, graph: StepGraph, toolbox: Toolbox|null, dialogue: object}} parts dialogue: how a
   *   conversation is written (web_dialogue.py): `style`, the ids that it needs, those of the marks of a thought (null
   *   where the tokenizer has none), and those that `stop` the model.
   */
  constructor({ tokenizer, graph, toolbox, dialogue }) {
    Object.assign(this, { tokenizer, graph, toolbox, dialogue });
  }

  /**
   * Answers the last message once.
   * @param {{role: string, content: string}[]} messages the last one by the user.
   * @param {object} row of a design (design.js): how to go about it.
   * @param {{tools: boolean, calculated: boolean, temperature: number, seed?: bigint, maxTokens: number,
   *   cancelled?: () => boolean}} options tools: whether they are at hand. seed: of draws, at a temperature above 0.
   * @returns yields `{type: "token", id}`, `{type: "piece", kind, text}` and `{type: "turn", kind, text, ok}`, then
   *   `{type: "end", stopped}`, where stopped is answer, calls, tokens, context or cancelled.
   */
  async *attempt(messages, row, { tools, calculated, temperature, seed, maxTokens, cancelled = () => false }) {
    const said = messages.map(({ role, content }) => ({ role, content, ids: null }));
    const toolbox = tools ? this.toolbox : null;
    const { opening, closing, stop, positions } = this.dialogue;
    const [think, budget] = [THINK[row.think], row.thought_budget];
    const rule = opening === null ? null : new ThoughtRule({ opening, closing, stop, think, budget });
    const room = maxTokens + (rule && think !== false ? budget + 2 : 0);
    const insert = calculated ? resultsFor(this.tokenizer, toolbox, this.dialogue) : null;
    const choice = { maxTokens: room, stop, rule, experts: row.experts, temperature, insert, cancelled };
    for (let number = 0; number <= row.max_calls; number += 1) {
      const [prompt, ids] = [this.prompt(said), []];
      if (positions && prompt.length + room > positions) return yield { type: "end", stopped: "context" };
      const numbers = temperature ? uniform(turnSeed(seed, number)) : null;
      yield* this.#speak(generate(this.graph, prompt, { ...choice, numbers }), ids, toolbox);
      if (cancelled()) return yield { type: "end", stopped: "cancelled" };
      const { turns, call, words } = this.#heard(ids, toolbox);
      for (const turn of turns) yield turn;
      if (!call) return yield { type: "end", stopped: ids.length >= room ? "tokens" : "answer" };
      if (number === row.max_calls) return yield { type: "end", stopped: "calls" };
      const { text, ok } = toolbox.call(call);
      yield { type: "turn", kind: "result", text, ok };
      said.push({ role: "assistant", content: words, ids }, { role: "user", content: resultTurn(text, ok), ids: null });
    }
  }

  /** Token ids of a conversation up to where the model speaks. */
  prompt(said) {
    const { style, bos, end, user, assistant } = this.dialogue;
    if (style === "template") return this.tokenizer.encode(this.#templated(said), { marks: true });
    if (style === "lines") {
      const lines = said.map(({ role, content }) => (role === "assistant" ? `${content}\n` : `\n${content}\n\n`));
      return [...(bos === null ? [] : [bos]), ...this.tokenizer.encode(lines.join(""))];
    }
    const ids = [bos];
    for (const { role, content, ids: kept } of said) {
      ids.push(role === "assistant" ? assistant : user, ...(kept ?? this.tokenizer.encode(content)), end);
    }
    return [...ids, assistant];
  }

  /** A conversation that user and assistant take turns in, as its chat template writes it. */
  #templated(said) {
    const { around, trim, specials } = this.dialogue;
    const [before, toAssistant, toUser, last] = around;
    const harmless = (text) => specials.reduce((rest, mark) => rest.replaceAll(mark, ""), text);
    const taken = said.map(({ content, ids }) => (ids === null ? harmless(content) : content));
    const shown = trim ? taken.map(strip) : taken;
    const gaps = said.map(({ role }, place) =>
      place === said.length - 1 ? last : role === "user" ? toAssistant : toUser,
    );
    return before + shown.map((words, place) => words + gaps[place]).join("");
  }

  /** Pieces of a turn as its tokens come; `ids` is filled with them. A turn that may yet be a call is held back. */
  async *#speak(tokens, ids, toolbox) {
    const { opening, closing } = this.dialogue;
    let [part, inside, shown, held, call] = [[], false, "", "", true];
    for await (const id of tokens) {
      ids.push(id);
      yield { type: "token", id };
      if (id === opening || id === closing) {
        [inside, part, shown] = [id === opening, [], ""];
        continue;
      }
      part.push(id);
      const text = this.tokenizer.decode(part);
      if (text.endsWith(UNFINISHED)) continue; // a character whose bytes are not complete yet
      const fresh = text.slice(shown.length);
      shown = text;
      if (inside) {
        yield { type: "piece", kind: "thought", text: fresh };
        continue;
      }
      held += fresh;
      call &&= toolbox !== null && mayBecomeCall(held);
      if (call || held === "") continue;
      yield { type: "piece", kind: "answer", text: held };
      held = "";
    }
  }

  /** What a turn of the model means. */
  #heard(ids, toolbox) {
    const { thought, words } = this.hear(ids);
    const turns = thought === "" ? [] : [{ type: "turn", kind: "thought", text: thought, ok: true }];
    const call = toolbox && parseCall(words);
    const known = Boolean(call) && toolbox.has(call.name);
    const text = known ? `${call.name}(${call.text})` : words;
    return {
      turns: [...turns, { type: "turn", kind: known ? "call" : "answer", text, ok: true }],
      call: known ? call : null,
      words,
    };
  }

  /** The thought (may be empty) and the words of a turn's tokens. */
  hear(ids) {
    const { opening, closing, style } = this.dialogue;
    let start = opening === null ? 0 : ids.lastIndexOf(closing) + 1;
    if (opening !== null && ids.includes(opening, start)) start = ids.length; // never closed
    const thought = ids.slice(0, start).filter((id) => id !== opening && id !== closing);
    let words = this.tokenizer.decode(ids.slice(start));
    if (style === "lines") [words] = words.split("\n\n");
    return { thought: strip(this.tokenizer.decode(thought)), words: strip(words) };
  }
}
