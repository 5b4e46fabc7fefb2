// A conversation by the published AI Transport SDK: a client that asks, and an agent that answers
// with a tool, is cancelled, and tries a step twice. Prints a line for each run.
import { createRequire } from 'node:module';

const job = JSON.parse(await new Response(process.stdin).text());
const here = createRequire(job.modules + '/');
const Ably = here('ably');
const { createAgentSession, createClientSession, createUIMessageCodec } = here('@ably/ai-transport/vercel');
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

const connect = (clientId) =>
  new Ably.Realtime({ key: job.key, ...job.options, clientId, useTokenAuth: true, logLevel: 0 });
const [user, agent] = [connect('user'), connect('agent')];
const codec = createUIMessageCodec();
const asking = createClientSession({ client: user, channelName: job.channel });
const answering = createAgentSession({ client: agent, channelName: job.channel });
await Promise.all([asking.connect(), answering.connect()]);

async function* slowly(chunks) {
  for (const chunk of chunks) {
    yield chunk;
    await pause(job.pause_ms);
  }
}

const stream = (type, id, pieces) => [
  { type: `${type}-start`, id },
  ...pieces.map((delta) => ({ type: `${type}-delta`, id, delta })),
  { type: `${type}-end`, id },
];

async function turn(id, answer) {
  const parts = [{ type: 'text', text: `${id}?` }];
  const sent = await asking.view.send(codec.createUserMessage({ id, role: 'user', parts }));
  const run = answering.createRun(sent.toInvocation());
  await run.start();
  await answer(run, sent);
  console.log(JSON.stringify({ turn: id, run: run.runId, prompt: sent.inputCodecMessageId }));
}

await turn('tool', async (run) => {
  const call = { toolCallId: 't', toolName: 'add' };
  await run.pipe(slowly([
    { type: 'start' },
    ...stream('reasoning', '0', ['let me ', 'think']),
    { type: 'tool-input-start', ...call },
    { type: 'tool-input-delta', toolCallId: 't', inputTextDelta: '{"a":' },
    { type: 'tool-input-delta', toolCallId: 't', inputTextDelta: '1}' },
    { type: 'tool-input-available', ...call, input: { a: 1 } },
    { type: 'tool-output-available', toolCallId: 't', output: { sum: 2 } },
    ...stream('text', '1', job.tokens),
    { type: 'finish' },
  ]));
  await run.end({ reason: 'complete' });
});
await turn('cancel', async (run, sent) => {
  const piping = run.pipe(slowly(stream('text', '0', job.tokens)));
  await pause(job.pause_ms * 10);
  await sent.cancel();
  const { reason } = await piping;
  await run.end({ reason });
});
await turn('step', async (run) => {
  for (const [pieces, reason] of [[['wrong'], 'failed'], [['ri', 'ght'], 'complete']]) {
    const step = await run.createStep({ stepId: 'only' });
    await step.start();
    await step.pipe(slowly(stream('text', '0', pieces)));
    await step.end({ reason });
  }
  await run.end({ reason: 'complete' });
});
user.close();
agent.close();
