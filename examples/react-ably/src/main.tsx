import { Realtime } from 'ably';
import { StrictMode } from 'react';
import { createRoot } from 'react-dom/client';
import { Chat } from './Chat';

// To try it out, set the conversation in the page's URL: ?conversation=…, and token=…, endpoint=… and port=…
// of the channel server, which `rehydrate demo` prints. Your application needs none of this: a session cookie
// identifies the user, and `new Realtime({ authUrl: '/ably-token' })` gets a token from your backend.
const asked = new URLSearchParams(location.search);
const token = asked.get('token') ?? '';
const conversation = asked.get('conversation') ?? 'conv-42';
const url = `/v1/conversations/${encodeURIComponent(conversation)}`;

const local = asked.has('port') ? { endpoint: asked.get('endpoint') ?? '127.0.0.1', port: Number(asked.get('port')), tls: false } : {};
const source = asked.get('by') === 'sse' ? url : new Realtime({ token, ...local }).channels.get(asked.get('channel') ?? `ai:${conversation}`);

createRoot(document.getElementById('root') as HTMLElement).render(
  <StrictMode>
    <Chat source={source} url={url} token={token} />
  </StrictMode>,
);
