// Asks for the admin key, and checks it before storing it.

import { h, ICON } from './elements.js';
import { ask } from './service.js';
import { keep } from './session.js';

export function signIn(why) {
  const alert = h('p.alert', { role: 'alert', hidden: !why }, why ?? '');
  const input = h('input', {
    id: 'key', type: 'password', required: true, autocomplete: 'current-password', spellcheck: 'false',
    'aria-describedby': 'key-note', placeholder: 'Admin key',
  });
  const button = h('button.primary', { type: 'submit' }, 'Sign in');
  const form = h('form.card.signin', { onsubmit: submit },
    h('img.mark', { src: ICON, alt: '', width: 40, height: 40 }),
    h('h1', {}, 'Inspector'),
    h('p.muted', {}, 'Conversations as readers see them, replays, audit and health.'),
    h('label', { for: 'key' }, 'Admin key'),
    input,
    h('p.note', { id: 'key-note' }, 'One of REHYDRATE_ADMIN_KEYS. It is stored in this tab only, and sent in a header, never in a URL.'),
    alert,
    button);
  queueMicrotask(() => input.focus());
  return form;

  async function submit(event) {
    event.preventDefault();
    button.disabled = true;
    alert.hidden = true;
    const shown = input.value.trim();
    try {
      await ask('GET', 'v1/admin/health', { shown });
      keep(shown);
    } catch (error) {
      alert.textContent = refusal(error);
      alert.hidden = false;
      input.select();
    } finally {
      button.disabled = false;
    }
  }
}

function refusal(error) {
  if (error.status === 401) return 'Unknown key.';
  if (error.status === 403) return 'This is not an admin key.';
  return error.message;
}
