// Join a conversation over Ably: attach, hydrate, merge, and again after a gap (docs/protocol.md section 10).
//
// A reader needs an overlap between the answer and the live messages, so every hydrate follows a new
// attach, which rewinds. From the attach on, messages are buffered, and then applied to the answer.

import type { ChannelOptions, ChannelStateChange, InboundMessage, RealtimeChannel } from 'ably';
import { Conversation } from './conversation.js';
import { Problem, type Query } from './load.js';
import { Joined, Session, type JoinOptions } from './session.js';
import type { Answer } from './wire.js';

export interface AblyJoinOptions extends JoinOptions {
  /** The URL of the conversation: `…/v1/conversations/{id}`, perhaps with a query. */
  readonly url?: string | undefined;
  /** Instead of `url`: return the parsed answer, or throw an error with the `status` of the response. */
  readonly load?: ((query: Query) => Promise<unknown>) | undefined;
  /** 1: attach, then hydrate (default); 2: hydrate up to the attach point; 3: hydrate, then rewind to there. */
  readonly way?: 1 | 2 | 3 | undefined;
}

const REWIND = '10s';
const BACKLOG_MS = 250;
const MOST_WAITING = 10_000;
const LOST_STATES: readonly string[] = ['detached', 'suspended', 'failed'];
const UNATTACHED: readonly string[] = ['initialized', 'detached', 'failed'];

const sessions = new WeakMap<RealtimeChannel, ChannelSession>();
/** Sessions that are leaving their channels; a new session of a channel waits for this to end. */
const leaving = new WeakMap<RealtimeChannel, Promise<unknown>>();

/** Members of ably-js that are missing in its types. */
interface Untyped {
  readonly channelOptions?: ChannelOptions;
  readonly properties?: { readonly attachSerial?: string | null };
}

/** Join the conversation of *channel*: show its messages, then live events, until closed.
 *
 * Joins of one channel share one attach and one hydrate, with the options of the first join. */
export function join(channel: RealtimeChannel, options: AblyJoinOptions): Joined {
  let session = sessions.get(channel);
  if (!session || session.isClosed) {
    if (options.url === undefined && !options.load) throw new TypeError('join needs the option url or load');
    session = new ChannelSession(channel, options);
    sessions.set(channel, session);
  }
  return new Joined(session, options);
}

class ChannelSession extends Session {
  readonly #load: (query: Query) => Promise<unknown>;
  /** The options that the page gave the channel, which are kept. */
  #own: ChannelOptions = {};
  #wasAttached = false;
  #way: 1 | 2 | 3;
  #isRunning = false;
  #isMerged = false;
  /** Messages that were delivered since the attach and are not merged yet. */
  #waiting: InboundMessage[] = [];
  /** Something was missed since the attach. */
  #isTorn = false;
  /** There is a new attach, of this or of other code, that no hydrate has used. */
  #isFresh = false;
  #isAttaching = false;
  #isListening = false;

  constructor(private readonly channel: RealtimeChannel, options: AblyJoinOptions) {
    super(options);
    this.#load = options.load ?? this.requests.loader(options.url ?? '');
    this.#way = options.way ?? 1;
    this.restart();
  }

