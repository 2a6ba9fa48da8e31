// Copying, also from a page without TLS, where browsers withhold `navigator.clipboard`.

/** @param {string} text */
export async function copy(text) {
  const written = await navigator.clipboard?.writeText(text).then(() => true, () => false);
  if (written) return;
  const area = Object.assign(document.createElement("textarea"), { value: text, className: "unseen" });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

/** The buttons of code blocks. @param {Event} event */
export async function copyOnClick(event) {
  const target = /** @type {Element} */ (event.target);
  const button = target.closest("button[data-copy]");
  const code = button?.closest(".code")?.querySelector("code");
  if (!button || !code) return;
  await copy(code.textContent ?? "");
  button.classList.add("copied");
  setTimeout(() => button.classList.remove("copied"), 1500);
}
