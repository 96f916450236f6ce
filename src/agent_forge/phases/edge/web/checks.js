/**
 * What can be told of an answer without knowing the right one: the six checks of `agent_forge.agent.answer_checks`.
 *
 * Each looks at the question and at the steps of one attempt, `{kind, text, ok}` in order; the last step is the answer
 * if it came to one.
 */

import { calculatorOf, EQUATION } from "./equations.js";
import { literal } from "./regex.js";
import { casefold, strip } from "./text.js";

const LETTER = "\\p{L}\\p{Nl}\\p{No}"; // what Python counts to a word, but for decimal digits and the underscore
const WORD = `${LETTER}\\p{Decimal_Number}_`;
const WORDS = new RegExp(`[${LETTER}]+|\\p{Decimal_Number}+`, "gu");
const NUMBER = /\p{Decimal_Number}+/gu;
const NAME_OR_NUMBER = new RegExp(`[A-Z][${WORD}]+|\\p{Decimal_Number}+`, "gu");

/** Words and numbers, in lower case, without anything between them. */
export const bareWords = (text) => casefold(text).match(WORDS) ?? [];

/** What was said to the user; empty if it did not come to that. */
export const answerOf = (turns) => (turns.at(-1)?.kind === "answer" ? turns.at(-1).text : "");

/** Names of the checks that an attempt fails. */
export function failedChecks(question, turns, toolbox) {
  return new Set(Object.keys(CHECKS).filter((name) => !CHECKS[name](question, turns, toolbox)));
}

const CHECKS = {
  /** The calculator agrees with every equation of a thought; always so for an agent without one. */
  arithmetic(question, turns, toolbox) {
    const name = calculatorOf(toolbox);
    if (name === undefined) return true;
    const equations = texts(turns, "thought").flatMap((text) => [...text.matchAll(EQUATION)]);
    return equations.every(([, left, sign, right, said]) => {
      const { text, ok } = toolbox.call({ name, text: `${left} ${sign} ${right}` });
      return ok && text === said;
    });
  },

  /** Every number of the question is used, as often as it stands there; always so where nothing was worked out. */
  covered(question, turns) {
    const worked = texts(turns, "thought", "call");
    if (worked.length === 0) return true;
    const used = worked.join(" ").match(NUMBER) ?? [];
    return (question.match(NUMBER) ?? []).every((number) => {
      const place = used.indexOf(number);
      return place >= 0 && used.splice(place, 1);
    });
  },

  /** Names and numbers in calls were read before: in the question or in an earlier result. */
  grounded(question, turns) {
    const known = new Set(bareWords(question));
    return turns.every(({ kind, text }) => {
      if (kind === "result") bareWords(text).forEach((word) => known.add(word));
      if (kind !== "call") return true;
      const said = text.slice(text.indexOf("(") + 1).match(NAME_OR_NUMBER) ?? [];
      return bareWords(said.join(" ")).every((word) => known.has(word));
    });
  },

  /** The answer holds the last result, and no call went wrong. */
  quoted(question, turns) {
    const results = turns.filter(({ kind }) => kind === "result");
    if (results.length === 0) return true;
    const wanted = new RegExp(`(?<![${WORD}\\-])${literal(results.at(-1).text)}(?![${WORD}])`, "u");
    return results.every(({ ok }) => ok) && wanted.test(answerOf(turns));
  },

  /** No step of a thought says again what another one said. */
  fresh(question, turns) {
    return texts(turns, "thought").every((text) => {
      const steps = text
        .split(/[,;\n]/)
        .map(strip)
        .filter((step) => step !== "");
      return new Set(steps).size === steps.length;
    });
  },

  /** The answer ends with the word that the thought ended with. */
  concluded(question, turns) {
    const thoughts = texts(turns, "thought");
    return thoughts.length === 0 || bareWords(thoughts.at(-1)).at(-1) === bareWords(answerOf(turns)).at(-1);
  },
};

const texts = (turns, ...kinds) => turns.filter(({ kind }) => kinds.includes(kind)).map(({ text }) => text);
