// The health of the service: database, channel, recorder.

import { h, put, isolated } from './elements.js';
import { everyMs } from './scroll.js';
import { ask } from './service.js';
import { loading, wrong } from './states.js';
import { ago, count, many, seconds, time } from './words.js';

const REFRESH_MS = 5_000;
const OVERALL = { ok: 'All systems operational', degraded: 'Degraded', failed: 'The database does not answer' };
const STATUS = { ok: 'OK', failed: 'Failed', behind: 'Behind', unknown: 'Unknown' };

export function healthPane() {
  const leaving = new AbortController();
  const body = h('div.scroll.cards', {}, loading('health'));
  const overall = h('h2', {}, 'Health');
  const at = h('p');
  const element = h('section.pane.wide-pane', { 'aria-label': 'Health' }, h('header.pane-head', {}, h('div.pane-title', {}, overall, at)), body);
  const refreshing = everyMs(REFRESH_MS, load);
  load();
  return { element, close: () => (refreshing.close(), leaving.abort()) };

  async function load() {
    try {
      const health = await ask('GET', 'v1/admin/health', { signal: leaving.signal });
      put(overall, OVERALL[health.status]);
      put(at, `at ${time(health.at)}, for the process that answered this request`);
      body.replaceChildren(
        card('Database', health.database.status, health.database.detail, [['Response time', seconds(health.database.ms / 1000)]]),
        card('Channel', health.channel.status, health.channel.detail, [['Response time', seconds(health.channel.ms / 1000)], ['Conversations followed', count(health.recorder.followed)]]),
        recorder(health.recorder));
    } catch (error) {
      if (!leaving.signal.aborted) body.replaceChildren(wrong(error, load));
    }
  }
}

function recorder(known) {
  const detail = known.behind_s ? `Recording of streaming responses is overdue by ${seconds(known.behind_s)}.` : known.untold ? `${many(known.untold, 'response')} ended without a published stop.` : null;
  return card('Recorder', known.status, detail, [
    known.open_responses !== null && ['Streaming', many(known.open_responses, 'response')],
    known.open_conversations !== null && ['Streaming in', many(known.open_conversations, 'conversation')],
    known.oldest_read_at && ['Oldest read', ago(known.oldest_read_at)],
    known.untold !== null && ['Stops to publish', count(known.untold)],
    ['Queued in this process', count(known.waiting)],
  ]);
}

function card(name, status, detail, rows) {
  return h('section.card.check', {},
    h('header', {}, h('h3', {}, name), h('span.tag', { 'data-status': status }, STATUS[status])),
    detail && h('p', {}, isolated(detail)),
    h('dl.facts', {}, rows.filter(Boolean).map(([term, value]) => h('div', {}, h('dt', {}, term), h('dd', {}, value)))));
}
