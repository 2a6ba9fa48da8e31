import { t } from "../i18n.js";
import { useChanges } from "../state.js";
import { html } from "./html.js";

/** The tally, live: one bar for each answer. @param {{reply: import("../reply.js").Reply}} props */
export function Votes({ reply }) {
  useChanges();
  const votes = reply.votes;
  const n = votes?.n ?? reply.numVotes;
  const counted = votes?.counted ?? 0;
  const answers = votes?.answers ?? [];
  const most = Math.max(1, ...answers.map(({ count }) => count));
  return html`<section class="votes" aria-label=${t("votes_field")}>
    <p class=${reply.over || reply.answer ? "quiet" : "quiet pulse"}>
      ${reply.over || reply.answer ? t("votes", { counted, n }) : t("voting", { n, counted })}
    </p>
    <ol>${answers.map(({ answer, count }) => html`<li key=${answer}>
      <span class="vote-answer">${answer}</span>
      <span class="vote-bar"><span style=${`width: ${(100 * count) / most}%`} /></span>
      <span class="vote-count">${count}</span>
    </li>`)}</ol>
  </section>`;
}
