import { expect, test } from 'vitest';
import { Conversation, decode, type Answer } from '../src/index.js';
import { answer, message, token } from './fake.js';

const of = (...messages: object[]) => Conversation.of(answer(messages) as unknown as Answer);
const applied = (conversation: Conversation, ...messages: object[]) =>
  messages.reduce<Conversation | null>((view, each) => view && view.apply(each), conversation) as Conversation;
const said = (name: unknown, data: unknown, headers: object = {}, more: object = {}) => ({ name, data, id: 'x1', serial: '09', timestamp: 9, extras: { headers }, ...more });

test('a message that changed is another object, and every other one is the same', () => {
  const before = of(message('a'), message('b', { id: 's' }));
  const after = applied(before, token(2, 'b'));
  expect(before.messages.map(({ text }) => text)).toEqual(['a', 'b']);
  expect(after.messages.map(({ text }) => text)).toEqual(['ab', 'b']);
  expect(after.messages[0]).not.toBe(before.messages[0]);
  expect(after.messages[1]).toBe(before.messages[1]);
});

test('what changes nothing leaves the conversation the same object', () => {
  const before = of(message('a'));
  for (const each of [token(1, 'a'), said('cancel', null, { responseId: 'r' }), said('other', null), said('token', 'b', { responseId: 'r' }, { clientId: 'eve' })]) {
    expect(before.apply(each)).toBe(before);
  }
});

test('an earlier conversation can be taken further again', () => {
  const before = applied(of(), said('token', 'a', { responseId: 'r', seq: 1 }));
  for (const text of ['b', 'c']) expect(applied(before, said('token', text, { responseId: 'r', seq: 2 }, { id: 'x2' })).messages[0]?.text).toBe(`a${text}`);
});

test('something that is missing leads to null', () => {
  expect(of(message('a', { through: { gen: 1, seq: 3, serial: null, id: null } })).apply(said('token', 'b', { responseId: 'r', seq: 5 }))).toBeNull();
});

test('clients that are not agents cannot publish responses, and can publish prompts', () => {
  const limited = Conversation.of(answer([], { agents: ['agent'] }) as unknown as Answer);
  const stranger = said('token', 'x', { responseId: 'r', seq: 1 }, { clientId: 'eve' });
  expect(limited.apply(stranger)).toBe(limited);
  const after = applied(limited, stranger, { ...stranger, data: 'a', clientId: 'agent' }, said('user-input', 'hi', {}, { clientId: 'eve' }));
  expect(after.messages.map(({ text }) => text)).toEqual(['a', 'hi']);
});

test('nothing that was erased returns', () => {
  const erased = Conversation.of(answer([], { erased_to: '1970-01-01T00:00:00.005Z', erased_ids: ['s'] }) as unknown as Answer);
  const of_s = said('token', 'x', { responseId: 's' });
  const rest = applied(erased, token(5, 'old'), token(6, 'its tail'), of_s, said('start', null, { responseId: 't', promptId: 's' }), said('token', 'x', { responseId: 't' }));
  expect(rest.messages).toEqual([]);
  expect(applied(rest, said('token', 'new', { responseId: 'q' })).messages.map(({ text }) => text)).toEqual(['new']);
});

test('an event reopens a message that was ended provisionally, once', () => {
  const view = of(message('a', { status: 'interrupted', provisional: true }));
  const reopened = applied(view, token(2, 'b'));
  expect(reopened.messages[0]).toMatchObject({ status: 'in_progress', text: 'ab' });
  expect(reopened.messages[0]).not.toHaveProperty('provisional');
  const ended = applied(reopened, said('stop', null, { responseId: 'r' }, { id: 'm3', serial: '03' }));
  expect(ended.messages[0]?.status).toBe('completed');
  expect(ended.apply(token(4, 'late'))).toBe(ended);
});

test('tools and ends show what a reload shows', () => {
  const of_r = (name: string, data: unknown, seq: number, headers: object = {}) => said(name, data, { responseId: 'r', seq, toolCallId: `c${seq % 3}`, ...headers }, { id: `x${seq}` });
  const view = applied(
    of(), of_r('start', null, 0), of_r('tool_call', { name: 'f' }, 1), of_r('tool_call', { name: 'g' }, 2), of_r('tool_result', { name: 'f', result: null }, 4, { toolCallId: 'c1', seq: 3 }),
    of_r('stop', { usage: { tokens: 3 } }, 4, { status: 'failed', error: { code: 'e' } }),
  );
  expect(view.messages[0]).toMatchObject({
    status: 'failed', error: { code: 'e' }, usage: { tokens: 3 },
    parts: [{ tool_call_id: 'c1', name: 'f', result: null, status: 'completed' }, { tool_call_id: 'c2', status: 'incomplete' }],
  });
});

test('a version that ends a response ends it with its status', () => {
  const view = applied(of(), said('response', 'a', { responseId: 'r' }, { version: { serial: '10', metadata: { phase: 'done', status: 'failed' } } }));
  expect(view.messages[0]).toMatchObject({ text: 'a', status: 'failed' });
});

test('no channel message makes it throw', () => {
  const odd = [undefined, null, 0, -1, 1.5, NaN, '', 'x', true, [], [1], {}, { parts: 'x' }, { parts: [null] }, { parts: [{ type: 'text' }] }, { text: 1 }, new ArrayBuffer(2), '\ud800', 1e300];
  const names = [undefined, null, 7, {}, 'user-input', 'start', 'token', 'tool_call', 'tool_args', 'tool_result', 'stop', 'response-complete', 'response', 'response-end', 'cancel', '__proto__', 'constructor'];
  const members = ['data', 'id', 'serial', 'timestamp', 'clientId', 'extras', 'action', 'version'];
  const headers = ['responseId', 'seq', 'gen', 'part', 'toolCallId', 'promptId', 'status', 'error', 'replayOf', 'phase'];
  let view = of(message('a'));
  for (const name of names) {
    for (const value of odd) {
      for (const member of members) view = view.apply(said(name, 'a', { responseId: 'q' }, { [member]: value })) ?? view;
      for (const header of headers) view = view.apply(said(name, value, { responseId: 'q', [header]: value })) ?? view;
    }
  }
  for (const value of odd) expect(() => decode(value as object)).not.toThrow();
});

test.each([[null], ['<html>'], [[]], [{}], [{ messages: [] }], [{ messages: [{ id: 'm' }], reasons: [] }]])('%j is no answer', (body) => {
  expect(() => Conversation.of(body as unknown as Answer)).toThrow('not an answer');
});
