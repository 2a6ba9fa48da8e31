import { html } from "./html.js";

const WIDTH = 160;
const HEIGHT = 32;

/** A line of the last values, from 0 to the largest. @param {{values: (number | null)[], label: string}} props */
export function Spark({ values, label }) {
  const most = Math.max(...values.map((it) => it ?? 0), 1e-9);
  const step = WIDTH / Math.max(1, values.length - 1);
  let pen = "M";
  const path = values.map((value, index) => {
    if (value === null) {
      pen = "M";
      return "";
    }
    const point = `${pen}${(index * step).toFixed(1)} ${(HEIGHT - 1 - (HEIGHT - 3) * (value / most)).toFixed(1)}`;
    pen = "L";
    return point;
  });
  return html`<svg class="spark" viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label=${label}>
    <path d=${path.join("")} />
  </svg>`;
}
