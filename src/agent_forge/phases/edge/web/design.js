/**
 * Carries a design out, as `agent_forge.agent.interpreter`: a row for the question, attempts, votes, checks.
 *
 * A row has the names and values of agent.json; its `experts` are what they add in each direction, or null.
 */

import { answerOf, bareWords, failedChecks } from "./checks.js";
import { parseCall } from "./calls.js";
import { attemptSeed } from "./random.js";
import { rowFor } from "./routes.js";

const DOUBT = 0.25; // what is left of a vote for each check that is doubted by, and for an answer that was cut off

/**
 * Answers the last message.
 * @param {{agent: Agent, design: object, classifier: object|null}} designed of `openAgent`.
 * @param {{role: string, content: string}[]} messages the last one by the user.
 * @param {{maxTokens: number, think?: string, seed?: number, cancelled?: () => boolean}} options maxTokens: of the
 *   words of each turn. think: instead of what the design says.
 * @returns yields `{type: "attempt", number, most}` before each attempt and `{type: "token", id}`; of one attempt what
 *   `Agent.attempt` yields as it comes, of several the turns of the one that won, at the end; then `{type: "end",
 *   stopped, number, attempts}`: which attempt the answer is from, and how many were made.
 */
export async function* answer({ agent, design, classifier }, messages, options) {
  const { maxTokens, think, seed = 0, cancelled = () => false } = options;
  const question = messages.at(-1).content;
  const found = await rowFor(agent, design, classifier, question);
  const row = { ...found, think: think ?? found.think };
  const poll = new Poll(row);
  const most = poll.plan.length;
  for (let step = poll.next(); step; step = poll.next()) {
    const made = { number: poll.taken.length + 1, turns: [], stopped: null };
    const choice = { ...step, seed: attemptSeed(messages, step.number, seed), maxTokens, cancelled };
    yield { type: "attempt", number: made.number, most };
    for await (const event of agent.attempt(messages, row, choice)) {
      if (event.type === "turn") made.turns.push(event);
      if (event.type === "end") made.stopped = event.stopped;
      else if (most === 1 || event.type === "token") yield event;
    }
    if (made.stopped === "cancelled") return yield { type: "end", stopped: "cancelled" };
    made.vote = bareWords(answerOf(made.turns)).join(" ");
    made.failed = failedChecks(question, made.turns, step.tools ? agent.toolbox : null);
    poll.take(made);
  }
  const { turns, stopped, number } = poll.outcome();
  if (most > 1) yield* turns;
  yield { type: "end", stopped, number, attempts: poll.taken.length };
}

/** The votes on one question. */
export class Poll {
  constructor(row) {
    this.row = row;
    this.after = row.tools === "after";
    this.plan = planned(row);
    this.taken = [];
    this.settled = false;
  }

  /** What is to be attempted next; undefined once the question is settled. */
  next() {
    return this.settled ? undefined : this.plan[this.taken.length];
  }

  /** Counts an attempt: `{turns, stopped, vote, failed}`. */
  take(attempt) {
    this.taken.push(attempt);
    if (this.after && this.taken.length === 1) {
      this.settled = parseCall(answerOf(attempt.turns)) === null && this.weight(attempt) === 1;
    } else if (this.row.enough) {
      this.settled = Math.max(0, ...this.votes().values()) >= this.row.enough;
    }
  }

  /** What the vote of an attempt counts. */
  weight({ vote, stopped, failed }) {
    if (vote === "") return 0;
    const broken = Object.entries(this.row.checks).filter(([check]) => failed.has(check));
    return broken.reduce(
      (weight, [, consequence]) => weight * (consequence === "reject" ? 0 : DOUBT),
      stopped === "answer" ? 1 : DOUBT,
    );
  }

  /** Vote → its weight, in the order in which they came. */
  votes() {
    const found = new Map();
    for (const attempt of this.voters()) {
      if (attempt.vote !== "") found.set(attempt.vote, (found.get(attempt.vote) ?? 0) + this.weight(attempt));
    }
    return found;
  }

  /** Without the attempt without tools, once there are others. */
  voters() {
    return this.after && this.taken.length > 1 ? this.taken.slice(1) : this.taken;
  }

  /** The attempt with the answer of most weight; among equal ones the one named more often, then the earlier one. */
  outcome() {
    const [voters, votes] = [this.voters(), this.votes()];
    const named = (vote) => voters.filter((attempt) => attempt.vote === vote).length;
    const [best] = [...votes.keys()].sort(
      (one, other) => votes.get(other) - votes.get(one) || named(other) - named(one),
    );
    return voters.find(({ vote }) => vote === best || best === undefined);
  }
}

/** The attempts of a row in order: whether each has tools, is calculated, and how it is drawn. */
function planned({ tools, samples, temperature, greedy_first: greedyFirst, calculated }) {
  const several = Array.from({ length: samples }, (_, number) => ({
    number,
    tools: tools !== "never",
    calculated: calculated === "yes" || (calculated === "in turn" && number % 2 === 1),
    temperature: number === 0 && greedyFirst ? 0 : temperature,
  }));
  return tools === "after" ? [{ number: -1, tools: false, calculated: false, temperature: 0 }, ...several] : several;
}
