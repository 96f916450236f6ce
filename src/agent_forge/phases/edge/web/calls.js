/**
 * The syntax of a call and the check of its arguments, as `agent_forge.agent.calls` and `.schema` have them: a turn
 * that is exactly `name(arguments)` is a call, split at the first commas and read by the types of the tool's schema.
 */

import { BLANK_CLASS, head, integer, length, strip } from "./text.js";

const NAME = "[a-z][a-z0-9_]{0,63}";
const CALL = new RegExp(`^[${BLANK_CLASS}]*(${NAME})\\(([^]*)\\)[${BLANK_CLASS}]*$`, "u");
const OPENING = new RegExp(`^[${BLANK_CLASS}]*(?:${NAME})?(?:\\([^]*)?$`, "u");
const INTEGER = /^[+-]?\p{Decimal_Number}{1,30}$/u;
const ARTICLES = { integer: "an integer", string: "a string" };

/** A call that could not be done; the sentence goes back to the model. */
export class ToolError extends Error {}

/** The call that a turn is, `{name, text}`, or null where it is an answer. */
export function parseCall(text) {
  const found = CALL.exec(text);
  return found && { name: found[1], text: strip(found[2]) };
}

/** Whether a turn that begins so can still turn out to be a call. */
export const mayBecomeCall = (text) => OPENING.test(text);

/** What the model reads after its call. */
export const resultTurn = (text, ok) => (ok ? `result: ${text}` : `result: error: ${text}`);

/**
 * Arguments as the model writes them.
 * @param {object} schema of the tool; integers become BigInt.
 * @returns {Map<string, string|bigint>} in the order of the schema.
 * @throws {ToolError} too few arguments, some where there are none, or text that is not of its type.
 */
export function argumentsFromText(schema, text) {
  const names = Object.keys(schema.properties);
  if (names.length === 0) {
    if (strip(text) !== "") throw new ToolError("this tool takes no arguments");
    return new Map();
  }
  let parts = splitAtMost(text, names.length - 1).map(strip);
  if (parts.length === 1 && parts[0] === "") parts = [];
  const given = new Map(
    parts.map((part, place) => [names[place], read(names[place], schema.properties[names[place]], part)]),
  );
  for (const name of schema.required ?? []) {
    if (!given.has(name)) throw new ToolError(`argument ${name} is missing; expected ${names.join(", ")}`);
  }
  for (const [name, value] of given) check(name, schema.properties[name], value);
  return given;
}

function splitAtMost(text, commas) {
  const parts = text.split(",");
  return parts.length <= commas + 1 ? parts : [...parts.slice(0, commas), parts.slice(commas).join(",")];
}

function read(name, schema, text) {
  if (schema.type === "string") return text;
  if (schema.type === "integer" && INTEGER.test(text)) return integer(text);
  if (!(schema.type in ARTICLES)) throw new Error(`arguments of type ${schema.type} are not known in the page`);
  throw new ToolError(`${name} must be ${ARTICLES[schema.type]}, not ${shown(text)}`);
}

function check(name, schema, value) {
  const fail = (wanted) => {
    throw new ToolError(`${name} must be ${wanted}, not ${shown(String(value))}`);
  };
  // two equals signs: a BigInt is compared with a number
  if (schema.enum && !schema.enum.some((each) => each == value && typeof each !== "boolean"))
    fail(`one of ${schema.enum.join(", ")}`);
  if (schema.minimum !== undefined && value < schema.minimum) fail(`at least ${schema.minimum}`);
  if (schema.maximum !== undefined && value > schema.maximum) fail(`at most ${schema.maximum}`);
  const size = typeof value === "string" ? length(value) : 0;
  if (size < schema.minLength) throw new ToolError(`${name} must have at least ${schema.minLength} characters`);
  if (size > schema.maxLength) throw new ToolError(`${name} has ${size} characters, ${schema.maxLength} are allowed`);
}

const shown = (text) => (length(text) <= 40 ? text : `${head(text, 40)}…`);
