// The progress of a replay, with a button to cancel it.

import { announce, h, id, put, isolated } from './elements.js';
import { ACTIVE, cancel, STATE } from './replaying.js';
import { count, seconds, valueText } from './words.js';

export function progressView(first) {
  const state = h('span.tag');
  const bar = h('progress', { 'aria-label': 'Progress' });
  const far = h('span.num');
  const button = h('button', { type: 'button', onclick: end }, 'Cancel');
  const trouble = h('p.alert', { role: 'alert', hidden: true });
  const element = h('div.progress', {}, h('div.progress-line', {}, state, far, h('span.spring'), button), bar, trouble);
  let known = first;
  update(first);
  return { element, update, replay: () => known };

  function update(replay) {
    if (known.state !== replay.state && !ACTIVE.has(replay.state)) announce(`Replay ${STATE[replay.state]}`);
    known = replay;
    put(state, replay.cancel_asked && ACTIVE.has(replay.state) ? 'Cancelling' : STATE[replay.state]);
    state.dataset.status = replay.state;
    bar.max = Math.max(1, replay.chunks);
    bar.value = replay.done;
    put(far, `${count(replay.done)} of ${count(replay.chunks)}${replay.seconds ? ` · ${seconds(replay.seconds_done ?? 0)} of ${seconds(replay.seconds)}` : ''}`);
    button.hidden = !ACTIVE.has(replay.state);
    button.disabled = Boolean(replay.cancel_asked);
    if (replay.error) show(replay.error.detail ?? replay.error.message ?? valueText(replay.error));
  }

  async function end() {
    button.disabled = true;
    try {
      update(await cancel(known.replay_id));
    } catch (error) {
      button.disabled = false;
      show(error.message);
    }
  }

  function show(text) {
    trouble.replaceChildren(isolated(text));
    trouble.hidden = false;
  }
}

// One line that names the replayed response and the mode.
export const subject = (replay) => [id(replay.response_id), ' ', h('span.muted', {}, replay.mode === 'repair' ? 'as a repair' : replay.speed === 0 ? 'as fast as allowed' : `at ${replay.speed} ×`)];
