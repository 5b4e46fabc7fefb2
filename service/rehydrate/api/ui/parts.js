// The parts of a message, each updated in place.

import { h, put } from './elements.js';
import { count, many, valueText } from './words.js';

const MAKERS = { text: textual, refusal, reasoning, tool_call: toolCall };

// Returns a part's view, with `element` and `update`; null for an unknown type.
export const partView = (part) => MAKERS[part.type]?.(part) ?? null;

function textual(part) {
  const body = words();
  body.update(part);
  return { type: part.type, element: h('div.part', {}, body.element), update: body.update };
}

function refusal(part) {
  const body = words();
  body.update(part);
  return { type: part.type, element: h('div.part.refusal', {}, h('p.part-label', {}, 'Refusal'), body.element), update: body.update };
}

function reasoning(part) {
  const size = h('span.muted');
  const body = words();
  const element = h('details.part.fold', {}, h('summary', {}, h('span.fold-name', {}, 'Reasoning'), size), body.element);
  const update = (now) => (body.update(now), put(size, many(now.text.length, 'character')));
  update(part);
  return { type: part.type, element, update };
}

const CALL = { in_progress: 'running', completed: 'completed', failed: 'failed', incomplete: 'no result' };

function toolCall(part) {
  const name = h('bdi.id');
  const state = h('span.tag');
  const args = h('pre'), result = h('pre'), missing = h('span');
  const results = h('div', {}, h('p.part-label', {}, 'Result'), result);
  const element = h('details.part.fold', {},
    h('summary', {}, h('span.fold-name', {}, 'Tool call'), name, state, missing),
    h('p.part-label', {}, 'Arguments'), args, results);
  update(part);
  return { type: part.type, element, update };

  function update(now) {
    put(name, now.name ?? 'unnamed');
    put(state, CALL[now.status] ?? now.status);
    state.dataset.status = now.status;
    put(args, valueText(now.args) || '–');
    results.hidden = now.result === null && now.status !== 'completed';
    put(result, valueText(now.result));
    missing.replaceChildren(...(now.gaps ?? []).map(([, first, last]) => gap(first, last)));
  }
}

// A text that mostly grows: new text is appended; after any other change it is rendered again, with gaps.
function words() {
  const element = h('p.text', { dir: 'auto' });
  let shown = '', places = '';
  return { element, update };

  function update({ text, gaps = [] }) {
    const now = JSON.stringify(gaps);
    const node = element.lastChild;
    if (now === places && node?.nodeType === Node.TEXT_NODE && text.startsWith(shown)) {
      if (text.length > shown.length) node.appendData(text.slice(shown.length));
    } else {
      element.replaceChildren(...cut(text, gaps));
    }
    [shown, places] = [text, now];
  }
}

function cut(text, gaps) {
  if (!gaps.length) return [document.createTextNode(text)];
  const characters = [...text]; // positions are in code points
  const made = [];
  let from = 0;
  for (const [at, first, last] of gaps) {
    made.push(characters.slice(from, at).join(''), gap(first, last));
    from = at;
  }
  made.push(document.createTextNode(characters.slice(from).join('')));
  return made;
}

export function gap(first, last) {
  const events = last - first + 1;
  const title = `${many(events, 'event')} missing: seq ${count(first)}${events > 1 ? ` to ${count(last)}` : ''}`;
  return h('mark.gap', { title, role: 'img', 'aria-label': title }, events > 1 ? `${first}–${last} missing` : `${first} missing`);
}
