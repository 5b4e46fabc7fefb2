// Channel messages, and the events that they mean: docs/protocol.md sections 2 to 4. Decoding never
// throws, whatever the shape of a channel message. A message that cannot be placed in a response is not
// an event. One that can be placed but not read is a `void`: it keeps its seq, so that there is no gap, and
// is counted as unreadable. The same holds for text of a response under an unknown name.

import { isObject, type Part, type Status, type ToolCallPart } from './wire.js';
import { carriesText, readPrompt, readText, textIn, UNDECODED } from './readable.js';

export type Kind =
  | 'prompt' | 'start' | 'token' | 'refusal' | 'reasoning' | 'tool_call' | 'tool_args' | 'tool_result'
  | 'void' | 'stop' | 'repair' | 'cancel';

/** The meaning of a channel message, or of an event of the service's stream. */
export interface Event {
  readonly kind: Kind;
  /** The message that it belongs to; null: the conversation's anonymous stream. */
  readonly message_id: string | null;
  readonly gen: number;
  readonly seq: number | null;
  readonly serial: string | null;
  readonly id: string | null;
  readonly client_id: string | null;
  readonly at_ms: number;
  readonly text?: string;
  readonly part?: string | null;
  readonly tool_call_id?: string;
  readonly name?: string | null;
  readonly args?: unknown;
  readonly result?: unknown;
  readonly status?: Status | null;
  readonly error?: unknown;
  readonly usage?: unknown;
  readonly prompt_id?: string | null;
  /** The parts of a repair; null if it has no content. */
  readonly parts?: readonly Part[] | null;
  readonly replay_of?: string | null;
  /** Of a channel message that grows: the serial of this version. */
  readonly version?: string;
  /** The version has only the text appended since the previous version on this attachment. */
  readonly is_delta?: boolean;
  /** 1 if content of it could not be read. */
  readonly unreadable?: number;
  /** The version of the update or delete of the channel message of which this is the content. */
  readonly edit?: string;
}

/** A message as any version of ably-js delivers it. Its members come from a publisher, and may have any shape. */
export interface ChannelMessage {
  readonly name?: unknown;
  readonly data?: unknown;
  readonly id?: unknown;
  readonly serial?: unknown;
  readonly timestamp?: unknown;
  readonly clientId?: unknown;
  readonly extras?: unknown;
  readonly action?: unknown;
  readonly version?: unknown;
  /** The encoding that ably-js could not decode: the data is encrypted, or damaged. */
  readonly encoding?: unknown;
}

export const TEXT_TYPES = { token: 'text', refusal: 'refusal', reasoning: 'reasoning' } as const;
export type TextKind = keyof typeof TEXT_TYPES;

const TERMINAL = ['completed', 'incomplete', 'failed', 'cancelled', 'interrupted'];
const NAMES = ['user-input', 'response-complete', 'start', 'token', 'refusal', 'reasoning', 'tool_call', 'tool_args', 'tool_result', 'stop', 'cancel'];
const IGNORED = ['debug', 'error', 'heartbeat', 'log', 'metadata', 'ping', 'progress', 'rehydrate.echo', 'status', 'title', 'trace', 'typing', 'usage'];
const CREATE = 0;
const UPDATE = 1;
const DELETE = 2;
const APPEND = 5;
const ACTIONS = ['message.create', 'message.update', 'message.delete', '', '', 'message.append'];
const MOST = 2_000_000;
const LEVELS = 64;
/** The end of the year 9999. */
const LATEST_MS = 253_402_300_799_999;

// With the flag u, a quantifier counts code points, and \p{Cs} is half of a surrogate pair.
const ID = /^(?!\.{1,2}$)[^\x00-\x1f\x7f-\x9f\p{Cs}]{1,256}$/u;

export function isTextKind(kind: Kind): kind is TextKind {
  return kind in TEXT_TYPES;
}

export function isContent(kind: Kind): boolean {
  return isTextKind(kind) || kind.startsWith('tool_') || kind === 'void';
}

export function isId(value: unknown): value is string {
  return typeof value === 'string' && ID.test(value);
}

function isJson(value: unknown, levels = LEVELS): boolean {
  if (Array.isArray(value)) return levels > 0 && value.every((each) => isJson(each, levels - 1));
  if (isObject(value)) return levels > 0 && Object.values(value).every((each) => isJson(each, levels - 1));
  return value == null || typeof value === 'string' || typeof value === 'boolean' || Number.isFinite(value);
}

