// A joined conversation that several components of a page share: its state, its listeners and its lifetime.

import { Conversation } from './conversation.js';
import type { Event } from './event.js';
import { Problem, Requests, type Query, type RequestOptions } from './load.js';
import type { Message } from './wire.js';

/** Whether the messages are up to date. `failed`: a new join is needed. */
export type JoinStatus = 'connecting' | 'live' | 'recovering' | 'failed' | 'closed';

/** The state of a joined conversation. It is a new object after each change. */
export interface Snapshot {
  readonly messages: readonly Message[];
  readonly conversation: Conversation;
  readonly status: JoinStatus;
  /** Why the status is not `live`. */
  readonly error: Problem | null;
}

export interface JoinOptions extends RequestOptions {
  /** Called on each change. An error that it throws is reported like any uncaught error, and has no effect here. */
  readonly onChange?: ((snapshot: Snapshot) => void) | undefined;
  /** Called with each event that changed a message. */
  readonly onEvent?: ((event: Event) => void) | undefined;
  /** Closes the joined conversation when it aborts. */
  readonly signal?: AbortSignal | undefined;
}

const MOST_PAUSE_MS = 5000;
const STEADY_MS = 10_000;
const MOST_TRIES = 10;

/** Call *listener*; an error that it throws is the page's: it is reported, and has no effect here. */
function call<Value>(listener: ((value: Value) => void) | undefined, value: Value): void {
  try {
    listener?.(value);
  } catch (error) {
    if (typeof reportError === 'function') reportError(error);
    else queueMicrotask(() => { throw error; });
  }
}

/** The part of a shared conversation that all transports have. A subclass runs it until `closing` aborts. */
export abstract class Session {
  readonly joined = new Set<Joined>();
  /** The number of channel messages or stream events of a kind that this version does not know. */
  ignored = 0;
  snapshot: Snapshot = { messages: [], conversation: Conversation.empty, status: 'connecting', error: null };
  protected readonly closing = new AbortController();
  protected readonly requests: Requests;
  #tries = 0;
  #liveSince = 0;
  #hasBegun = false;
  #older: Promise<boolean> | null = null;

  constructor(options: JoinOptions) {
    this.requests = new Requests(options);
  }

  protected abstract load(query: Query): Promise<unknown>;
  /** Start again after a failure. */
  abstract restart(): void;
  protected abstract end(): void;

  get isClosed(): boolean {
    return this.closing.signal.aborted;
  }

  /** Show *change* to all joined components. */
  protected show(change: Partial<Snapshot>): void {
    if (this.isClosed) return;
    const { conversation = this.snapshot.conversation } = change;
    const { messages } = conversation;
    this.snapshot = { ...this.snapshot, ...change, messages };
    for (const joined of [...this.joined]) joined.changed(this.snapshot);
  }

  protected showLive(conversation: Conversation): void {
    this.#hasBegun = true;
    this.#liveSince = Date.now();
    this.show({ conversation, status: 'live', error: null });
  }

  /** Show *conversation*, which *event* changed. */
  protected showEvent(conversation: Conversation, event: Event): void {
    if (conversation.messages === this.snapshot.messages) {
      this.snapshot = { ...this.snapshot, conversation };
      return;
    }
    this.show({ conversation });
    for (const joined of [...this.joined]) joined.received(event);
  }

