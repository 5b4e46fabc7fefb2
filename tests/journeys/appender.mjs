// A publisher of message-per-response, with a stock ably-js: a create, then appends to it.
import { createRequire } from 'node:module';

const job = JSON.parse(await new Response(process.stdin).text());
const Ably = createRequire(job.modules + '/')('ably');
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

const ably = new Ably.Realtime({
  key: job.key, ...job.options, logLevel: 0, transportParams: { appendRollupWindow: job.window_ms },
});
const channel = ably.channels.get(job.channel);
const extras = job.response_id ? { headers: { responseId: job.response_id } } : undefined;
await pause(job.wait_ms);
const { serials: [serial] } = await channel.publish({ name: 'response', data: '', extras });
const said = [];
for (const [index, data] of job.tokens.entries()) {
  const last = index === job.tokens.length - 1;
  const bare = job.bare_every && index % job.bare_every === job.bare_every - 1;
  const done = last && job.done ? { metadata: { phase: 'done' } } : undefined;
  said.push(channel.appendMessage({ serial, data, extras: bare ? undefined : extras }, done));
  if (!last) await pause(job.pause_ms * (0.5 + Math.random()));
}
if (!job.done) said.push(channel.publish({ name: 'response-end', extras }));  // overtakes what is held
await Promise.all(said);
console.log(JSON.stringify({ serial }));
ably.close();
