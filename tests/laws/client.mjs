// Applies live messages to answers with client.js: reads JSON cases and writes verdicts, one per line.
import { createInterface } from 'node:readline';

const { show, apply } = await import(process.argv[2]);
function contentOf(part) {                          // without its position
  const { type, part: name, text, tool_call_id, name: tool, args, result, status } = part;
  return type === 'tool_call' ? { type, tool_call_id, name: tool, args, result, status } : { type, ...(name != null && { part: name }), text };
}

const revived = (_, value) => (value?.$bytes === undefined ? value : Buffer.from(value.$bytes, 'base64'));

for await (const line of createInterface({ input: process.stdin })) {
  const { answer, messages } = JSON.parse(line, revived);
  const view = show(answer);
  const at = messages.findIndex((m) => !apply(view, m));
  const responses = [...view.values()].filter((m) => m.role === 'assistant');
  console.log(JSON.stringify({
    at, messages: responses.map(({ id, status, text, unreadable = 0, parts }) => ({ id, status, text, unreadable, parts: (parts ?? []).map(contentOf) })),
    prompts: [...view.values()].filter((m) => m.role === 'user').map(({ id, text, unreadable = 0 }) => ({ id, text, unreadable })),
  }));
}
