// All replays, newest first, with their progress.

import { h, id } from './elements.js';
import { pagedPane } from './pages.js';
import { progressView, subject } from './progress.js';
import { ACTIVE } from './replaying.js';
import { toConversation } from './routes.js';
import { everyMs } from './scroll.js';
import { moment, when } from './words.js';

const REFRESH_MS = 1_500;

export function replaysPane() {
  const known = new Map();
  const pane = pagedPane({
    title: 'Replays',
    note: 'Stored responses that were published again.',
    where: 'v1/admin/replays',
    rows: (answer) => answer.replays,
    made: entry,
    nothing: ['No replays yet', 'Open a conversation and choose Replay… on one of its responses.'],
  });
  const refreshing = everyMs(REFRESH_MS, refresh);
  return { element: pane.element, close: () => (refreshing.close(), pane.close()) };

  function entry(replay) {
    const progress = progressView(replay);
    known.set(replay.replay_id, progress);
    return h('li.entry', {},
      h('div.entry-head', {},
        h('span', {}, subject(replay)),
        h('time', { datetime: replay.created_at, title: moment(replay.created_at) }, when(replay.created_at))),
      progress.element,
      h('p.entry-sub', {}, 'in ', h('a', { href: toConversation(replay.conversation_id) }, id(replay.conversation_id)), ' to ', id(replay.channel), ' by ', id(replay.asked_by)));
  }

  async function refresh() {
    try {
      const answer = await pane.ask(null);
      for (const replay of answer.replays.toReversed()) {
        const progress = known.get(replay.replay_id);
        if (!progress) pane.list.prepend(entry(replay));
        else if (ACTIVE.has(progress.replay().state)) progress.update(replay);
      }
    } catch {
      // the next refresh shows it
    }
  }
}
