// Readers with stock ably-js that run the package's bundle. Reads commands (join, leave) as lines of
// JSON from standard input; writes what each reader shows as lines of JSON.
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

const [client, modules] = process.argv.slice(2);
const { join } = await import(client);
const Ably = createRequire(modules + '/')('ably');
const readers = new Map();
const print = (output) => process.stdout.write(JSON.stringify(output) + '\n');

async function start({ join: reader, way, channel, token, url, options }) {
  const ably = new Ably.Realtime({ token, ...options, logLevel: 0 });
  readers.set(reader, { ably, joined: null });
  const load = async ({ until }) => {
    const response = await fetch(url + (until ? `?until=${encodeURIComponent(until)}` : ''), {
      headers: { authorization: `Bearer ${token}` },
    });
    if (!response.ok) throw new Error(`GET ${response.status}`);
    return response.json();
  };
  const onChange = ({ messages, conversation }) => conversation.hasAnswer && readers.has(reader) && print({ reader, messages });
  const joined = join(ably.channels.get(channel), { load, onChange, way });
  readers.get(reader).joined = joined;
  joined.ready.catch((error) => readers.has(reader) && print({ reader, error: String(error) }));
}

async function leave({ leave: reader }) {
  const { ably, joined } = readers.get(reader);
  readers.delete(reader);
  joined.close();
  ably.close();
  print({ reader, left: true });
}

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  await ('join' in command ? start(command) : leave(command));
}
for (const { ably } of readers.values()) ably.close();
