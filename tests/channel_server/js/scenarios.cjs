// What stock ably-js does with the server; each scenario returns what it saw, and Python judges.
'use strict';
const Ably = require('ably');

const [, , name, port, key, binary, extra] = process.argv;
const given = extra ? JSON.parse(extra) : {};
const open = [];
const base = { endpoint: '127.0.0.1', port: Number(port), tls: false, useBinaryProtocol: binary === 'true', logLevel: 0 };

function realtime(options = {}) {
  const auth = ['key', 'token', 'authCallback', 'tokenDetails'].some((k) => k in options) ? {} : { key };
  const client = new Ably.Realtime({ ...base, ...auth, ...options });
  open.push(client);
  return client;
}
const rest = (options = {}) => new Ably.Rest({ ...base, ...('token' in options ? {} : { key }), ...options });
const state = (client, wanted) => client.connection.whenState(wanted);
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const error = (e) => ({ code: e.code, statusCode: e.statusCode });
const refused = (promise) => promise.then(() => null, error);
const control = (method, path, body) =>
  fetch(`http://127.0.0.1:${port}/localably/${path}`, {
    method, headers: { 'Content-Type': 'application/json' }, body: body && JSON.stringify(body) }).then((r) => r.json());

async function until(condition, ms = 20000) {
  const end = Date.now() + ms;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`waited in vain: ${condition}`);
    await pause(10);
  }
}
async function all(page) {
  const items = [...page.items];
  while (page.hasNext()) { page = await page.next(); items.push(...page.items); }
  return items;
}
async function following(channel) {
  const got = [];
  await channel.subscribe((m) => got.push(m));
  return got;
}
const data = (messages) => messages.map((m) => m.data);
const brief = (m) => ({ action: m.action, data: m.data, serial: m.serial, version: m.version?.serial, name: m.name });

