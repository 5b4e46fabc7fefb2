// Routes in the URL's fragment, which is never sent to a server.

export const here = () => parsed(location.hash);

export function parsed(hash) {
  const parts = hash.replace(/^#\/?/, '').split('/').map(decoded);
  const [place, conversationId, kind, messageId] = parts;
  if (place === 'c' && conversationId) {
    return { place: 'conversations', conversationId, messageId: kind === 'm' && messageId ? messageId : null };
  }
  const known = ['replays', 'audit', 'health'].includes(place);
  return { place: known ? place : 'conversations', conversationId: null, messageId: null };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return '';
  }
}

export const toConversation = (id) => `#/c/${encodeURIComponent(id)}`;
export const toMessage = (id, messageId) => `${toConversation(id)}/m/${encodeURIComponent(messageId)}`;
export const toPlace = (place) => (place === 'conversations' ? '#/' : `#/${place}`);
