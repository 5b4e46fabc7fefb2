// --8<-- [start:chat]
import { ConversationProvider, useConversation, useMessage } from '@rehydrate/client/react';
import type { RealtimeChannel } from 'ably';
import { memo } from 'react';

type Props = { source: RealtimeChannel | string; url: string; token?: string };

export function Chat({ source, url, token }: Props) { // source: an Ably channel, or the url, for server-sent events
  const conversation = useConversation(source, { url, token });
  return (
    <ConversationProvider conversation={conversation}>
      <p role="status">{conversation.error?.message ?? conversation.status}</p>
      {conversation.ids.map((id) => <Message key={id} id={id} />)}
    </ConversationProvider>
  );
}

const Message = memo(({ id }: { id: string }) => <article id={id}>{useMessage(id)?.text}</article>);
// --8<-- [end:chat]
