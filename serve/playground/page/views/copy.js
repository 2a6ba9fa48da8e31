import { useEffect, useState } from "../vendor/vendor.js";
import { copy } from "../clipboard.js";
import { t } from "../i18n.js";
import { html } from "./html.js";
import { IconButton } from "./icons.js";

const SHOWN_MS = 1500;

/** @param {{text: string}} props */
export function CopyButton({ text }) {
  const [copied, setCopied] = useState(false);
  useEffect(() => {
    if (!copied) return undefined;
    const timer = setTimeout(() => setCopied(false), SHOWN_MS);
    return () => clearTimeout(timer);
  }, [copied]);
  const act = () => {
    copy(text);
    setCopied(true);
  };
  return html`<${IconButton} icon=${copied ? "done" : "copy"} label=${t(copied ? "copied" : "copy")} onClick=${act} />`;
}
