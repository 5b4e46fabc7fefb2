// Apply one event to one message: docs/protocol.md sections 6 and 9.6. A state is a value; `fold` returns a
// new one, or the same one if the event changes nothing. `Conversation` has already decided that the event
// is the next one (`verdict`), so content is only ever appended.
//
// Content is kept in three groups, in the order in which parts are shown: content with seqs, then
// content without (a publisher should not mix them), then channel messages that grow, by serial.

import { isContent, isTextKind, TEXT_TYPES, type Event } from './event.js';
import type { Message, Part, TextPart, ToolCallPart } from './wire.js';

export const MARGIN_MS = 5000;
const MOST_IDS = 2000;
const MOST_EDITS = 1000;
/** The time of an id that an answer contains without one: it never leaves the margin. */
const NO_TIME = Infinity;

type Id = readonly [id: string, at_ms: number];

/** A message, and the state that the drop rule needs for it. */
export interface State {
  readonly message: Message;
  /** Its content with seqs, without the groups that follow it. */
  readonly numbered: readonly Part[];
  /** Its content without seqs, received live. */
  readonly tail: readonly Event[];
  /** Its channel messages that grow, by serial: the greatest version, and the part unless it is empty. */
  readonly grown: ReadonlyMap<string, { readonly version: string; readonly part: Part | null; readonly unreadable: boolean }>;
  /** How many of its other events could not be read. */
  readonly lost: number;
  /** It is inexact for a reason other than unreadable events. */
  readonly inexact: boolean;
  /** It was ended by a stop without seq, which does not show how much content came before it. */
  readonly uncounted: boolean;
  readonly ids: readonly Id[];
  /** The id of its start; null: no start was seen; empty: it has begun, id unknown. */
  readonly begun: string | null;
  /** It began live, and was not in an answer. */
  readonly isNew: boolean;
}

const NOTHING: Omit<State, 'message' | 'isNew'> = {
  numbered: [], tail: [], grown: new Map(), lost: 0, inexact: false, uncounted: false, ids: [], begun: null,
};

/** Return the state of a message of an answer. */
export function stateOf(message: Message): State {
  const parts = message.parts.length || !message.text ? message.parts : [{ type: 'text', text: message.text } as TextPart];
  const grown = parts.flatMap((part) => {
    const { through, result_through: result } = part as ToolCallPart;
    const own = through ? [[through, part] as const] : [];
    return result ? [...own, [result, null] as const] : own;
  }).map(([{ serial, version, unreadable }, part]) => [serial, { version, part, unreadable: !!unreadable }] as const);
  const unreadable = message.unreadable ?? 0;
  const uncounted = !message.exact && isEnded(message) && message.role !== 'user' && !parts.length && message.through.seq === null;
  const inexact = !message.exact && !unreadable && !uncounted;
  const known = { ...NOTHING, message, numbered: parts, lost: unreadable, inexact, uncounted, begun: '', isNew: false };
  const ids = message.recent_ids ? message.recent_ids.map((id): Id => [id, NO_TIME]) : NOTHING.ids;
  if (!grown.length) return { ...known, ids };
  const versions = new Map(grown);
  const lost = Math.max(0, unreadable - unreadableOf(versions));
  return { ...known, ids, numbered: parts.filter((part) => !part.through), grown: versions, lost, inexact: !message.exact };
}

/** Return the state of the message that *event* begins, before it is folded. */
export function begin(id: string, event: Event, position?: string): State {
  const message: Message = {
    id,
    role: event.kind === 'prompt' ? 'user' : 'assistant',
    status: 'in_progress',
    text: '',
    parts: [],
    prompt_id: null,
    started_at: null,
    finished_at: null,
    through: { gen: event.gen, seq: null, serial: null, id: null },
    gaps: [],
    repaired: null,
    exact: true,
    unreadable: 0,
    client_id: event.client_id,
    ...(position !== undefined && { anonymous: true as const, position }),
  };
  return { ...NOTHING, message, isNew: true };
}

