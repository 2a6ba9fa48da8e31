import { html } from "./html.js";

/** Paths of 24 × 24 line drawings. */
const PATHS = {
  menu: "M4 7h16M4 12h16M4 17h16",
  plus: "M12 5v14M5 12h14",
  sliders: "M4 7h9M17 7h3M4 17h3M11 17h9M13 4v6M7 14v6",
  close: "M6 6l12 12M18 6L6 18",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  copy: "M9 9h10v10H9zM5 15V5h10",
  done: "M5 13l5 5L20 7",
  again: "M4 12a8 8 0 1 0 2.5-5.8M4 4v4.5h4.5",
  edit: "M4 20h4L19 9l-4-4L4 16z",
  left: "M14 6l-6 6 6 6",
  right: "M10 6l6 6-6 6",
  down: "M12 5v14M6 13l6 6 6-6",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  save: "M12 4v11M7 11l5 5 5-5M5 20h14",
  open: "M12 16V5M7 9l5-5 5 5M5 20h14",
  chart: "M5 20V11M12 20V4M19 20v-6",
  chat: "M4 5h16v11H10l-5 4v-4H4z",
  key: "M4 15a4 4 0 1 0 8 0 4 4 0 1 0-8 0M11 12l9-9M17 6l3 3M14 9l2.5 2.5",
};

/** @param {{name: keyof typeof PATHS}} props */
export function Icon({ name }) {
  return html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true"><path d=${PATHS[name]} /></svg>`;
}

/**
 * @param {{icon: keyof typeof PATHS, label: string, onClick: (event: Event) => void} & Record<string, any>} props
 */
export function IconButton({ icon, label, onClick, ...rest }) {
  return html`<button type="button" class="icon-button" title=${label} aria-label=${label} onClick=${onClick} ...${rest}>
    <${Icon} name=${icon} />
  </button>`;
}
