// The pane of one conversation, live, as readers see it.

import { announce, h, id, put } from './elements.js';
import { follow } from './events.js';
import { messageView } from './message.js';
import { more } from './scroll.js';
import { ask, path } from './service.js';
import { empty, loading, wrong } from './states.js';
import { View } from './view.js';
import { many, seconds } from './words.js';

const PAGE = 50;
const NEAR_PX = 80;

export function conversationPane(conversationId, { replay, changed }) {
  const view = new View();
  const shown = new Map();
  const leaving = new AbortController();
  const touched = new Set();
  let frame = 0, chosen = null, resyncing = false;

  const state = h('span.tag.connection', { role: 'status' });
  const counts = h('span.muted');
  const channel = h('span.muted');
  const banner = h('div.banner', { role: 'status', hidden: true });
  const feed = h('div.feed', { role: 'group', 'aria-label': 'Messages' });
  const note = h('div.list-note', {}, loading('the conversation'));
  const older = more('Older messages', loadOlder);
  const latest = h('button.latest', { type: 'button', hidden: true, onclick: () => toEnd(true) }, 'Latest ↓');
  const scroll = h('div.scroll.talk', { tabindex: '0', 'aria-label': 'Conversation' }, older.button, note, feed);
  scroll.addEventListener('scroll', () => (latest.hidden = atEnd()), { passive: true });
  const element = h('section.pane.conversation', { 'aria-label': 'Conversation' },
    h('header.pane-head', {},
      h('a.back', { href: '#/', 'aria-label': 'Back to conversations' }, '‹'),
      h('div.pane-title', {}, h('h2', {}, id(conversationId)), h('p', {}, channel, counts)),
      state),
    banner, scroll, latest);

  follow(path`v1/conversations/${conversationId}/stream`, { query: { limit: PAGE }, signal: leaving.signal, onEvent, onState });
  return {
    element,
    view,
    choose: (messageId) => {
      chosen = messageId;
      for (const [key, each] of shown) each.mark(key === chosen);
    },
    close: () => (leaving.abort(), older.close(), cancelAnimationFrame(frame)),
  };

  function onState(how, detail) {
    state.dataset.state = how;
    if (how === 'live') put(state, resyncing ? 'Catching up' : 'Live');
    else if (how === 'connecting') put(state, 'Connecting');
    else if (how === 'waiting') put(state, `Disconnected · retry in ${seconds(detail / 1000)}`);
    else (put(state, 'Refused'), note.replaceChildren(wrong({ message: detail, status: 403 })));
  }

  function onEvent(kind, data) {
    if (kind === 'snapshot') {
      view.snapshot(data);
      resyncing = false;
      onState('live');
      draw(true);
    } else if (kind === 'again') {
      resyncing = true;
      onState('live');
    } else {
      const message = view.apply(kind, data);
      touched.add(message.id);
      if (kind === 'stop') announce(`${message.id}: ${message.status}`);
      frame ||= requestAnimationFrame(() => draw(false));
    }
  }

  function draw(all) {
    frame = 0;
    const follows = atEnd();
    if (all) drawAll();
    for (const messageId of touched) drawOne(view.messages.get(messageId));
    touched.clear();
    put(channel, view.channel ?? '');
    const open = view.streaming;
    put(counts, ` · ${many(view.messages.size, 'message')}${view.older ? ' loaded' : ''}${open ? ` · ${open} streaming` : ''}`);
    note.replaceChildren(...(view.messages.size ? [] : [empty('No messages yet', 'Messages appear as soon as they are published.')]));
    older.show(view.older !== null);
    if (follows) toEnd(false);
    changed();
  }

  // Draws all messages in order; elements that are already in place are not moved.
  function drawAll() {
    for (const [key, each] of shown) if (!view.messages.has(key)) (each.element.remove(), shown.delete(key));
    let before = null;
    for (const message of view.messages.values()) {
      const each = drawOne(message);
      const wanted = before ? before.nextSibling : feed.firstChild;
      if (each.element !== wanted) feed.insertBefore(each.element, wanted);
      before = each.element;
    }
    banner.hidden = !view.reasons.length;
    banner.replaceChildren(...view.reasons.map((reason) => h('p', {}, h('strong', {}, words(reason.code)), ` ${reason.detail}`)));
  }

  function drawOne(message) {
    const known = shown.get(message.id);
    if (known) return known.update(message), known;
    const made = messageView(conversationId, message, { replay });
    made.mark(message.id === chosen);
    shown.set(message.id, made);
    feed.append(made.element);
    return made;
  }

  async function loadOlder() {
    if (view.older === null) return;
    try {
      const query = { before: view.older, limit: PAGE };
      const answer = await ask('GET', path`v1/conversations/${conversationId}`, { query, signal: leaving.signal });
      const height = scroll.scrollHeight, top = scroll.scrollTop;
      view.page(answer);
      drawAll();
      scroll.scrollTop = top + scroll.scrollHeight - height; // keeps the scroll position of the reader
      draw(false);
    } catch (error) {
      if (!leaving.signal.aborted) note.replaceChildren(wrong(error, loadOlder));
    }
  }

  function atEnd() {
    return scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < NEAR_PX;
  }

  function toEnd(smoothly) {
    const calm = matchMedia('(prefers-reduced-motion: reduce)').matches;
    scroll.scrollTo({ top: scroll.scrollHeight, behavior: smoothly && !calm ? 'smooth' : 'instant' });
  }
}

const words = (code) => `${code[0].toUpperCase()}${code.slice(1).replaceAll('_', ' ')}.`;
