// Server-sent events over fetch, which sends the key in a header; EventSource would need it in the URL.

import { refused, request } from './service.js';

const SILENT_MS = 45_000; // the service sends a heartbeat every 15 s
const LONGEST_PAUSE_MS = 10_000;

// Follows until `signal` aborts. Calls `onEvent(kind, data)` for each event and `onState(state, detail)`
// for each state of the connection: connecting, live, waiting, or refused, which is final.
export async function follow(where, { query, signal, onEvent, onState }) {
  const place = { last: null, retryMs: 1_000, tries: 0 };
  while (!signal.aborted) {
    onState('connecting');
    try {
      await listen(where, query, signal, place, onEvent, () => onState('live'));
    } catch (error) {
      if (signal.aborted) return;
      if (error.status >= 400 && error.status < 500 && error.status !== 429) {
        onState('refused', error.message);
        return;
      }
    }
    const most = Math.min(LONGEST_PAUSE_MS, place.retryMs * 2 ** place.tries++);
    const pauseMs = most * (0.5 + Math.random() / 2);
    onState('waiting', pauseMs);
    await pause(pauseMs, signal);
  }
}

async function listen(where, query, signal, place, onEvent, live) {
  const silence = new AbortController();
  let timer = setTimeout(() => silence.abort(), SILENT_MS);
  try {
    const headers = { Accept: 'text/event-stream', ...(place.last ? { 'Last-Event-ID': place.last } : {}) };
    const answer = await request('GET', where, { query, headers, signal: AbortSignal.any([signal, silence.signal]) });
    if (!answer.ok) throw await refused(answer, await answer.text());
    const parser = new Parser((event) => {
      if (event.retry) place.retryMs = event.retry;
      if (event.data === null) return;
      place.last = event.id ?? place.last;
      place.tries = 0;
      onEvent(event.kind, JSON.parse(event.data));
    });
    live();
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENT_MS);
      parser.feed(value);
    }
  } finally {
    clearTimeout(timer);
  }
}

const pause = (ms, signal) =>
  new Promise((done) => {
    const timer = setTimeout(done, ms);
    signal.addEventListener('abort', () => (clearTimeout(timer), done()), { once: true });
  });

// Parses events from text that arrives in chunks of any length.
export class Parser {
  constructor(onEvent) {
    this.onEvent = onEvent;
    this.rest = '';
    this.clear();
  }

  clear() {
    this.event = { kind: 'message', data: null, id: null, retry: null };
  }

  feed(text) {
    const lines = (this.rest + text).split('\n');
    this.rest = lines.pop();
    for (const line of lines) this.line(line.endsWith('\r') ? line.slice(0, -1) : line);
  }

  line(line) {
    if (line === '') {
      this.onEvent(this.event);
      this.clear();
      return;
    }
    const colon = line.indexOf(':');
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
    if (name === 'event') this.event.kind = value;
    else if (name === 'data') this.event.data = this.event.data === null ? value : `${this.event.data}\n${value}`;
    else if (name === 'id') this.event.id = value;
    else if (name === 'retry') this.event.retry = Number(value) || null;
  }
}
