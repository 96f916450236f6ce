/**
 * The calculator of `agent_forge.agent.calculator`: a recursive-descent parser of `+ - * / // % **`, signs and brackets
 * over exact fractions, with the same limits and the same sentences.
 *
 * A power with an exponent that is not whole is a floating-point number there and here. Browsers compute it to 0.7
 * units of the last place and C libraries to 0.52; here it is computed with 256 bits and rounded once, so the two agree
 * but for about one power in a thousand.
 */

import { ToolError } from "./calls.js";
import { length, lstrip, quoted, strip } from "./text.js";

const MAX_CHARACTERS = 200;
const MAX_DEPTH = 32;
const MAX_BITS = 2048n;
const DIGITS = 12;
const TOKEN = /[ \t\n\r\f\v]*(?:(\d+\.?\d*|\.\d+)|(\*\*|\/\/|[-+*/%()]))/y;
const SAME = { "×": "*", "·": "*", "÷": "/", "−": "-" };

/** The value of an expression as text; ToolError where it has none. */
export function calculate(expression) {
  const size = length(expression);
  if (size > MAX_CHARACTERS)
    throw new ToolError(`the expression has ${size} characters, ${MAX_CHARACTERS} are allowed`);
  return new Reader(tokens(expression.replace(/[×·÷−]/g, (sign) => SAME[sign]))).value();
}

function tokens(given) {
  const text = strip(given);
  const found = [];
  for (let at = 0; at < text.length; at = TOKEN.lastIndex) {
    TOKEN.lastIndex = at;
    const token = TOKEN.exec(text);
    if (!token) {
      const [wrong] = lstrip(text.slice(at));
      throw new ToolError(`${quoted(wrong)} is not part of an expression; known are numbers and + - * / // % ** ( )`);
    }
    found.push(token[1] ?? token[2]);
  }
  return found;
}

/** Reads the tokens once, from left to right. */
class Reader {
  constructor(list) {
    this.list = list;
    this.at = 0;
    this.depth = 0;
  }

  value() {
    const found = this.sum();
    if (this.at < this.list.length) throw new ToolError(`'${this.list[this.at]}' was not expected there`);
    return shown(found);
  }

  take(...wanted) {
    return wanted.includes(this.list[this.at]) ? this.list[this.at++] : undefined;
  }

  sum() {
    let left = this.product();
    for (let sign = this.take("+", "-"); sign; sign = this.take("+", "-")) {
      const right = this.product();
      left = bounded(sign === "+" ? added(left, right) : added(left, negated(right)));
    }
    return left;
  }

  product() {
    let left = this.signed();
    for (let sign = this.take("*", "/", "//", "%"); sign; sign = this.take("*", "/", "//", "%")) {
      const right = this.signed();
      if (sign !== "*" && right.top === 0n) throw new ToolError("division by zero");
      left = bounded(combined(left, sign, right));
    }
    return left;
  }

  signed() {
    const sign = this.take("+", "-");
    if (!sign) return this.power();
    const value = this.deeper(() => this.signed());
    return sign === "-" ? negated(value) : value;
  }

  power() {
    const root = this.atom();
    if (!this.take("**")) return root;
    return bounded(
      raised(
        root,
        this.deeper(() => this.signed()),
      ),
    );
  }

  atom() {
    const token = this.list[this.at];
    if (token === undefined) throw new ToolError("the expression ends too early");
    this.at += 1;
    if (token === "(") {
      const value = this.deeper(() => this.sum());
      if (!this.take(")")) throw new ToolError("a bracket is not closed");
      return value;
    }
    if (!/^[0-9.]/.test(token)) throw new ToolError(`'${token}' was not expected there`);
    const [whole, part = ""] = token.split(".");
    return bounded(fraction(BigInt(whole + part), 10n ** BigInt(part.length)));
  }

  deeper(read) {
    this.depth += 1;
    if (this.depth > MAX_DEPTH)
      throw new ToolError(`more than ${MAX_DEPTH} brackets, signs or powers inside each other`);
    const value = read();
    this.depth -= 1;
    return value;
  }
}

/** top / bottom in lowest terms, the sign on top. */
function fraction(top, bottom) {
  const divisor = greatestCommon(top < 0n ? -top : top, bottom < 0n ? -bottom : bottom) * (bottom < 0n ? -1n : 1n);
  return { top: top / divisor, bottom: bottom / divisor };
}

function greatestCommon(one, other) {
  while (other > 0n) [one, other] = [other, one % other];
  return one;
}

const negated = ({ top, bottom }) => ({ top: -top, bottom });
const added = (left, right) => fraction(left.top * right.bottom + right.top * left.bottom, left.bottom * right.bottom);
const times = (left, right) => fraction(left.top * right.top, left.bottom * right.bottom);
const over = (left, right) => fraction(left.top * right.bottom, left.bottom * right.top);

function combined(left, sign, right) {
  if (sign === "*") return times(left, right);
  const quotient = over(left, right);
  if (sign === "/") return quotient;
  const whole = { top: floor(quotient), bottom: 1n };
  return sign === "//" ? whole : added(left, negated(times(right, whole)));
}

const floor = ({ top, bottom }) => top / bottom - (top < 0n && top % bottom !== 0n ? 1n : 0n);

function raised(root, exponent) {
  if (root.top === 0n && exponent.top < 0n) throw new ToolError("division by zero");
  if (exponent.bottom !== 1n) return rootOf(root, exponent);
  const size = exponent.top < 0n ? -exponent.top : exponent.top;
  if (root.bottom === 1n && root.top >= -1n && root.top <= 1n) {
    return { top: size % 2n === 0n && (root.top !== 0n || size === 0n) ? 1n : root.top, bottom: 1n };
  }
  if (size * (bits(root) - 1n) > MAX_BITS) throw tooLarge(); // the size is known before the work is done
  const [top, bottom] = [root.top ** size, root.bottom ** size];
  return exponent.top < 0n ? fraction(bottom, top) : { top, bottom };
}

