// Publishes content that readers cannot read, and content in other shapes, with a stock ably-js, while
// a reader with another one shows it. One job as JSON on standard input; prints what the reader shows.
import { createRequire } from 'node:module';

const job = JSON.parse(await new Response(process.stdin).text());
const { join } = await import(job.client);
const Ably = createRequire(job.modules + '/')('ably');
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function load({ until }) {
  const response = await fetch(job.url + (until ? `&until=${encodeURIComponent(until)}` : ''), {
    headers: { authorization: `Bearer ${job.token}` },
  });
  if (!response.ok) throw new Error(`GET ${response.status}`);
  return response.json();
}

let shown = [];
const reader = new Ably.Realtime({ token: job.token, ...job.options, logLevel: 0 });
const onChange = ({ messages }) => { shown = messages.map(({ id, status, text, exact = true, unreadable = 0 }) => ({ id, status, text, exact, unreadable })); };
const joined = join(reader.channels.get(job.channel), { load, onChange });
await joined.ready;

const plain = new Ably.Realtime({ key: job.key, ...job.options, logLevel: 0 });
const secret = new Ably.Realtime({ key: job.key, ...job.options, logLevel: 0 });
const cipher = { key: await Ably.Realtime.Crypto.generateRandomKey(128) };
const open = plain.channels.get(job.channel), closed = secret.channels.get(job.channel, { cipher });
const content = {
  object: { data: { delta: 'b' } },
  list: { data: ['b'] },
  bytes: { data: Buffer.from([0xff, 0xfe]) },
  encrypted: { data: 'b', through: closed },
  named: { name: 'answer', data: 'b' },
  nameless: { name: undefined, data: 'b' },
  shaped: { data: { text: 'b' } },
  utf8: { data: Buffer.from('b') },
  mapped: { name: 'message', data: 'b' },
  empty: { data: null },
  ignored: { name: 'progress', data: 'b' },
};
for (const numbered of [false, true]) {
  for (const [kind, { through = open, ...content_of }] of Object.entries(content)) {
    const responseId = numbered ? `${kind}-numbered` : kind;
    const extras = (seq) => ({ headers: { responseId, ...(numbered && { seq }) } });
    await open.publish({ name: 'start', extras: extras(0) });
    await open.publish({ name: 'token', data: 'a', extras: extras(1) });
    await through.publish({ name: 'token', ...content_of, extras: extras(2) });
    await open.publish({ name: 'token', data: 'c', extras: extras(3) });
    await open.publish({ name: 'stop', extras: extras(4) });
  }
}
const text = (said) => ({ type: 'text', text: said });
await open.publish('user-input', { promptId: 'p-parts', parts: [text('a'), text('b')] });
await open.publish('user-input', { promptId: 'p-file', parts: [text('a'), { type: 'file', url: 'u' }] });
for (const until = Date.now() + job.patience_ms; !shown.some((m) => m.id === 'p-file') && Date.now() < until; ) await pause(20);
console.log(JSON.stringify(shown));
joined.close();
for (const each of [reader, plain, secret]) each.close();
