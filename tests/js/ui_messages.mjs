// A chat of the published AI SDK that is loaded, and resumes what streams. Prints what it shows.
import { AbstractChat, DefaultChatTransport, validateUIMessages } from 'ai';

const job = JSON.parse(await new Response(process.stdin).text());
const headers = { authorization: `Bearer ${job.token}` };

class State {
  status = 'ready';
  error = undefined;
  seen = [];
  constructor(messages) { this.messages = messages; }
  pushMessage = (message) => { this.messages = [...this.messages, structuredClone(message)]; };
  popMessage = () => { this.messages = this.messages.slice(0, -1); };
  replaceMessage = (index, message) => {
    this.messages = this.messages.with(index, structuredClone(message));
    this.seen.push(structuredClone(message));
  };
  snapshot = (value) => structuredClone(value);
}

class Chat extends AbstractChat {
  get shown() { return this.state; }
}

const loaded = await (await fetch(`${job.url}?format=ui-messages`, { headers })).json();
const messages = loaded.messages.length ? await validateUIMessages({ messages: loaded.messages }) : [];
console.log(JSON.stringify({ loaded: messages }));
const query = new URLSearchParams({ format: 'ui-message-stream', ...job.query });
const transport = new DefaultChatTransport({
  headers,
  fetch: async (...request) => {
    const response = await fetch(...request);
    console.log(JSON.stringify({ resumed: response.status }));         // whoever runs this may go on
    return response;
  },
  prepareReconnectToStreamRequest: () => ({ api: `${job.url}/stream?${query}`, headers }),
});
const errors = [];
const finished = [];
const chat = new Chat({
  id: job.id, transport, messages, state: new State(messages),
  onError: (error) => errors.push(error.message),
  onFinish: ({ finishReason, isAbort, isError }) => finished.push({ finishReason, isAbort, isError }),
});
await chat.resumeStream();
const { status, messages: shown, seen } = chat.shown;
console.log(JSON.stringify({ status, shown, steps: seen.length, errors, finished }));
