// Joins of the exactness check with stock ably-js. Reads one job as JSON from standard input; writes
// one JSON line per join: the responses streaming at the join, and the messages shown at the end.
import { createRequire } from 'node:module';
import { join } from '../api/client.js';

const job = JSON.parse(await new Response(process.stdin).text());
const Ably = createRequire(job.modules + '/')('ably');
// The parent may have ended before this line ran, so that its id comes with the job.
setInterval(() => process.ppid === job.parent || process.exit(1), 500).unref();
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function one({ delay_ms, way }) {
  await pause(delay_ms);
  const ably = new Ably.Realtime({ token: job.token, ...job.options, logLevel: 0 });
  const times = [];
  const load = async ({ until }) => {
    const began = performance.now();
    const response = await fetch(job.url + (until ? `&until=${encodeURIComponent(until)}` : ''), {
      headers: { authorization: `Bearer ${job.token}` },
    });
    if (!response.ok) throw new Error(`GET ${response.status}`);
    const answer = await response.json();
    times.push(performance.now() - began);
    return answer;
  };
  let first, last;
  const channel = ably.channels.get(job.channel);
  const onChange = ({ conversation }) => {
    if (!conversation.hasAnswer) return;
    last = conversation;
    first ??= last.messages.filter((v) => v.status === 'in_progress').map((v) => v.id);
  };
  const joined = join(channel, { load, onChange, way });
  await joined.ready;
  const ended = () => first.every((id) => last.get(id).status !== 'in_progress');
  for (const until = Date.now() + job.patience_ms; !ended() && Date.now() < until; ) await pause(20);
  const messages = last.messages.filter((v) => v.role === 'assistant');
  console.log(JSON.stringify({
    way, times, first,
    messages: messages.map(({ id, status, text }) => ({ id, status, text })),
  }));
  joined.close();
  ably.close();
}

await Promise.all(job.joins.map(one));
