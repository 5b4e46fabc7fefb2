// A channel that follows a script, for failures at exact moments; tests/js joins real ones.

type Change = { current: string; previous: string; resumed: boolean; reason?: Error };

export class FakeChannel {
  state = 'initialized';
  channelOptions: Record<string, unknown> = {};
  properties = { attachSerial: '05' };
  attaches = 0;
  /** For each attach: what it rewinds, or that it is refused. */
  backlog: (object[] | 'refused')[] = [];
  listeners: ((message: object) => void)[] = [];
  stateListeners: ((change: Change) => void)[] = [];

  on(listener: (change: Change) => void) { this.stateListeners.push(listener); }
  off(listener: (change: Change) => void) { this.stateListeners = this.stateListeners.filter((each) => each !== listener); }
  async subscribe(listener: (message: object) => void) { this.listeners.push(listener); }
  unsubscribe(listener: (message: object) => void) { this.listeners = this.listeners.filter((each) => each !== listener); }
  async setOptions(options: Record<string, unknown>) { this.channelOptions = options; }

  become(current: string, resumed = false, reason?: Error) {
    const previous = this.state;
    this.state = current;
    for (const listener of [...this.stateListeners]) listener({ current, previous, resumed, ...(reason && { reason }) });
  }

  deliver(...messages: object[]) {
    for (const message of messages) for (const listener of [...this.listeners]) listener(message);
  }

  async detach() {
    await Promise.resolve();
    if (this.state === 'failed') throw new Error('Unable to detach as channel state is failed');
    this.become('detached');
  }

  async attach() {
    if (this.state === 'attached') return;
    this.become('attaching');
    await Promise.resolve();
    const rewound = this.backlog[this.attaches++] ?? [];
    if (rewound === 'refused') {
      this.become('failed', false, new Error('refused'));
      throw new Error('refused');
    }
    this.become('attached');
    this.deliver(...rewound);
  }
}

const extras = { headers: { responseId: 'r' } };
export const token = (n: number, data: string) => ({ name: 'token', data, id: `m${n}`, serial: `0${n}`, timestamp: n, extras });

export const message = (text: string, more: object = {}) => ({
  id: 'r', role: 'assistant', status: 'in_progress', text, parts: [{ type: 'text', text }], gaps: [], client_id: null, prompt_id: null,
  started_at: null, finished_at: null, repaired: null, exact: true, through: { gen: 1, seq: null, serial: `0${text.length}`, id: null }, ...more,
});

export const answer = (messages: object[] = [], more: object = {}) => ({
  conversation_id: 'c', channel: 'ai:c', messages, reasons: [], complete: true, until: '09', rewind_from: null, older: null, ...more,
});
