import { useLayoutEffect, useMemo } from "../vendor/vendor.js";
import { t } from "../i18n.js";
import { Blocks } from "../markdown.js";
import { html, useElement } from "./html.js";

/** Markdown as it grows. @param {{text: string}} props */
export function Text({ text }) {
  const root = useElement();
  const blocks = useMemo(() => new Blocks(), []);
  const made = useMemo(() => blocks.of(text), [text]);
  const label = t("copy");
  useLayoutEffect(() => {
    for (const button of root.current.querySelectorAll("button[data-copy]")) button.textContent = label;
  });
  return html`<div class="text" ref=${root}>${made.map((it, index) => html`
    <div key=${index} dir="auto" dangerouslySetInnerHTML=${{ __html: it }} />`)}</div>`;
}
