// The dialog that replays a response: options with a dry run, then the progress.

import { h, id } from './elements.js';
import { progressView } from './progress.js';
import { ACTIVE, dryRun, find, start } from './replaying.js';
import { many, seconds } from './words.js';

const CHOOSING_MS = 150;
const TYPING_MS = 500; // each dry run is recorded in the audit
const WATCH_MS = 400;
const SPEEDS = [['0.5', '0.5 ×'], ['1', '1 ×'], ['2', '2 ×'], ['4', '4 ×'], ['10', '10 ×'], ['0', 'As fast as allowed']];

export function replayDialog(conversationId, responseId) {
  const leaving = new AbortController();
  const mode = { stream: radio('stream'), repair: radio('repair') };
  const speed = h('select', { id: 'replay-speed', onchange: changed }, SPEEDS.map(([value, name]) => h('option', { value }, name)));
  speed.value = '1';
  const channel = h('input', { id: 'replay-channel', spellcheck: 'false', autocomplete: 'off', placeholder: 'the conversation’s own', oninput: changed });
  const from = h('input', { id: 'replay-from', type: 'number', min: 0, step: 1, value: '0', inputmode: 'numeric', oninput: changed });
  const rate = h('input', { id: 'replay-rate', type: 'number', min: 1, step: 'any', placeholder: 'default', inputmode: 'decimal', oninput: changed });
  const plan = h('div.plan', { role: 'status' });
  const alert = h('p.alert', { role: 'alert', hidden: true });
  const go = h('button.primary', { type: 'submit' }, 'Start replay');
  const paced = h('fieldset.paced', {}, h('legend.visually-hidden', {}, 'Pace'),
    field('Speed', speed), field('From seq', from), field('Messages/s', rate));
  const form = h('form', { onsubmit: submit },
    h('fieldset.choices', {}, h('legend.visually-hidden', {}, 'Mode'),
      choice(mode.stream, 'Stream it again', 'Publishes a new stream with the original timing. Followers see it live; it is not recorded.'),
      choice(mode.repair, 'Repair what readers see', 'Overwrites the text that live readers show with the stored text.')),
    paced,
    field('Channel', channel),
    plan, alert,
    h('div.buttons', {}, h('button', { type: 'button', onclick: () => dialog.close() }, 'Close'), go));
  const dialog = h('dialog.card', { 'aria-labelledby': 'replay-title', onclose: left },
    h('h2', { id: 'replay-title' }, 'Replay'), h('p.muted', {}, id(responseId)), form);
  let typing = null, trying = new AbortController(), key = crypto.randomUUID(), timer = null;
  document.body.append(dialog);
  dialog.showModal();
  changed();
  return dialog;

  function radio(value) {
    return h('input', { type: 'radio', name: 'mode', value, checked: value === 'stream', onchange: changed });
  }

  function terms() {
    const number = (input, without) => (input.value === '' ? without : Number(input.value));
    const streams = mode.stream.checked;
    return {
      mode: streams ? 'stream' : 'repair',
      speed: streams ? Number(speed.value) : 1,
      channel: channel.value.trim() || null,
      from_seq: streams ? number(from, 0) : 0,
      max_rate: streams ? number(rate, null) : null,
    };
  }

  function changed(event) {
    key = crypto.randomUUID();
    paced.hidden = mode.repair.checked;
    clearTimeout(typing);
    typing = setTimeout(rehearse, event?.type === 'input' ? TYPING_MS : CHOOSING_MS);
  }

  async function rehearse() {
    trying.abort();
    trying = new AbortController();
    const { signal } = trying;
    plan.setAttribute('aria-busy', 'true');
    try {
      const answer = await dryRun(conversationId, responseId, terms(), signal);
      plan.replaceChildren(...planned(answer));
      refuse(null);
    } catch (error) {
      if (signal.aborted) return;
      plan.replaceChildren();
      refuse(error);
    } finally {
      if (!signal.aborted) plan.removeAttribute('aria-busy');
    }
  }

  function refuse(error) {
    alert.textContent = error?.message ?? '';
    alert.hidden = error === null;
    go.disabled = error !== null;
  }

  async function submit(event) {
    event.preventDefault();
    go.disabled = true;
    try {
      watch(await start(conversationId, responseId, terms(), key));
    } catch (error) {
      refuse(error);
      go.disabled = false;
    }
  }

  function watch(replay) {
    const progress = progressView(replay);
    const close = h('button', { type: 'button', onclick: () => dialog.close() }, 'Close');
    const note = h('p.note', {}, 'The replay continues if you close this window; see Replays.');
    form.replaceWith(progress.element, note, h('div.buttons', {}, close));
    close.focus();
    const look = async () => {
      if (leaving.signal.aborted) return;
      try {
        progress.update(await find(replay.replay_id, leaving.signal));
      } catch {
        // the next poll shows it
      }
      note.hidden = !ACTIVE.has(progress.replay().state);
      if (!note.hidden) timer = setTimeout(look, WATCH_MS);
    };
    look();
  }

  function left() {
    leaving.abort();
    trying.abort();
    clearTimeout(typing);
    clearTimeout(timer);
    dialog.remove();
  }
}

function planned(answer) {
  const lines = [h('p.plan-line', {}, h('strong', {}, many(answer.chunks, 'message')), answer.seconds ? ` in ${seconds(answer.seconds)} on ` : ' at once on ', id(answer.channel))];
  if (answer.pace === 'even') lines.push(h('p.note', {}, 'The original timing is not recorded: chunks are spread evenly.'));
  if (answer.joined) lines.push(h('p.note', {}, `${many(answer.joined, 'chunk shares', 'chunks share')} a channel message with others, to stay within the rate.`));
  if (answer.gaps?.length) lines.push(h('p.note', {}, 'The stored response has gaps; the replay ends as incomplete.'));
  return lines;
}

function choice(input, name, text) {
  return h('label.choice', {}, input, h('span', {}, h('strong', {}, name), h('span.muted', {}, text)));
}

function field(name, input) {
  return h('div.field', {}, h('label', { for: input.id }, name), input);
}
