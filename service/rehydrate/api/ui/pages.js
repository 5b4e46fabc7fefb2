// A pane with a list that is paged by a cursor.

import { h } from './elements.js';
import { more } from './scroll.js';
import { ask } from './service.js';
import { empty, loading, wrong } from './states.js';

const PAGE = 50;

// `rows(answer)` returns the entries of an answer, `made(entry)` the element of an entry.
export function pagedPane({ title, note: subtitle, where, rows, made, nothing }) {
  const list = h('ul.entries', { 'aria-label': title });
  const note = h('div.list-note', {}, loading(title.toLowerCase()));
  const further = more('More', () => load());
  const leaving = new AbortController();
  let older = null;
  const element = h('section.pane.wide-pane', { 'aria-label': title },
    h('header.pane-head', {}, h('div.pane-title', {}, h('h2', {}, title), h('p', {}, subtitle))),
    h('div.scroll', {}, note, list, further.button));
  load();
  return { element, list, ask: page, close: () => (further.close(), leaving.abort()) };

  function page(before) {
    return ask('GET', where, { query: { limit: PAGE, before }, signal: leaving.signal });
  }

  async function load() {
    try {
      const answer = await page(older);
      list.append(...rows(answer).map(made));
      older = answer.older;
      further.show(older !== null);
      note.replaceChildren(...(list.childElementCount ? [] : [empty(...nothing)]));
    } catch (error) {
      if (!leaving.signal.aborted) note.replaceChildren(wrong(error, load));
    }
  }
}
