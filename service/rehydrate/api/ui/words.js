// Formats times, counts and states.

const number = new Intl.NumberFormat('en');
const clock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const day = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', year: 'numeric' });
const full = new Intl.DateTimeFormat('en-GB', { dateStyle: 'medium', timeStyle: 'long' });

export const count = (n) => number.format(n);

export const many = (n, one, more = `${one}s`) => `${count(n)} ${n === 1 ? one : more}`;

export const STATUS = {
  in_progress: 'Streaming',
  completed: 'Completed',
  incomplete: 'Incomplete',
  failed: 'Failed',
  cancelled: 'Cancelled',
  interrupted: 'Interrupted',
};

export const SOURCE = {
  database: 'Database',
  history: 'Channel history',
  live: 'Live',
};

export function seconds(s) {
  if (s < 0.995) return `${Math.round(s * 1000)} ms`;
  if (s < 9.95) return `${s.toFixed(1)} s`;
  if (s < 120) return `${Math.round(s)} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min ${Math.round(s % 60)} s`;
  return `${(s / 3600).toFixed(1)} h`;
}

export function ago(iso, nowMs = Date.now()) {
  const s = (nowMs - Date.parse(iso)) / 1000;
  if (s < 5) return 'now';
  if (s < 60) return `${Math.floor(s)} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ago`;
  return day.format(new Date(iso));
}

export const time = (iso) => clock.format(new Date(iso));
export const moment = (iso) => full.format(new Date(iso));

export function when(iso) {
  const at = new Date(iso);
  return at.toDateString() === new Date().toDateString() ? clock.format(at) : `${day.format(at)}, ${clock.format(at)}`;
}

// Returns the time of a serial, by Ably's clock: its first 14 digits are milliseconds since 1970.
export function serialMs(serial) {
  const digits = /^\d{14}/.exec(serial ?? '');
  return digits ? Number(digits[0]) : null;
}

export const valueText = (value) => (typeof value === 'string' ? value : JSON.stringify(value, null, 2));
