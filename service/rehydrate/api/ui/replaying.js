// The service's calls for replays: dry run, start, find, cancel.

import { ask, path } from './service.js';

export const ACTIVE = new Set(['queued', 'running']);

export const STATE = { queued: 'Queued', running: 'Running', done: 'Done', failed: 'Failed', cancelled: 'Cancelled' };

const where = (conversationId, responseId) => path`v1/admin/conversations/${conversationId}/responses/${responseId}/replay`;

export const dryRun = (conversationId, responseId, terms, signal) =>
  ask('POST', where(conversationId, responseId), { body: { ...terms, dry_run: true }, signal });

// Repeating the request with the same key does not start a second replay.
export const start = (conversationId, responseId, terms, key) =>
  ask('POST', where(conversationId, responseId), { body: { ...terms, dry_run: false }, headers: { 'Idempotency-Key': key } });

export const find = (replayId, signal) => ask('GET', path`v1/admin/replays/${replayId}`, { signal });

export const cancel = (replayId) => ask('DELETE', path`v1/admin/replays/${replayId}`);
