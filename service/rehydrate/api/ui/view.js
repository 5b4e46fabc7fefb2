// A reader's view of a conversation: a snapshot, updated by each event. The service sends every event
// once and in order, so this view needs no drop rule.
//
// For each message the view also records what the page received live: `joined` is the seq that the
// message had in the snapshot (-1: all of it came live), `received` lists the live chunks.

import { serialMs } from './words.js';

const MAX_RECEIVED = 10_000;
const TEXTUAL = { token: 'text', refusal: 'refusal', reasoning: 'reasoning' };

export class View {
  constructor() {
    this.messages = new Map();
    this.older = null;
    this.reasons = [];
    this.channel = null;
    this.ready = false;
  }

  get streaming() {
    return [...this.messages.values()].filter((each) => each.status === 'in_progress').length;
  }

  // A snapshot replaces its messages; older pages that are contiguous with it stay.
  snapshot(answer) {
    const known = this.messages;
    const meets = answer.messages.some((each) => known.has(each.id));
    const now = new Set(answer.messages.map((each) => each.id));
    const first = [...known.keys()].findIndex((id) => now.has(id));
    const before = meets ? [...known.values()].slice(0, first) : [];
    const replays = [...known.values()].filter((each) => each.replay_of && !now.has(each.id));
    for (const each of replays) if (each.status === 'in_progress') Object.assign(each, { status: 'interrupted', lost: true });
    if (!meets || !this.ready) this.older = answer.older;
    this.messages = new Map([...before, ...answer.messages.map(taken), ...replays].map((each) => [each.id, each]));
    this.reasons = answer.reasons;
    this.channel = answer.channel;
    this.ready = true;
  }

  // Inserts an older page before the messages.
  page(answer) {
    const more = answer.messages.filter((each) => !this.messages.has(each.id)).map(taken);
    this.messages = new Map([...more.map((each) => [each.id, each]), ...this.messages]);
    this.older = answer.older;
  }

  // Applies an event; returns the message that it changed.
  apply(kind, data) {
    let message = this.messages.get(data.message_id);
    if (!message || (kind !== 'prompt' && data.gen > message.through.gen)) {
      message = begun(kind, data);
      this.messages.set(message.id, message);
    }
    const before = length(message);
    apply(message, kind, data);
    message.through.seq = data.seq === null ? message.through.seq : Math.max(message.through.seq ?? -1, data.seq);
    if (message.received.length < MAX_RECEIVED) {
      const characters = kind === 'repair' ? length(message) : length(message) - before;
      message.received.push({ seq: data.seq, atMs: serialMs(data.serial) ?? Date.now(), characters });
    }
    return message;
  }
}

function taken(body) {
  const parts = body.parts.length ? body.parts : body.text ? [{ type: 'text', text: body.text }] : [];
  return { ...body, parts, joined: body.through.seq ?? Infinity, received: [] };
}

function begun(kind, data) {
  const role = kind === 'prompt' ? 'user' : 'assistant';
  const at = serialMs(data.serial);
  return {
    id: data.message_id,
    role,
    status: role === 'user' ? 'completed' : 'in_progress',
    parts: [],
    gaps: [],
    exact: true,
    unreadable: 0,
    prompt_id: null,
    started_at: new Date(at ?? Date.now()).toISOString(),
    finished_at: null,
    through: { gen: data.gen, seq: null },
    replay_of: data.replay_of ?? null,
    joined: -1,
    received: [],
  };
}

function apply(message, kind, data) {
  const sets = kind === 'repair' || kind === 'prompt';
  message.unreadable = (sets ? 0 : message.unreadable ?? 0) + (data.unreadable ?? 0);
  if (kind === 'start') message.prompt_id = data.prompt_id ?? null;
  else if (kind === 'prompt') message.parts = [{ type: 'text', text: data.text ?? '' }];
  else if (kind in TEXTUAL) append(message.parts, TEXTUAL[kind], data.part, data.text ?? '');
  else if (kind === 'tool_call' || kind === 'tool_args' || kind === 'tool_result') call(message.parts, kind, data);
  else if (kind === 'repair') repair(message, data);
  else if (kind === 'stop') stop(message, data);
}

function append(parts, type, key, text) {
  if (!text) return;
  const last = parts.at(-1);
  const same = (part) => part.type === type && (part.part ?? null) === (key ?? null);
  const part = key == null ? (last && same(last) ? last : null) : parts.find(same);
  if (part) part.text += text;
  else parts.push(key == null ? { type, text } : { type, text, part: key });
}

function call(parts, kind, data) {
  let part = parts.find((each) => each.type === 'tool_call' && each.tool_call_id === data.tool_call_id);
  if (!part) {
    part = { type: 'tool_call', tool_call_id: data.tool_call_id, name: null, args: '', result: null, status: 'in_progress' };
    parts.push(part);
  }
  part.name = data.name ?? part.name;
  if (kind === 'tool_args') part.args = typeof part.args === 'string' ? part.args + (data.text ?? '') : part.args;
  else if (kind === 'tool_call') Object.assign(part, { args: data.args ?? '', status: data.status ?? part.status });
  else Object.assign(part, { result: data.result ?? null, status: data.status ?? 'completed' });
}

function repair(message, data) {
  const parts = data.parts ?? (data.text ? [{ type: 'text', text: data.text }] : []);
  Object.assign(message, { parts: structuredClone(parts), gaps: [], repaired: data.seq });
}

function stop(message, data) {
  message.status = data.status ?? 'completed';
  message.error = data.error ?? null;
  message.usage = data.usage ?? null;
  message.finished_at = new Date(serialMs(data.serial) ?? Date.now()).toISOString();
  for (const part of message.parts) if (part.status === 'in_progress') part.status = 'incomplete';
}

export function length(message) {
  let sum = 0;
  for (const part of message.parts) {
    if (part.type !== 'tool_call') sum += part.text.length;
    else if (typeof part.args === 'string') sum += part.args.length;
  }
  return sum;
}
