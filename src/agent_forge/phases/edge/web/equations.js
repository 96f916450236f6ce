/**
 * A calculator inside thoughts, as `agent_forge.agent.thought_calculator`: once the model has written `12 + 7 =`, the
 * result of the agent's own calculator is put there for it. An agent without one, or without thoughts, has no such
 * help.
 */

const TAIL_TOKENS = 24;
const NUMBER = "\\p{Decimal_Number}+";
const LEFT = `(?<![\\p{Decimal_Number}.])(-?${NUMBER}) ?([-+*/]) ?(${NUMBER}) ?=`;
const OPEN_EQUATION = new RegExp(`${LEFT}$`, "u");
/** Two whole numbers and what is said to come of them. */
export const EQUATION = new RegExp(`${LEFT} ?(-?${NUMBER})(?![\\p{Decimal_Number}.])`, "gu");

/** The name of the agent's calculator, or undefined. */
export function calculatorOf(toolbox) {
  return [...(toolbox?.tools.values() ?? [])].find(({ kind, disabled }) => kind === "calculator" && !disabled)?.name;
}

/**
 * What is asked after each token of a turn for tokens that come next in any case.
 * @param {Tokenizer} tokenizer
 * @param {Toolbox|null} toolbox
 * @param {{opening: number|null, closing: number|null}} marks of a thought.
 * @returns {((said: number[]) => number[])|null} null for an agent that has no thoughts or no calculator.
 */
export function resultsFor(tokenizer, toolbox, { opening, closing }) {
  const name = calculatorOf(toolbox);
  if (name === undefined || opening === null) return null;
  const written = (ids) => tokenizer.decode(ids, { skipSpecial: false });
  return (said) => {
    if (!written(said.slice(-1)).endsWith("=") || said.includes(closing) || !said.includes(opening)) return [];
    const found = OPEN_EQUATION.exec(written(said.slice(-TAIL_TOKENS)));
    if (!found) return [];
    const { text, ok } = toolbox.call({ name, text: found.slice(1).join(" ") });
    return ok ? tokenizer.encode(` ${text}`) : [];
  };
}
