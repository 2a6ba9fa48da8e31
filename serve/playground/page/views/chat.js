import { useEffect, useRef, useState } from "../vendor/vendor.js";
import { send } from "../actions.js";
import { shownOf } from "../conversations.js";
import { t } from "../i18n.js";
import { phaseOf } from "../reply.js";
import { canAsk, current, currentLive, model, useChanges } from "../state.js";
import { Composer } from "./composer.js";
import { html } from "./html.js";
import { IconButton } from "./icons.js";
import { useStick } from "./stick.js";
import { ReplyTurn, UserTurn, putOffUntil } from "./turn.js";

export function Chat() {
  useChanges();
  const conversation = current.value;
  const { element, onScroll, atEnd, toEnd } = useStick(conversation !== null);
  useEffect(toEnd, [conversation?.id, conversation?.turns.length]);
  return html`
    <main class="chat">
      <div class="turns" ref=${element} onScroll=${onScroll} tabindex="-1">
        ${conversation ? html`<${Turns} key=${conversation.id} turns=${conversation.turns} />` : html`<${Welcome} />`}
      </div>
      ${!atEnd && html`<${IconButton} icon="down" label=${t("toEnd")} class="icon-button to-end" onClick=${toEnd} />`}
      <${Composer} key=${conversation?.id} />
      <${Spoken} key=${`spoken ${conversation?.id}`} />
    </main>`;
}

/** @param {{turns: import("../conversations.js").Turn[]}} props */
function Turns({ turns }) {
  useChanges();
  return turns.map((turn, index) =>
    turn.role === "user"
      ? html`<${UserTurn} key=${index} turn=${turn} index=${index} />`
      : html`<${ReplyTurn} key=${index} turn=${turn} last=${index === turns.length - 1} />`);
}

function Welcome() {
  const examples = ["example1", "example2", "example3", "example4"];
  return html`<section class="welcome">
    <h2>${t("welcome")}</h2>
    ${model.value && html`<p>${t("welcomeMore", { model: model.value.id })}</p>`}
    <ul>${examples.map((name) => html`<li key=${name}>
      <button type="button" disabled=${!canAsk.value} onClick=${() => send(t(name))}>${t(name)}</button>
    </li>`)}</ul>
  </section>`;
}

/** For who listens: phases, not every word. */
function Spoken() {
  useChanges();
  const [said, say] = useState("");
  const live = currentLive.value;
  const phase = !live ? "over" : live.wait ? "putOff" : phaseOf(live.reply);
  const before = useRef(phase);
  useEffect(() => {
    if (phase === before.current) return;
    before.current = phase;
    if (phase === "over") say(ended());
    else if (phase === "putOff" && live?.wait) say(putOffUntil(live.wait));
    else say(phase === "thinking" || phase === "answering" ? t(phase) : "");
  }, [phase]);
  return html`<p class="unseen" role="status" aria-live="polite">${said}</p>`;
}

/** How the last reply did; failures are alerts of their own. */
function ended() {
  const last = current.value?.turns.at(-1);
  const reply = last?.role === "assistant" ? shownOf(last) : null;
  if (!reply || reply.failure) return "";
  return t(reply.stopped ? "stopped" : "done");
}
