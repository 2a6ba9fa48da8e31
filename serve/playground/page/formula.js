// Where mathematics begins and ends in a text. Pure.

/** How R1 and its like write mathematics: in brackets, in dollars, or a bare \boxed{}. */
const MATHS = [
  { open: "$$", close: "$$", display: true },
  { open: "\\[", close: "\\]", display: true },
  { open: "\\(", close: "\\)", display: false },
  { open: "$", close: "$", display: false },
];
const BOXED = "\\boxed{";

/**
 * The formula that `text` begins with.
 *
 * @param {string} text
 * @returns {{raw: string, formula: string, display: boolean} | null}
 */
export function formulaAt(text) {
  if (text.startsWith(BOXED)) return boxedAt(text);
  const kind = MATHS.find(({ open }) => text.startsWith(open));
  if (!kind) return null;
  const end = text.indexOf(kind.close, kind.open.length);
  if (end < 0) return null;
  const formula = text.slice(kind.open.length, end);
  const after = text[end + kind.close.length] ?? "";
  // "$5 and $6" is money: Pandoc's rule for single dollars.
  const money = kind.open === "$" && (/^\s|\s$|\n/.test(formula) || /\d/.test(after));
  if (money || !formula.trim() || /\n\s*\n/.test(formula)) return null;
  return { raw: text.slice(0, end + kind.close.length), formula, display: kind.display };
}

/** @param {string} text */
function boxedAt(text) {
  let depth = 0;
  for (let i = BOXED.length - 1; i < text.length; i += 1) {
    if (text[i] === "{") depth += 1;
    if (text[i] === "}" && --depth === 0) {
      const raw = text.slice(0, i + 1);
      return { raw, formula: raw, display: false };
    }
  }
  return null;
}