  get #untyped(): Untyped {
    return this.channel as Untyped;
  }

  protected override load(query: Query): Promise<unknown> {
    return this.#load(query);
  }

  override restart(): void {
    void this.#run();
  }

  #onState = ({ current, previous, resumed, reason }: ChannelStateChange): void => {
    if (current === 'attaching' && UNATTACHED.includes(previous)) {
      [this.#waiting, this.#isTorn, this.#isFresh, this.#isAttaching] = [[], false, true, true];
    } else if (current === 'attached') {
      if (this.#isAttaching) this.#isAttaching = false;
      else this.#isTorn ||= !resumed;
    }
    if (this.#isMerged && (this.#isTorn || LOST_STATES.includes(current))) this.#again(reason);
  };

  #onMessage = (message: InboundMessage): void => {
    if (!this.#isMerged) {
      if (this.#waiting.push(message) > MOST_WAITING) [this.#waiting, this.#isTorn] = [[], true];
      return;
    }
    const { conversation } = this.snapshot;
    const event = conversation.decode(message);
    const next = event ? conversation.applyEvent(event) : conversation;
    if (!event) this.ignored += 1;
    if (!next) this.#again();
    else if (event && next !== conversation) this.showEvent(next, event);
  };

  #again(reason?: { readonly message: string }): void {
    this.showLost(reason ? Problem.of(reason) : null);
    void this.#run();
  }

  /** Attach and hydrate until the two overlap. */
  async #run(): Promise<void> {
    this.#isMerged = false;
    if (this.#isRunning) return;
    this.#isRunning = true;
    this.showLost();
    await leaving.get(this.channel);
    if (!this.isClosed) this.#listen();
    while (!this.isClosed && !this.#isMerged) {
      await this.pause();
      if (this.isClosed) break;
      try {
        await this.#attempt();
      } catch (error) {
        if (!(await this.mayRetry(error))) break;
      }
    }
    this.#isRunning = false;
    if (this.snapshot.status === 'failed') this.end();
  }

  async #attempt(): Promise<void> {
    const way = this.#way;
    this.#way = 1;                                     // ways 2 and 3 are for the first attempt
    if (way === 3) {
      const answer = await this.#hydrate({});
      if (this.isClosed || !answer.rewind_from) return;
      await this.#attach(answer.rewind_from);
      await this.wait(BACKLOG_MS);
      const first = this.#waiting[0];
      const overlap = first && answer.until !== null && (first.version?.serial ?? first.serial ?? '~') <= answer.until;
      if (overlap && !this.isClosed) this.#merge(answer);
      return;
    }
    await this.#attach(REWIND);
    if (this.isClosed) return;
    const until = way === 2 ? this.#untyped.properties?.attachSerial : undefined;
    const answer = await this.#hydrate({ until: until ?? undefined });
    if (!this.isClosed) this.#merge(answer);
  }

  #hydrate(query: { until?: string | undefined }): Promise<Answer> {
    return this.requests.answer((signal) => this.#load({ ...query, signal }), this.closing.signal);
  }

  /** Attach with *rewind*, unless another reader of the channel has just done so. */
  async #attach(rewind: string): Promise<void> {
    const { channel } = this;
    const params = { ...this.#own.params, rewind };
    const isFresh = this.#isFresh && ['attaching', 'attached'].includes(channel.state) && this.#untyped.channelOptions?.params?.['rewind'] === rewind;
    if (!isFresh && !UNATTACHED.includes(channel.state)) await channel.detach();
    if (this.isClosed) return;
    if (!isFresh) await channel.setOptions({ ...this.#own, params, attachOnSubscribe: false });
    if (this.isClosed) return;
    await channel.attach();
    if (this.isClosed) this.end();                     // closed while it attached
  }

  /** Show *answer* with the messages delivered since the attach; if something is missing, another attempt follows. */
  #merge(answer: Answer): void {
    let conversation = Conversation.of(answer).withPagesOf(this.snapshot.conversation);
    let isWhole = !this.#isTorn;                       // otherwise the delivered messages may not continue the answer
    for (const message of this.#waiting) {
      const next = isWhole && conversation.apply(message);
      if (next) conversation = next;
      else isWhole = false;
    }
    this.#isMerged = isWhole && !answer.reasons.some((reason) => reason.retry);
    [this.#waiting, this.#isFresh] = [[], false];
    if (this.#isMerged) this.showLive(conversation);
    else this.show({ conversation });
  }

  #listen(): void {
    if (this.#isListening) return;
    const { channel } = this;
    this.#own = { ...this.#untyped.channelOptions };
    this.#wasAttached = !UNATTACHED.includes(channel.state);
    this.#isListening = true;
    channel.on(this.#onState);
    void channel.setOptions({ ...this.#own, attachOnSubscribe: false }).catch(() => {});
    void channel.subscribe(this.#onMessage).catch(() => {});
  }

  /** Restore the channel to the state in which the page had it. */
  #stopListening(): Promise<unknown> {
    const { channel } = this;
    this.#waiting = [];
    channel.off(this.#onState);
    channel.unsubscribe(this.#onMessage);
    if (!this.#isListening) return Promise.resolve();
    this.#isListening = false;
    const restore = () => channel.setOptions(this.#own);
    const left = this.#wasAttached || UNATTACHED.includes(channel.state) ? restore() : channel.detach().then(restore);
    return left.catch(() => {});                       // the connection may be closed already
  }

  protected override end(): void {
    leaving.set(this.channel, this.#stopListening());
  }
}
