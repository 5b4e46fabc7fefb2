// The admin key: in this tab alone, sent in a header, never in an address.

const PLACE = 'rehydrate.key';
const changes = new EventTarget();
let shown = sessionStorage.getItem(PLACE);

export const key = () => shown;

export function keep(given) {
  shown = given;
  sessionStorage.setItem(PLACE, given);
  changes.dispatchEvent(new Event('change'));
}

export function forget(why = null) {
  if (shown === null) return;
  shown = null;
  sessionStorage.removeItem(PLACE);
  changes.dispatchEvent(new CustomEvent('change', { detail: why }));
}

export const onChange = (heard) => changes.addEventListener('change', (event) => heard(event.detail ?? null));
