// Requests to the service that served this page.

import { forget, key } from './session.js';

const ROOT = new URL('.', document.baseURI);
const PATIENCE_MS = 20_000;

// A problem reported by the service (RFC 9457); `status` is 0 if the service was not reached.
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail ?? body.title ?? `The service answered with status ${status}.`);
    this.status = status;
    this.code = body.code ?? 'unknown';
    this.parameter = body.parameter ?? null;
  }
}

// path`v1/conversations/${id}`: interpolated values are percent-encoded.
export const path = (texts, ...ids) => texts.reduce((made, text, at) => made + encodeURIComponent(ids[at - 1]) + text);

export function request(method, where, { query = {}, body, headers = {}, signal, shown = key() } = {}) {
  const url = new URL(where, ROOT);
  for (const [name, value] of Object.entries(query)) if (value !== null && value !== '') url.searchParams.set(name, value);
  return fetch(url, {
    method,
    body: body === undefined ? undefined : JSON.stringify(body),
    headers: { Authorization: `Bearer ${shown}`, ...(body === undefined ? {} : { 'Content-Type': 'application/json' }), ...headers },
    cache: 'no-store',
    credentials: 'omit',
    referrerPolicy: 'no-referrer',
    signal,
  });
}

// Returns the parsed answer. Throws a Problem; an unknown key ends the session.
export async function ask(method, where, options = {}) {
  const patience = AbortSignal.timeout(PATIENCE_MS);
  const signal = options.signal ? AbortSignal.any([options.signal, patience]) : patience;
  let answer, body;
  try {
    answer = await request(method, where, { ...options, signal });
    body = await answer.text();
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Problem(0, { detail: patience.aborted ? 'The service did not answer within 20 s.' : 'The service cannot be reached.' });
  }
  if (!answer.ok) throw await refused(answer, body, options.shown);
  return body ? JSON.parse(body) : null;
}

export async function refused(answer, text, shown) {
  let body = {};
  try {
    body = JSON.parse(text);
  } catch {
    // not JSON, for example a proxy's error page: only the status is known
  }
  if (answer.status === 401 && shown === undefined) forget('The key is no longer accepted.');
  return new Problem(answer.status, body);
}