/** Return whether the message has a terminal status, and not by the idle limit alone. */
export function isEnded({ status, provisional }: Message): boolean {
  return status !== 'in_progress' && !provisional;
}

export function hasId({ ids }: State, id: string | null): boolean {
  return id !== null && ids.some(([known]) => known === id);
}

/** Return whether an event of that time without seq and serial counts as seen: its id is no longer kept. */
export function hasForgotten({ ids }: State, at_ms: number): boolean {
  const newest = ids.at(-1)?.[1] ?? NO_TIME;
  return newest < NO_TIME && at_ms < newest - MARGIN_MS;
}

/** Keep the id of an event that changed nothing, as long as that of any other. */
export function keepId(state: State, id: string, at_ms: number): State {
  const known = state.ids.find((each) => each[0] === id);
  if ((known && known[1] >= at_ms) || hasForgotten(state, at_ms)) return state;
  return { ...state, ids: [...state.ids.filter((each) => each !== known), [id, at_ms]] };
}

/** Return *state* with all its parts in one group: what the service's stream adds to them is in order. */
export function ungrouped(state: State): State {
  const { grown, message, lost } = state;
  return grown.size ? { ...state, numbered: message.parts, tail: [], grown: NOTHING.grown, lost: lost + unreadableOf(grown) } : state;
}

/** Remove the ids of a message that ended long ago: the drop rule no longer needs them. */
export function withoutIds(state: State): State {
  return state.ids.length ? { ...state, ids: [] } : state;
}

/** Return *state* after *event*. With *isOrdered*, events arrive once and in order, so no ids are kept. */
export function fold(state: State, event: Event, isOrdered = false): State {
  const { message } = state;
  if ((message.role === 'user') !== (event.kind === 'prompt')) return state;
  if (event.edit !== undefined && event.gen === message.through.gen && reaches(state, event)) return edited(state, event);
  if (event.seq === null && hasId(state, event.id)) return state;
  if (message.role === 'user' && !state.isNew) return state;
  const owned = event.gen > message.through.gen ? restarted(state, event.gen)
    : 'client_id' in message ? state
    : { ...state, message: { ...message, client_id: event.client_id } };
  const changed = changedBy(owned, event);
  return counted(changed.old ? changed.state : remember(changed.state, event, isOrdered));
}

/** Return whether the content of the channel message of *event* was folded, edited or not. */
export function reaches({ message }: State, { seq, serial }: Event): boolean {
  const { through, gaps, repaired } = message;
  if (seq === null) return serial !== null && through.serial !== null && serial <= through.serial;
  const isKnown = seq <= (through.seq ?? -1) && !gaps.some(([from, to]) => from <= seq && seq <= to);
  return isKnown || seq <= (repaired ?? -1);
}

/** Return whether *event*, an edit of what *state* contains, changes anything. */
export function changes({ message }: State, { kind, seq, serial, edit = '' }: Event): boolean {
  const isReplaced = message.sealed || (seq !== null && seq <= (message.repaired ?? -1));
  return (isContent(kind) || kind === 'prompt') && !isReplaced && edit > (message.edits?.[serial ?? ''] ?? '');
}

/** Return *state* after an edit of content in it. Only the service can find the place in a text, so text becomes inexact. */
function edited(state: State, event: Event): State {
  const { message } = state;
  if (!changes(state, event) || (event.kind === 'prompt' && event.serial !== message.through.serial)) return state;
  const known = withEdit(state, event);
  if (event.kind !== 'prompt') return counted({ ...known, inexact: true });
  return counted({ ...known, lost: event.unreadable ?? 0, message: { ...known.message, text: event.text ?? '', parts: [] } });
}

function withEdit(state: State, { serial, edit }: Event): State {
  const { message } = state;
  const { edits = {} } = message;
  if (edit === undefined || serial === null) return state;
  const isFull = !(serial in edits) && Object.keys(edits).length >= MOST_EDITS;
  return isFull ? { ...state, inexact: true } : { ...state, message: { ...message, edits: { ...edits, [serial]: edit } } };
}

