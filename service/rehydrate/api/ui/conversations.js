// The list of conversations: search, paging, refresh.

import { h, hidden, id, put } from './elements.js';
import { toConversation } from './routes.js';
import { everyMs, more } from './scroll.js';
import { ask } from './service.js';
import { empty, loading, wrong } from './states.js';
import { ago, many } from './words.js';

const PAGE = 50;
const REFRESH_MS = 4_000;
const TYPING_MS = 180;

export function conversationList() {
  const rows = new Map();
  const list = h('ul.rows', { 'aria-label': 'Conversations', onkeydown: step });
  const note = h('div.list-note');
  const search = h('input', { type: 'search', id: 'search', placeholder: 'Find by id or channel', spellcheck: 'false', autocomplete: 'off', maxlength: 256, oninput: typed, onkeydown: leave });
  const streaming = h('input', { type: 'checkbox', onchange: () => begin() });
  const further = more('More conversations', () => load(older));
  let older = null, request = new AbortController(), typing = null, current = null;

  const element = h('section.pane.list', { 'aria-label': 'Find conversations' },
    h('div.find', { role: 'search' },
      h('label.visually-hidden', { for: 'search' }, 'Find by the start of an id, or by channel'),
      h('div.find-box', {}, search, h('kbd', { 'aria-hidden': 'true' }, '/')),
      h('label.chip', {}, streaming, h('span', {}, 'Streaming'))),
    h('div.scroll', {}, note, list, further.button));
  const refreshing = everyMs(REFRESH_MS, refresh);
  begin();
  return {
    element,
    search,
    choose: (conversationId) => {
      current = conversationId;
      for (const [key, row] of rows) row.mark(key === current);
    },
    close: () => (refreshing.close(), further.close(), request.abort()),
  };

  function typed() {
    clearTimeout(typing);
    typing = setTimeout(begin, TYPING_MS);
  }

  function leave(event) {
    if (event.key === 'ArrowDown') (event.preventDefault(), list.querySelector('a')?.focus());
    if (event.key === 'Escape' && search.value) (event.preventDefault(), (search.value = ''), begin());
  }

  function step(event) {
    const all = [...list.querySelectorAll('a')];
    const at = all.indexOf(document.activeElement) + { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (Number.isNaN(at)) return;
    event.preventDefault();
    (at < 0 ? search : all[at])?.focus();
  }

  async function begin() {
    request.abort();
    request = new AbortController();
    older = null;
    further.show(false);
    if (!rows.size) note.replaceChildren(loading('conversations'));
    await load(null, true);
  }

  function page(before) {
    const query = { query: search.value.trim(), streaming: streaming.checked ? 'true' : null, limit: PAGE, before };
    return ask('GET', 'v1/admin/conversations', { query, signal: request.signal });
  }

  async function load(before, reset = false) {
    const { signal } = request;
    try {
      const answer = await page(before);
      if (signal.aborted) return;
      if (reset) (rows.clear(), list.replaceChildren());
      for (const each of answer.conversations) add(each);
      older = answer.older;
      further.show(older !== null);
      note.replaceChildren(...(rows.size ? [] : [nothing()]));
    } catch (error) {
      if (signal.aborted) return;
      if (reset) (rows.clear(), list.replaceChildren());
      note.replaceChildren(wrong(error, begin));
    }
  }

  // Loads the first page again: updates existing rows in place, and inserts new ones at the top.
  async function refresh() {
    const { signal } = request;
    try {
      const answer = await page(null);
      if (signal.aborted) return;
      const fresh = answer.conversations.filter((each) => !rows.has(each.conversation_id));
      for (const each of answer.conversations) rows.get(each.conversation_id)?.update(each);
      if (search.value.trim() || streaming.checked) return;
      for (const each of fresh.reverse()) add(each, true);
      if (rows.size) note.replaceChildren();
    } catch {
      // the next refresh shows it, or the health page does
    }
  }

  function add(each, first = false) {
    if (rows.has(each.conversation_id)) return rows.get(each.conversation_id).update(each);
    const made = row(each);
    made.mark(each.conversation_id === current);
    rows.set(each.conversation_id, made);
    if (first) list.prepend(made.element);
    else list.append(made.element);
    return undefined;
  }

  function nothing() {
    if (search.value.trim()) return empty('No matches', 'Search by the start of a conversation id, or by a channel name.');
    if (streaming.checked) return empty('Nothing is streaming', 'Conversations appear here while a response streams.');
    return empty('No conversations yet', 'Conversations appear here with their first message.');
  }
}

function row(each) {
  const live = h('span.live-count');
  const time = h('time');
  const link = h('a', { href: toConversation(each.conversation_id) },
    h('span.row-title', {}, each.opens_with ? h('bdi', {}, each.opens_with) : id(each.conversation_id)),
    live,
    h('span.row-sub', {}, each.opens_with ? id(each.conversation_id) : h('span.muted', {}, each.erased ? 'Erased' : 'No finished message yet')),
    time);
  const element = h('li', {}, link);
  update(each);
  return { element, update, mark: (on) => (on ? link.setAttribute('aria-current', 'page') : link.removeAttribute('aria-current')) };

  function update(now) {
    live.replaceChildren(...(now.streaming ? [h('span.pulse', { 'aria-hidden': 'true' }), String(now.streaming), hidden(` ${many(now.streaming, 'response')} streaming`)] : []));
    const at = now.last_at ?? now.created_at;
    time.setAttribute('datetime', at);
    put(time, ago(at));
  }
}
