// What keeps it all running: database, channel, recorder.

import { h, put, said } from './elements.js';
import { everyMs } from './scroll.js';
import { ask } from './service.js';
import { loading, wrong } from './states.js';
import { ago, count, many, seconds, time } from './words.js';

const REFRESH_MS = 5_000;
const OVERALL = { ok: 'Everything answers', degraded: 'Something is behind', failed: 'The database does not answer' };
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
      put(at, `as of ${time(health.at)}, by the process that answered`);
      body.replaceChildren(
        card('Database', health.database.status, health.database.detail, [['Answers in', seconds(health.database.ms / 1000)]]),
        card('Channel', health.channel.status, health.channel.detail, [['Answers in', seconds(health.channel.ms / 1000)], ['Followed here', count(health.recorder.followed)]]),
        recorder(health.recorder));
    } catch (error) {
      if (!leaving.signal.aborted) body.replaceChildren(wrong(error, load));
    }
  }
}

function recorder(known) {
  const detail = known.behind_s ? `What streams was not read for ${seconds(known.behind_s)} longer than it should.` : known.untold ? `${many(known.untold, 'end')} of responses should have been told.` : null;
  return card('Recorder', known.status, detail, [
    known.open_responses !== null && ['Streaming', many(known.open_responses, 'response')],
    known.open_conversations !== null && ['In', many(known.open_conversations, 'conversation')],
    known.oldest_read_at && ['Read longest ago', ago(known.oldest_read_at)],
    known.untold !== null && ['Ends to be told', count(known.untold)],
    ['Waiting here', count(known.waiting)],
  ]);
}

function card(name, status, detail, rows) {
  return h('section.card.check', {},
    h('header', {}, h('h3', {}, name), h('span.tag', { 'data-status': status }, STATUS[status])),
    detail && h('p', {}, said(detail)),
    h('dl.facts', {}, rows.filter(Boolean).map(([term, value]) => h('div', {}, h('dt', {}, term), h('dd', {}, value)))));
}
