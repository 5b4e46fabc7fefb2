// Applies live messages to answers with client.js: reads JSON cases and writes verdicts, one per line.
import { createInterface } from 'node:readline';

const { Conversation } = await import(process.argv[2]);
const SHOWN = ['id', 'status', 'text', 'parts', 'prompt_id', 'exact', 'unreadable', 'gaps', 'repaired', 'error', 'usage', 'edits'];

const revived = (_, value) => (value?.$bytes === undefined ? value : Buffer.from(value.$bytes, 'base64'));

for await (const line of createInterface({ input: process.stdin })) {
  const { answer, messages } = JSON.parse(line, revived);
  let view = Conversation.of(answer), at = -1;
  for (const [index, message] of messages.entries()) {
    const next = view.apply(message);
    if (next === null) { at = index; break; }
    view = next;
  }
  console.log(JSON.stringify({
    at, messages: view.messages.map((m) => Object.fromEntries([['role', m.role], ...SHOWN.map((name) => [name, m[name] ?? null])])),
  }));
}