function rootOf(root, exponent) {
  if (root.top < 0n) throw new ToolError("a negative number has no real root");
  if (root.top === 0n) return root;
  const [base, power] = [nearest(root), nearest(exponent)];
  if (!Number.isFinite(base) || !Number.isFinite(power)) throw tooLarge();
  if (base === 0 && power < 0) throw new ToolError("division by zero"); // below the smallest floating-point number
  if (base === 0) return exactly(0);
  const value = floatPower(base, power);
  if (!Number.isFinite(value)) throw tooLarge();
  return exactly(value);
}

const PLACES = 256n;
const ONE = 1n << PLACES;
const product = (one, other) => (one * other) >> PLACES;

/** base ** power for a base above 0, to the nearest floating-point number: 2^n · e^r with |r| ≤ ln 2 / 2. */
function floatPower(base, power) {
  if (Math.abs(Math.log2(base) * power) > 1100) return Math.log2(base) * power > 0 ? Infinity : 0;
  const [mantissa, two] = [exactly(base), exactly(power)];
  const e = length2(mantissa.top) - length2(mantissa.bottom);
  const scale = e < 0n ? [mantissa.top << -e, mantissa.bottom] : [mantissa.top, mantissa.bottom << e];
  const exponent = ((e * LN2 + logarithm(...scale)) * two.top) / two.bottom;
  const n = (2n * exponent + LN2) / (2n * LN2) - (2n * exponent + LN2 < 0n ? 1n : 0n);
  const value = exponential(exponent - n * LN2);
  return nearest(n < 0n ? { top: value, bottom: ONE << -n } : { top: value << n, bottom: ONE });
}

/** ln(top / bottom) of a ratio between 1/2 and 2: 2·artanh of (top − bottom) / (top + bottom). */
function logarithm(top, bottom) {
  const x = ((top - bottom) << PLACES) / (top + bottom);
  let [sum, term] = [0n, x];
  for (let k = 1n; term / k !== 0n; k += 2n) [sum, term] = [sum + term / k, product(product(term, x), x)];
  return 2n * sum;
}

const LN2 = logarithm(4n, 3n) + logarithm(3n, 2n);

function exponential(x) {
  let [sum, term] = [0n, ONE];
  for (let k = 1n; term !== 0n && term !== -1n; k += 1n) [sum, term] = [sum + term, product(term, x) / k];
  return sum;
}

/** The nearest floating-point number. */
function nearest({ top, bottom }) {
  const size = top < 0n ? -top : top;
  if (size === 0n) return 0;
  // a quotient of at least 66 bits whose last bit says whether anything was left: one rounding, at the end
  const shift = BigInt(Math.max(0, bottom.toString(2).length - size.toString(2).length + 66));
  const rest = (size << shift) % bottom;
  const value = scaled(Number(((size << shift) / bottom) | (rest ? 1n : 0n)), -Number(shift));
  return top < 0n ? -value : value;
}

/** value · 2^power in steps that a double can hold. */
function scaled(value, power) {
  for (; power < -1000; power += 1000) value *= 2 ** -1000;
  return value * 2 ** power;
}

/** A floating-point number as the fraction that it is. */
function exactly(value) {
  let shift = 0;
  for (; !Number.isInteger(value); shift += 1) value *= 2;
  return fraction(BigInt(value), 1n << BigInt(shift));
}

const length2 = (value) => (value === 0n ? 0n : BigInt((value < 0n ? -value : value).toString(2).length));

function bits({ top, bottom }) {
  const [one, other] = [length2(top), length2(bottom)];
  return one > other ? one : other;
}

const tooLarge = () => new ToolError(`the result has more than ${MAX_BITS} bits`);

function bounded(value) {
  if (bits(value) > MAX_BITS) throw tooLarge();
  return value;
}

/** A whole number with every digit, any other with 12 significant ones, halves to even. */
function shown({ top, bottom }) {
  if (bottom === 1n) return String(top);
  const sign = top < 0n ? "-" : "";
  const size = top < 0n ? -top : top;
  let power = size.toString().length - bottom.toString().length; // of the first digit; may be one too high
  if (tenTimes(size, -power) < tenTimes(bottom, 0) * tenTimes(1n, Math.max(0, power))) power -= 1;
  let digits = roundedDigits(size, bottom, power);
  if (digits === 10n ** BigInt(DIGITS)) [digits, power] = [digits / 10n, power + 1];
  const text = digits.toString().replace(/0+$/, "");
  return sign + (power > -7 && power < 15 ? plain(text, power) : scientific(text, power));
}

const tenTimes = (value, power) => value * 10n ** BigInt(Math.max(0, power));

function roundedDigits(size, bottom, power) {
  const shift = DIGITS - 1 - power;
  const [top, under] = [tenTimes(size, shift), tenTimes(bottom, -shift)];
  const [quotient, rest] = [top / under, 2n * (top % under)];
  return rest > under || (rest === under && quotient % 2n === 1n) ? quotient + 1n : quotient;
}

function plain(digits, power) {
  if (power < 0) return `0.${"0".repeat(-power - 1)}${digits}`;
  if (digits.length <= power + 1) return digits.padEnd(power + 1, "0");
  return `${digits.slice(0, power + 1)}.${digits.slice(power + 1)}`;
}

function scientific(digits, power) {
  const part = digits.length > 1 ? `.${digits.slice(1)}` : "";
  return `${digits[0]}${part}e${power < 0 ? "-" : "+"}${Math.abs(power)}`;
}
