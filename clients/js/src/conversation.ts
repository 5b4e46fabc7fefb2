// A conversation as a reader shows it: an answer, taken further by channel messages or stream events.
//
// The drop rule (docs/protocol.md section 9) decides what a live event means to a reader that has an
// answer: drop it, apply it, or hydrate again. `verdict` is the table of section 9.5; comments give the
// rows. Identity comes first (owner, gen, id): an event of another publisher, or one that was already
// seen, must have no effect, not even a new hydrate. A reader never fills a gap by itself: the event may
// be one of several that are missing, and a new answer has the others too.

import { decode, isContent, isId, type ChannelMessage, type Event } from './event.js';
import {
  begin, changes, fold, hasForgotten, hasId, isEnded, keepId, MARGIN_MS, reaches, serialTime, stateOf, ungrouped, withoutIds,
  type State,
} from './fold.js';
import { asAnswer, type Answer, type ErasedStream, type Message, type Reason } from './wire.js';

const MOST_CHAINS = 2000;
const MOST_CHAINED = 16_777_216;
const MOST_OPEN = 2000;
const MOST_REPLAYS = 1000;

export type Verdict = 'drop' | 'apply' | 'again';

interface Fields {
  readonly states: readonly State[];
  readonly older: string | null;
  readonly complete: boolean;
  readonly reasons: readonly Reason[];
  readonly agents: readonly string[];
  /** Names of channel messages that mean `token`. */
  readonly tokenNames: readonly string[];
  /** Everything published at or before this time was erased, in ms since 1970; NaN: nothing was. */
  readonly erasedToMs: number;
  readonly erasedIds: ReadonlySet<string>;
  /** The anonymous stream that the erasure cut; null: none is known. */
  readonly erasedStream: ErasedStream | null;
  readonly replays: ReadonlySet<string>;
  /** Channel messages that grow, as this attachment delivered them, by serial; appends are merged. */
  readonly chains: ReadonlyMap<string, Event>;
  /** The message of each channel message that grows, by serial, even after a repair has replaced the part. */
  readonly messageOfSerial: ReadonlyMap<string, string>;
}

/** Return the erased anonymous stream as known after *event*, and whether *event* belongs to it: section 9.1. */
function cut({ erasedStream: stream, erasedToMs, erasedIds }: Fields, event: Event): { erasedStream: ErasedStream | null; isErased: boolean } {
  const at = event.serial ?? inserted(event.at_ms, 0);
  const isCovered = event.at_ms <= erasedToMs || erasedIds.has(event.prompt_id ?? '');
  const begins = event.kind === 'start' && !isCovered;
  if (stream && at <= stream.through && !(stream.open && event.kind === 'stop')) return { erasedStream: stream, isErased: !begins };
  if (begins) return { erasedStream: stream && { ...stream, open: false }, isErased: false };
  if (!isCovered && !stream?.open) return { erasedStream: stream, isErased: false };
  return { erasedStream: { through: stream && stream.through > at ? stream.through : at, open: event.kind !== 'stop' }, isErased: true };
}

/** The messages of a conversation. Immutable: a message that an event changed is a new object, and every
 * other message stays the same object. */
export class Conversation {
  /** No messages: what to show before the first answer. */
  static readonly empty = new Conversation({
    states: [], older: null, complete: false, reasons: [], agents: [], tokenNames: [], erasedToMs: NaN, erasedIds: new Set(), erasedStream: null, replays: new Set(), chains: new Map(), messageOfSerial: new Map(),
  });

  readonly #fields: Fields;
  readonly #messages: readonly Message[];

  private constructor(fields: Fields, messages = fields.states.map((state) => state.message)) {
    this.#fields = fields;
    this.#messages = messages;
  }

  /** Return the conversation that *answer*, the parsed body of `GET /v1/conversations/{id}`, shows. */
  static of(answer: Answer): Conversation {
    const { older, complete, reasons, agents, erased_to, erased_ids, erased_stream, token_names } = asAnswer(answer);
    const states = answer.messages.map(stateOf);
    const messageOfSerial = new Map(states.flatMap(({ grown, message }) => [...grown.keys()].map((serial) => [serial, message.id] as const)));
    return new Conversation({
      ...Conversation.empty.#fields, states, messageOfSerial, complete, reasons, older: older ?? null, agents: agents ?? [], tokenNames: token_names ?? [],
      erasedToMs: Date.parse(erased_to ?? ''), erasedIds: new Set(erased_ids), erasedStream: erased_stream ?? null,
    });
  }

