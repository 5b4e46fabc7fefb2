import type { RealtimeChannel } from 'ably';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { join, type AblyJoinOptions } from '../src/ably.js';
import type { Joined, Snapshot } from '../src/session.js';
import { answer, FakeChannel, message, token } from './fake.js';

let channel: FakeChannel;
let asked: number;
let opened: Joined[];

beforeEach(() => {
  vi.useFakeTimers();
  [channel, asked, opened] = [new FakeChannel(), 0, []];
});

afterEach(async () => {
  for (const joined of opened) joined.close();
  await vi.runAllTimersAsync();
  vi.useRealTimers();
});

const error = (status: number) => Object.assign(new Error(`GET ${status}`), { status });

function open(options: AblyJoinOptions = {}): Joined {
  const load = async () => { asked += 1; return answer([message('a')]); };
  const joined = join(channel as unknown as RealtimeChannel, { load, ...options });
  opened.push(joined);
  return joined;
}

const settle = () => vi.advanceTimersByTimeAsync(120_000);
const soon = () => vi.advanceTimersByTimeAsync(1);
const texts = (joined: Joined) => joined.messages.map(({ text }) => text);

test('a reader without faults attaches and hydrates once', async () => {
  const joined = open();
  await settle();
  expect([texts(joined), joined.status, asked, channel.attaches]).toEqual([['a'], 'live', 1, 1]);
  channel.deliver(token(2, 'b'));
  expect(texts(joined)).toEqual(['ab']);
});

test('several joins of a channel share an attach and a hydrate, and close one by one', async () => {
  const [first, second] = [open(), open()];
  await settle();
  const third = open();
  await soon();
  expect([texts(first), texts(second), texts(third)]).toEqual([['a'], ['a'], ['a']]);
  first.close();
  third.close();
  channel.deliver(token(2, 'b'));
  await settle();
  expect([texts(first), texts(second), first.status, second.status]).toEqual([['a'], ['ab'], 'closed', 'live']);
  expect([asked, channel.attaches, channel.state]).toEqual([1, 1, 'attached']);
  second.close();
  await settle();
  expect([channel.state, channel.listeners, channel.stateListeners]).toEqual(['detached', [], []]);
});

test('a join that is closed and opened again at once, as in strict mode, attaches once', async () => {
  open().close();
  const joined = open();
  await settle();
  expect([texts(joined), asked, channel.attaches]).toEqual([['a'], 1, 1]);
});

test('listeners and options of the page are kept', async () => {
  const own = { cipher: { key: 'k' }, modes: ['SUBSCRIBE'], params: { delta: 'vcdiff' } };
  channel.channelOptions = { ...own };
  const [onMessage, onState] = [vi.fn(), vi.fn()];
  channel.listeners.push(onMessage);
  channel.stateListeners.push(onState);
  const joined = open();
  await settle();
  expect(channel.channelOptions).toEqual({ ...own, params: { delta: 'vcdiff', rewind: '10s' }, attachOnSubscribe: false });
  joined.close();
  await settle();
  expect(channel.channelOptions).toEqual(own);
  expect([channel.listeners, channel.stateListeners]).toEqual([[onMessage], [onState]]);
});

test('a join after the last one has been closed waits until the channel is left', async () => {
  open().close();
  await soon();
  const joined = open();
  await settle();
  expect([texts(joined), joined.status, channel.channelOptions['params']]).toEqual([['a'], 'live', { rewind: '10s' }]);
});

test('text that is dropped before the answer arrives leaves no wrong join', async () => {
  channel.backlog = [[], [token(2, 'b'), token(3, 'c')]];
  const seen: string[][] = [];
  const joined = open({
    load: async () => {
      if (++asked === 1) {
        channel.become('attached');                     // b is dropped meanwhile
        channel.deliver(token(3, 'c'));
      }
      return answer([message('a')]);
    },
    onChange: ({ messages }) => seen.push(messages.map(({ text }) => text)),
  });
  await settle();
  expect([texts(joined), asked]).toEqual([['abc'], 2]);
  expect(seen).not.toContainEqual(['ac']);
});

test.each(['failed', 'suspended', 'detached'])('a channel that is %s is attached again, and the status says so', async (state) => {
  channel.backlog = [[], 'refused', 'refused', [token(2, 'b')]];
  const seen: string[] = [];
  const joined = open({ onChange: ({ status, error: problem }) => seen.push(`${status} ${problem?.message ?? ''}`) });
  await settle();
  channel.become(state, false, new Error('refused'));
  await settle();
  expect([texts(joined), joined.status, asked, channel.attaches]).toEqual([['ab'], 'live', 2, 4]);
  expect(seen).toContain('recovering refused');
});

