import { h, htm, useRef } from "../vendor/vendor.js";

export const html = htm.bind(h);

/**
 * A ref to an element, which is there whenever an effect or an event runs.
 *
 * @returns {{current: any}}
 */
export function useElement() {
  return useRef(null);
}
