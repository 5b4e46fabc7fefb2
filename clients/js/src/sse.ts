// Follow a conversation over the service's server-sent events (docs/protocol.md section 11). The service
// applies the drop rule: each event arrives once and in order, and a snapshot replaces everything. This uses
// `fetch`, since an EventSource cannot send a token and does not show why it was refused.

import { Conversation } from './conversation.js';
import type { Event, Kind } from './event.js';
import { Problem, under, type Query } from './load.js';
import { Joined, Session, type JoinOptions } from './session.js';
import { asAnswer, isObject, type Part } from './wire.js';

/** The service sends at least a comment every 15 s. */
const SILENCE_MS = 45_000;
const MOST_LINE = 64 * 1024 * 1024;

const KINDS: readonly string[] = [
  'prompt', 'start', 'token', 'refusal', 'reasoning', 'tool_call', 'tool_args', 'tool_result', 'repair', 'stop',
] satisfies readonly Kind[];

const sessions = new Map<string, StreamSession>();

/** Follow the conversation at *url*, `…/v1/conversations/{id}` perhaps with a query, until closed. Follows of
 * the same URL share one stream, with the options of the first. */
export function follow(url: string, options: JoinOptions = {}): Joined {
  let session = sessions.get(url);
  if (!session || session.isClosed) {
    session = new StreamSession(url, options);
    sessions.set(url, session);
  }
  return new Joined(session, options);
}

class StreamSession extends Session {
  readonly #load: (query: Query) => Promise<unknown>;
  #lastId: string | null = null;

  constructor(private readonly url: string, options: JoinOptions) {
    super(options);
    this.#load = this.requests.loader(url);
    this.restart();
  }

  protected override load(query: Query): Promise<unknown> {
    return this.#load(query);
  }

  override restart(): void {
    void this.#run();
  }

  protected override end(): void {
    if (sessions.get(this.url) === this) sessions.delete(this.url);
  }

  async #run(): Promise<void> {
    this.showLost();
    for (;;) {
      await this.pause();
      if (this.isClosed) return;
      try {
        await this.#stream();
        if (this.isClosed) return;
        this.showLost(new Problem('the stream ended'));
      } catch (error) {
        if (this.isClosed || !(await this.mayRetry(error))) return;
      }
    }
  }

  /** Apply one stream, until it ends; throw if it is refused, or silent for too long. */
  async #stream(): Promise<void> {
    const limit = new AbortController();
    const abort = () => limit.abort();
    const { signal } = limit;
    let timer = setTimeout(abort, SILENCE_MS);
    this.closing.signal.addEventListener('abort', abort);
    try {
      const resume: Record<string, string> = this.#lastId === null ? {} : { 'last-event-id': this.#lastId };
      const response = await this.requests.get(under(this.url, '/stream', new URLSearchParams()), 'text/event-stream', signal, resume);
      if (!response.headers.get('content-type')?.startsWith('text/event-stream') || !response.body) {
        throw new Problem('the response is not an event stream: check the URL');
      }
      if (this.#lastId !== null) this.showLive(this.snapshot.conversation);
      const parser = new Parser((name, id, data) => this.#receive(name, id, data));
      for (const reader = response.body.pipeThrough(new TextDecoderStream()).getReader(); ;) {
        const { done, value } = await reader.read();
        if (done || this.isClosed) return;
        clearTimeout(timer);
        timer = setTimeout(abort, SILENCE_MS);
        parser.push(value);
      }
    } finally {
      clearTimeout(timer);
      this.closing.signal.removeEventListener('abort', abort);
      abort();
    }
  }

  #receive(name: string, id: string | null, text: string): void {
    const data: unknown = JSON.parse(text);
    const { conversation } = this.snapshot;
    if (name === 'snapshot') {
      this.showLive(Conversation.of(asAnswer(data)).withPagesOf(conversation));
    } else if (name === 'again') {
      this.showLost(null);
    } else if (KINDS.includes(name) && isObject(data)) {
      const event = eventOf(name as Kind, data);
      const next = conversation.follow(event);
      if (next !== conversation) this.showEvent(next, event);
    } else {
      this.ignored += 1;
    }
    if (id !== null) this.#lastId = id;
  }
}

/** Return the event of the stream in the form that the fold expects. */
function eventOf(kind: Kind, data: Record<string, unknown>): Event {
  const { text, parts, args, result, message_id, gen, seq, serial } = data;
  const whole = kind === 'repair' ? (parts ?? [{ type: 'text', text: text ?? '' }]) : null;
  return {
    ...data,
    kind,
    message_id: String(message_id),
    gen: typeof gen === 'number' ? gen : 1,
    seq: typeof seq === 'number' ? seq : null,
    serial: typeof serial === 'string' ? serial : null,
    id: null,
    client_id: null,
    at_ms: Date.now(),
    args: args ?? '',
    result: result ?? null,
    parts: whole as readonly Part[] | null,
  };
}

/** Splits the text of an event stream into events. */
class Parser {
  #rest = '';
  #name = 'message';
  #id: string | null = null;
  #data: string[] = [];

  constructor(private readonly emit: (name: string, id: string | null, data: string) => void) {}

  push(text: string): void {
    const lines = (this.#rest + text).split(/\r\n|\n/);
    this.#rest = lines.pop() ?? '';
    if (this.#rest.length > MOST_LINE) throw new Problem('an event of the stream is too long');
    lines.forEach((line) => this.#line(line));
  }

  #line(line: string): void {
    if (!line) {
      if (this.#data.length) this.emit(this.#name, this.#id, this.#data.join('\n'));
      [this.#name, this.#id, this.#data] = ['message', null, []];
      return;
    }
    const [, field, value = ''] = /^([^:]*)(?:: ?(.*))?$/s.exec(line) ?? [];
    if (field === 'data') this.#data.push(value);
    if (field === 'event') this.#name = value;
    if (field === 'id') this.#id = value;
  }
}
