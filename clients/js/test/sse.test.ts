import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { follow } from '../src/sse.js';
import type { Joined } from '../src/session.js';
import { answer, message } from './fake.js';

type Connection = { headers: Record<string, string>; url: string; send: (text: string) => Promise<void>; end: () => void; signal: AbortSignal };

let connections: Connection[];
let replies: (Response | 'stream')[];
let opened: Joined[];

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'] });
  [connections, replies, opened] = [[], [], []];
});

afterEach(() => {
  for (const joined of opened) joined.close();
  vi.useRealTimers();
});

async function request(url: string, { headers, signal }: { headers: Record<string, string>; signal: AbortSignal }) {
  const body = new TransformStream<Uint8Array, Uint8Array>();
  const writer = body.writable.getWriter();
  signal.addEventListener('abort', () => { void writer.abort(new Error('aborted')).catch(() => {}); });
  const send = async (text: string) => { void writer.write(new TextEncoder().encode(text)).catch(() => {}); await vi.advanceTimersByTimeAsync(5); };
  connections.push({ headers, url, send, end: () => void writer.close(), signal });
  const reply = replies[connections.length - 1] ?? 'stream';
  return reply === 'stream' ? new Response(body.readable, { headers: { 'content-type': 'text/event-stream' } }) : reply;
}

function open(url: string, options: object = {}): Joined {
  const joined = follow(url, { fetch: request as unknown as typeof fetch, ...options });
  opened.push(joined);
  return joined;
}

const event = (name: string, data: object, id = '1') => `event: ${name}\nid: ${id}\ndata: ${JSON.stringify(data)}\n\n`;
const tokens = (text: string, more: object = {}) => event('token', { message_id: 'r', gen: 1, seq: null, serial: null, text, ...more });
const texts = (joined: Joined) => joined.messages.map(({ text }) => text);
const soon = (ms = 5) => vi.advanceTimersByTimeAsync(ms);
const at = (index: number) => connections[index] as Connection;

test('a snapshot, then events, in any chunks', async () => {
  const joined = open('/c1?limit=200');
  await soon();
  expect([at(0).url, joined.status]).toEqual(['/c1/stream?limit=200', 'connecting']);
  const whole = `retry: 1000\n\n: hi\n\n${event('snapshot', answer([message('a')]))}${tokens('b')}${event('start', { message_id: 's', gen: 1, seq: 0, serial: null, prompt_id: 'p' })}`;
  for (let from = 0; from < whole.length; from += 7) await at(0).send(whole.slice(from, from + 7));
  expect([texts(joined), joined.status, joined.messages[1]?.prompt_id]).toEqual([['ab', ''], 'live', 'p']);
  await at(0).send(tokens('') + tokens('c') + event('stop', { message_id: 'r', gen: 1, seq: null, serial: null, status: 'failed', error: 'e' }));
  expect(joined.messages[0]).toMatchObject({ text: 'abc', status: 'failed', error: 'e', exact: true });
});

test('it reconnects where it was, with a pause, and shows that meanwhile', async () => {
  const joined = open('/c2');
  await soon();
  await at(0).send(event('snapshot', answer([message('a')]), 'k7'));
  await soon(20_000);
  at(0).end();
  await soon();
  expect(joined.status).toBe('live');
  expect(at(1).headers['last-event-id']).toBe('k7');
  await at(1).send(tokens('b'));
  expect(texts(joined)).toEqual(['ab']);
  at(1).end();
  await soon(1);
  expect(joined.status).toBe('recovering');
});

test('a stream that falls silent is replaced', async () => {
  open('/c3');
  await soon();
  await at(0).send(event('snapshot', answer()));
  await soon(44_000);
  expect(connections.length).toBe(1);
  await soon(2000);
  expect(connections.length).toBe(2);
  expect(at(0).signal.aborted).toBe(true);
});

test('a 401 asks for a token; without one it fails with the problem', async () => {
  replies = [Response.json({ detail: 'expired', code: 'unauthorized' }, { status: 401 }), 'stream', Response.json({}, { status: 401 })];
  const joined = open('/c4', { token: 'old', onUnauthorized: ({ code }: { code: string }) => (connections.length < 3 ? `new ${code}` : undefined) });
  await soon(1000);
  await at(1).send(event('snapshot', answer([message('a')])));
  expect([at(0).headers['authorization'], at(1).headers['authorization'], joined.status]).toEqual(['Bearer old', 'Bearer new unauthorized', 'live']);
  at(1).end();
  await soon(2000);
  expect([joined.status, joined.error?.status, connections.length, texts(joined)]).toEqual(['failed', 401, 3, ['a']]);
});

test('a page that is not a stream fails after a bounded number of tries', async () => {
  replies = Array.from({ length: 11 }, () => new Response('<html>', { headers: { 'content-type': 'text/html' } }));
  const joined = open('/c5');
  await soon(120_000);
  expect([joined.status, connections.length, joined.error?.message]).toEqual(['failed', 11, 'the response is not an event stream: check the URL']);
});

test('two of one URL share a stream, unknown events are counted, and closing aborts', async () => {
  const [first, second] = [open('/c6'), open('/c6')];
  await soon();
  await at(0).send(event('snapshot', answer([message('a')])) + event('annotation', {}));
  expect([connections.length, texts(first), texts(second), first.ignored]).toEqual([1, ['a'], ['a'], 1]);
  first.close();
  await at(0).send(tokens('b'));
  expect([texts(first), texts(second)]).toEqual([['a'], ['ab']]);
  second.close();
  await soon();
  expect(at(0).signal.aborted).toBe(true);
});

test('a publisher that takes over empties the message; a repair replaces it', async () => {
  const joined = open('/c7');
  await soon();
  await at(0).send(event('snapshot', answer([message('a')])) + event('again', {}) + tokens('b', { gen: 2, seq: 1 }));
  expect([texts(joined), joined.status]).toEqual([['b'], 'recovering']);
  await at(0).send(event('repair', { message_id: 'r', gen: 2, seq: 1, serial: null, text: 'R' }) + event('prompt', { message_id: 'p', gen: 1, seq: null, serial: null, text: 'hi' }));
  expect(joined.messages.map(({ role, text, status }) => [role, text, status])).toEqual([['assistant', 'R', 'in_progress'], ['user', 'hi', 'completed']]);
});
