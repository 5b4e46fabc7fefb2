// The JSON of answers (docs/protocol.md section 8). Receivers ignore members that they do not know.

/** The statuses of a message. All but `in_progress` are terminal. */
export type Status = 'in_progress' | 'completed' | 'incomplete' | 'failed' | 'cancelled' | 'interrupted';

/** The position up to which a message is folded. */
export interface Through {
  readonly gen: number;
  readonly seq: number | null;
  readonly serial: string | null;
  readonly id: string | null;
}

/** The channel message that a part came from, where channel messages grow. */
export interface Grown {
  readonly serial: string;
  readonly version: string;
  /** The content of that version could not be read. */
  readonly unreadable?: true;
}

export interface TextPart {
  readonly type: 'text' | 'refusal' | 'reasoning';
  readonly text: string;
  readonly part?: string;
  readonly gaps?: readonly (readonly [number, number, number])[];
  readonly through?: Grown;
}

export interface ToolCallPart {
  readonly type: 'tool_call';
  readonly tool_call_id: string;
  readonly name: string | null;
  /** Text while it is streamed, otherwise any JSON value. */
  readonly args: unknown;
  readonly result: unknown;
  readonly status: 'in_progress' | 'completed' | 'failed' | 'incomplete';
  readonly gaps?: readonly (readonly [number, number, number])[];
  readonly through?: Grown;
  readonly result_through?: Grown;
}

export type Part = TextPart | ToolCallPart;

/** A prompt (`user`) or a response (`assistant`), as the service sends it and as readers show it. */
export interface Message {
  readonly id: string;
  readonly role: 'user' | 'assistant';
  readonly status: Status;
  readonly text: string;
  readonly parts: readonly Part[];
  readonly prompt_id: string | null;
  readonly started_at: string | null;
  readonly finished_at: string | null;
  readonly through: Through;
  readonly gaps: readonly (readonly [number, number])[];
  readonly repaired: number | null;
  readonly exact: boolean;
  /** The number of its channel messages with content that could not be read. Absent: none. */
  readonly unreadable?: number;
  /** The owner. Absent: it has none. */
  readonly client_id?: string | null;
  readonly usage?: unknown;
  readonly error?: unknown;
  readonly metadata?: unknown;
  readonly anonymous?: true;
  readonly position?: string | null;
  readonly provisional?: true;
  readonly sealed?: true;
  readonly recent_ids?: readonly string[];
  /** The version of each of its edited channel messages, by serial. */
  readonly edits?: Readonly<Record<string, string>>;
}

export interface Reason {
  readonly code: string;
  readonly retry: boolean;
  readonly detail: string;
}

export interface ErasedStream {
  readonly through: string;
  readonly open: boolean;
}

/** The body of `GET /v1/conversations/{id}`. */
export interface Answer {
  readonly conversation_id: string;
  readonly channel: string;
  readonly until: string | null;
  readonly rewind_from: string | null;
  readonly complete: boolean;
  readonly reasons: readonly Reason[];
  readonly older: string | null;
  /** The clientIds that may publish responses; absent or empty: any. */
  readonly agents?: readonly string[];
  /** A time: everything published at or before it was erased. */
  readonly erased_to?: string | null;
  /** Erased messages that had events after that time. */
  readonly erased_ids?: readonly string[];
  /** The anonymous stream that the erasure cut: the place of its last known event, and whether more may follow. */
  readonly erased_stream?: ErasedStream | null;
  /** Further names of channel messages that mean `token`. */
  readonly token_names?: readonly string[];
  readonly messages: readonly Message[];
}

/** Return whether *value* is an object of JSON: not an array, not bytes. */
export function isObject(value: unknown): value is Record<string, unknown> {
  return Object.prototype.toString.call(value) === '[object Object]';
}

/** Return *value* if it has the members of an answer that readers depend on; throw otherwise. */
export function asAnswer(value: unknown): Answer {
  const bad = (each: unknown) => !isObject(each) || typeof each.id !== 'string' || !isObject(each.through) || !Array.isArray(each.parts) || !Array.isArray(each.gaps);
  if (!isObject(value) || !Array.isArray(value.messages) || !Array.isArray(value.reasons) || value.messages.some(bad)) {
    throw new TypeError('the response is not an answer of rehydrate: check the URL');
  }
  return value as unknown as Answer;
}