function unreadableOf(grown: State['grown']): number {
  return grown.size && [...grown.values()].filter((each) => each.unreadable).length;
}

/** Return true if a stop without seq ended it and no content was read: the content may have been ephemeral. */
function mayLackAll({ message, uncounted, numbered, tail, grown }: State): boolean {
  const nothing = !numbered.length && !tail.length && !grown.size && !message.sealed && message.repaired === null;
  return uncounted && nothing && isEnded(message);
}

/** Return *state* with `exact` and `unreadable` of its message updated. */
function counted(state: State): State {
  const { message, lost, grown, inexact } = state;
  const unreadable = lost + unreadableOf(grown);
  const exact = !inexact && !unreadable && !mayLackAll(state);
  return exact === message.exact && unreadable === (message.unreadable ?? 0) ? state : { ...state, message: { ...message, exact, unreadable } };
}

/** Return *state* emptied for the publisher of *gen*, which took the message over. */
function restarted(state: State, gen: number): State {
  const { provisional, sealed, recent_ids, usage, error, edits, ...kept } = state.message;
  const through = { gen, seq: null, serial: null, id: null };
  const empty = { text: '', parts: [], gaps: [], started_at: null, finished_at: null, repaired: null };
  return { ...state, ...NOTHING, message: { ...kept, ...empty, status: 'in_progress', through } };
}

interface Changed {
  readonly state: State;
  /** Nothing was folded, so the event is not recorded either. */
  readonly old?: true;
}

function changedBy(state: State, event: Event): Changed {
  const { message } = state;
  if (event.version !== undefined) return { state: grow(state, event) };
  if (event.kind === 'start') return start(state, event);
  if (event.kind === 'prompt') {
    const text = event.text ?? '';
    return { state: { ...state, message: { ...message, text, status: 'completed', finished_at: time(event.at_ms) } } };
  }
  if (event.kind === 'repair') return { state: repair(state, event) };
  if (event.kind !== 'stop') return { state: add(state, event) };
  const { provisional, error, ...kept } = message;
  const ended: Message = {
    ...kept,
    status: event.status ?? 'completed',
    finished_at: time(event.at_ms),
    ...(event.error != null && { error: event.error }),
    ...(event.usage != null && { usage: event.usage }),
  };
  return { state: { ...state, uncounted: event.seq === null, message: settled(ended) } };
}

function start(state: State, event: Event): Changed {
  const { message, begun } = state;
  if (begun !== null) {                              // two publishers without gens: their seqs collide
    const other = begun && event.id && event.id !== begun && !isEnded(message);
    return { state: other ? { ...state, inexact: true } : state, old: true };
  }
  const prompt_id = message.prompt_id || event.prompt_id || null;
  const changed = { ...message, prompt_id, started_at: time(event.at_ms) };
  return { state: { ...state, begun: event.id || event.serial || '', message: changed } };
}

function add(state: State, event: Event): State {
  const { message, numbered, tail, grown } = state;
  const hasNoStart = event.seq === null && !tail.length && state.begun === null;
  const isMixed = event.seq === null ? !!message.through.seq : hasUnnumbered(state);  // nothing shows their order
  const inexact = state.inexact || hasNoStart || isMixed;
  const next = event.seq === null ? { ...state, inexact, tail: put(tail, event) } : { ...state, inexact };
  if (grown.size || (event.seq !== null && tail.length)) {
    return shown(event.seq === null ? next : { ...next, numbered: addPart(numbered, event) });
  }
  let parts = addPart(message.parts, event);          // the usual case: no group follows it
  if (message.gaps.length && !message.parts.length) {
    parts = parts.map((part) => ({ ...part, gaps: message.gaps.map(([from, to]) => [0, from, to] as const) }));
  }
  return { ...next, numbered: event.seq === null ? numbered : parts, message: { ...message, parts, text: textWith(message, parts, event) } };
}

