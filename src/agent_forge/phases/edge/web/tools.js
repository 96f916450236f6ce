/**
 * The tools of a manifest (tools.json, knowledge.json) that need no server: calculator, clock, lookup, search. The
 * others are there by name and answer with the reason why they cannot be used, as they do in Python where something is
 * missing.
 */

import { argumentsFromText, ToolError } from "./calls.js";
import { calculate } from "./calculator.js";
import { casefold, head, length, printable, words } from "./text.js";

const FORMAT = 1;
const MAX_RESULT = 2000;
const SHOWN = 8;
const NO_INDEX = "this tool has no index to read";
const DISABLED = {
  retrieve: "this tool was given no folder of texts",
  python: "programs cannot be run in this page",
};

export class Toolbox {
  /**
   * @param {object} manifest the parsed tools.json.
   * @param {{format: number, records: [string, [string, string][]][]}|null} knowledge of knowledge.json, as pairs:
   *   an object of JavaScript would not keep the order of subjects such as "1984".
   * @throws {Error} a format or a kind that the page does not know.
   */
  constructor(manifest, knowledge = null) {
    if (manifest.format !== FORMAT)
      throw new Error(`tools.json has format ${manifest.format}, the page reads ${FORMAT}`);
    if (knowledge && knowledge.format !== FORMAT)
      throw new Error(`knowledge.json has format ${knowledge.format}, the page reads ${FORMAT}`);
    const index = knowledge && new Knowledge(knowledge.records);
    this.tools = new Map(manifest.tools.map((row) => [row.name, tool(row, index)]));
  }

  has(name) {
    return this.tools.has(name);
  }

  /**
   * Does what the model asked for. What goes wrong is a result, too.
   * @param {{name: string, text: string}} call
   * @returns {{text: string, ok: boolean}}
   */
  call({ name, text }) {
    try {
      const known = this.tools.get(name);
      if (!known)
        throw new ToolError(
          `there is no tool '${head(name, 60)}'; there are ${[...this.tools.keys()].join(", ") || "none"}`,
        );
      if (known.disabled) throw new ToolError(known.disabled);
      return { text: shortened(known.run([...argumentsFromText(known.schema, text).values()])), ok: true };
    } catch (error) {
      if (!(error instanceof ToolError)) throw error;
      return { text: shortened(error.message), ok: false };
    }
  }
}

/** Records of subject → attribute → value. */
class Knowledge {
  constructor(records) {
    this.records = new Map(records.map(([subject, record]) => [subject, new Map(record)]));
    this.folded = new Map();
    for (const subject of this.records.keys()) {
      if (!this.folded.has(fold(subject))) this.folded.set(fold(subject), subject);
    }
  }

  lookup(attribute, subject) {
    const name = this.folded.get(fold(subject));
    if (name === undefined) throw new ToolError(`nothing is known about ${head(subject, 60)}`);
    const record = this.records.get(name);
    const value = record.get(attribute) ?? record.get(fold(attribute));
    if (value !== undefined) return value;
    const known = [...record.keys()].slice(0, SHOWN).join(", ") || "nothing";
    throw new ToolError(`${head(attribute, 60)} is not known of ${name}; known are ${known}`);
  }

  search(attribute, value, { limit, within, nothing }) {
    const [key, wanted] = [fold(attribute), fold(value)];
    const found = [];
    let known = false;
    for (const [subject, record] of [...this.records].slice(0, within ?? undefined)) {
      known ||= record.has(key);
      if (record.has(key) && fold(record.get(key)) === wanted) found.push(subject);
      if (found.length === limit) break;
    }
    if (!known) throw new ToolError(`no record has an attribute ${head(attribute, 60)}`);
    return found.join(", ") || nothing;
  }
}

const fold = (text) => casefold(words(text).join(" "));

/** The tool of a row of the manifest. */
function tool({ name, description, inputSchema, kind, settings }, index) {
  const made = { name, description, kind, schema: inputSchema, disabled: DISABLED[kind] ?? "", run: null };
  if (kind === "calculator") made.run = ([expression]) => calculate(expression);
  else if (kind === "clock") made.run = hoursLater(Object.keys(inputSchema.properties));
  else if (kind === "lookup") made.run = ([attribute, subject]) => index.lookup(attribute, subject);
  else if (kind === "search") {
    const options = { limit: 3, within: null, nothing: "nobody", ...settings };
    made.run = ([attribute, value]) => index.search(attribute, value, options);
  } else if (!made.disabled) throw new Error(`tool ${name}: unknown kind ${kind}`);
  if ((kind === "lookup" || kind === "search") && !index) made.disabled = NO_INDEX;
  return made;
}

/** The hour that the clock shows; its two arguments may be declared in either order. */
function hoursLater(names) {
  return (values) => {
    const given = Object.fromEntries(names.map((name, place) => [name, values[place]]));
    return String((((given.hour + given.later) % 24n) + 24n) % 24n);
  };
}

/** What can be shown: printable, and no endless text. */
function shortened(text) {
  const shown = printable(text);
  return length(shown) <= MAX_RESULT ? shown : `${head(shown, MAX_RESULT)}… (${length(shown)} characters)`;
}
