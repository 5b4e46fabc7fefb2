// Readers with a stock ably-js that run the package's bundle. One job as JSON on standard input,
// one line of JSON a reader on standard output.
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

async function read(plan) {
  const eye = { plan, renders: 0, untrue: [], last: {} };
  const onChange = ({ messages, conversation }) => {
    if (!conversation.hasAnswer) return;
    eye.renders += 1;
    eye.last = Object.fromEntries(messages.map((m) => [m.id, [m.status, m.text]]));
    for (const { id, status, text, gaps } of messages) {
      if (!(id in job.texts)) continue;
      const good = status === 'in_progress'
        ? job.texts[id].startsWith(text) || gaps.length > 0
        : text === job.texts[id];
      if (!good) eye.untrue.push(`${id} [${status}] ${JSON.stringify(text)}`);
    }
  };
  const done = () => Object.entries(job.texts)
    .every(([id, text]) => eye.last[id]?.[0] === job.status && eye.last[id][1] === text);
  const stay = async (ms) => {
    const ably = new Ably.Realtime({ token: job.token, ...job.options, logLevel: 0 });
    const joined = join(ably.channels.get(job.channel), { load, onChange, way: plan.way });
    await joined.ready;
    for (const until = Date.now() + ms; !done() && Date.now() < until; ) await pause(20);
    joined.close();
    ably.close();
  };
  await pause(plan.at_s * 1000);
  if (plan.reload_s !== null) await stay(plan.reload_s * 1000);
  await stay(job.patience_ms);
  console.log(JSON.stringify(eye));
}

await Promise.all(job.plans.map(read));
