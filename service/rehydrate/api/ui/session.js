// The admin key: stored in this tab only, sent in a header, never in a URL.

const PLACE = 'rehydrate.key';
const changes = new EventTarget();
let shown = sessionStorage.getItem(PLACE);

export const key = () => shown;

export function keep(given) {
  shown = given;
  sessionStorage.setItem(PLACE, given);
  changes.dispatchEvent(new Event('change'));
}

export function forget(reason = null) {
  if (shown === null) return;
  shown = null;
  sessionStorage.removeItem(PLACE);
  changes.dispatchEvent(new CustomEvent('change', { detail: reason }));
}

export const onChange = (listener) => changes.addEventListener('change', (event) => listener(event.detail ?? null));