/** Return whether the message has content without seqs. Of an answer, its position shows that. */
function hasUnnumbered({ message, numbered, tail, ids, isNew }: State): boolean {
  const { through, sealed, repaired } = message;
  const isRead = !isNew && numbered.length > 0 && !sealed && repaired === null;
  return tail.length > 0 || (isRead && (through.seq === null || (through.seq === 0 && ids.length > 0)));
}

/** Return the text of a message whose parts became *parts* by *event*. */
function textWith({ text, parts: before }: Message, parts: readonly Part[], event: Event): string {
  if (parts === before || !isTextKind(event.kind) || event.kind === 'reasoning') return text;
  return parts.at(-1) === before.at(-1) ? textOf(parts) : text + event.text;
}

/** Return *tail* and *event*; consecutive text of one part is one event. */
function put(tail: readonly Event[], event: Event): readonly Event[] {
  const last = tail.at(-1);
  const same = last && (isTextKind(event.kind) || event.kind === 'tool_args') && last.kind === event.kind
    && (last.part ?? null) === (event.part ?? null) && last.tool_call_id === event.tool_call_id;
  return same ? [...tail.slice(0, -1), { ...last, text: (last.text ?? '') + (event.text ?? '') }] : [...tail, event];
}

/** Return *state* with the parts of its groups put together again. */
function shown(state: State): State {
  const growing = [...state.grown].sort(([a], [b]) => (a < b ? -1 : 1)).flatMap(([, { part }]) => part ?? []);
  const parts = [...state.tail.reduce(addPart, state.numbered), ...growing];
  return { ...state, message: settled({ ...state.message, parts, text: textOf(parts) }) };
}

function textOf(parts: readonly Part[]): string {
  return parts.map((part) => (part.type === 'text' || part.type === 'refusal' ? part.text : '')).join('');
}

function addPart(parts: readonly Part[], event: Event): readonly Part[] {
  if (isTextKind(event.kind)) return addText(parts, TEXT_TYPES[event.kind], event.part ?? null, event.text ?? '');
  return event.kind.startsWith('tool_') ? addToCall(parts, event) : parts;
}

function addText(parts: readonly Part[], type: TextPart['type'], name: string | null, text: string): readonly Part[] {
  if (!text) return parts;
  const fits = (part: Part | undefined): part is TextPart => part?.type === type && (part.part ?? null) === name;
  const at = name === null ? parts.length - 1 : parts.findIndex(fits);
  const known = parts[at];
  if (!fits(known)) return [...parts, { type, text, ...(name !== null && { part: name }) }];
  return parts.with(at, { ...known, text: known.text + text });
}

function addToCall(parts: readonly Part[], event: Event): readonly Part[] {
  const tool_call_id = event.tool_call_id ?? '';
  if (event.kind === 'tool_args' && !event.text) return parts;
  const at = parts.findIndex((part) => part.type === 'tool_call' && part.tool_call_id === tool_call_id);
  const known = parts[at] as ToolCallPart | undefined;
  const call = known ?? { type: 'tool_call', tool_call_id, name: null, args: '', result: null, status: 'in_progress' } as ToolCallPart;
  const name = event.name ?? call.name;
  let changed: ToolCallPart;
  if (event.kind === 'tool_call') changed = { ...call, name, args: event.args, status: 'in_progress' };
  else if (event.kind === 'tool_result') changed = { ...call, name, result: event.result, status: event.status === 'failed' ? 'failed' : 'completed' };
  else if (typeof call.args === 'string') changed = { ...call, args: call.args + event.text };
  else return parts;
  return known ? parts.with(at, changed) : [...parts, changed];
}

function repair(state: State, event: Event): State {
  const { message } = state;
  const upto = event.seq ?? message.through.seq;
  const sealed = state.grown.size > 0 || upto === null;
  const numbered = (event.parts ?? []).reduce(replacePart, [] as readonly Part[]);
  const { sealed: _, ...kept } = message;
  const changed = { ...kept, parts: numbered, text: textOf(numbered), repaired: upto ?? message.repaired, ...(sealed && { sealed: true as const }) };
  return { ...state, numbered, tail: [], grown: NOTHING.grown, lost: 0, inexact: false, message: changed };
}

