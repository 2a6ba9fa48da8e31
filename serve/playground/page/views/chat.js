import { useEffect, useLayoutEffect, useRef, useState } from "../vendor/vendor.js";
import { send } from "../actions.js";
import { t } from "../i18n.js";
import { phaseOf } from "../reply.js";
import { current, currentLive, model, server, useChanges } from "../state.js";
import { Composer } from "./composer.js";
import { html, useElement } from "./html.js";
import { IconButton } from "./icons.js";
import { ReplyTurn, UserTurn } from "./turn.js";

const NEAR_END_PX = 80;

export function Chat() {
  const list = useElement();
  const [atEnd, setAtEnd] = useState(true);
  const conversation = current.value;
  const tick = useChanges();
  useEffect(() => setAtEnd(true), [conversation?.id, conversation?.turns.length]);
  useLayoutEffect(() => {
    if (atEnd) list.current.scrollTop = list.current.scrollHeight;
  }, [tick, atEnd, conversation]);

  const onScroll = () => {
    const { scrollTop, scrollHeight, clientHeight } = list.current;
    setAtEnd(scrollHeight - scrollTop - clientHeight < NEAR_END_PX);
  };
  return html`
    <main class="chat">
      <div class="turns" ref=${list} onScroll=${onScroll} tabindex="-1">
        ${conversation ? html`<${Turns} turns=${conversation.turns} />` : html`<${Welcome} />`}
      </div>
      ${!atEnd && html`<${IconButton} icon="down" label=${t("toEnd")} class="icon-button to-end" onClick=${() => setAtEnd(true)} />`}
      <${Composer} key=${conversation?.id} />
      <${Spoken} />
    </main>`;
}

/** @param {{turns: import("../conversations.js").Turn[]}} props */
function Turns({ turns }) {
  useChanges();
  return turns.map((turn, index) =>
    turn.role === "user"
      ? html`<${UserTurn} key=${`${current.value?.id}-${index}`} turn=${turn} index=${index} />`
      : html`<${ReplyTurn} key=${`${current.value?.id}-${index}`} turn=${turn} last=${index === turns.length - 1} />`);
}

function Welcome() {
  const examples = ["example1", "example2", "example3", "example4"];
  return html`<section class="welcome">
    <h2>${t("welcome")}</h2>
    ${model.value && html`<p>${t("welcomeMore", { model: model.value.id })}</p>`}
    <ul>${examples.map((name) => html`<li key=${name}>
      <button type="button" disabled=${server.value !== "ready"} onClick=${() => send(t(name))}>${t(name)}</button>
    </li>`)}</ul>
  </section>`;
}

/** For who listens: phases, not every word. */
function Spoken() {
  const live = currentLive.value;
  useChanges();
  const [said, setSaid] = useState("");
  const phase = live ? phaseOf(live.reply) : "over";
  const before = useRef("over");
  useEffect(() => {
    if (phase === before.current) return;
    before.current = phase;
    setSaid(phase === "over" ? t("done") : phase === "waiting" || phase === "voting" ? "" : t(phase));
  }, [phase]);
  return html`<p class="unseen" role="status" aria-live="polite">${said}</p>`;
}
