// The timeline of one message: its chunks over time and their sources, its publisher and lease.

import { chart } from './chart.js';
import { h, id, put } from './elements.js';
import { pieces, sums } from './origin.js';
import { toConversation } from './routes.js';
import { everyMs } from './scroll.js';
import { ask, path } from './service.js';
import { loading, wrong } from './states.js';
import { ago, count, many, moment, seconds, SOURCE, STATUS, when } from './words.js';

const REFRESH_MS = 3_000;
const SOON_MS = 300;
const DRAW_MS = 200;
const MOST_TRIES = 10;
const MEANS = {
  database: 'stored at the time of the request',
  history: 'in channel history, not recorded yet',
  live: 'received live by this page',
};

export function timelinePane(conversationId, messageId, { messageOf, replay }) {
  const note = h('div', {}, loading('the timeline'));
  const boxes = { sources: h('div'), time: h('div'), facts: h('div'), lease: h('div') };
  const table = stretchTable();
  const shown = h('div.timeline-body', { hidden: true }, Object.values(boxes), table.element);
  const again = h('button', { type: 'button', hidden: true, onclick: () => replay(messageId) }, 'Replay…');
  const element = h('aside.pane.details', { 'aria-label': 'Timeline of a message' },
    h('header.pane-head', {},
      h('a.back.close', { href: toConversation(conversationId), 'aria-label': 'Close the timeline' }, '×'),
      h('div.pane-title', {}, h('h2', {}, 'Timeline'), h('p', {}, id(messageId))),
      again),
    h('div.scroll.timeline', { tabindex: '0', 'aria-label': 'Timeline' }, note, shown));
  const leaving = new AbortController();
  let soon = null, tries = 0, timeline = null, loads = 0, drawn = '', drawing = null;
  const refreshing = everyMs(REFRESH_MS, () => (timeline === null || timeline.status === 'in_progress' || pending() ? load() : draw()));
  load();
  return { element, draw, close };

  function close() {
    leaving.abort();
    refreshing.close();
    clearTimeout(soon);
    clearTimeout(drawing);
  }

  // The response has ended but its stop is not published yet, or this page knows a newer status.
  function pending() {
    const known = messageOf(messageId);
    return (timeline.lease && !timeline.lease.told_at) || (known && known.status !== timeline.status);
  }

  // The page's snapshot is newer than the timeline: the sources of its last chunks are not known yet.
  function behind(message) {
    const is = message && message.joined !== Infinity && message.joined > (timeline.through.seq ?? -1);
    if (!is) tries = 0;
    else if (tries < MOST_TRIES) soon ??= (tries++, setTimeout(load, SOON_MS));
    return is && tries < MOST_TRIES;
  }

  async function load() {
    clearTimeout(soon);
    soon = null;
    try {
      const where = path`v1/admin/conversations/${conversationId}/messages/${messageId}/timeline`;
      timeline = await ask('GET', where, { signal: leaving.signal });
      loads += 1;
      paint();
    } catch (error) {
      if (!leaving.signal.aborted && timeline === null) note.replaceChildren(wrong(error, load));
    }
  }

  // Redraws after an event, at a limited rate.
  function draw() {
    drawing ??= setTimeout(() => ((drawing = null), paint()), DRAW_MS);
  }

  function paint() {
    if (timeline === null || leaving.signal.aborted) return;
    const message = messageOf(messageId);
    if (behind(message)) return;
    const found = pieces(timeline, message);
    const now = `${loads} ${found.length} ${message?.status}`;
    if (now === drawn) return;
    drawn = now;
    again.hidden = timeline.role !== 'assistant' || (message ?? timeline).status === 'in_progress';
    boxes.sources.replaceChildren(...sources(found));
    boxes.time.replaceChildren(overTime(found, timeline));
    boxes.facts.replaceChildren(facts(timeline, message));
    boxes.lease.replaceChildren(...lease(timeline.lease));
    table.update(found);
    note.replaceChildren();
    shown.hidden = false;
  }
}

function overTime(found, timeline) {
  if (!found.length) return h('p.muted', {}, 'No content.');
  const sorted = [...found].sort((a, b) => a.atMs - b.atMs);
  const span = (sorted.at(-1).atMs - sorted[0].atMs) / 1000;
  const characters = found.reduce((sum, each) => sum + each.characters, 0);
  const untimed = found.every((each) => each.whole);
  return h('figure.over-time', {},
    h('figcaption', {}, h('span', {}, `${count(characters)} characters`), h('span.muted', {}, untimed ? 'imported as one text: no timing' : `${many(found.length * timeline.joined, 'chunk')} in ${seconds(span)}`)),
    chart(sorted, timeline.gaps),
    h('div.axis', { 'aria-hidden': 'true' }, h('span', {}, when(new Date(sorted[0].atMs).toISOString())), h('span', {}, `+${seconds(span)}`)));
}

