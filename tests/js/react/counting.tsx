// Counts how often the components of a page with many messages render.
import { ConversationProvider, useConversation, useMessage } from '@rehydrate/client/react';
import { Realtime } from 'ably';
import { memo, StrictMode } from 'react';
import { createRoot } from 'react-dom/client';

const renders: Record<string, number> = {};
Object.assign(window, { renders });
const count = (name: string) => { renders[name] = (renders[name] ?? 0) + 1; };

const asked = new URLSearchParams(location.search);
const token = asked.get('token') ?? '';
const realtime = new Realtime({ token, endpoint: '127.0.0.1', port: Number(asked.get('port')), tls: false });
const channel = realtime.channels.get(asked.get('channel') ?? '');
const url = `/v1/conversations/${asked.get('conversation')}?limit=200`;

function Page() {
  count('page');
  const conversation = useConversation(channel, { url, token });
  return (
    <ConversationProvider conversation={conversation}>
      <p role="status">{conversation.status}</p>
      {conversation.ids.map((id) => <Message key={id} id={id} />)}
    </ConversationProvider>
  );
}

const Message = memo(({ id }: { id: string }) => {
  count(id);
  return <article id={id}>{useMessage(id)?.text}</article>;
});

const root = document.getElementById('root') as HTMLElement;
createRoot(root).render(asked.has('strict') ? <StrictMode><Page /></StrictMode> : <Page />);
