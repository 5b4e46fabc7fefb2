// The audit: actions of admins and refused attempts.

import { h, id } from './elements.js';
import { pagedPane } from './pages.js';
import { toConversation } from './routes.js';
import { moment, valueText, when } from './words.js';

export const auditPane = () =>
  pagedPane({
    title: 'Audit',
    note: 'Actions of admins and refused attempts. Entries cannot be changed.',
    where: 'v1/admin/audit',
    rows: (answer) => answer.audit,
    made: entry,
    nothing: ['No entries yet', 'Replays and refused attempts appear here.'],
  });

function entry(act) {
  return h('li.entry', {},
    h('div.entry-head', {},
      h('span', {}, h('strong', {}, h('bdi', {}, capital(words(act.action)))), ' ', h('span.tag', { 'data-status': outcome(act.outcome) }, h('bdi', {}, words(act.outcome)))),
      h('time', { datetime: act.at, title: moment(act.at) }, when(act.at))),
    h('p.entry-sub', {},
      'by ', id(act.actor),
      act.address && [' from ', id(act.address)],
      act.conversation_id && [' in ', h('a', { href: toConversation(act.conversation_id) }, id(act.conversation_id))],
      act.target && [' to ', id(act.target)]),
    act.detail && details(act.detail));
}

function details(detail) {
  const present = Object.entries(detail).filter(([, value]) => value !== null);
  return h('dl.entry-detail', {}, present.map(([name, value]) => h('div', {}, h('dt', {}, words(name)), h('dd', {}, id(valueText(value))))));
}

const capital = (text) => text.slice(0, 1).toUpperCase() + text.slice(1);
const words = (name) => name.replaceAll('_', ' ');

const outcome = (text) => (/^(refused|failed)/.test(text) ? 'failed' : /^cancel/.test(text) ? 'cancelled' : 'completed');