const text = (value: unknown) => (typeof value === 'string' ? value : null);
const fields = (value: unknown) => (isObject(value) ? value : {});
const json = (value: unknown) => (isJson(value) ? value ?? null : null);
const label = (value: unknown) => (Number.isFinite(value) ? String(value) : text(value));

/** Return the number in a header, null if there is none, or undefined if it is not one. */
function count(value: unknown, least: number): number | null | undefined {
  if (value == null) return null;
  const number = typeof value === 'string' && /^\d{1,10}$/.test(value) ? Number(value) : value;
  return Number.isInteger(number) && (number as number) >= least && (number as number) <= MOST ? (number as number) : undefined;
}

/** Return how a response ended; a status that is not terminal is a failure. */
function endedAs(status: unknown): Status {
  return TERMINAL.includes(status as string) ? (status as Status) : status === 'in_progress' ? 'failed' : 'completed';
}

/** Return the event that *message* means; null: it is not an event.
 *
 * *tokenNames*: further names that mean `token`. */
export function decode(message: ChannelMessage, tokenNames: readonly string[] = []): Event | null {
  if (!isObject(message)) return null;
  const { encoding, name: said = null } = message;
  const data = encoding ? UNDECODED : message.data ?? null;
  const name = said === null || typeof said === 'string' ? said : '';
  const action = message.action ?? CREATE;
  const number = typeof action === 'string' ? ACTIONS.indexOf(action) : action;
  const headers = fields(fields(message.extras).headers);
  const at_ms = message.timestamp as number;
  const envelope = {
    message_id: null,
    gen: 1,
    seq: null,
    serial: text(message.serial),
    id: text(message.id),
    client_id: text(message.clientId),
    at_ms: Number.isInteger(at_ms) && at_ms >= 0 && at_ms <= LATEST_MS ? at_ms : 0,
  };
  if (name === 'response-end') return number === CREATE ? decodeEnd(data, headers, envelope) : null;
  if ((name === 'response' || (name === null && number === APPEND)) && envelope.serial !== null) {
    return decodeVersion({ ...message, name, data }, headers, envelope, number);
  }
  const version = number === CREATE ? null : text(fields(message.version).serial);
  const isDeleted = number === DELETE;
  if (number !== CREATE && ((number !== UPDATE && !isDeleted) || envelope.serial === null)) return null;
  const placed = version !== null && version > (envelope.serial ?? '') ? { ...envelope, edit: version } : envelope;
  const known = NAMES.includes(name as string) ? name : tokenNames.includes(name as string) ? 'token' : null;
  if (known) {
    if (isDeleted && known === 'response-complete') return null;
    return decodeToken(known, isDeleted ? deleted(known, data) : data, headers, placed);
  }
  const isIgnored = isDeleted || IGNORED.includes(name as string);
  const isLost = headers.responseId != null && !('ai' in fields(message.extras)) && (headers.seq != null || (!isIgnored && carriesText(data)));
  const place = isLost ? placeOf(headers, placed) : null;
  return place && { ...place, kind: 'void', unreadable: isIgnored ? 0 : 1 };
}

/** Return the data of a deleted message: the id of a prompt, and no content. */
function deleted(name: string, data: unknown): unknown {
  return isObject(data) ? { promptId: data.promptId, text: '' } : name === 'user-input' ? '' : null;
}

type Envelope = Omit<Event, 'kind'>;
type Headers = Record<string, unknown>;

/** Return *envelope* with the response and the place that *headers* name; null: they are not valid. */
function placeOf(headers: Headers, envelope: Envelope): Envelope | null {
  const message_id = headers.responseId ?? null;
  const seq = count(headers.seq, 0);
  const gen = count(headers.gen, 1);
  if ((message_id !== null && !isId(message_id)) || seq === undefined || gen === undefined) return null;
  return { ...envelope, message_id, seq, gen: gen ?? 1, replay_of: text(headers.replayOf) };
}

