// A page's use of the package with stock ably-js: one job on standard input as its first line of JSON, then
// commands; each line of output is the state after a command.
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

const [client, modules] = process.argv.slice(2);
const { follow, join } = await import(client);
const Ably = createRequire(modules + '/')('ably');
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const next = async () => JSON.parse((await lines.next()).value ?? '{"end": true}');

const job = await next();
const ably = new Ably.Realtime({ key: job.key, endpoint: '127.0.0.1', port: job.port, tls: false, logLevel: 0 });
const options = job.cipher ? { cipher: { key: job.cipher }, params: { own: '1' } } : undefined;
const channel = ably.channels.get(job.channel, options);
const joined = [], seen = [], heard = [], unauthorized = [];
let attaches = 0;
channel.on('attached', () => { attaches += 1; });

const commands = {
  join: () => joined.push(join(channel, {
    url: job.url,
    token: job.token,
    timeoutMs: job.timeout_ms,
    onUnauthorized: (problem) => { unauthorized.push(problem.code); return job.new_token; },
    onChange: ({ status, error }) => seen.push([status, error?.status ?? null, error?.message ?? null]),
  })),
  follow: () => joined.push(follow(job.url, { token: job.token, onChange: ({ status, error }) => seen.push([status, error?.status ?? null, error?.message ?? null]) })),
  close: ({ number }) => joined[number].close(),
  listen: () => channel.subscribe(({ data }) => heard.push(data)),
  attach: () => channel.attach(),
  detach: () => channel.detach(),
  publish: ({ name, data, headers }) => channel.publish({ name, data, extras: { headers } }),
  report: () => {},
};

for (let command = await next(); !command.end; command = await next()) {
  await commands[command.do](command);
  console.log(JSON.stringify({
    statuses: joined.map(({ status }) => status), messages: joined.map(({ messages }) => messages.map(({ text }) => text)),
    seen, heard, unauthorized, attaches, state: channel.state, params: channel.channelOptions.params ?? null,
  }));
}
process.exit(0);
