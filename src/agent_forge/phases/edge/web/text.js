/**
 * Text as the Python side of the agent sees it: what counts as blank space, how letter case is folded, what can be
 * printed. The browser's own rules differ in small ways (its \s holds U+FEFF and not U+0085, it has no case folding).
 *
 * The tables are those of the browser's Unicode version: a character that is newer than Python's may fold or print here
 * and not there.
 */

const BLANK = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
/** Blank space of Python's str methods and regular expressions, to stand in a character class. */
export const BLANK_CLASS = BLANK;

const LEADING = new RegExp(`^[${BLANK}]+`, "u");
const TRAILING = new RegExp(`[${BLANK}]+$`, "u");
const RUNS = new RegExp(`[${BLANK}]+`, "u");
const UNPRINTABLE = /[\p{C}\p{Z}]/u;
const CHEROKEE = /[\u13a0-\u13fd\uab70-\uabbf]/u;

/** `str.lstrip()`. */
export const lstrip = (text) => text.replace(LEADING, "");

/** `str.strip()`. */
export const strip = (text) => lstrip(text).replace(TRAILING, "");

/** `str.split()`: words between blank space. */
export const words = (text) => text.split(RUNS).filter((word) => word !== "");

/** Number of characters (code points), as `len` counts them. */
export const length = (text) => [...text].length;

/** The first `count` characters. */
export const head = (text, count) => [...text].slice(0, count).join("");

/** `str.casefold()`, character by character: the place of a sigma in its word does not matter. */
export function casefold(text) {
  return [...text].map(foldCharacter).join("");
}

function foldCharacter(character) {
  if (character === "ı") return character;
  if (character === "ẞ") return "ss";
  if (CHEROKEE.test(character)) return character.toUpperCase();
  return character.toUpperCase().toLowerCase();
}

const printableCharacter = (character) => character === " " || !UNPRINTABLE.test(character);

/** Text without control characters; line breaks and tabs stay. */
export function printable(text) {
  return [...text].filter((each) => each === "\n" || each === "\t" || printableCharacter(each)).join("");
}

/** `repr` of one character. */
export function quoted(character) {
  if (character === "'") return '"\'"';
  if (character === "\\") return "'\\\\'";
  if (printableCharacter(character)) return `'${character}'`;
  const code = character.codePointAt(0);
  const [mark, digits] = code < 0x100 ? ["x", 2] : code < 0x10000 ? ["u", 4] : ["U", 8];
  return `'\\${mark}${code.toString(16).padStart(digits, "0")}'`;
}

/** `int` of a run of decimal digits of any script, with a sign, as a BigInt. */
export function integer(text) {
  const digits = text.replace(/\p{Decimal_Number}/gu, (digit) => String(digitValue(digit.codePointAt(0))));
  return digits.startsWith("-") ? -BigInt(digits.slice(1)) : BigInt(digits.replace(/^\+/, ""));
}

/** Unicode's decimal digits stand in runs of ten, zero first; runs may touch. */
function digitValue(code) {
  let start = code;
  while (/\p{Decimal_Number}/u.test(String.fromCodePoint(start - 1))) start -= 1;
  return (code - start) % 10;
}
