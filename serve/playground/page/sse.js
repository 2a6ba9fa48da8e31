// Server-sent events, text by text: partial lines are kept until the rest comes. Pure.
// Format: WHATWG HTML, "Interpreting an event stream".

/** @typedef {{data: string} | {comment: string}} SseEvent */

export class SseDecoder {
  #rest = "";
  /** @type {string[]} */
  #data = [];

  /**
   * @param {string} text
   * @returns {SseEvent[]} those that `text` completes
   */
  decode(text) {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop() ?? "";
    /** @type {SseEvent[]} */
    const events = [];
    for (const raw of lines) {
      const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
      if (line === "") {
        if (this.#data.length > 0) events.push({ data: this.#data.join("\n") });
        this.#data = [];
      } else if (line.startsWith(":")) {
        events.push({ comment: line.slice(1).trimStart() });
      } else if (line.startsWith("data:")) {
        this.#data.push(line.slice(line[5] === " " ? 6 : 5));
      }
    }
    return events;
  }
}
