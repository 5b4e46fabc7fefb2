// Placeholders: loading, empty, error.

import { h, isolated } from './elements.js';

export const loading = (what) => h('p.state.loading', { role: 'status' }, h('span.spinner', { 'aria-hidden': 'true' }), `Loading ${what}…`);

export const empty = (title, ...more) => h('div.state', {}, h('p.state-title', {}, title), ...more.map((each) => h('p', {}, each)));

export const wrong = (error, again) =>
  h('div.state.wrong', { role: 'alert' },
    h('p.state-title', {}, error.status ? 'Request failed' : 'No answer'),
    h('p', {}, isolated(error.message)),
    again && h('button', { type: 'button', onclick: again }, 'Try again'));
