// Applies the messages of fuzzed cases with the package's `Conversation`: JSON cases in, what it shows out.
import { createInterface } from 'node:readline';

const { Conversation } = await import(process.argv[2]);
const SHOWN = ['id', 'role', 'status', 'text', 'parts', 'error', 'usage', 'gaps', 'exact', 'unreadable'];

function result({ answer, messages }) {
  let view = Conversation.of(answer), at = -1;
  for (const [index, message] of messages.entries()) {
    const next = view.apply(message);
    if (next === null) { at = index; break; }
    view = next;
  }
  const ordered = [...view.messages].sort((a, b) => (a.id < b.id ? -1 : 1));
  return { at, messages: ordered.map((m) => Object.fromEntries(SHOWN.map((name) => [name, m[name] ?? null]))) };
}

for await (const line of createInterface({ input: process.stdin })) {
  let shown;
  try {
    shown = result(JSON.parse(line));
  } catch (error) {
    shown = { raised: String(error?.stack ?? error).split('\n').slice(0, 3).join(' ') };
  }
  process.stdout.write(`${JSON.stringify(shown)}\n`);
}
