// Readers with stock ably-js and the module that a service serves as /client.js. Reads commands as lines
// of JSON from standard input; writes what each reader shows, at every change, to standard output.
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

const [client, modules] = process.argv.slice(2);
const { join } = await import(client);
const Ably = createRequire(modules + '/')('ably');
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const readers = new Map();

async function read({ number, urls, token, channel, options, way }) {
  const ably = new Ably.Realtime({ token, ...options, logLevel: 0 });
  const shown = new Map();
  const reader = { ably, joined: null, left: false };
  readers.set(number, reader);
  let turn = 0, excused = false;
  const load = async ({ until }) => {
    for (const last = Date.now() + 30_000; ; await pause(200)) {
      const url = urls[turn++ % urls.length] + (until ? `&until=${encodeURIComponent(until)}` : '');
      try {
        const response = await fetch(url, { headers: { authorization: `Bearer ${token}` } });
        if (response.ok) {
          const answer = await response.json();
          excused = answer.reasons.length > 0;
          return answer;
        }
      } catch (error) {
        if (Date.now() > last) throw error;
      }
      if (Date.now() > last || reader.left) throw new Error('no service answers');
    }
  };
  const onChange = ({ conversation }) => {
    const messages = [];
    for (const { id, status, text, gaps, exact, unreadable = 0 } of conversation.messages) {
      const now = JSON.stringify([status, text, gaps.length, unreadable]);
      if (shown.get(id) === now) continue;
      shown.set(id, now);
      messages.push({ id, status, text, gaps, exact: exact ?? true, unreadable });
    }
    say({ number, messages, excused });
  };
  reader.joined = join(ably.channels.get(channel), { load, onChange, way, timeoutMs: 60_000 });
  await reader.joined.ready;
}

async function leave(number) {
  const reader = readers.get(number);
  readers.delete(number);
  if (!reader) return;
  reader.left = true;
  reader.joined?.close();
  reader.ably.close();
}

say({ ready: true });
for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  if (asked.leave) leave(asked.number);
  else read(asked).catch((error) => say({ number: asked.number, error: String(error) }));
}
process.exit(0);
