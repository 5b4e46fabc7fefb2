// Applies live messages to answers by client.js: one JSON case a line in, one verdict a line out.
import { createInterface } from 'node:readline';

const { show, apply } = await import(process.argv[2]);
for await (const line of createInterface({ input: process.stdin })) {
  const { answer, messages } = JSON.parse(line);
  const view = show(answer);
  const at = messages.findIndex((m) => !apply(view, m));
  console.log(JSON.stringify({
    at, messages: [...view.values()].map(({ id, status, text }) => ({ id, status, text })),
  }));
}