  /** Show that the messages may be out of date, and why. */
  protected showLost(error: Problem | null = this.snapshot.error): void {
    this.show({ status: this.#hasBegun ? 'recovering' : 'connecting', error });
  }

  protected fail(error: Problem): void {
    this.#tries = 0;
    this.show({ status: 'failed', error });
  }

  /** Wait before the next attempt. The first one is immediate; then the pause grows, until the conversation has
   * been live for a while. */
  protected async pause(atLeastMs = 0): Promise<void> {
    if (this.#liveSince && Date.now() - this.#liveSince > STEADY_MS) this.#tries = 0;
    this.#liveSince = 0;
    const tries = this.#tries++;
    const pauseMs = tries ? Math.min(MOST_PAUSE_MS, 100 * 2 ** tries) * (0.5 + Math.random()) : 0;
    await this.wait(Math.max(pauseMs, atLeastMs));
  }

  /** Wait for the given time, or until this is closed. */
  protected wait(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const { signal } = this.closing;
      const done = () => {
        clearTimeout(timer);
        signal.removeEventListener('abort', done);
        resolve();
      };
      const timer = setTimeout(done, ms);
      signal.addEventListener('abort', done);
    });
  }

  /** Show *error*, and return whether another attempt may help. */
  protected async mayRetry(error: unknown): Promise<boolean> {
    const problem = Problem.of(error);
    const renewed = await this.requests.renew(problem).catch(() => false);
    if (this.isClosed) return false;
    if (!renewed && (problem.isFinal || (!this.#hasBegun && this.#tries > MOST_TRIES))) {
      this.fail(problem);
      return false;
    }
    this.showLost(problem);
    if (problem.retryAfterMs) await this.wait(problem.retryAfterMs);
    return !this.isClosed;
  }

  /** Add the page of messages before those that are shown; return whether there was one. */
  loadOlder(): Promise<boolean> {
    return (this.#older ??= this.#loadOlder().finally(() => { this.#older = null; }));
  }

  async #loadOlder(): Promise<boolean> {
    const before = this.snapshot.conversation.older;
    if (before === null || this.isClosed) return false;
    const answer = await this.requests.answer((signal) => this.load({ before, signal }), this.closing.signal);
    const { conversation } = this.snapshot;
    if (this.isClosed || conversation.older !== before) return false;  // hydrated again meanwhile
    this.show({ conversation: conversation.withOlder(answer) });
    return true;
  }

  add(joined: Joined): void {
    this.joined.add(joined);
    if (this.snapshot.status === 'failed') this.restart();
  }

  /** Remove *joined*. The session ends unless there is a new join at once, as from React in strict mode. */
  remove(joined: Joined): void {
    this.joined.delete(joined);
    if (this.joined.size) return;
    setTimeout(() => {
      if (this.joined.size || this.isClosed) return;
      this.closing.abort();
      this.end();
    });
  }
}

/** A conversation that was joined. Several of one channel share one attach and one hydrate. */
export class Joined {
  #snapshot: Snapshot;
  readonly #listeners = new Set<() => void>();
  #closed = false;
  #ready!: { readonly resolve: () => void; readonly reject: (error: unknown) => void };
  /** Resolves when the status first becomes `live`; rejects if the join fails. */
  readonly ready: Promise<void>;

  constructor(private readonly session: Session, private readonly options: JoinOptions) {
    this.#snapshot = session.snapshot;
    this.ready = new Promise((resolve, reject) => { this.#ready = { resolve, reject }; });
    this.ready.catch(() => {});                      // the status shows the failure too
    options.signal?.addEventListener('abort', this.close, { once: true });
    session.add(this);
    if (options.signal?.aborted) this.close();
    else if (session.snapshot.conversation.hasAnswer) {
      queueMicrotask(() => this.#closed || this.changed(session.snapshot));
    }
  }

  get snapshot(): Snapshot {
    return this.#snapshot;
  }

  get messages(): readonly Message[] {
    return this.#snapshot.messages;
  }

  get status(): JoinStatus {
    return this.#snapshot.status;
  }

  get error(): Problem | null {
    return this.#snapshot.error;
  }

  /** How many channel messages or events were ignored because their kind is unknown. */
  get ignored(): number {
    return this.session.ignored;
  }

  /** Call *listener* on each change; returns a function that unsubscribes it. */
  subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => { this.#listeners.delete(listener); };
  };

  /** Add the page of older messages; resolves to false if there is none, and rejects if it cannot be read. */
  loadOlder = (): Promise<boolean> => (this.#closed ? Promise.resolve(false) : this.session.loadOlder());

  /** Leave the conversation. No callback is called after that. */
  close = (): void => {
    if (this.#closed) return;
    this.#closed = true;
    this.options.signal?.removeEventListener('abort', this.close);
    this.#snapshot = { ...this.#snapshot, status: 'closed' };
    this.#ready.reject(new Problem('the conversation was closed'));
    this.#listeners.clear();
    this.session.remove(this);
  };

  /** @internal */
  changed(snapshot: Snapshot): void {
    this.#snapshot = snapshot;
    if (snapshot.status === 'live') this.#ready.resolve();
    if (snapshot.status === 'failed') this.#ready.reject(snapshot.error);
    call(this.options.onChange, snapshot);
    for (const listener of [...this.#listeners]) call(listener, undefined);
  }

  /** @internal */
  received(event: Event): void {
    call(this.options.onEvent, event);
  }
}
