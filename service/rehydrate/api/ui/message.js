// One message, as a reader sees it.

import { h, id, put, isolated } from './elements.js';
import { gap, partView } from './parts.js';
import { toMessage } from './routes.js';
import { moment, STATUS, time, valueText } from './words.js';

export function messageView(conversationId, first, { replay }) {
  const role = h('span.role');
  const status = h('span.tag');
  const at = h('time');
  const body = h('div.parts');
  const note = h('p.message-note', { hidden: true });
  const again = h('button.quiet', { type: 'button', onclick: () => replay(first.id) }, 'Replay…');
  const link = h('a.quiet', { href: toMessage(conversationId, first.id) }, 'Timeline');
  const element = h('article.message', { id: `m-${first.id}` },
    h('header', {}, role, id(first.id), status, h('span.spring'), at, h('span.actions', {}, first.replay_of ? null : [link, first.role === 'assistant' && again])),
    body,
    note);
  let views = [];
  update(first);
  return { element, update, mark: (on) => element.classList.toggle('chosen', on) };

  function update(message) {
    element.dataset.role = message.role;
    element.dataset.status = message.status;
    element.classList.toggle('replayed', Boolean(message.replay_of));
    put(role, message.replay_of ? 'Replay' : message.role === 'user' ? 'User' : 'Assistant');
    put(status, STATUS[message.status] ?? message.status);
    status.dataset.status = message.status;
    status.hidden = message.role === 'user' && message.status === 'completed';
    again.disabled = message.status === 'in_progress';
    again.title = again.disabled ? 'Still streaming' : 'Publish this response again';
    const when = message.started_at ?? message.finished_at;
    if (when) (put(at, time(when)), at.setAttribute('datetime', when), (at.title = moment(when)));
    showParts(message);
    showNote(message);
  }

  function showParts(message) {
    const fits = views.length <= message.parts.length && views.every((view, n) => view?.type === message.parts[n].type);
    if (!fits || !views.length) (body.replaceChildren(), (views = []));
    message.parts.forEach((part, n) => {
      if (n < views.length) views[n]?.update(part);
      else {
        const view = partView(part);
        views.push(view);
        if (view) body.append(view.element);
      }
    });
    if (!message.parts.length) body.replaceChildren(...nothing(message));
  }

  function nothing(message) {
    if (message.gaps.length) return [h('p.text', {}, message.gaps.map(([a, b]) => gap(a, b)))];
    return [h('p.muted', {}, message.status === 'in_progress' ? 'No output yet…' : 'No content.')];
  }

  function showNote(message) {
    const notes = [];
    if (message.replay_of) notes.push('Replay of ', id(message.replay_of), message.lost ? '; it continued after this page lost the connection.' : '; replays are not recorded.');
    const placed = message.parts.some((part) => part.gaps?.length);
    if (message.parts.length && message.gaps.length && !placed) notes.push(...message.gaps.map(([a, b]) => gap(a, b)), ' ');
    if (message.error) notes.push('Error: ', isolated(errorText(message.error)), ' ');
    if (message.unreadable) notes.push(`Content is missing: ${message.unreadable} of its channel messages could not be read. `);
    else if (message.exact === false) notes.push('Parts of this text may be missing or out of order: its publisher does not number its messages. ');
    if (message.provisional) notes.push('No output for too long: treated as ended. Reopens if output resumes. ');
    note.hidden = !notes.length;
    note.replaceChildren(...notes);
  }
}

const errorText = (error) => (typeof error === 'object' && error.message ? String(error.message) : valueText(error));
