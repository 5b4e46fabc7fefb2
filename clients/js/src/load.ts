// Requests to the service: answers, and problem documents in place of them (docs/protocol.md sections 8, 12).

import { asAnswer, isObject, type Answer } from './wire.js';

/** What to hydrate: at least up to `until`, or the page `before` a cursor. */
export interface Query {
  readonly until?: string | undefined;
  readonly before?: string | undefined;
  readonly signal: AbortSignal;
}

/** Why a conversation cannot be read (now). With a `status`, it is that of the service's response. */
export class Problem extends Error {
  override readonly name = 'Problem';

  constructor(
    message: string,
    /** The HTTP status; undefined: there was no response. */
    readonly status?: number,
    /** The stable code of the service's problem document. */
    readonly code?: string,
    /** How long to wait before the next try, in ms. */
    readonly retryAfterMs?: number,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }

  /** Whether a retry cannot help. */
  get isFinal(): boolean {
    const { status = 0 } = this;
    return status >= 400 && status < 500 && ![408, 425, 429].includes(status);
  }

  static of(error: unknown): Problem {
    if (error instanceof Problem) return error;
    const message = isObject(error) || error instanceof Error ? String((error as Error).message) : String(error);
    const { status, code } = (error ?? {}) as { status?: unknown; code?: unknown };
    const known = typeof status === 'number' ? status : undefined;
    return new Problem(message, known, typeof code === 'string' ? code : undefined, undefined, { cause: error });
  }
}

export interface RequestOptions {
  /** The token that is sent as `Authorization: Bearer …`; without one, the request has the page's cookies only. */
  readonly token?: string | undefined;
  /** Return a new token (or true: try again) after a 401; undefined: the join fails. */
  readonly onUnauthorized?: ((problem: Problem) => Promise<string | boolean | undefined> | string | boolean | undefined) | undefined;
  /** Replaces the global `fetch`. */
  readonly fetch?: typeof fetch | undefined;
  /** How long an answer may take, in ms. */
  readonly timeoutMs?: number | undefined;
}

const TIMEOUT_MS = 15_000;

/** Requests with one token, which is replaced after a 401. */
export class Requests {
  #token: string | undefined;
  #refused = 0;

  constructor(private readonly options: RequestOptions) {
    this.#token = options.token;
  }

  /** Return the response to GET *url*, which is ok; throw a `Problem` otherwise. */
  async get(url: string, accept: string, signal: AbortSignal, headers: Record<string, string> = {}): Promise<Response> {
    const all: Record<string, string> = { accept, ...headers };
    if (this.#token !== undefined) all['authorization'] = `Bearer ${this.#token}`;
    const response = await (this.options.fetch ?? fetch)(url, { headers: all, signal });
    if (!response.ok) throw await problemOf(response);
    this.#refused = 0;
    return response;
  }

  /** Get a new token if *problem* is a 401; return whether there is one, so that the next try makes sense. */
  async renew(problem: Problem): Promise<boolean> {
    if (problem.status !== 401 || !this.options.onUnauthorized || this.#refused++ >= 2) return false;
    const token = await this.options.onUnauthorized(problem);
    if (typeof token === 'string') this.#token = token;
    return !!token;
  }

  /** Return what *load* returns, as an answer, within the time limit. */
  async answer(load: (signal: AbortSignal) => Promise<unknown>, closed: AbortSignal): Promise<Answer> {
    const limit = new AbortController();
    const abort = () => limit.abort();
    const timer = setTimeout(abort, this.options.timeoutMs ?? TIMEOUT_MS);
    closed.addEventListener('abort', abort);
    const late = new Promise<never>((_, failed) => {
      limit.signal.addEventListener('abort', () => failed(new Problem('the service did not answer in time')));
    });
    try {
      const answer = asAnswer(await Promise.race([load(limit.signal), late]));
      this.#refused = 0;
      return answer;
    } finally {
      clearTimeout(timer);
      closed.removeEventListener('abort', abort);
    }
  }

  /** Return a function that hydrates the conversation at *url*. */
  loader(url: string): (query: Query) => Promise<unknown> {
    return async ({ until, before, signal }) => {
      const asked = Object.entries({ until, before }).filter((each): each is [string, string] => each[1] !== undefined);
      const response = await this.get(under(url, '', new URLSearchParams(asked)), 'application/json', signal);
      return response.json();
    };
  }
}

/** Return the URL of a path under the conversation at *url*, which may already have a query. */
export function under(url: string, path: string, query: URLSearchParams): string {
  const [base = '', own = ''] = url.split('?');
  const all = [own, query.toString()].filter(Boolean).join('&');
  return base + path + (all && `?${all}`);
}

async function problemOf(response: Response): Promise<Problem> {
  const body: unknown = await response.json().catch(() => null);
  const { detail, title, code } = isObject(body) ? body : ({} as Record<string, unknown>);
  const text = [detail, title].find((each) => typeof each === 'string' && each) as string | undefined;
  const seconds = Number(response.headers.get('retry-after'));
  return new Problem(
    text ?? `the service responded with status ${response.status}`,
    response.status,
    typeof code === 'string' ? code : undefined,
    seconds > 0 ? seconds * 1000 : undefined,
  );
}
