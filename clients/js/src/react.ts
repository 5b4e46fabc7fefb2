// React: `useConversation` joins a conversation, and `useMessage` returns one message. A component that reads
// `messages` renders on each change. One that reads only `ids` renders when a message is added or removed, so
// a token renders only the component of its message.

import type { RealtimeChannel } from 'ably';
import { createContext, createElement, useCallback, useContext, useMemo, useRef, useSyncExternalStore, type ReactNode } from 'react';
import { join, type AblyJoinOptions } from './ably.js';
import { Conversation } from './conversation.js';
import type { Problem } from './load.js';
import type { Joined, JoinOptions, JoinStatus, Snapshot } from './session.js';
import { follow } from './sse.js';
import type { Message } from './wire.js';

/** A prompt that the user sends. */
export interface Prompt {
  readonly id: string;
  readonly text: string;
}

export interface ConversationOptions extends AblyJoinOptions {
  /** Sends a prompt; by default it is published on the channel as `user-input`. Required without a channel. */
  readonly onSend?: ((prompt: Prompt) => Promise<unknown> | unknown) | undefined;
  /** Stops a response; by default `cancel` is published on the channel. Required without a channel. */
  readonly onCancel?: ((responseId: string) => Promise<unknown> | unknown) | undefined;
}

export interface UsedConversation {
  readonly messages: readonly Message[];
  readonly ids: readonly string[];
  readonly status: JoinStatus;
  readonly error: Problem | null;
  /** Whether `loadOlder` can add messages. */
  readonly hasOlder: boolean;
  readonly loadOlder: () => Promise<boolean>;
  /** Send a prompt; resolves to its id. Sending it again with the same id has no further effect. */
  readonly send: (text: string, id?: string) => Promise<string>;
  /** Stop a response, by default all that are in progress. */
  readonly cancel: (responseId?: string) => Promise<void>;
  /** @internal */
  readonly store: Store;
}

const NOTHING: Snapshot = { messages: [], conversation: Conversation.empty, status: 'connecting', error: null };

interface Outline {
  readonly ids: readonly string[];
  readonly status: JoinStatus;
  readonly error: Problem | null;
  readonly hasOlder: boolean;
}

/** The joined conversation of a component; it stays the same across renders. */
class Store {
  #joined: Joined | null = null;
  #outline: Outline = { ids: [], status: 'connecting', error: null, hasOlder: false };
  readonly #listeners = new Set<() => void>();
  options: ConversationOptions = {};

  constructor(readonly source: RealtimeChannel | string | null) {}

  get snapshot(): Snapshot {
    return this.#joined?.snapshot ?? NOTHING;
  }

  /** The part that changes only when a message is added or removed, or the status changes. */
  get outline(): Outline {
    const { messages, status, error, conversation } = this.snapshot;
    const { ids } = this.#outline;
    const hasOlder = conversation.older !== null;
    const same = ids.length === messages.length && messages.every((message, at) => message.id === ids[at]);
    if (!same || status !== this.#outline.status || error !== this.#outline.error || hasOlder !== this.#outline.hasOlder) {
      this.#outline = { ids: same ? ids : messages.map((message) => message.id), status, error, hasOlder };
    }
    return this.#outline;
  }

  subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    if (!this.#joined && this.source !== null) {
      this.#joined = typeof this.source === 'string' ? follow(this.source, this.#current) : join(this.source, this.#current);
      this.#joined.subscribe(() => this.#listeners.forEach((each) => each()));
    }
    return () => {
      this.#listeners.delete(listener);
      if (this.#listeners.size) return;
      this.#joined?.close();
      this.#joined = null;
    };
  };

  /** The options, with callbacks that call those of the newest render. */
  get #current(): ConversationOptions {
    return {
      ...this.options,
      onChange: (snapshot) => this.options.onChange?.(snapshot),
      onEvent: (event) => this.options.onEvent?.(event),
      onUnauthorized: this.options.onUnauthorized && ((problem) => this.options.onUnauthorized?.(problem)),
    };
  }

  loadOlder = (): Promise<boolean> => this.#joined?.loadOlder() ?? Promise.resolve(false);

  send = async (text: string, id: string = `p-${crypto.randomUUID()}`): Promise<string> => {
    const { onSend } = this.options;
    if (onSend) await onSend({ id, text });
    else await this.#channel('onSend').publish('user-input', { promptId: id, text });
    return id;
  };

  cancel = async (responseId?: string): Promise<void> => {
    const open = this.snapshot.messages.filter(({ status }) => status === 'in_progress').map(({ id }) => id);
    for (const id of responseId === undefined ? open : [responseId]) {
      if (this.options.onCancel) await this.options.onCancel(id);
      else await this.#channel('onCancel').publish({ name: 'cancel', extras: { headers: { responseId: id } } });
    }
  };

  #channel(option: string): RealtimeChannel {
    if (this.source === null || typeof this.source === 'string') throw new TypeError(`without an Ably channel, useConversation needs the option ${option}`);
    return this.source;
  }
}

/** Join a conversation for as long as the component is mounted. The source is an Ably channel (with the option
 * `url`), or the conversation's URL, for server-sent events; null: not known yet. */
export function useConversation(source: RealtimeChannel | string | null, options: ConversationOptions = {}): UsedConversation {
  const store = useMemo(() => new Store(source), [source, options.url]);
  store.options = options;
  const readsMessages = useRef(false);
  const current = () => (readsMessages.current ? store.snapshot : store.outline);
  useSyncExternalStore(store.subscribe, current, current);
  const { outline, loadOlder, send, cancel } = store;
  return {
    ...outline,
    get messages() {
      readsMessages.current = true;
      return store.snapshot.messages;
    },
    loadOlder,
    send,
    cancel,
    store,
  };
}

const StoreContext = createContext<Store | null>(null);

/** Lets components below use `useMessage` with messages of *conversation*. */
export function ConversationProvider({ conversation, children }: { conversation: UsedConversation; children?: ReactNode }): ReactNode {
  return createElement(StoreContext.Provider, { value: conversation.store }, children);
}

const never = () => () => {};

/** Return the message *id* of the conversation of the `ConversationProvider` above, and render only when it changes. */
export function useMessage(id: string): Message | undefined {
  const store = useContext(StoreContext);
  const current = useCallback(() => store?.snapshot.conversation.get(id), [store, id]);
  return useSyncExternalStore(store?.subscribe ?? never, current, current);
}
