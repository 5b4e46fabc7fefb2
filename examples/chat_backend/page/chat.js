// The page: prompts go to the backend, messages arrive over SSE or Ably; the page stores nothing.

import { by_ably, by_sse } from './transport.js';

const IDEAS = [
  'What is the weather and the time in Lisbon?',
  'Why do streams break?',
  'Tell me about the seam.',
];
const $ = (id) => document.getElementById(id);
const made = (tag, fields = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), fields);
  element.append(...children);
  return element;
};

const me = await get('/me');
if (!location.hash) location.replace('#main');
const conversation = `${me.owner}-${location.hash.slice(1).replace(/[^a-z0-9]/g, '').slice(0, 32) || 'main'}`;
window.addEventListener('hashchange', () => location.reload());

// -- messages ----------------------------------------------------------------------------------------

const articles = new Map();
let shown = [], drawing = false;

function show(messages) {
  shown = messages;
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => { drawing = false; draw(); });
}

function draw() {
  const following = innerHeight + scrollY >= document.body.scrollHeight - 80;
  for (const [id, article] of articles) {
    if (!shown.some((message) => message.id === id)) { article.remove(); articles.delete(id); }
  }
  for (const message of shown) {
    const article = articles.get(message.id) ?? begin(message);
    update(article, message);
  }
  $('turns').ariaBusy = 'false';
  $('welcome').hidden = shown.length > 0;
  if (following) scrollTo(0, document.body.scrollHeight);
}

function begin(message) {
  const article = made('article');
  article.dataset.id = message.id;
  article.dataset.role = message.role;
  if (message.role === 'assistant') {
    const stop = made('button', { type: 'button', textContent: 'Stop', onclick: () => halt(message.id, stop) });
    article.append(
      made('p', { className: 'reasoning' }), made('ul', { className: 'calls' }),
      made('div', { className: 'text' }), made('div', { className: 'bar' }, made('span', { className: 'status' }), stop),
    );
  } else article.append(made('div', { className: 'text' }));
  articles.set(message.id, article);
  const turn = articles.get(message.prompt_id)?.parentElement ?? $('turns').appendChild(made('div', { className: 'turn' }));
  turn.append(article);
  return article;
}

function update(article, message) {
  set(article.querySelector('.text'), message.text);
  if (message.role !== 'assistant') return;
  article.dataset.status = message.status;
  const parts = message.parts ?? [];
  set(article.querySelector('.reasoning'), parts.filter((part) => part.type === 'reasoning').map((part) => part.text).join('\n'));
  const calls = article.querySelector('.calls');
  for (const [at, part] of parts.filter((each) => each.type === 'tool_call').entries()) {
    const line = calls.children[at] ?? calls.appendChild(made('li'));
    line.dataset.status = part.status;
    set(line, describe(part));
  }
  const why = message.error ? `: ${typeof message.error === 'string' ? message.error : JSON.stringify(message.error)}` : '';
  set(article.querySelector('.status'), message.status.replace('_', ' ') + why);
  article.querySelector('.bar button').hidden = message.status !== 'in_progress';
}

function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function describe({ name, args, result, status }) {
  const given = typeof args === 'string' ? args : JSON.stringify(args);
  const answer = result == null ? '…' : typeof result === 'string' ? result : JSON.stringify(result);
  return `${name} ${given} ${status === 'failed' ? '✗' : '→'} ${answer}`;
}

// -- prompts -----------------------------------------------------------------------------------------

async function ask(text) {
  try {
    await post(`/chat/${conversation}/prompts`, { id: `p-${crypto.randomUUID()}`, text });
    problem('');
    return true;
  } catch (error) {
    problem(`Could not send the prompt: ${error.message}`);
    return false;
  }
}

async function halt(response, button) {
  button.disabled = true;
  try {
    await post(`/chat/${conversation}/responses/${response}/stop`);
  } catch (error) {
    button.disabled = false;
    problem(`Could not stop the response: ${error.message}`);
  }
}

function problem(text) {
  $('problem').textContent = text;
  $('problem').hidden = !text;
}

$('composer').addEventListener('submit', async (event) => {
  event.preventDefault();
  const text = $('text').value.trim();
  if (!text) return;
  $('text').value = '';
  if (!(await ask(text)) && !$('text').value) $('text').value = text;
});
$('text').addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $('composer').requestSubmit();
});
$('new').addEventListener('click', () => { location.hash = crypto.randomUUID().slice(0, 8); });
$('ideas').append(
  ...IDEAS.map((idea) => made('button', { type: 'button', textContent: idea, onclick: () => ask(idea) })),
  made('button', { type: 'button', className: 'all', textContent: 'All three at once', onclick: () => IDEAS.forEach(ask) }),
);

async function get(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`the backend answered with status ${response.status}`);
  return response.json();
}

async function post(url, body = {}) {
  const headers = { 'Content-Type': 'application/json' };
  const response = await fetch(url, { method: 'POST', headers, body: JSON.stringify(body) });
  if (response.ok) return;
  const refusal = await response.json().catch(() => ({}));
  throw new Error(typeof refusal.detail === 'string' ? refusal.detail : `the backend answered with status ${response.status}`);
}

// -- transport ---------------------------------------------------------------------------------------

const STATES = { connecting: 'connecting …', live: 'live', recovering: 'reconnecting …', failed: 'not connected' };
let following = null, chosen = 0;

function setState(status, error) {
  $('state').dataset.state = status;
  $('state').textContent = STATES[status];
  $('state').title = error?.message ?? '';
}

async function start(transport) {
  const choice = ++chosen;                             // late events of an earlier choice are not shown
  following?.close();
  following = null;
  setState('connecting');
  const callbacks = {
    onChange: ({ conversation: shown, status, error }) => {
      if (choice !== chosen) return;
      setState(status, error);
      if (shown.hasAnswer) show(shown.messages);
    },
  };
  const opened = await (transport === 'ably' ? by_ably(conversation, me.ably, callbacks) : by_sse(conversation, callbacks));
  if (choice === chosen) following = opened;
  else opened.close();
}

const choice = document.querySelector('#transport input[value=ably]');
choice.disabled = me.ably === null;
if (me.ably === null) choice.parentElement.title = 'ably-js is not installed: npm ci in tests/js';
const wanted = new URLSearchParams(location.search).get('by') === 'ably' && me.ably ? 'ably' : 'sse';
document.querySelector(`#transport input[value=${wanted}]`).checked = true;
$('transport').addEventListener('change', ({ target }) => start(target.value));
await start(wanted);
