// The page: session, navigation, and the panes of the current route.

import { auditPane } from './audit.js';
import { conversationPane } from './conversation.js';
import { conversationList } from './conversations.js';
import { h, ICON } from './elements.js';
import { healthPane } from './health.js';
import { replayDialog } from './replay.js';
import { replaysPane } from './replays.js';
import { here, toPlace } from './routes.js';
import { forget, key, onChange } from './session.js';
import { signIn } from './signin.js';
import { themeButton, wear } from './theme.js';
import { timelinePane } from './timeline.js';

const PLACES = { conversations: 'Conversations', replays: 'Replays', audit: 'Audit', health: 'Health' };
const bar = document.getElementById('bar');
const main = document.getElementById('main');
let open = {}; // the open panes by name, each with `element` and `close`

wear();
window.addEventListener('hashchange', show);
document.addEventListener('keydown', shortcut);
onChange((why) => (closeAll(), show(), why && sayWhy(why)));
show();

function show() {
  if (key() === null) return showSignIn(null);
  const route = here();
  showBar(route.place);
  document.title = `${route.conversationId ?? PLACES[route.place]} · Inspector · rehydrate`;
  main.dataset.depth = route.messageId ? 'message' : route.conversationId ? 'conversation' : 'list';
  main.dataset.place = route.place;
  const wanted = panes(route);
  for (const [name, each] of Object.entries(open)) if (wanted[name]?.key !== each.key) drop(name);
  for (const [name, { key: id, make }] of Object.entries(wanted)) if (!open[name]) open[name] = { key: id, ...make() };
  arrange(Object.keys(wanted).map((name) => open[name].element));
  open.list?.choose(route.conversationId);
  open.talk?.choose(route.messageId);
}

// Elements that are already in place are not moved: they keep their focus and scroll position.
function arrange(elements) {
  for (const each of [...main.children]) if (!elements.includes(each)) each.remove();
  elements.forEach((each, n) => main.children[n] === each || main.insertBefore(each, main.children[n] ?? null));
}

function panes({ place, conversationId, messageId }) {
  if (place !== 'conversations') return { [place]: { key: place, make: { replays: replaysPane, audit: auditPane, health: healthPane }[place] } };
  const wanted = { list: { key: 'list', make: conversationList } };
  const replay = (responseId) => replayDialog(conversationId, responseId);
  if (conversationId) {
    wanted.talk = { key: conversationId, make: () => conversationPane(conversationId, { replay, changed: () => open.timeline?.draw() }) };
  }
  if (messageId) {
    const messageOf = (id) => open.talk?.view.messages.get(id);
    wanted.timeline = { key: `${conversationId}\n${messageId}`, make: () => timelinePane(conversationId, messageId, { messageOf, replay }) };
  }
  if (!conversationId) wanted.nothing = { key: 'nothing', make: nothing };
  return wanted;
}

function nothing() {
  return { element: h('section.pane.nothing', {}, h('p.muted', {}, 'Select a conversation to see it as readers do.')), close: () => {} };
}

function drop(name) {
  open[name].close();
  delete open[name];
}

function closeAll() {
  for (const name of Object.keys(open)) drop(name);
  for (const dialog of document.querySelectorAll('dialog')) dialog.close();
}

function showSignIn(why) {
  bar.hidden = true;
  document.title = 'Sign in · Inspector · rehydrate';
  main.dataset.depth = 'signin';
  main.replaceChildren(signIn(why));
}

function sayWhy(why) {
  if (key() === null) showSignIn(why);
}

function showBar(place) {
  if (bar.hidden || !bar.childElementCount) {
    bar.replaceChildren(
      h('a.brand', { href: '#/' }, h('img', { src: ICON, alt: '', width: 22, height: 22 }), h('span', {}, 'rehydrate')),
      h('nav', { 'aria-label': 'Main' }, Object.entries(PLACES).map(([name, title]) => h('a', { href: toPlace(name), 'data-place': name }, title))),
      h('span.spring'),
      themeButton(),
      h('button.quiet', { type: 'button', onclick: () => forget() }, 'Sign out'));
    bar.hidden = false;
  }
  for (const link of bar.querySelectorAll('nav a')) {
    if (link.dataset.place === place) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
}

function shortcut(event) {
  const typing = event.target.closest?.('input, select, textarea, dialog');
  if (event.ctrlKey || event.metaKey || event.altKey || typing) return;
  if (event.key === '/' && open.list) {
    event.preventDefault();
    open.list.search.focus();
  } else if (event.key === 'Escape' && open.timeline) {
    location.hash = here().conversationId ? `#/c/${encodeURIComponent(here().conversationId)}` : '#/';
  }
}
