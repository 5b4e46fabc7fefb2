// A publisher that knows nothing of us, with a stock ably-js: a message a token, no seq, no start.
import { createRequire } from 'node:module';

const job = JSON.parse(await new Response(process.stdin).text());
const Ably = createRequire(job.modules + '/')('ably');
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

const ably = new Ably.Realtime({ key: job.key, ...job.options, logLevel: 0 });
const channel = ably.channels.get(job.channel);
const extras = { headers: { responseId: job.response_id } };
for (const token of job.tokens) {
  await channel.publish({ name: 'token', data: token, extras });
  await pause(job.pause_ms * (0.5 + Math.random()));
}
await channel.publish({ name: 'stop', extras });
ably.close();