/** Decode message-per-token: section 3. */
function decodeToken(name: string, data: unknown, headers: Headers, envelope: Envelope): Event | null {
  const placed = placeOf(headers, envelope);
  if (!placed) return null;
  if (name === 'user-input') {
    const { promptId = null } = fields(data);
    const id = promptId === null || promptId === '' ? envelope.id : promptId;
    const read = readPrompt(data);
    return read && isId(id) ? { ...placed, kind: 'prompt', message_id: id, seq: null, gen: 1, ...read } : null;
  }
  if (name === 'response-complete') return { ...placed, kind: 'repair', parts: repairOf(data) };
  return { ...placed, ...(contentOf(name as Kind, data, headers, placed) ?? { kind: 'void', unreadable: 1 }) };
}

/** Return the members of an event of *kind* other than its place; null: it cannot be read. */
function contentOf(kind: Kind, data: unknown, headers: Headers, placed: Envelope): Pick<Event, 'kind'> | null {
  const given = fields(data);
  const tool_call_id = label(headers.toolCallId) || null;
  if (kind === 'start') return { kind, prompt_id: label(headers.promptId) } as Event;
  if (kind === 'stop') {
    return { kind, status: endedAs(headers.status), error: json(headers.error) ?? json(given.reason), usage: json(given.usage) } as Event;
  }
  const read = readText(data);
  if (isTextKind(kind)) return read.unreadable ? null : ({ kind, text: read.text, part: label(headers.part) } as Event);
  if (kind === 'tool_args') return tool_call_id && !read.unreadable ? ({ kind, tool_call_id, text: read.text } as Event) : null;
  const name = label(given.name);
  if (kind === 'tool_call') {
    const own = tool_call_id ?? (placed.id || `call-${placed.seq ?? ''}`);
    const unreadable = data === null || isObject(data) ? 0 : 1;
    return isJson(given.args) ? ({ kind, tool_call_id: own, name, args: given.args ?? '', unreadable } as Event) : null;
  }
  if (kind === 'tool_result') {
    const result = isObject(data) ? data.result : textIn(data) ?? data;
    const status = headers.status === 'failed' ? 'failed' : 'completed';
    return tool_call_id && isJson(result) ? ({ kind, tool_call_id, name, result: result ?? null, status } as Event) : null;
  }
  return { kind };
}

/** Return the parts of a repair; null: it is a pointer, and only the service has them. */
function repairOf(data: unknown): readonly Part[] | null {
  const given = fields(data);
  const parts = Array.isArray(given.parts) && given.parts.length ? given.parts.map(cleanPart) : [null];
  if (parts.every((part) => part !== null)) return parts;
  const whole = textIn(data);
  return whole === null ? null : [{ type: 'text', text: whole }];
}

function cleanPart(part: unknown): Part | null {
  if (!isObject(part) || !isJson(part)) return null;
  const { type, text: content, part: name, tool_call_id, status } = part;
  if (Object.values(TEXT_TYPES).includes(type as 'text') && typeof content === 'string') {
    return { type: type as 'text', text: content, ...(typeof name === 'string' && { part: name }) };
  }
  if (type !== 'tool_call' || typeof tool_call_id !== 'string') return null;
  const settled = status === 'completed' || status === 'failed' ? status : 'in_progress';
  const args = 'args' in part ? part.args : '';
  return { type, tool_call_id, name: text(part.name), args, result: part.result ?? null, status: settled } as ToolCallPart;
}

/** Decode message-per-response: section 4. */
function decodeVersion(message: ChannelMessage, headers: Headers, envelope: Envelope, action: unknown): Event | null {
  const serial = envelope.serial as string;
  if (![CREATE, 1, 2, APPEND].includes(action as number)) return null;
  const version = fields(message.version);
  const named = isId(headers.responseId) ? headers.responseId : null;
  const done = [fields(version.metadata), headers].find((each) => each.phase === 'done');
  return {
    ...envelope,
    kind: 'token',
    message_id: named ?? (message.name === 'response' ? serial : null),
    version: text(version.serial) || serial,
    is_delta: action === APPEND,
    status: done ? endedAs(done.status) : null,
    ...readText(action === 2 ? null : message.data),
  };
}

function decodeEnd(data: unknown, headers: Headers, envelope: Envelope): Event | null {
  const given = fields(data);
  const message_id = [headers.responseId, given.responseId].find(isId);
  if (message_id === undefined) return null;
  return {
    ...envelope,
    kind: 'stop',
    message_id,
    status: endedAs(headers.status),
    error: json(headers.error ?? given.error),
    usage: json(given.usage),
  };
}
