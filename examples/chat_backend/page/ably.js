// Follow a conversation with stock ably-js and the client of the README: attach, hydrate, drop the overlap.

import { join } from '/client.js';

export async function follow(conversation, options, show, setState) {
  await load_script('/ably.js');
  const token = () => get(`/chat/${conversation}/ably-token`);
  const { channel: name } = await token();
  const realtime = new window.Ably.Realtime({
    ...options,
    authCallback: (_, done) => token().then((made) => done(null, made.token), (error) => done(String(error), null)),
  });
  realtime.connection.on((change) => setState(change.current === 'connected' ? 'live' : 'lost'));
  const channel = realtime.channels.get(name);
  const calls = new Map();                            // live tool calls, by response
  let view = new Map();
  const render = (next = view) => {
    view = next;
    show([...view.values()].map((each) => ({ ...each, parts: parts_of(each, calls.get(each.id)) })));
  };
  const joined = await join(channel, (asked) => get(`/history/v1/conversations/${conversation}?${new URLSearchParams({ ...asked, limit: 200 })}`), render);
  await channel.subscribe(['tool_call', 'tool_result'], ({ name: kind, data, extras }) => {
    const { responseId, toolCallId, status } = extras.headers;
    const own = calls.get(responseId) ?? calls.set(responseId, new Map()).get(responseId);
    const known = own.get(toolCallId) ?? { type: 'tool_call', tool_call_id: toolCallId, status: 'in_progress', args: '' };
    own.set(toolCallId, kind === 'tool_call'
      ? { ...known, name: data.name }
      : { ...known, result: data.result, status: status ?? 'completed' });
    render();
  });
  return { close: async () => { await joined.close(); realtime.close(); } };
}

function parts_of(message, live) {
  const known = new Map((message.parts ?? []).filter((part) => part.tool_call_id).map((part) => [part.tool_call_id, part]));
  for (const [id, part] of live ?? []) known.set(id, { ...known.get(id), ...part });
  return [...known.values()];
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
