// A conversation as its reader has it: a snapshot, taken further by each event. The service tells
// every event once and in order, so nothing has to be dropped here.
//
// Of each message the page also knows what it heard itself: `joined`, the seq up to which the text was
// there when the page got it (-1: it heard all of it), and `heard`, the pieces that came live.

import { serialMs } from './words.js';

const MOST_HEARD = 10_000;
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

  // A snapshot replaces what it speaks of, and keeps older pages that join on to it.
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

  // An older page, in front.
  page(answer) {
    const more = answer.messages.filter((each) => !this.messages.has(each.id)).map(taken);
    this.messages = new Map([...more.map((each) => [each.id, each]), ...this.messages]);
    this.older = answer.older;
  }

  // An event; gives the message that it changed.
  take(kind, said) {
    let message = this.messages.get(said.message_id);
    if (!message || (kind !== 'prompt' && said.gen > message.through.gen)) {
      message = begun(kind, said);
      this.messages.set(message.id, message);
    }
    const before = length(message);
    apply(message, kind, said);
    message.through.seq = said.seq === null ? message.through.seq : Math.max(message.through.seq ?? -1, said.seq);
    if (message.heard.length < MOST_HEARD) {
      const characters = kind === 'repair' ? length(message) : length(message) - before;
      message.heard.push({ seq: said.seq, atMs: serialMs(said.serial) ?? Date.now(), characters });
    }
    return message;
  }
}

function taken(body) {
  const parts = body.parts.length ? body.parts : body.text ? [{ type: 'text', text: body.text }] : [];
  return { ...body, parts, joined: body.through.seq ?? Infinity, heard: [] };
}

function begun(kind, said) {
  const role = kind === 'prompt' ? 'user' : 'assistant';
  const at = serialMs(said.serial);
  return {
    id: said.message_id,
    role,
    status: role === 'user' ? 'completed' : 'in_progress',
    parts: [],
    gaps: [],
    exact: true,
    prompt_id: null,
    started_at: new Date(at ?? Date.now()).toISOString(),
    finished_at: null,
    through: { gen: said.gen, seq: null },
    replay_of: said.replay_of ?? null,
    joined: -1,
    heard: [],
  };
}

function apply(message, kind, said) {
  if (kind === 'start') message.prompt_id = said.prompt_id ?? null;
  else if (kind === 'prompt') message.parts = [{ type: 'text', text: said.text ?? '' }];
  else if (kind in TEXTUAL) append(message.parts, TEXTUAL[kind], said.part, said.text ?? '');
  else if (kind === 'tool_call' || kind === 'tool_args' || kind === 'tool_result') call(message.parts, kind, said);
  else if (kind === 'repair') repair(message, said);
  else if (kind === 'stop') stop(message, said);
}

function append(parts, type, key, text) {
  if (!text) return;
  const last = parts.at(-1);
  const same = (part) => part.type === type && (part.part ?? null) === (key ?? null);
  const part = key == null ? (last && same(last) ? last : null) : parts.find(same);
  if (part) part.text += text;
  else parts.push(key == null ? { type, text } : { type, text, part: key });
}

function call(parts, kind, said) {
  let part = parts.find((each) => each.type === 'tool_call' && each.tool_call_id === said.tool_call_id);
  if (!part) {
    part = { type: 'tool_call', tool_call_id: said.tool_call_id, name: null, args: '', result: null, status: 'in_progress' };
    parts.push(part);
  }
  part.name = said.name ?? part.name;
  if (kind === 'tool_args') part.args = typeof part.args === 'string' ? part.args + (said.text ?? '') : part.args;
  else if (kind === 'tool_call') Object.assign(part, { args: said.args ?? '', status: said.status ?? part.status });
  else Object.assign(part, { result: said.result ?? null, status: said.status ?? 'completed' });
}

function repair(message, said) {
  const parts = said.parts ?? (said.text ? [{ type: 'text', text: said.text }] : []);
  Object.assign(message, { parts: structuredClone(parts), gaps: [], repaired: said.seq });
}

function stop(message, said) {
  message.status = said.status ?? 'completed';
  message.error = said.error ?? null;
  message.usage = said.usage ?? null;
  message.finished_at = new Date(serialMs(said.serial) ?? Date.now()).toISOString();
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