// The same data as a table, for screen readers; it stays open while it updates.
function stretchTable() {
  const size = h('span.muted');
  const body = h('tbody');
  const head = h('tr', {}, ['Source', 'Seqs', 'Chunks', 'Characters', 'From'].map((name) => h('th', { scope: 'col' }, name)));
  const element = h('details.fold', {},
    h('summary', {}, h('span.fold-name', {}, 'As a table'), size),
    h('div.wide', { tabindex: '0', role: 'group', 'aria-label': 'Spans' }, h('table', {}, h('thead', {}, head), body)));
  return { element, update };

  function update(found) {
    const rows = stretches(found);
    put(size, many(rows.length, 'span'));
    body.replaceChildren(...rows.map((each) => h('tr', {},
      h('td', {}, h(`span.dot.${each.source}`), SOURCE[each.source]),
      h('td.num', {}, each.first === null ? '–' : each.first === each.last ? count(each.first) : `${count(each.first)}–${count(each.last)}`),
      h('td.num', {}, count(each.pieces)),
      h('td.num', {}, count(each.characters)),
      h('td.num', {}, `${((each.fromMs - found[0].atMs) / 1000).toFixed(2)} s`))));
  }
}

function sources(found) {
  const made = sums(found);
  const all = Math.max(1, found.reduce((sum, each) => sum + each.characters, 0));
  const bar = h('div.bar', { 'aria-hidden': 'true' }, Object.entries(made).filter(([, each]) => each.characters).map(([source, each]) => {
    const segment = h(`span.${source}`);
    segment.style.flexGrow = String(each.characters / all);
    return segment;
  }));
  const legend = Object.entries(made).map(([source, each]) => h('li', { 'data-none': !each.pieces },
    h(`span.dot.${source}`), h('strong', {}, SOURCE[source]), h('span.num', {}, `${count(each.characters)}`), h('span.muted', {}, MEANS[source])));
  return [h('section.sources', {},
    h('h3', {}, 'Sources of the text', h('span.muted', {}, 'characters')), bar, h('ul.legend', {}, legend))];
}

function facts(timeline, message) {
  const status = message?.status ?? timeline.status;
  const finished = message?.finished_at ?? timeline.finished_at;
  const took = finished && timeline.started_at ? (Date.parse(finished) - Date.parse(timeline.started_at)) / 1000 : null;
  return listed([
    ['Status', STATUS[status] ?? status],
    ['Publisher', timeline.published ? (timeline.publisher === null ? 'no clientId' : id(timeline.publisher)) : 'imported by a backend'],
    ['Generation', count(timeline.through.gen)],
    ['Through', timeline.through.seq === null ? 'no seqs' : `seq ${count(timeline.through.seq)}`],
    ['In the database', stored(timeline.database)],
    ['Gaps', timeline.gaps.length ? timeline.gaps.map(([a, b]) => (a === b ? count(a) : `${count(a)}–${count(b)}`)).join(', ') : 'none'],
    timeline.repaired !== null && ['Repaired up to', `seq ${count(timeline.repaired)}`],
    timeline.started_at && ['Started', h('time', { datetime: timeline.started_at, title: moment(timeline.started_at) }, when(timeline.started_at))],
    finished && ['Ended', h('time', { datetime: finished, title: moment(finished) }, took > 0 ? `${when(finished)}, after ${seconds(took)}` : when(finished))],
    timeline.prompt_id && ['Answers', id(timeline.prompt_id)],
    timeline.watermark && ['Recorded up to', h('time', { datetime: timeline.watermark.at, title: moment(timeline.watermark.at) }, when(timeline.watermark.at))],
    timeline.reasons.length > 0 && ['Incomplete', timeline.reasons.map((reason) => reason.detail).join('; ')],
  ]);
}

const stored = (database) => (database === null ? 'nothing yet' : database.seq === null ? 'complete' : `up to seq ${count(database.seq)}`);

function lease(held) {
  if (!held) return [];
  const state = held.told_at ? 'released: the stop was published' : held.fenced ? 'fenced: a sweeper is ending the response' : held.expired ? 'expired' : 'held';
  return [h('h3', {}, 'Lease'), listed([
    ['State', state],
    held.holder && ['Holder', id(held.holder)],
    held.until && ['Until', `${when(held.until)}${held.expired ? '' : `, ${seconds(Math.max(0, (Date.parse(held.until) - Date.now()) / 1000))} from now`}`],
    held.told_at && ['Stop published', `${when(held.told_at)} (${ago(held.told_at)})`],
  ])];
}

const listed = (rows) => h('dl.facts', {}, rows.filter(Boolean).map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value))));

// Groups consecutive chunks from one source, without a gap between them.
function stretches(found) {
  const made = [];
  for (const each of found) {
    const last = made.at(-1);
    const follows = last && last.source === each.source && (each.seq === null || last.last === null || each.seq - last.last <= 1);
    if (follows) Object.assign(last, { last: each.seq, pieces: last.pieces + 1, characters: last.characters + each.characters });
    else made.push({ source: each.source, first: each.seq, last: each.seq, pieces: 1, characters: each.characters, fromMs: each.atMs });
  }
  return made;
}
