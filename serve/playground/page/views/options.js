import { number, t } from "../i18n.js";
import {
  changes, chosenModel, controls, model, models, optionsOpen, preset, presetName, presets,
} from "../state.js";
import { html } from "./html.js";
import { IconButton } from "./icons.js";

/** What of a field is called otherwise than the field. @type {Record<string, string>} */
const NAMES = { votes: "votes_field" };

export function Options() {
  return html`
    <aside class="options" aria-label=${t("options")}>
      <div class="row">
        <h2>${t("options")}</h2>
        <${IconButton} icon="close" label=${t("close")} onClick=${() => { optionsOpen.value = false; }} />
      </div>
      ${models.value.length > 1 && html`<${Models} />`}
      <fieldset class="presets">
        <legend>${t("preset")}</legend>
        ${presets.value.map(({ id, description }) => html`<label key=${id} title=${t(description)} class=${id === preset.value?.id ? "preset chosen" : "preset"}>
          <input type="radio" name="preset" value=${id} checked=${id === preset.value?.id} aria-description=${t(description)} onChange=${() => choose(id)} />
          ${id}
        </label>`)}
      </fieldset>
      <p class="quiet description">${t(preset.value?.description ?? "")}</p>
      ${controls.value.map((control) => html`<${Slider} key=${control.field} ...${control} />`)}
    </aside>
    <div class="veil options-veil" onClick=${() => { optionsOpen.value = false; }} />`;
}

/** Its own values hold again. @param {string} id */
function choose(id) {
  presetName.value = id;
  changes.value = {};
}

function Models() {
  return html`<label class="model">${t("model")}
    <select value=${model.value?.id} onChange=${(/** @type {any} */ event) => { chosenModel.value = event.target.value; }}>
      ${models.value.map(({ id }) => html`<option key=${id} value=${id}>${id}</option>`)}
    </select>
  </label>`;
}

/** @param {import("../options.js").Control} props */
function Slider({ field, min, max, step, own, pinned }) {
  const changed = changes.value[field];
  const value = pinned || changed === undefined ? own : Math.min(max, Math.max(min, changed));
  const name = t(NAMES[field] ?? field);
  const set = (/** @type {number | undefined} */ to) => {
    const { [field]: _, ...others } = changes.value;
    changes.value = to === undefined || Number.isNaN(to) ? others : { ...others, [field]: Math.min(max, Math.max(min, step < 1 ? to : Math.round(to))) };
  };
  const shown = own === null ? t("engineOwn") : number(own);
  return html`<div class="slider">
    <div class="row">
      <label for=${`set-${field}`}>${name}</label>
      ${changed !== undefined && !pinned && html`<${IconButton} icon="again" label=${`${t("reset")}: ${name}`} onClick=${() => set(undefined)} />`}
      <input type="number" aria-label=${name} min=${min} max=${max} step="any" value=${value ?? ""} disabled=${pinned}
        onChange=${(/** @type {any} */ event) => set(event.target.valueAsNumber)} />
    </div>
    <input type="range" id=${`set-${field}`} min=${min && Math.max(min, step)} max=${max} step=${step} value=${value ?? max} disabled=${pinned}
      aria-describedby=${`more-${field}`} onInput=${(/** @type {any} */ event) => set(event.target.valueAsNumber)} />
    <p class="quiet" id=${`more-${field}`}>${pinned ? t("pinned") : t("presetOwn", { value: shown })} · ${t(`${field}More`)}</p>
  </div>`;
}
