// Starts the page.

import { effect, render } from "./vendor/vendor.js";
import { copyOnClick } from "./clipboard.js";
import { endAbandoned, restore } from "./history.js";
import { askServer, server, theme } from "./state.js";
import { App } from "./views/app.js";
import { html } from "./views/html.js";

const LOOK_AGAIN_MS = 3000;

effect(() => {
  if (theme.value === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme.value;
});
document.addEventListener("click", copyOnClick);

render(html`<${App} />`, document.body);
await Promise.all([restore(), askServer()]);
setInterval(() => {
  endAbandoned();
  if (["unreachable", "unready"].includes(server.value) && !document.hidden) askServer();
}, LOOK_AGAIN_MS);
