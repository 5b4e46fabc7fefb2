// What `join` of client.js does after failures: one scene per run, over a channel that follows the scene.
// Prints the last text shown, and the number of hydrates.
import { setImmediate } from 'node:timers';

const [client, scene] = process.argv.slice(2);
const { join } = await import(client);
globalThis.setTimeout = (act) => setImmediate(act);                      // without the pauses

const extras = { headers: { responseId: 'r' } };
const token = (n, data) => ({ name: 'token', data, id: `m${n}`, serial: `0${n}`, extras });
const text = (data) => ({ id: 'r', role: 'assistant', status: 'in_progress', text: data, gaps: [], client_id: null, through: { gen: 1, seq: null, serial: `0${data.length}` } });
const told = (...letters) => ({ messages: letters.length ? [text(letters.join(''))] : [], reasons: [], until: '09', rewind_from: null });

class Channel {
  state = 'initialized';
  attaches = 0;
  backlog = [];                                                          // for each attach
  on(_, heard) { this.heard = heard; }
  off() {}
  async subscribe(receive) { this.receive = receive; }
  unsubscribe() {}
  async setOptions() {}
  async detach() {
    if (this.state === 'failed') throw new Error('Unable to detach as channel state is failed');
    this.state = 'detached';
  }
  async attach() {
    const rewound = this.backlog[this.attaches++] ?? [];
    if (rewound === 'refused') {
      this.state = 'failed';
      throw new Error('refused');
    }
    this.state = 'attached';
    this.heard({ resumed: false });
    rewound.forEach((m) => this.receive(m));
  }
}

const channel = new Channel();
let asked = 0, shown = '', failing = 0;
const load = async () => {
  asked += 1;
  if (scene === 'torn' && asked === 1) {                                 // b is dropped meanwhile
    channel.heard({ resumed: false });
    channel.receive(token(3, 'c'));
  }
  if (scene === 'nobody answers' || failing-- > 0) throw new Error('503');
  return told('a');
};
const render = (view) => { shown = view.get('r')?.text ?? ''; };
const settled = async () => { for (let n = 0; n < 500; n += 1) await new Promise((done) => setImmediate(done)); };

if (scene === 'torn') channel.backlog = [[], [token(2, 'b'), token(3, 'c')]];
if (scene === 'refused') channel.backlog = [[], 'refused', 'refused', [token(2, 'b')]];
if (scene === 'away') channel.backlog = [[]];
let failure = null, joined = null;
try {
  joined = await join(channel, load, render);
} catch (error) {
  failure = error.message;
}
if (scene === 'refused') channel.heard({ resumed: false });
if (scene === 'away') {
  failing = 30;
  channel.heard({ resumed: false });
}
await settled();
if (scene === 'closed') {
  channel.state = 'failed';
  await joined.close();
}
console.log(JSON.stringify({ shown, asked, failure }));
