// Markdown, mathematics and code → HTML that is safe to show, block by block: while a text grows only
// its last block is made anew.

import { DOMPurify, Marked, hljs, katex } from "./vendor/vendor.js";
import { formulaAt } from "./formula.js";

/** @param {string} text */
function escaped(text) {
  return text.replace(/[&<>"]/g, (it) => `&#${it.charCodeAt(0)};`);
}

const formula = {
  renderer: (/** @type {any} */ token) =>
    katex.renderToString(token.formula, { displayMode: token.display, throwOnError: false, strict: "ignore", maxExpand: 200, maxSize: 20 }),
};
const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    code({ text, lang }) {
      const language = (lang ?? "").split(/\s/)[0];
      const known = hljs.getLanguage(language);
      const html = known ? hljs.highlight(text, { language }).value : escaped(text);
      const name = escaped(language || "text");
      return `<div class="code"><div class="code-bar"><span>${name}</span><button type="button" data-copy></button></div><pre tabindex="0"><code>${html}</code></pre></div>`;
    },
    html: ({ text }) => escaped(text),
    // A link: to fetch a picture that a model names would tell its host of the conversation.
    image: ({ href, text }) => `<a href="${escaped(href)}">${escaped(text || href)}</a>`,
    table(token) {
      const cells = (/** @type {any[]} */ row, /** @type {string} */ tag) => row.map((cell) =>
        `<${tag}${cell.align ? ` align="${cell.align}"` : ""}>${this.parser.parseInline(cell.tokens)}</${tag}>`).join("");
      const rows = token.rows.map((row) => `<tr>${cells(row, "td")}</tr>`).join("");
      return `<div class="table" tabindex="0"><table><thead><tr>${cells(token.header, "th")}</tr></thead><tbody>${rows}</tbody></table></div>`;
    },
  },
  extensions: [
    {
      ...formula,
      name: "formula",
      level: "inline",
      start: (text) => text.search(/\$|\\\(|\\\[|\\boxed\{/),
      tokenizer(text) {
        const found = formulaAt(text);
        return found ? { type: "formula", ...found } : undefined;
      },
    },
    {
      ...formula,
      name: "formulaBlock",
      level: "block",
      start: (text) => text.search(/^ {0,3}(\$\$|\\\[)/m),
      tokenizer(text) {
        const indent = /^ {0,3}/.exec(text)?.[0] ?? "";
        const found = formulaAt(text.slice(indent.length));
        const line = found && /^[ \t]*(\n|$)/.exec(text.slice(indent.length + found.raw.length));
        if (!found?.display || !line) return undefined;
        return { type: "formulaBlock", ...found, raw: indent + found.raw + line[0] };
      },
    },
  ],
});

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName !== "A") return;
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer nofollow");
});

/** @param {string} html */
function safe(html) {
  return DOMPurify.sanitize(html, {
    ADD_TAGS: ["semantics", "annotation"],
    ADD_ATTR: ["encoding", "target", "data-copy"],
    FORBID_TAGS: ["style", "form", "textarea", "select"],
  });
}

/** One text's blocks as it grows. */
export class Blocks {
  /** @type {Map<string, string>} */
  #made = new Map();
  #numLinks = 0;

  /**
   * @param {string} text all of it
   * @returns {string[]} HTML of each block
   */
  of(text) {
    const tokens = attempt(() => marked.lexer(text), null);
    if (!tokens) return [plain(text)];
    const numLinks = Object.keys(tokens.links).length;
    const known = numLinks === this.#numLinks ? this.#made : new Map(); // else what they name has changed
    const made = new Map();
    const html = tokens
      .filter(({ type }) => type !== "space" && type !== "def")
      .map((token) => {
        const block = known.get(token.raw) ?? attempt(() => safe(marked.parser([token])), plain(token.raw));
        made.set(token.raw, block);
        return block;
      });
    this.#made = made;
    this.#numLinks = numLinks;
    return html;
  }
}

/**
 * What a model writes may be nested deeper than any parser goes.
 *
 * @template T
 * @param {() => T} make
 * @param {T} otherwise
 */
function attempt(make, otherwise) {
  try {
    return make();
  } catch {
    return otherwise;
  }
}

/** @param {string} text */
function plain(text) {
  return `<p class="plain">${escaped(text)}</p>`;
}