  /** The messages: those of the answer, then new ones in the order in which they arrived. */
  get messages(): readonly Message[] {
    return this.#messages;
  }

  /** Whether it shows an answer: false before the first one. */
  get hasAnswer(): boolean {
    return this !== Conversation.empty;
  }

  /** A cursor for the page of older messages; null: there are none. */
  get older(): string | null {
    return this.#fields.older;
  }

  /** Whether the answer was complete: every message was exact and had no gaps. */
  get complete(): boolean {
    return this.#fields.complete;
  }

  /** Why the answer may lack something. With `retry`, hydrating again can help. */
  get reasons(): readonly Reason[] {
    return this.#fields.reasons;
  }

  get(id: string): Message | undefined {
    return this.#messages.find((message) => message.id === id);
  }

  /** Return the conversation after a live channel message of any Ably SDK for JavaScript; this one if it
   * changes nothing; null if something is missing: hydrate again, with a new attach. */
  apply(message: ChannelMessage): Conversation | null {
    const event = this.decode(message);
    return event === null ? this : this.applyEvent(event);
  }

  /** Return the event that *message* means in this conversation; null: it is not an event. */
  decode(message: ChannelMessage): Event | null {
    return decode(message, this.#fields.tokenNames);
  }

  /** As `apply`, with a decoded message. */
  applyEvent(event: Event): Conversation | null {
    if (this.#isCut(event)) {
      const { isErased, ...known } = cut(this.#fields, event);
      const next = known.erasedStream === this.#fields.erasedStream ? this : this.#with(known);
      return isErased ? next : next.#applyPermitted(event);
    }
    return this.#isErased(event) ? this.#erase(event.message_id) : this.#applyPermitted(event);
  }

  #applyPermitted(event: Event): Conversation | null {
    const { agents } = this.#fields;
    if (event.kind === 'cancel' || (agents.length && event.kind !== 'prompt' && !agents.includes(event.client_id ?? ''))) return this;
    if (event.replay_of != null) return this.#applyReplay(event);
    if (event.version === undefined || event.serial === null) return this.#apply(event);
    const base = this.#fields.chains.get(event.serial);
    if (!base && event.is_delta) return this.#nameOf(event) === null ? this : null;
    if (base && event.version <= (base.version ?? '')) return this.#apply(base);
    const whole = base ? after(base, event) : event;
    return this.#with({ chains: chained(this.#fields.chains, event.serial, whole) }).#apply(whole);
  }

  /** Return the conversation after an event of the service's stream, which needs no drop rule. */
  follow(event: Event): Conversation {
    const at = this.#indexOf(event.message_id ?? '');
    const state = ungrouped(this.#fields.states[at] ?? begin(event.message_id ?? '', event));
    if (event.kind === 'stop' && isEnded(state.message)) return this;
    const changed = fold(state, event, true);
    return changed === state ? this : this.#put(at, changed);
  }

  /** Return the conversation with *answer*, the page before it, in front. */
  withOlder(answer: Answer): Conversation {
    const { older, messages } = asAnswer(answer);
    const page = messages.map(stateOf);
    const ids = new Set(messages.map((message) => message.id));
    const known = new Map(this.#fields.states.filter((state) => !state.isNew).map((state) => [state.message.id, state]));
    const rest = this.#fields.states.filter((state) => !ids.has(state.message.id));
    return this.#with({ states: [...page.map((state) => known.get(state.message.id) ?? state), ...rest], older: older ?? null });
  }

  /** Return this conversation, of a newer answer, with the older pages that *before* shows, if the two
   * overlap, that is, share a finished message. Otherwise there may be other messages between them. */
  withPagesOf(before: Conversation): Conversation {
    const ids = new Set(this.#messages.map((message) => message.id));
    const finished = new Set(this.#messages.filter(isEnded).map((message) => message.id));
    const seam = before.#fields.states.findIndex(({ message, isNew }) => finished.has(message.id) && !isNew);
    const pages = before.#fields.states.slice(0, Math.max(0, seam)).filter(({ message }) => isEnded(message) && !ids.has(message.id));
    if (!pages.length) return this;
    const order = new Map(before.#messages.map((message, at) => [message.id, at]));
    const open = this.#fields.states.filter(({ message }) => (order.get(message.id) ?? seam) < seam);
    const front = [...pages, ...open].sort((a, b) => (order.get(a.message.id) ?? 0) - (order.get(b.message.id) ?? 0));
    return this.#with({ states: [...front, ...this.#fields.states.filter((state) => !open.includes(state))], older: before.older });
  }

  #with(fields: Partial<Fields>): Conversation {
    return new Conversation({ ...this.#fields, ...fields }, fields.states ? undefined : (this.#messages as Message[]));
  }

  #indexOf(id: string): number {
    return this.#messages.findLastIndex((message) => message.id === id);
  }

  #put(at: number, state: State, more: Partial<Fields> = {}): Conversation {
    const { states } = this.#fields;
    const [all, messages] = at < 0 ? [[...states, state], [...this.#messages, state.message]] : [states.with(at, state), this.#messages.with(at, state.message)];
    return new Conversation({ ...this.#fields, ...more, states: all }, messages);
  }

  /** Return whether only the place of *event* can show that it was erased with its stream: section 9.1. */
  #isCut({ kind, message_id, replay_of, version }: Event): boolean {
    return !Number.isNaN(this.#fields.erasedToMs) && message_id === null && version === undefined && replay_of == null && kind !== 'cancel';
  }

  /** Return whether *event* was erased, or belongs to a message with another erased event: section 9.1. */
  #isErased({ at_ms, message_id, prompt_id, replay_of }: Event): boolean {
    const { erasedToMs, erasedIds } = this.#fields;
    if (Number.isNaN(erasedToMs)) return false;
    return at_ms <= erasedToMs || [message_id, prompt_id, replay_of].some((id) => erasedIds.has(id ?? ''));
  }

  /** Record that a message which is not in this conversation was erased: so are its later events. */
  #erase(id: string | null): Conversation {
    const { erasedIds } = this.#fields;
    return id === null || erasedIds.has(id) || this.#indexOf(id) >= 0 ? this : this.#with({ erasedIds: new Set([...erasedIds, id]) });
  }

  #applyReplay(event: Event): Conversation | null {
    const { replays } = this.#fields;
    const id = event.message_id;
    if (id === null || (event.kind !== 'start' && !replays.has(id))) return this;
    const known = event.kind === 'start' ? this.#with({ replays: new Set([...replays, id].slice(-MOST_REPLAYS)) }) : this;
    return known.#apply({ ...event, replay_of: null });
  }

  #apply(event: Event): Conversation | null {
    const at = this.#find(event);
    if (at === FORGOTTEN) return this;
    const state = this.#fields.states[at];
    const decision = verdict(state, event);
    if (decision === 'again') return null;
    const before = state ?? this.#begin(event);
    if (!before) return this;
    if (!state && before.message.role === 'assistant' && this.#messages.filter((each) => each.status === 'in_progress').length >= MOST_OPEN) return null;
    const changed = decision === 'apply' ? fold(before, event) : before;
    if (changed.message === state?.message || decision === 'drop') return this.#noteDropped(at, changed, event);
    const messageOfSerial = event.version === undefined ? this.#fields.messageOfSerial
      : new Map(this.#fields.messageOfSerial).set(event.serial ?? '', before.message.id);
    const kept = state ? this : this.#forgetIds(event);
    return kept.#put(at, changed, { messageOfSerial });
  }

  /** Keep the id of an event that changed nothing, if only the id shows that a repeat is not new. */
  #noteDropped(at: number, state: State, event: Event): Conversation {
    const { id, serial, seq, at_ms } = event;
    const isPlaced = serial !== null && seq === null;
    const noted = id === null || isPlaced || !(state.message.anonymous || hasId(state, id)) ? state : keepId(state, id, at_ms);
    if (at < 0 || noted === this.#fields.states[at]) return this;
    return new Conversation({ ...this.#fields, states: this.#fields.states.with(at, noted) }, this.#messages as Message[]);
  }

  /** Remove the ids of messages that ended long before *event*, so that they are not kept forever. */
  #forgetIds(event: Event): Conversation {
    const isOver = ({ message }: State) => !message.anonymous && isEnded(message) && Date.parse(message.finished_at ?? '') < event.at_ms - 2 * MARGIN_MS;
    return this.#with({ states: this.#fields.states.map((state) => (isOver(state) ? withoutIds(state) : state)) });
  }

  /** Return the id of the message that a channel message that grows belongs to. */
  #nameOf(event: Event): string | null {
    return this.#fields.messageOfSerial.get(event.serial ?? '') ?? event.message_id;
  }

  /** Return the index of the message of *event*; -1: it begins one, or `FORGOTTEN`. */
  #find(event: Event): number {
    if (event.version !== undefined) return this.#indexOf(this.#nameOf(event) ?? '');
    return event.message_id === null ? this.#findAnonymous(event) : this.#indexOf(event.message_id);
  }

  /** The anonymous messages, in the order of their positions. */
  get #anonymous(): State[] {
    const place = ({ message }: State) => message.position ?? '';
    return this.#fields.states.filter(({ message }) => message.anonymous).sort((a, b) => (place(a) < place(b) ? -1 : +(place(a) > place(b))));
  }

  /** Find the message of an event without responseId by its place in the channel: section 9.4. */
  #findAnonymous(event: Event): number {
    const known = this.#anonymous;
    if (!known.length) return -1;
    const startsBefore = (serial: string) => known.filter(({ message }) => (message.position ?? '') <= serial).length;
    const index = (state: State | undefined) => (state ? this.#fields.states.indexOf(state) : -1);
    const near = known.slice(Math.max(0, startsBefore(reachBack(event)) - 1));
    const own = near.find((state) => holds(state, event));  // step 2
    if (own) return index(own);
    if (event.serial === null) {                             // step 3
      const last = known.at(-1) as State;
      if (event.at_ms < lastKnownTime(last.message) - MARGIN_MS) return FORGOTTEN;
      if (!isOver(last, event)) return index(last);
      return hasForgotten(last, event.at_ms) ? FORGOTTEN : -1;
    }
    const count = startsBefore(event.serial);                // steps 4 and 5
    if (event.kind === 'start' && known[count]?.begun === null) return FORGOTTEN;
    if (!count) return event.kind === 'start' && this.#fields.older === null ? -1 : FORGOTTEN;
    const last = known[count - 1] as State;
    const { serial } = last.message.through;
    if (serial !== null && event.serial <= serial) return index(last);
    return isOver(last, event) ? -1 : index(last);           // steps 6 and 7
  }

  /** Return the message that *event* begins; null: it has no id that no other message has. */
  #begin(event: Event): State | null {
    if (event.version !== undefined && event.message_id === null) return null;
    const own = isId(event.id) ? [event.id] : [];
    const other = event.serial ?? (own.length ? inserted(event.at_ms, 0) : null);
    const names = event.message_id !== null ? [event.message_id] : [...own, ...(other === null ? [] : [other])];
    const id = names.find((name) => this.#indexOf(name) < 0);
    if (id === undefined) return null;
    return event.message_id === null ? begin(id, event, event.serial ?? this.#place(event)) : begin(id, event);
  }

  /** Return a position, after all others, for an anonymous message without a serial. */
  #place(event: Event): string {
    const position = inserted(event.at_ms, this.#messages.length);
    const newest = this.#anonymous.at(-1)?.message.position ?? '';
    return position > newest ? position : `${newest}+`;
  }
}

/** Sentinel: the event's message is no longer tracked. It has ended, so the event is dropped. */
const FORGOTTEN = -2;

/** Return the effect of *event* on *state*, the reader's message that it belongs to: section 9.5. */
function verdict(state: State | undefined, event: Event): Verdict {
  const { kind, seq, serial } = event;
  const isPointer = kind === 'repair' && !event.parts;
  const onNew: Verdict = !isPointer && (seq === null || kind === 'repair' || seq <= 1) ? 'apply' : 'again';
  if (!state) return onNew;                                                          // row 1
  const { through, gaps, repaired, client_id, sealed } = state.message;
  const ended = isEnded(state.message);
  if (client_id === undefined ? ended : client_id !== event.client_id) return 'drop';  // rows 2, 3
  if (event.gen < through.gen) return 'drop';                                        // row 4
  if (event.gen > through.gen) return ended ? 'drop' : onNew;                        // row 5
  if (event.edit !== undefined && reaches(state, event)) return changes(state, event) ? 'apply' : 'drop';  // section 3.8
  if (seq === null && hasId(state, event.id)) return 'drop';                                         // row 6
  if (event.version !== undefined) {                                                 // row 7
    return sealed || event.version <= (state.grown.get(serial ?? '')?.version ?? '') ? 'drop' : 'apply';
  }
  const isOld = serial === null ? hasForgotten(state, event.at_ms) : !!through.serial && serial <= through.serial;
  const last = through.seq ?? -1;
  if (kind === 'repair') {
    if (seq === null ? isOld : seq <= (repaired ?? -1)) return 'drop';               // rows 8, 9
    if (seq !== null && seq < last) return 'again';                                  // row 10
    return isPointer || ended || gaps.length ? 'again' : 'apply';                    // row 11
  }
  if (seq !== null && gaps.some(([from, to]) => from <= seq && seq <= to)) return 'again';  // row 12
  if (ended) return 'drop';                                                          // row 13
  if (kind === 'stop' && gaps.length) return 'again';                                // row 14
  if (seq === null) return isOld || (sealed && isContent(kind)) ? 'drop' : 'apply';   // rows 15 to 17
  if (seq <= last) return kind === 'stop' ? 'again' : 'drop';                        // row 18
  return seq <= Math.max(last, 0) + 1 ? 'apply' : 'again';                           // rows 19, 20
}

/** Return the whole channel message that *event* makes of *base*: section 9.3. */
function after(base: Event, event: Event): Event {
  const isNamed = event.message_id !== null && event.message_id !== event.serial;
  const made = isNamed ? event : { ...base, id: event.id, status: event.status, version: event.version };
  const unreadable = Math.max((event.is_delta && base.unreadable) || 0, event.unreadable ?? 0);
  const text = (event.is_delta ? base.text ?? '' : '') + (event.text ?? '');
  return { ...made, text: unreadable ? '' : text, is_delta: false, unreadable };
}

/** Return *chains* with *event* as the newest; the least recently updated one is removed first. */
function chained(chains: ReadonlyMap<string, Event>, serial: string, event: Event): ReadonlyMap<string, Event> {
  const made = new Map(chains);
  made.delete(serial);
  made.set(serial, event);
  let characters = 0;
  for (const { text } of made.values()) characters += text?.length ?? 0;
  for (const [oldest, { text }] of made) {
    if (made.size === 1 || (made.size <= MOST_CHAINS && characters <= MOST_CHAINED)) break;
    made.delete(oldest);
    characters -= text?.length ?? 0;
  }
  return made;
}

/** Return a position for a message without a serial: it compares with serials as text. */
function inserted(at_ms: number, index: number): string {
  return `${String(at_ms).padStart(14, '0')}-${String(index).padStart(6, '0')}@inserted`;
}

/** Return the position from which on messages may contain *event*, an anonymous one. */
function reachBack({ serial, at_ms }: Event): string {
  const since = serial === null ? at_ms : serialTime(serial);
  return since === null ? serial ?? '' : inserted(Math.max(0, since - 2 * MARGIN_MS), 0);
}

/** Return whether *state* still has the id of *event* among those that identify its events. */
function holds(state: State, { id, at_ms }: Event): boolean {
  if (id === null || !(id === state.message.id || hasId(state, id))) return false;
  const { status, finished_at } = state.message;
  return status === 'in_progress' || finished_at === null || at_ms <= Date.parse(finished_at) + MARGIN_MS;
}

/** Return a time at or before that of the last event of *message*. */
function lastKnownTime(message: Message): number {
  const ended = isEnded(message) && message.finished_at !== null;
  return ended ? Date.parse(message.finished_at ?? '') : serialTime(message.position ?? '') ?? 0;
}

/** Return whether *event* does not continue *state*, an anonymous message: step 6 of section 9.4. */
function isOver({ message }: State, event: Event): boolean {
  if (isEnded(message) || event.kind === 'start') return true;
  const differ = isContent(event.kind) && (event.seq === null) !== (message.through.seq === null);
  return differ && message.parts.length > 0;
}
