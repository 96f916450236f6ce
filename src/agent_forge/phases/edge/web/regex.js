/**
 * Regular expressions of a tokenizer.json (Oniguruma's syntax) as the browser's.
 *
 * Differences that are bridged: `\s` is Unicode's White_Space, `\d` its decimal digits, `(?i:…)` around plain letters
 * becomes classes such as `[sSſ]` (older browsers know no modifiers). What has no counterpart (possessive quantifiers,
 * `\w`, `\b`, atomic groups) is refused: a pattern is translated exactly or not at all.
 */

const CLASSES = { s: "\\p{White_Space}", S: "\\P{White_Space}", d: "\\p{Decimal_Number}", D: "\\P{Decimal_Number}" };
const KEPT = /^[pPrntfv0xuU]$/;
const IDENTITY = /^[\^$\\.*+?()[\]{}|/]$/;
const EXTRA_CASE = { s: "\u017f", S: "\u017f", k: "\u212a", K: "\u212a" }; // long s, Kelvin

/**
 * @param {string} source a pattern of Oniguruma.
 * @returns {RegExp} the same with flags `gu`.
 * @throws {Error} there is no exact counterpart.
 */
export function translated(source) {
  let out = "";
  for (let at = 0; at < source.length;) {
    const [piece, next] = source.startsWith("(?i:", at) ? insensitive(source, at) : one(source, at);
    out += piece;
    at = next;
  }
  try {
    return new RegExp(out, "gu");
  } catch (error) {
    throw new Error(
      `the tokenizer's pattern ${JSON.stringify(source)} has no counterpart in this browser: ${error.message}`,
    );
  }
}

/** Text as a pattern that finds just it. */
export const literal = (text) => text.replace(/[\^$\\.*+?()[\]{}|/]/g, "\\$&");

function one(source, at) {
  if (source[at] !== "\\") {
    if (/^\(\?(?![:=!]|<[=!])/.test(source.slice(at))) refuse(source, "a group of a kind that browsers do not know");
    if (/^(?:[*+?]|\{\d+,?\d*\})\+/.test(source.slice(at))) refuse(source, "a possessive quantifier");
    return [source[at], at + 1];
  }
  const letter = source[at + 1];
  if (letter in CLASSES) return [CLASSES[letter], at + 2];
  if (letter === "p" || letter === "P") {
    const name = /^\{[^}]*\}/.exec(source.slice(at + 2));
    if (!name || name[0].startsWith("{^")) refuse(source, "a property of a form that browsers do not know");
    return [`\\${letter}${name[0]}`, at + 2 + name[0].length];
  }
  if (KEPT.test(letter) || IDENTITY.test(letter)) return [`\\${letter}`, at + 2];
  if (letter === undefined || /^[A-Za-z0-9]$/.test(letter)) refuse(source, `\\${letter ?? ""}`);
  return [letter === "-" ? "\\x2d" : letter, at + 2];
}

/** `(?i:'s|'t)` → `(?:'[sSſ]|'[tT])`. */
function insensitive(source, at) {
  const end = source.indexOf(")", at);
  const inside = source.slice(at + 4, end);
  if (end < 0 || !/^[a-zA-Z'’|]*$/.test(inside)) refuse(source, "(?i:…) around more than letters");
  const classes = inside.replace(/[a-zA-Z]/g, (c) => `[${c.toLowerCase()}${c.toUpperCase()}${EXTRA_CASE[c] ?? ""}]`);
  return [`(?:${classes})`, end + 1];
}

function refuse(source, what) {
  throw new Error(`the tokenizer's pattern ${JSON.stringify(source)} uses ${what}, which cannot be translated exactly`);
}