test('an attach that is always refused ends the join, and a new one tries again', async () => {
  channel.backlog = Array(11).fill('refused');
  const joined = open();
  await settle();
  expect([joined.status, joined.error?.message, channel.attaches, asked]).toEqual(['failed', 'refused', 11, 0]);
  await expect(joined.ready).rejects.toThrow('refused');
  expect(channel.listeners).toEqual([]);                // nothing is kept for a join that gave up
  const again = open();
  await settle();
  expect([texts(again), again.status]).toEqual([['a'], 'live']);
});

test('a reader that has joined retries without end, ever more slowly', async () => {
  let failing = false;
  const joined = open({ load: async () => { asked += 1; if (failing) throw error(503); return answer([message('a')]); } });
  await settle();
  failing = true;
  channel.become('attached');
  await vi.advanceTimersByTimeAsync(300_000);
  expect([texts(joined), joined.status, joined.error?.status]).toEqual([['a'], 'recovering', 503]);
  expect(asked).toBeGreaterThan(40);
  expect(asked).toBeLessThan(140);
  failing = false;
  await settle();
  expect(joined.status).toBe('live');
});

test.each([
  ['503', () => { throw error(503); }, 11],
  ['429', () => { throw error(429); }, 11],
  ['HTML', () => '<html>', 11],
  ['a cut body', () => { throw new SyntaxError('Unexpected end of JSON input'); }, 11],
  ['an answer without messages', () => ({ reasons: [] }), 11],
  ['no answer at all', () => new Promise(() => {}), 11],
  ['401', () => { throw error(401); }, 1],
  ['403', () => { throw error(403); }, 1],
  ['404', () => { throw error(404); }, 1],
])('a load that always ends with %s fails after a bounded number of tries', async (_, fail, tries) => {
  const onChange = vi.fn();
  const joined = open({ load: async () => { asked += 1; return fail(); }, onChange });
  await vi.advanceTimersByTimeAsync(600_000);
  expect([joined.status, asked, joined.messages]).toEqual(['failed', tries, []]);
  expect(joined.error).toBeInstanceOf(Error);
  expect(onChange.mock.calls.every(([snapshot]) => (snapshot as Snapshot).messages.length === 0)).toBe(true);
});

test('a 401 asks for a new token, and at most twice in a row', async () => {
  const onUnauthorized = vi.fn(async () => 'new');
  const joined = open({ load: async () => { asked += 1; throw error(401); }, onUnauthorized });
  await settle();
  expect([joined.status, joined.error?.status, asked]).toEqual(['failed', 401, 3]);
  expect(onUnauthorized).toHaveBeenCalledTimes(2);
});

test('a new token is used for the next request', async () => {
  const tokens: (string | null)[] = [];
  const request = async (_: unknown, { headers }: { headers: Record<string, string> }) => {
    tokens.push(headers['authorization'] ?? null);
    if (tokens.length === 1) return Response.json({ detail: 'expired', code: 'unauthorized' }, { status: 401 });
    return Response.json(answer([message('a')]));
  };
  const joined = join(channel as unknown as RealtimeChannel, {
    url: '/v1/conversations/c', token: 'old', fetch: request as unknown as typeof fetch, onUnauthorized: ({ message: text, code }) => `${text} ${code}`,
  });
  opened.push(joined);
  await settle();
  expect([joined.status, tokens]).toEqual(['live', ['Bearer old', 'Bearer expired unauthorized']]);
});

test('an error of the page is reported once and changes nothing', async () => {
  const reported = vi.fn();
  vi.stubGlobal('reportError', reported);
  const joined = open({ onChange: ({ status }) => { if (status === 'live') throw new Error('of the page'); } });
  const other = vi.fn();
  joined.subscribe(other);
  await settle();
  expect([texts(joined), joined.status, asked, channel.attaches]).toEqual([['a'], 'live', 1, 1]);
  expect(reported).toHaveBeenCalledTimes(1);
  expect(other).toHaveBeenCalled();
  vi.unstubAllGlobals();
});

test('closing before the join has resolved calls nothing any more and leaves the channel', async () => {
  const onChange = vi.fn();
  const joined = open({ onChange });
  joined.close();
  await settle();
  expect([joined.status, asked, channel.attaches, channel.stateListeners]).toEqual(['closed', 0, 0, []]);
  expect(onChange).not.toHaveBeenCalled();
});

