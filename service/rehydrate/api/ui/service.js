// Requests to the service that this page came from.

import { forget, key } from './session.js';

const ROOT = new URL('.', document.baseURI);
const PATIENCE_MS = 20_000;

// What went wrong, in the service's own words (RFC 9457); `status` 0: it was not reached.
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail ?? body.title ?? `The service answered ${status}.`);
    this.status = status;
    this.code = body.code ?? 'unknown';
    this.parameter = body.parameter ?? null;
  }
}

// path`v1/conversations/${id}`: what is put in is percent-encoded.
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

// The parsed answer. Throws a Problem; a refused key ends the session.
export async function ask(method, where, options = {}) {
  const patience = AbortSignal.timeout(PATIENCE_MS);
  const signal = options.signal ? AbortSignal.any([options.signal, patience]) : patience;
  let answer, body;
  try {
    answer = await request(method, where, { ...options, signal });
    body = await answer.text();
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Problem(0, { detail: patience.aborted ? 'The service did not answer in 20 s.' : 'The service cannot be reached.' });
  }
  if (!answer.ok) throw await refused(answer, body, options.shown);
  return body ? JSON.parse(body) : null;
}

export async function refused(answer, text, shown) {
  let body = {};
  try {
    body = JSON.parse(text);
  } catch {
    // a proxy's own page, say: the status has to do
  }
  if (answer.status === 401 && shown === undefined) forget('The key is not taken any more.');
  return new Problem(answer.status, body);
}
