// What a visitor may set for a reply: each field's range and the preset's own value, and the request
// that comes of it. Pure.

/**
 * @typedef {"temperature" | "top_p" | "max_tokens" | "thinking_token_budget" | "votes"} Field
 * @typedef {Partial<Record<Field, number>>} Changes
 * @typedef {{id: string, description: string, votes: number, pinned: string[], max_tokens: number | null,
 *   bounds: Record<string, [number, number]>} & Record<string, any>} Preset
 * @typedef {{field: Field, min: number, max: number, step: number, own: number | null, pinned: boolean}} Control
 */

/** @type {Field[]} */
export const FIELDS = ["temperature", "top_p", "max_tokens", "thinking_token_budget", "votes"];
const MAX_VOTES = 64;

/**
 * @param {Preset} preset
 * @param {number} maxModelLen tokens of prompt and reply together
 * @returns {Control[]} `own` is the preset's value; null: the engine decides
 */
export function controlsOf(preset, maxModelLen) {
  const step = 2 ** Math.max(0, Math.round(Math.log2(maxModelLen / 128)));
  /** @type {Record<Field, [number, number, number]>} */
  const ranges = {
    temperature: [0, 2, 0.05],
    top_p: [0.05, 1, 0.05],
    max_tokens: [1, maxModelLen, step],
    thinking_token_budget: [0, maxModelLen, step],
    votes: [1, MAX_VOTES, 1],
  };
  return FIELDS.map((field) => {
    const [min, max, by] = ranges[field];
    const [low, high] = preset.bounds?.[field] ?? [min, max];
    const own = preset[field] ?? null;
    return {
      field,
      min: Math.max(min, low),
      max: Math.min(max, high),
      step: by,
      own: own === null ? null : Math.min(own, max),
      pinned: preset.pinned?.includes(field) ?? false,
    };
  });
}

/**
 * The visitor's changes that this preset allows.
 *
 * @param {Changes} changes
 * @param {Control[]} controls
 * @returns {Changes}
 */
export function allowed(changes, controls) {
  const kept = controls.flatMap(({ field, min, max, pinned }) => {
    const value = changes[field];
    return value === undefined || pinned ? [] : [[field, Math.min(max, Math.max(min, value))]];
  });
  return Object.fromEntries(kept);
}

/**
 * @param {string} model
 * @param {string | null} preset null: the server's default
 * @param {Changes} changes
 * @param {{role: string, content: string}[]} messages
 */
export function requestOf(model, preset, changes, messages) {
  return {
    model,
    messages,
    ...(preset && { preset }),
    ...changes,
    stream: true,
    stream_options: { include_usage: true },
    return_token_ids: true, // a chunk may hold several, which are counted as they come
  };
}
