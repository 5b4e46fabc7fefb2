// Two ways to receive the same conversation, both from the package that the service sends as /client.js.

import { follow, join } from '/client.js';

/** Follow over server-sent events of the backend. */
export function by_sse(conversation, callbacks) {
  return follow(`${path(conversation)}?limit=200`, callbacks);
}

/** Join with stock ably-js. */
export async function by_ably(conversation, options, callbacks) {
  await load_script('/ably.js');
  const token = () => get(`/chat/${conversation}/ably-token`);
  const { channel } = await token();
  const realtime = new window.Ably.Realtime({
    ...options,
    authCallback: (_, done) => token().then((made) => done(null, made.token), (error) => done(String(error), null)),
  });
  const joined = join(realtime.channels.get(channel), { url: `${path(conversation)}?limit=200`, ...callbacks });
  return { close: () => { joined.close(); realtime.close(); } };
}

function path(conversation) {
  return `/history/v1/conversations/${conversation}`;
}

async function get(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status}`);
  return response.json();
}

function load_script(src) {
  if (window.Ably) return Promise.resolve();
  return new Promise((done, failed) => {
    document.head.append(Object.assign(document.createElement('script'), { src, onload: done, onerror: failed }));
  });
}