/** Return *parts* and *part*, which is one of a repair: section 6.6. */
function replacePart(parts: readonly Part[], part: Part): readonly Part[] {
  if (part.type !== 'tool_call') return addText(parts, part.type, part.part ?? null, part.text);
  const { tool_call_id, name, args, result, status } = part;
  const place = { tool_call_id, name } as Event;
  const began = addToCall(parts, { ...place, kind: 'tool_call', args });
  if (result != null) return addToCall(began, { ...place, kind: 'tool_result', result, status: status === 'failed' ? status : 'completed' });
  return began.map((each) => (each.type === 'tool_call' && each.tool_call_id === tool_call_id ? { ...each, status } : each));
}

/** Apply a version: for a channel message that grows, the greatest version replaces the others (section 6.9). */
function grow(state: State, event: Event): State {
  const [serial, version, text] = [event.serial ?? '', event.version ?? '', event.text ?? ''];
  const unreadable = !!event.unreadable;
  const through = { serial, version, ...(unreadable && { unreadable: true as const }) };
  const part: Part | null = text || unreadable ? { type: 'text', text, part: serial, through } : null;
  const next = shown({ ...state, grown: new Map(state.grown).set(serial, { version, part, unreadable }) });
  if (!event.status || isEnded(state.message)) return next;
  const { provisional, ...kept } = next.message;
  const finished_at = time(serialTime(version) ?? event.at_ms);
  return { ...next, message: settled({ ...kept, status: event.status, finished_at }) };
}

/** Return the message with the statuses of its tool calls adapted to its own status: section 6.5. */
function settled(message: Message): Message {
  const [from, to] = message.status === 'in_progress' ? ['incomplete', 'in_progress'] : ['in_progress', 'incomplete'];
  const parts = message.parts.map((part) => (part.type === 'tool_call' && part.status === from ? { ...part, status: to } as ToolCallPart : part));
  return { ...message, parts };
}

/** Update the state's record of its events: position, serial, seq, ids. */
function remember(state: State, event: Event, isOrdered: boolean): State {
  let { message, ids, inexact } = state;
  const lost = state.lost + (event.version === undefined ? event.unreadable ?? 0 : 0);
  const { through } = message;
  const later = event.serial !== null && !(through.serial !== null && event.serial <= through.serial);
  const serial = later ? event.serial : through.serial;
  message = {
    ...message,
    started_at: message.started_at ?? time(event.at_ms),
    through: {
      gen: through.gen,
      seq: event.seq === null ? through.seq : Math.max(event.seq, through.seq ?? 0),
      serial,
      id: event.version === undefined || event.serial === serial ? event.id : through.id,
    },
  };
  if (message.provisional && event.kind !== 'stop') {
    const { provisional, ...kept } = message;
    message = settled({ ...kept, status: 'in_progress', finished_at: null });
  }
  if (!isOrdered && (event.seq === null || message.anonymous) && event.kind !== 'prompt' && event.version === undefined) {
    inexact ||= event.id === null && event.serial === null && isContent(event.kind);
    if (event.id !== null) ids = [...ids, [event.id, event.at_ms]];
    const kept = ids.findIndex(([, at_ms], at) => at_ms >= event.at_ms - MARGIN_MS && ids.length - at <= MOST_IDS);
    const forgotten = kept < 0 ? ids.length : kept;
    inexact ||= forgotten > 0 && event.serial === null && event.seq === null;
    if (forgotten) ids = ids.slice(forgotten);
  }
  return withEdit({ ...state, message, ids, inexact, lost }, event);
}

function time(at_ms: number): string | null {
  const date = new Date(at_ms);
  return Number.isNaN(+date) ? null : date.toISOString();
}

/** Return the time that *serial* begins with, in ms since 1970; null: it has another form. */
export function serialTime(serial: string): number | null {
  return /^\d{14}/.test(serial) ? parseInt(serial, 10) : null;
}