test('closing while it hydrates again attaches no more', async () => {
  let release = () => {};
  const joined = open({
    load: () => { asked += 1; return asked === 1 ? Promise.resolve(answer([message('a')])) : new Promise((done) => { release = () => done(answer([message('ab')])); }); },
  });
  await settle();
  const onChange = vi.fn();
  joined.subscribe(onChange);
  channel.become('attached');
  await vi.advanceTimersByTimeAsync(1000);
  expect(asked).toBe(2);
  joined.close();
  onChange.mockClear();
  release();
  await settle();
  expect([channel.state, channel.attaches, channel.listeners]).toEqual(['detached', 2, []]);
  expect(onChange).not.toHaveBeenCalled();
});

test('an abort closes', async () => {
  const controller = new AbortController();
  const joined = open({ signal: controller.signal });
  await settle();
  controller.abort();
  await settle();
  expect([joined.status, channel.state]).toEqual(['closed', 'detached']);
  expect(open({ signal: controller.signal }).status).toBe('closed');
});

test('a channel that the page had attached stays attached', async () => {
  channel.state = 'attached';
  const joined = open();
  await settle();
  expect([texts(joined), channel.attaches]).toEqual([['a'], 1]);  // detached, and attached with a rewind
  joined.close();
  await settle();
  expect(channel.state).toBe('attached');
});

test('two versions of the package on one channel do not disturb each other', async () => {
  vi.resetModules();
  const other: typeof import('../src/ably.js') = await import('../src/ably.js');
  expect(other.join).not.toBe(join);
  const joined = open();
  await settle();
  const load = async () => { asked += 1; return answer([message('a')]); };
  const theirs = other.join(channel as unknown as RealtimeChannel, { load });
  opened.push(theirs);
  await settle();
  expect([joined.status, theirs.status, asked, channel.attaches]).toEqual(['live', 'live', 3, 2]);
  channel.deliver(token(2, 'b'));
  expect([texts(joined), texts(theirs)]).toEqual([['ab'], ['ab']]);
});

test('older pages come in front, stay after a new hydrate, and are asked for once at a time', async () => {
  const ended = (id: string) => message('x', { id, status: 'completed', finished_at: '2026-01-01T00:00:00.000Z' });
  const before: unknown[] = [];
  const load = async (query: { before?: string | undefined }) => {
    if (query.before === undefined) return answer([ended('m3'), message('a')], { older: 'p1' });
    before.push(query.before);
    return query.before === 'p1' ? answer([ended('m2')], { older: 'p0' }) : answer([ended('m1')]);
  };
  const joined = open({ load });
  await settle();
  expect(await Promise.all([joined.loadOlder(), joined.loadOlder()])).toEqual([true, true]);
  channel.become('attached');
  await settle();
  expect(joined.messages.map(({ id }) => id)).toEqual(['m2', 'm3', 'r']);
  expect(await joined.loadOlder()).toBe(true);
  expect(await joined.loadOlder()).toBe(false);
  expect(joined.messages.map(({ id }) => id)).toEqual(['m1', 'm2', 'm3', 'r']);
  expect(before).toEqual(['p1', 'p0']);
});

test('each event that changes a message is passed on, and unknown ones are counted', async () => {
  const onEvent = vi.fn();
  const joined = open({ onEvent });
  await settle();
  channel.deliver(token(1, 'a'), token(2, 'b'), { name: 'annotation', data: {} }, { name: 'rehydrate.echo' });
  expect(onEvent.mock.calls.map(([{ kind, text }]) => [kind, text])).toEqual([['token', 'b']]);
  expect(joined.ignored).toBe(2);
});

test('an answer with a reason to retry is shown, and asked for again', async () => {
  const load = async () => answer([message('a')], { reasons: ++asked < 4 ? [{ code: 'store_behind', retry: true, detail: '' }] : [] });
  const joined = open({ load });
  await soon();
  expect([texts(joined), joined.status]).toEqual([['a'], 'connecting']);
  await settle();
  expect([joined.status, asked]).toEqual(['live', 4]);
});

test.each([[2, { until: '05' }], [3, {}]] as const)('way %i asks for what it needs', async (way, expected) => {
  channel.backlog = [[token(1, 'a'), token(2, 'b')]];
  const load = vi.fn(async (_: object) => answer([message('a')], { rewind_from: '01' }));
  const joined = open({ load, way });
  await settle();
  expect(texts(joined)).toEqual(['ab']);
  expect(load).toHaveBeenCalledTimes(1);
  expect(load.mock.calls[0]?.[0]).toMatchObject(expected);
  if (way === 3) expect(channel.channelOptions['params']).toEqual({ rewind: '01' });
});