const scenarios = {
  async publish() {
    const channel = realtime().channels.get('room');
    const got = await following(channel);
    const results = [];
    for (const item of ['héllo 日本語', { a: [1] }, Buffer.from([0, 255])]) results.push(await channel.publish('n', item));
    results.push(await channel.publish([{ name: 'x', data: '1' }, { name: 'y', data: '2', extras: { headers: { k: 'v' } } }]));
    await until(() => got.length === 5);
    return {
      data: got.map((m) => (typeof m.data === 'object' && m.data.byteLength ? [...new Uint8Array(m.data)] : m.data)),
      serials: got.map((m) => m.serial), acked: results.flatMap((r) => r.serials), extras: got[4].extras,
      actions: got.map((m) => m.action), ids: got.map((m) => m.id),
    };
  },

  async params_and_modes() {
    const client = realtime();
    const channel = client.channels.get('room', { params: { modes: 'subscribe', delta: 'vcdiff', unheard: 'of' } });
    await channel.attach();
    const seen = { params: channel.params, modes: channel.modes, publish: await refused(channel.publish('n', 'x')) };
    await channel.setOptions({ params: { unheard: 'of' } });
    const whole = { params: channel.params, modes: channel.modes };
    const byFlags = client.channels.get('other', { modes: ['PUBLISH', 'PRESENCE_SUBSCRIBE'] });
    const got = await following(byFlags);
    await byFlags.publish('n', 'not for me');
    await byFlags.presence.enterClient('x').catch((e) => (seen.presence = error(e)));
    return { seen, whole, flags: byFlags.modes, received: got.length };
  },

  async rewind_and_until_attach() {
    const writer = realtime().channels.get('room');
    for (let i = 0; i < 6; i++) await writer.publish('n', `m${i}`);
    const channel = realtime().channels.get('room', { params: { rewind: '2' } });
    let backlog;
    channel.once('attached', (change) => (backlog = change.hasBacklog));
    const got = await following(channel);
    await writer.publish('n', 'live');
    await until(() => got.length === 3);
    const history = data(await all(await channel.history({ untilAttach: true, limit: 3 })));
    await channel.detach();
    got.length = 0;
    await channel.attach();
    await until(() => got.length === 2);
    return { history, backlog, again: data(got), empty: await new Promise((done) => {
      const none = realtime().channels.get('silent', { params: { rewind: '1' } });
      none.once('attached', (change) => done(change.hasBacklog)); none.attach(); }) };
  },

  async rewind_forms() {
    const writer = rest().channels.get('room');
    const serials = [];
    for (let i = 0; i < 3; i++) serials.push(...(await writer.publish('n', `m${i}`)).serials);
    const by = async (params, count) => {
      const got = await following(realtime().channels.get('room', { params }));
      await until(() => got.length >= count);
      await pause(50);
      return data(got);
    };
    const bad = await refused(realtime().channels.get('room', { params: { rewind: 'soon' } }).attach());
    return { number: await by({ rewind: 1 }, 1), time: await by({ rewind: '2m' }, 3), bad,
      limited: await by({ rewind: '2m', rewindLimit: '2' }, 2), serial: await by({ rewind: serials[0] }, 2),
      qualified: data(await (async () => { const g = await following(realtime().channels.get('[?rewind=1]room')); await until(() => g.length); return g; })()) };
  },

  async rewind_cap() {
    const channel = realtime().channels.get('room');
    await Promise.all(Array.from({ length: 120 }, (_, i) => channel.publish('n', `m${i}`)));
    const reader = realtime().channels.get('room', { params: { rewind: '2m' } });
    let reason;
    reader.once('attached', (change) => (reason = change.reason));
    const got = await following(reader);
    await until(() => got.length >= 100);
    await pause(100);
    return { count: got.length, first: got[0].data, last: got[99].data, reason: reason && error(reason) };
  },

  async resume() {
    const client = realtime({ disconnectedRetryTimeout: 100 });
    const channel = client.channels.get('room');
    const got = await following(channel);
    const writer = rest().channels.get('room');
    await writer.publish('n', 'before');
    await until(() => got.length === 1);
    const before = client.connection.id;
    await control('PUT', 'faults/freeze');
    const again = new Promise((done) => channel.once('attached', done));
    await control('POST', 'cut', { connection_id: before });
    await writer.publish('n', 'meanwhile 1');
    await writer.publish('n', 'meanwhile 2');
    await control('DELETE', 'faults');
    const change = await again;
    await until(() => got.length === 3);
    await writer.publish('n', 'after');
    await until(() => got.length === 4);
    return { same: client.connection.id === before, resumed: change.resumed, data: data(got), reason: client.connection.errorReason };
  },

  async resume_refused() {
    const client = realtime({ disconnectedRetryTimeout: 100 });
    const channel = client.channels.get('room');
    await channel.attach();
    const before = client.connection.id;
    const connected = new Promise((done) => client.connection.once('disconnected', () => client.connection.once('connected', done)));
    const attached = new Promise((done) => channel.once('attaching', () => channel.once('attached', done)));
    if (given.fake) client.connection.connectionManager.connectionKey = '_____!fake_key____';
    if (given.fault) await control('PUT', `faults/${given.fault}`, given.parameters || {});
    await control('POST', 'cut', { connection_id: before });
    const change = await connected, back = await attached;
    return { same: client.connection.id === before, reason: change.reason && error(change.reason),
      resumed: back.resumed, channel: back.reason && error(back.reason) };
  },

  async recover() {
    const first = realtime();
    const channels = ['one', 'two'].map((n) => first.channels.get(n));
    const writer = rest();
    for (const channel of channels) {
      const got = await following(channel);
      await writer.channels.get(channel.name).publish('n', 'seen');
      await until(() => got.length === 1);
    }
    const { id, key: oldKey } = first.connection;
    const recoveryKey = first.connection.createRecoveryKey();
    for (const channel of channels) for (const i of [1, 2]) await writer.channels.get(channel.name).publish('n', `missed ${i}`);
    const second = realtime({ recover: recoveryKey });
    const got = {};
    let resumed = [];
    for (const channel of channels) {
      const mine = second.channels.get(channel.name);
      mine.once('attached', (c) => resumed.push(c.resumed));
      got[channel.name] = [];
      await mine.subscribe((m) => got[channel.name].push(m.data));
    }
    await until(() => got.one.length === 2 && got.two.length === 2);
    return { sameId: second.connection.id === id, newKey: second.connection.key !== oldKey, got, resumed };
  },

  async publishes_while_cut() {
    const client = realtime({ disconnectedRetryTimeout: 50 });
    const channel = client.channels.get('room');
    await channel.attach();
    await control('PUT', 'faults/lose_acks', { count: 1 });
    const unanswered = channel.publish('n', 'once');
    await pause(100);
    await control('POST', 'cut', {});
    const { serials } = await unanswered;
    const history = await all(await rest().channels.get('room').history());
    return { data: data(history), acked: serials, kept: history.map((m) => m.serial) };
  },

  async tokens() {
    const issuer = rest();
    let asked = 0;
    const authCallback = (params, done) => {
      asked += 1;
      issuer.auth.requestToken({ ...params, ttl: given.ttl, clientId: 'ann' }).then((t) => done(null, t), (e) => done(e, null));
    };
    const client = realtime({ authCallback });
    await state(client, 'connected');
    const id = client.connection.id;
    const reason = await new Promise((done) => {
      client.connection.once('disconnected', (c) => done(error(c.reason)));
      client.connection.once('update', () => done('update'));
    });
    await state(client, 'connected');
    await client.channels.get('room').publish('n', 'still here');
    return { reason, asked, clientId: client.auth.clientId, same: client.connection.id === id };
  },

  async reauth() {
    const issuer = rest();
    const client = realtime({ authCallback: (p, done) => issuer.auth.requestToken(p).then((t) => done(null, t), (e) => done(e, null)) });
    const wide = { capability: { right: ['*'], both: ['*'] } };
    await client.auth.authorize(wide);
    const channel = client.channels.get('right');
    await channel.attach();
    const failed = new Promise((done) => channel.once('failed', (c) => done(error(c.reason))));
    await client.auth.authorize({ capability: { both: ['*'] } });
    const lost = await failed;
    const both = client.channels.get('both');
    await both.attach();
    await client.auth.authorize({ capability: { both: ['subscribe'] } });
    const narrowed = await refused(both.publish('n', 'x'));
    await client.auth.authorize({ capability: { both: ['subscribe', 'publish'] } });
    const widened = await refused(both.publish('n', 'x'));
    return { lost, narrowed, widened, denied: await refused(client.channels.get('right2').attach()) };
  },

  async client_ids() {
    const issuer = rest();
    const token = (clientId) => issuer.auth.requestToken({ clientId });
    const ann = realtime({ token: (await token('ann')).token });
    const channel = ann.channels.get('room');
    const wrong = await refused(channel.publish({ name: 'n', data: 'x', clientId: 'bob' }));
    const got = await following(channel);
    await channel.publish('n', 'mine');
    await until(() => got.length);
    const mismatch = realtime({ token: (await token('ann')).token, clientId: 'bob' });
    const failed = await new Promise((done) => mismatch.connection.once('failed', (c) => done(error(c.reason))));
    const anybody = realtime({ token: (await token('*')).token, clientId: 'cat' });
    await state(anybody, 'connected');
    const anonymous = await issuer.auth.requestToken({});
    const nobody = await refused(rest({ token: anonymous.token }).channels.get('room').publish({ data: 'x', clientId: 'bob' }));
    return { wrong, clientId: got[0].clientId, mismatch: failed, cat: anybody.auth.clientId, nobody };
  },

  async mutable() {
    const client = realtime();
    const channel = client.channels.get('mutable:room');
    const got = await following(channel);
    const { serials: [serial] } = await channel.publish('greeting', 'Hello');
    const appended = await channel.appendMessage({ serial, data: ' World' }, { clientId: 'x', description: 'd', metadata: { k: 'v' } });
    await until(() => got.length === 2);
    const late = await following(realtime().channels.get('mutable:room'));
    await channel.appendMessage({ serial, data: '!' });
    await until(() => late.length === 1);
    await pause(60);
    await channel.appendMessage({ serial, data: '?' });
    await until(() => late.length === 2);
    const rewound = await following(realtime().channels.get('mutable:room', { params: { rewind: '1' } }));
    await until(() => rewound.length === 1);
    const updated = await channel.updateMessage({ serial, data: 'New' }, { description: 'u' });
    await until(() => late.length === 3);
    const deleted = await channel.deleteMessage({ serial, data: '' });
    await until(() => late.length === 4);
    const byRest = rest().channels.get('mutable:room');
    const versions = await byRest.getMessageVersions(serial);
    return { serial, live: got.map(brief), version: got[1].version, appended: appended.versionSerial ?? appended.version,
      updated: updated.versionSerial ?? updated.version, late: late.map(brief), rewound: rewound.map(brief),
      history: (await byRest.history()).items.map(brief), versions: versions.items.map(brief),
      latest: brief(await byRest.getMessage(serial)), deleted: deleted.versionSerial ?? deleted.version,
      refused: await refused((async () => { const plain = client.channels.get('plain'); const r = await plain.publish('n', 'x');
        await plain.updateMessage({ serial: r.serials[0], data: 'y' }); })()),
      missing: await refused(byRest.getMessage('01700000000000-000@none:000')) };
  },

  async rollup() {
    const client = realtime({ transportParams: { appendRollupWindow: 500 } });
    const channel = client.channels.get('mutable:room');
    const got = await following(channel);
    const { serials: [serial] } = await channel.publish('r', 'a');
    await Promise.all(['b', 'c', 'd'].map((d) => channel.appendMessage({ serial, data: d })));
    await channel.publish('other', 'overtakes');
    await until(() => got.length === 4);
    return { live: got.map(brief), history: (await channel.history()).items.map(brief) };
  },

  async presence() {
    const [ann, bob] = ['ann', 'bob'].map((clientId) => realtime({ clientId }));
    const events = [];
    await bob.channels.get('room').presence.subscribe((m) => events.push([m.action, m.clientId, m.data]));
    const mine = ann.channels.get('room').presence;
    await mine.enter('hi');
    await mine.update('there');
    await until(() => events.length === 2);
    const get = async () => (await realtime().channels.get('room').presence.get()).map((m) => [m.clientId, m.data]);
    const members = await get();
    const byRest = (await rest().channels.get('room').presence.get()).items.map((m) => [m.clientId, m.data]);
    await mine.leave();
    await until(() => events.length === 3);
    await bob.channels.get('room').presence.enter({ a: 1 });
    bob.close();
    await state(bob, 'closed');
    return { events, members, byRest, left: await get() };
  },

  async presence_of_a_lost_member() {
    const ann = realtime({ clientId: 'ann', transportParams: { remainPresentFor: 0 }, disconnectedRetryTimeout: 60000 });
    const events = [];
    const watching = realtime({ clientId: 'bob' }).channels.get('room').presence;
    await watching.subscribe((m) => events.push([m.action, m.clientId]));
    await ann.channels.get('room').presence.enter();
    await until(() => events.length === 1);
    await control('POST', 'cut', { connection_id: ann.connection.id });
    ann.connection.once('disconnected', () => ann.connection.close());
    await until(() => events.length === 2);
    return { events, members: (await watching.get()).length };
  },

  async presence_history() {
    const ann = realtime({ clientId: 'ann' });
    const mine = ann.channels.get('room').presence;
    await mine.enter('hi');
    await mine.update({ a: 1 });
    const late = realtime({ clientId: 'bob' }).channels.get('room');
    await late.attach();
    await mine.leave('bye');
    const brief = (items) => items.map((m) => [m.action, m.clientId, m.data]);
    const byRest = rest().channels.get('room').presence;
    const forwards = await byRest.history({ direction: 'forwards', limit: 1 });
    return { all: brief(await all(forwards)), pages: forwards.items.length, backwards: brief((await mine.history()).items),
      untilAttach: brief((await late.presence.history({ untilAttach: true })).items),
      fields: Object.keys((await byRest.history({ limit: 1 })).items[0]).sort() };
  },

  async deltas() {
    let decoded = 0;
    const decoder = require('@ably/vcdiff-decoder');
    const vcdiff = { decode: (delta, base) => { decoded++; return decoder.decode(delta, base); } };
    const client = realtime({ plugins: { vcdiff } });
    const channel = client.channels.get(given.channel, { params: { delta: 'vcdiff' } });
    const got = await following(channel);
    const plain = await following(realtime().channels.get(given.channel));
    const writer = rest().channels.get(given.channel);
    const values = [...given.values, ...given.bytes.map((b) => Buffer.from(b))];
    for (const value of values) await writer.publish('n', value);
    await writer.publish(given.values.map((data) => ({ name: 'n', data })));
    await until(() => got.length === values.length + given.values.length);
    const plainly = (m) => (m.data instanceof Uint8Array || m.data instanceof ArrayBuffer ? [...new Uint8Array(m.data)] : m.data);
    await until(() => plain.length === got.length);
    return { data: got.map(plainly), plain: plain.map(plainly), decoded, extras: got.map((m) => m.extras?.delta?.format ?? null) };
  },

  async deltas_after_a_gap() {
    const decoder = require('@ably/vcdiff-decoder');
    const channel = realtime({ plugins: { vcdiff: decoder } }).channels.get('room', { params: { delta: 'vcdiff' } });
    const got = await following(channel);
    let updates = 0;
    channel.on('update', () => updates++);
    await control('PUT', 'faults/drop_deliveries', { nth: 2, silent: given.silent });
    const writer = rest().channels.get('room');
    for (const value of given.values) await writer.publish('n', value);
    await until(() => got.length === given.values.length - 1);
    return { data: data(got), updates, state: channel.state };
  },

  async deltas_of_appends() {
    const decoder = require('@ably/vcdiff-decoder');
    const channel = realtime({ plugins: { vcdiff: decoder } }).channels.get('mutable:room', { params: { delta: 'vcdiff' } });
    const got = await following(channel);
    const writer = realtime({ transportParams: { appendRollupWindow: 0 } }).channels.get('mutable:room');
    const { serials: [serial] } = await writer.publish('n', given.text);
    await writer.appendMessage({ serial, data: given.text + '!' });
    await writer.updateMessage({ serial, data: given.text + '?' });
    await until(() => got.length === 3);
    return { data: data(got), deltas: got.map((m) => m.extras?.delta?.format ?? null) };
  },

  async filtered() {
    const client = realtime();
    const channel = client.channels.getDerived('room', { filter: given.filter });
    const got = await following(channel);
    const plain = await following(client.channels.get('room'));
    const writer = rest().channels.get('room');
    for (const message of given.messages) await writer.publish(message);
    await writer.publish(given.messages);
    await until(() => plain.length === 2 * given.messages.length);
    await pause(50);
    return { data: data(got), publish: await refused(channel.publish('n', 'x')),
      history: await refused(channel.history()), modes: channel.modes,
      bad: await refused(client.channels.getDerived('room', { filter: 'name ==' }).attach()),
      denied: await refused(realtime({ token: (await rest().auth.requestToken({ capability: { room: ['subscribe'] } })).token })
        .channels.getDerived('room', { filter: given.filter }).attach()),
      granted: await refused(realtime({ token: (await rest().auth.requestToken({ capability: { '[filter]room': ['subscribe'] } })).token })
        .channels.getDerived('room', { filter: given.filter }).attach()) };
  },

  async filtered_resume() {
    const client = realtime({ disconnectedRetryTimeout: 100 });
    const channel = client.channels.getDerived('mutable:room', { filter: 'name == `"yes"`' });
    const got = await following(channel);
    const writer = realtime({ transportParams: { appendRollupWindow: 0 } }).channels.get('mutable:room');
    const { serials: [serial] } = await writer.publish('yes', 'a');
    const other = await writer.publish('no', 'x');
    await writer.appendMessage({ serial, data: 'b' });
    await writer.appendMessage({ serial: other.serials[0], data: 'y' });
    await until(() => got.length === 2);
    await control('PUT', 'faults/freeze');
    const again = new Promise((done) => channel.once('attached', done));
    await control('POST', 'cut', { connection_id: client.connection.id });
    const byRest = rest().channels.get('mutable:room');
    for (const n of ['yes', 'no']) await byRest.publish(n, 'missed');
    await pause(300);
    await control('DELETE', 'faults');
    const change = await again;
    await until(() => got.length === 3);
    return { live: got.map(brief).map((m) => [m.name, m.data]), resumed: change.resumed };
  },

  async revoke() {
    const owner = rest({ key: given.key });
    const token = async (clientId) => (await owner.auth.requestToken({ clientId })).token;
    const old = { ann: await token('ann'), bob: await token('bob') };
    await pause(5);
    const clients = Object.fromEntries(Object.entries(old).map(([name, t]) => [name, realtime({ token: t })]));
    let renewed = 0;
    clients.cat = realtime({ authCallback: (p, done) => { renewed++; owner.auth.requestToken({ clientId: 'cat' }).then((t) => done(null, t), (e) => done(e, null)); } });
    await Promise.all(Object.values(clients).map((c) => state(c, 'connected')));
    await pause(5);
    const gone = (c) => new Promise((done) => c.connection.once('disconnected', (x) => done(x.reason.code)));
    const waiting = [gone(clients.ann), gone(clients.cat)];
    const result = await owner.auth.revokeTokens([{ type: 'clientId', value: 'ann' }, { type: 'clientId', value: 'cat' }, { type: 'invalidType', value: 'abc' }]);
    const codes = await Promise.all(waiting);
    await state(clients.cat, 'connected');
    const refusal = await refused(rest({ token: old.ann }).channels.get('room').history());
    return { result, codes, renewed, bob: clients.bob.connection.state, refusal,
      again: await refused(rest({ token: await token('ann') }).channels.get('room').history()),
      unrevocable: await refused(rest().auth.revokeTokens([{ type: 'clientId', value: 'ann' }])) };
  },

  async revoke_with_margin() {
    const owner = rest({ key: given.key });
    let renewed = 0;
    const client = realtime({ authCallback: (p, done) => { renewed++; owner.auth.requestToken({ clientId: 'ann' }).then((t) => done(null, t), (e) => done(e, null)); } });
    await state(client, 'connected');
    await pause(5);
    let disconnected = 0;
    client.connection.on('disconnected', () => disconnected++);
    const update = new Promise((done) => client.connection.once('update', done));
    const now = await owner.time();
    const { results } = await owner.auth.revokeTokens([{ type: 'clientId', value: 'ann' }], { allowReauthMargin: true });
    await update;
    return { renewed, disconnected, margin: results[0].appliesAt - now };
  },

  async echo() {
    const client = realtime({ echoMessages: false });
    const got = await following(client.channels.get('room'));
    await client.channels.get('room').publish('n', 'own');
    await rest().channels.get('room').publish('n', 'other');
    await until(() => got.length);
    return data(got);
  },

  async refusals() {
    const client = realtime();
    const bad = client.channels.get(':hell');
    const attach = await refused(bad.attach());
    const publish = await refused(client.channels.get(':hell').publish('n', 'x'));
    const empty = await refused(client.channels.get('').attach());
    const large = await refused(rest({ maxMessageSize: 1e6 }).channels.get('room').publish('n', 'x'.repeat(70000)));
    const ids = await refused(rest().channels.get('room').publish([{ id: 'a:0', data: '1' }, { id: 'b:1', data: '2' }]));
    const nack = await refused(rest().channels.get('room').publish({ name: 'n' }, { _forceNack: true }));
    const limit = await refused(rest().channels.get('room').history({ limit: 1001 }));
    const unknown = await rest().request('get', '/no/such', 5, null, null, null);
    return { attach, publish, empty, large, ids, nack, limit, unknown: [unknown.statusCode, unknown.errorCode],
      still: client.connection.state };
  },

  async batch() {
    const client = rest();
    const narrow = await client.auth.requestToken({ capability: { one: ['publish'] } });
    const result = await rest({ token: narrow.token }).batchPublish({ channels: ['one', 'two'], messages: [{ data: 'a' }, { data: 'b' }] });
    const old = await client.request('POST', '/messages', 2, {}, { channels: ['x1', 'x2'], messages: { data: 'foo' } }, {});
    return { result, history: data((await client.channels.get('one').history()).items),
      old: [old.statusCode, old.items.map((i) => i.channel)] };
  },

  async on_behalf() {
    const client = realtime({ clientId: 'ann' });
    await state(client, 'connected');
    const got = await following(client.channels.get('room'));
    const { key: connectionKey, id } = client.connection;
    await rest().channels.get('room').publish({ name: 'n', data: 'for her', connectionKey });
    await until(() => got.length);
    return { connection: got[0].connectionId === id, clientId: got[0].clientId,
      wrong: await refused(rest().channels.get('room').publish({ data: 'x', connectionKey: 'should.be.wrong' })) };
  },

  async ephemeral() {
    const channel = realtime().channels.get('room');
    const got = await following(channel);
    await channel.publish({ name: 'n', data: 'gone', extras: { ephemeral: true } });
    await channel.publish('n', 'kept');
    await until(() => got.length === 2);
    return { live: data(got), history: data((await channel.history()).items) };
  },

  async idempotent() {
    const channel = realtime().channels.get('room');
    const got = await following(channel);
    for (let i = 0; i < 3; i++) await channel.publish({ name: 'n', id: 'some_id', data: 'x' });
    await channel.publish('end', null);
    await until(() => got.some((m) => m.name === 'end'));
    return got.length;
  },

  async capability() {
    const issuer = rest();
    const ask = async (capability) => JSON.parse((await issuer.auth.requestToken({ capability })).capability);
    return { subset: await ask({ 'a:b': ['subscribe'] }), default: JSON.parse((await issuer.auth.requestToken()).capability),
      unknown: await refused(issuer.auth.requestToken({ capability: { a: ['publish_'] } })),
      mixed: await refused(issuer.auth.requestToken({ capability: { a: ['*', 'publish'] } })),
      none: await refused(issuer.auth.requestToken({ capability: { a: [] } })),
      nonce: await refused((async () => { const n = { nonce: '1234567890123456', timestamp: Date.now() }; await issuer.auth.requestToken(n); await issuer.auth.requestToken(n); })()),
      time: await refused(issuer.auth.requestToken({ timestamp: Date.now() - 30 * 60000 })),
      ttl: await refused(issuer.auth.requestToken({ ttl: 365 * 86400000 })) };
  },

  async heartbeat() {
    const client = realtime({ realtimeRequestTimeout: 1000 });
    await state(client, 'connected');
    const id = client.connection.id;
    let dropped = 0;
    client.connection.on('disconnected', () => dropped++);
    await pause(3500);
    const ms = await client.connection.ping();
    return { dropped, same: client.connection.id === id, ping: typeof ms };
  },

  async dropped() {
    const channel = realtime().channels.get('room');
    const got = await following(channel);
    const update = new Promise((done) => channel.once('update', (c) => done({ resumed: c.resumed, reason: error(c.reason) })));
    await control('PUT', 'faults/drop_deliveries', { nth: 2 });
    const writer = rest().channels.get('room');
    for (const d of ['a', 'b', 'c']) await writer.publish('n', d);
    await until(() => got.length === 2);
    return { data: data(got), update: await update };
  },

  async until_attach_refused() {
    const channel = realtime().channels.get('room');
    await channel.attach();
    await control('PUT', 'faults/refuse_until_attach', { code: given.code });
    return { refused: await refused(channel.history({ untilAttach: true })), plain: (await channel.history()).items.length };
  },
};

scenarios[name]().then(
  (seen) => { console.log(JSON.stringify(seen)); },
  (e) => { console.error(e); process.exitCode = 1; },
).finally(() => { for (const client of open) client.close(); setTimeout(() => process.exit(), 50); });
