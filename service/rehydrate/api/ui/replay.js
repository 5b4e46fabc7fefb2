// The dialog that replays a response: how, tried out first, then watched.

import { h, id } from './elements.js';
import { progressView } from './progress.js';
import { find, LIVELY, start, tryOut } from './replaying.js';
import { many, seconds } from './words.js';

const CHOOSING_MS = 150;
const TYPING_MS = 500; // each trial is kept in the audit
const WATCH_MS = 400;
const SPEEDS = [['0.5', '0.5 ×'], ['1', '1 ×'], ['2', '2 ×'], ['4', '4 ×'], ['10', '10 ×'], ['0', 'As fast as allowed']];

export function replayDialog(conversationId, responseId) {
  const leaving = new AbortController();
  const mode = { stream: radio('stream'), repair: radio('repair') };
  const speed = h('select', { id: 'replay-speed', onchange: changed }, SPEEDS.map(([value, name]) => h('option', { value }, name)));
  speed.value = '1';
  const channel = h('input', { id: 'replay-channel', spellcheck: 'false', autocomplete: 'off', placeholder: 'the conversation’s own', oninput: changed });
  const from = h('input', { id: 'replay-from', type: 'number', min: 0, step: 1, value: '0', inputmode: 'numeric', oninput: changed });
  const rate = h('input', { id: 'replay-rate', type: 'number', min: 1, step: 'any', placeholder: 'as usual', inputmode: 'decimal', oninput: changed });
  const plan = h('div.plan', { role: 'status' });
  const alert = h('p.alert', { role: 'alert', hidden: true });
  const go = h('button.primary', { type: 'submit' }, 'Start replay');
  const paced = h('fieldset.paced', {}, h('legend.visually-hidden', {}, 'Pace'),
    field('Speed', speed), field('From seq', from), field('Per second', rate));
  const form = h('form', { onsubmit: submit },
    h('fieldset.choices', {}, h('legend.visually-hidden', {}, 'What to do'),
      choice(mode.stream, 'Stream it again', 'As a stream of its own, at its pace. Followers see it live; nothing is recorded.'),
      choice(mode.repair, 'Repair what readers see', 'Every live reader’s text of it becomes the stored text.')),
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
      const answer = await tryOut(conversationId, responseId, terms(), signal);
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
    const note = h('p.note', {}, 'It goes on without this window; Replays shows it.');
    form.replaceWith(progress.element, note, h('div.buttons', {}, close));
    close.focus();
    const look = async () => {
      if (leaving.signal.aborted) return;
      try {
        progress.update(await find(replay.replay_id, leaving.signal));
      } catch {
        // the next look tells
      }
      note.hidden = !LIVELY.has(progress.replay().state);
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
  const told = [h('p.plan-line', {}, h('strong', {}, many(answer.chunks, 'message')), answer.seconds ? ` in ${seconds(answer.seconds)} on ` : ' at once on ', id(answer.channel))];
  if (answer.pace === 'even') told.push(h('p.note', {}, 'Its times are not recorded: it goes out evenly.'));
  if (answer.joined) told.push(h('p.note', {}, `${many(answer.joined, 'piece')} share a message with others: the rate allows no more.`));
  if (answer.gaps?.length) told.push(h('p.note', {}, 'Some of it is missing; the replay ends as incomplete.'));
  return told;
}

function choice(input, name, says) {
  return h('label.choice', {}, input, h('span', {}, h('strong', {}, name), h('span.muted', {}, says)));
}

function field(name, input) {
  return h('div.field', {}, h('label', { for: input.id }, name), input);
}
