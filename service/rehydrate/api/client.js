// The client's part: have an overlap between the answer and the live messages, and drop it. For stock
// ably-js, without other dependencies. `show` creates a view of an answer, `apply` applies a live
// message to it, and `join` does everything: attach, hydrate, merge, and retry after a gap.

// --8<-- [start:rule]
const TEXTS = { token: 'text', refusal: 'refusal', reasoning: 'reasoning' };
const CONTENT = [...Object.keys(TEXTS), 'tool_call', 'tool_args', 'tool_result', 'void'];
const MARGIN = 5000;                                 // how long ids are kept, in ms
const EVENTS = [...CONTENT, 'start', 'stop', 'response-complete'];
const KNOWN = [...EVENTS, 'cancel', 'response-end', 'user-input'];
const IGNORED = ['debug', 'error', 'heartbeat', 'log', 'metadata', 'ping', 'progress', 'rehydrate.echo', 'status', 'title', 'trace', 'typing', 'usage'];
const UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

export function show(answer) {                      // convert an answer to a Map of messages by id
  const view = new Map(answer.messages.map((m) => [m.id, structuredClone(m)]));
  return Object.assign(view, { replays: new Set(), chains: new Map(), whole: answer.older == null, tokens: answer.token_names ?? [] });
}

export function apply(view, m) {                    // apply a live message; false: hydrate again
  const h = m.extras?.headers ?? {}, gen = h.gen ?? 1, seq = h.seq ?? null, from = m.clientId ?? null;
  if (![gen, seq ?? 0].every((n) => /^\d{1,10}$/.test(n) && n <= 2e6)) return true;  // not valid numbers
  if (m.name === 'user-input') {
    const id = m.data?.promptId ?? m.id, read = readPrompt(m);
    if (!view.has(id) && read) view.set(id, { id, role: 'user', status: 'completed', text: read.text, gaps: [], exact: !read.unreadable, unreadable: read.unreadable, through: {} });
    return true;
  }
  const created = m.action == null || m.action === 'message.create';
  if (created && view.tokens.includes(m.name)) m = { ...m, name: 'token' };
  else if (created && isLost(m, h)) m = { ...m, name: 'void', ignored: IGNORED.includes(m.name) };
  if (m.name === 'response-end') m = { ...m, name: 'stop' };
  if (!EVENTS.includes(m.name)) return applyAppend(view, m);
  if (h.replayOf && m.name === 'start') view.replays.add(h.responseId);
  if (h.replayOf && !view.replays.has(h.responseId)) return true;
  const id = h.responseId ?? responseOf(view, m);
  if (!id) return true;                                                  // belongs to a response that is no longer shown
  let v = view.get(id);
  if (v) {
    const over = v.status !== 'in_progress' && !v.provisional;
    if ('client_id' in v ? v.client_id !== from : over) return true;     // from another publisher
    if (gen < v.through.gen || (gen > v.through.gen && over)) return true;
    if (gen > v.through.gen) v = undefined;                              // taken over: start again
  }
  v ??= { id, role: 'assistant', status: 'in_progress', text: '', gaps: [], client_id: from, through: { gen, seq: null, serial: null } };
  const t = v.through, last = t.seq ?? -1, over = v.status !== 'in_progress' && !v.provisional;
  if (v.recent_ids?.includes(m.id)) return true;
  if (v.sealed && seq === null && !['start', 'stop', 'response-complete'].includes(m.name)) return true;
  if (m.name === 'response-complete') {
    if (seq === null ? t.serial && m.serial <= t.serial : seq <= (v.repaired ?? -1)) return true;
    if (m.data == null || over || v.gaps.length || (seq !== null && seq < last)) return false;
    v.parts = m.data.parts ? structuredClone(m.data.parts) : [{ type: 'text', text: textIn(m) ?? '' }];
    Object.assign(v, { text: textOf(v.parts), exact: true, unreadable: 0 });
    v.repaired = seq;
    v.sealed = seq === null && t.seq === null;
  } else {
    if (seq !== null && v.gaps.some(([a, b]) => a <= seq && seq <= b)) return false;
    if (over) return true;
    if (m.name === 'stop' && v.gaps.length) return false;                  // the store may have the missing text
    if (seq === null && (m.serial == null ? m.timestamp < v.newest - MARGIN : t.serial && m.serial <= t.serial)) return true;
    if (seq !== null && seq <= last) return m.name !== 'stop';
    if (seq !== null && seq > Math.max(last, 0) + 1) return false;
    if (CONTENT.includes(m.name) && !addContent(v, m, h)) Object.assign(v, { unreadable: (v.unreadable ?? 0) + 1, exact: false });
    if (m.name === 'stop') Object.assign(v, { status: h.status ?? 'completed', finished_at: m.timestamp });
    if (m.name === 'start') v.prompt_id = h.promptId ?? null;
  }
  if (seq === null || v.anonymous) (v.recent_ids ??= []).push(m.id), (v.newest = m.timestamp);
  if (seq !== null) t.seq = Math.max(last, seq);
  if (m.serial && !(t.serial >= m.serial)) t.serial = m.serial;
  view.set(id, v);
  release(view, v);
  return true;
}

const isBytes = (data) => data instanceof ArrayBuffer || ArrayBuffer.isView(data);
const isObject = (data) => typeof data === 'object' && data !== null && !Array.isArray(data) && !isBytes(data);

function textIn(m, data = m.data) {                  // the text that data means; null: it does not mean exactly one
  if (m.encoding) return null;                       // encrypted, or damaged
  if (isBytes(data)) {
    try { return UTF8.decode(data); } catch { return null; }
  }
  const text = isObject(data) ? data.text : data;
  return typeof text === 'string' ? text : null;
}

function readPrompt(m) {                             // the text of a prompt, and how much of it could not be read
  if (m.data == null && !m.encoding) return null;
  const text = textIn(m), parts = m.encoding ? null : Array.isArray(m.data) ? m.data : m.data.parts ?? null;
  if (parts === null) return { text: text ?? '', unreadable: +(text === null) };
  if (!Array.isArray(parts) || (text === null && !parts.length)) return { text: text ?? '', unreadable: 1 };
  const isText = (p) => typeof p === 'string' || (isObject(p) && ['text', 'input_text'].includes(p.type ?? 'text'));
  const read = parts.map((p) => (isText(p) ? textIn(m, p) : null));
  return { text: text ?? read.filter((t) => t !== null).join(''), unreadable: +read.includes(null) };
}

function isLost(m, h) {                              // text of a response under a name that means nothing here
  if (KNOWN.includes(m.name) || (m.name === 'response' && m.serial != null) || h.responseId == null || m.extras.ai) return false;
  return h.seq != null || ((m.encoding || isBytes(m.data) || textIn(m)) && !IGNORED.includes(m.name));
}

function addContent(v, m, h) {                       // append content to its part, or add a part; false: it cannot be read
  if (m.name === 'void') return m.ignored;
  const parts = (v.parts ??= []), type = TEXTS[m.name], key = h.part == null ? null : String(h.part);
  const text = m.data == null && !m.encoding ? '' : textIn(m);
  if (type) {
    if (!text) return text !== null;
    let part = key === null ? parts.at(-1) : parts.find((p) => p.type === type && p.part === key);
    if (part?.type !== type || (part.part ?? null) !== key) parts.push(part = { type, text: '', ...(key !== null && { part: key }) });
    part.text += text;
    if (type !== 'reasoning') v.text = part === parts.at(-1) ? v.text + text : textOf(parts);
    return true;
  }
  const given = String(h.toolCallId ?? ''), fields = isObject(m.data) ? m.data : {};
  if (!given && m.name !== 'tool_call') return false;                    // it belongs to no call
  if (m.name === 'tool_args' && !text) return text !== null;
  if (m.name === 'tool_result' && (m.encoding || (isBytes(m.data) && text === null))) return false;
  const id = given || (m.id ?? `call-${h.seq ?? ''}`);
  let call = parts.find((p) => p.tool_call_id === id);
  if (!call) parts.push(call = { type: 'tool_call', tool_call_id: id, name: null, args: '', result: null, status: 'in_progress' });
  call.name = fields.name ?? call.name;
  if (m.name === 'tool_args') call.args = typeof call.args === 'string' ? call.args + text : call.args;
  else if (m.name === 'tool_call') call.args = fields.args ?? '';
  else Object.assign(call, { result: (isObject(m.data) ? fields.result : m.data == null ? null : text ?? m.data) ?? null, status: h.status === 'failed' ? 'failed' : 'completed' });
  return m.name !== 'tool_call' || (m.data == null ? !m.encoding : !m.encoding && isObject(m.data));
}

function textOf(parts) {                            // the text of a message
  return parts.filter((p) => p.type === 'text' || p.type === 'refusal').map((p) => p.text).join('');
}

function release(view, v) {                          // free the state of ended messages
  if (v.status === 'in_progress') return;
  if (!v.anonymous) delete v.recent_ids;
  for (const [serial, { id }] of view.chains) {     // but keep the last 20: the end may overtake the last appends
    if (view.chains.size <= 20) return;
    if (view.get(id)?.status !== 'in_progress') view.chains.delete(serial);
  }
}

function applyAppend(view, m) {                            // a response in one channel message with appends
  const at = m.version?.serial ?? m.serial, adds = m.action === 'message.append', from = m.clientId ?? null;
  const own = [...view.values()].find((v) => v.parts?.some((p) => p.through?.serial === m.serial));
  const base = view.chains.get(m.serial), h = m.extras?.headers ?? {};
  if (!base && m.name !== 'response') return !(adds && m.name == null && (own || h.responseId));
  if (!base && adds) return false;                                       // its first part was never delivered
  if (base && at <= base.at) return true;
  const said = m.action === 'message.delete' || (m.data == null && !m.encoding) ? '' : textIn(m);
  const unreadable = said === null || (adds && base.unreadable), text = unreadable ? '' : (adds ? base.text : '') + said;
  const id = own?.id ?? base?.id ?? h.responseId ?? m.serial;
  view.chains.set(m.serial, { id, at, text, unreadable });               // complete: this attachment saw its start
  const v = view.get(id) ?? { id, role: 'assistant', status: 'in_progress', text: '', parts: [], gaps: [], client_id: from, through: { gen: 1, seq: null, serial: null } };
  if ('client_id' in v ? v.client_id !== from : v.status !== 'in_progress') return true;
  let part = (v.parts ??= []).find((p) => p.through?.serial === m.serial);
  if (v.sealed || (part && at <= part.through.version)) return true;     // the answer is ahead: keep it
  if (!part) v.parts.push(part = { type: 'text', part: m.serial, through: { serial: m.serial } });
  const count = (v.unreadable ?? 0) - +(part.through.unreadable ?? false) + +unreadable;
  Object.assign(v, { unreadable: count, exact: (v.exact ?? true) && !count });
  part.text = text;
  part.through = { ...part.through, version: at, unreadable };
  v.parts.sort((a, b) => (a.through?.serial ?? '') < (b.through?.serial ?? '') ? -1 : 1);
  v.text = textOf(v.parts);
  if ((m.version?.metadata?.phase ?? h.phase) === 'done' && v.status === 'in_progress') v.status = 'completed';
  if (!(v.through.serial >= m.serial)) v.through.serial = m.serial;
  view.set(id, v);
  release(view, v);
  return true;
}

function responseOf(view, m) {                        // find the response of a message without responseId
  const begins = m.name === 'start', place = (v) => v?.position ?? '';
  const known = [...view.values()].filter((v) => v.anonymous).sort((a, b) => (place(a) < place(b) ? -1 : +(place(a) > place(b))));
  const endOf = (v) => (v.status === 'in_progress' ? NaN : +new Date(v.finished_at ?? NaN));
  const inserted = (at, n) => `${String(at).padStart(14, '0')}-${String(n).padStart(6, '0')}@inserted`;
  const since = m.serial == null ? m.timestamp : /^\d{14}/.test(m.serial) ? parseInt(m.serial, 10) : null;
  const low = since === null ? m.serial : inserted(Math.max(0, since - 2 * MARGIN), 0);
  const near = known.slice(Math.max(0, known.filter((v) => place(v) <= low).length - 1));
  const own = m.id != null && near.find((v) => [v.id, ...v.recent_ids ?? []].includes(m.id) && !(m.timestamp > endOf(v) + MARGIN));
  if (own) return own.id;
  let v = known.at(-1);
  if (m.serial == null) {
    if (v && m.timestamp < ((v.provisional ? NaN : endOf(v)) || parseInt(place(v), 10)) - MARGIN) return null;  // applied long ago
  } else {
    const at = known.filter((v) => place(v) <= m.serial).length;       // the messages that began before it
    if (begins && known[at]?.headless) return null;
    if (known.length && !at && !(begins && view.whole)) return null;     // of a message that is not shown
    v = known[at - 1];
    if (v?.through.serial && m.serial <= v.through.serial) return v.id;
  }
  const content = CONTENT.includes(m.name) && (v?.parts?.length || v?.text);
  const other = content && (v.through.seq === null) !== ((m.extras?.headers?.seq ?? null) === null);  // only one has seqs
  if (v && !begins && !other && (v.status === 'in_progress' || v.provisional)) return v.id;
  if (m.serial == null && m.timestamp < v?.newest - MARGIN) return null;   // read again: applied long ago
  const own_id = typeof m.id === 'string' && /^[^\x00-\x1f\x7f-\x9f]{1,256}$/.test(m.id) ? [m.id] : [];
  const id = [...own_id, m.serial ?? (own_id.length ? inserted(m.timestamp, 0) : null)].find((n) => n != null && !view.has(n));
  if (id === undefined) return null;                                     // each is the id of another message
  const after = inserted(m.timestamp, view.size), newest = place(known.at(-1));
  const position = m.serial ?? (after > newest ? after : `${newest}+`);
  view.set(id, { id, role: 'assistant', status: 'in_progress', text: '', gaps: [], anonymous: true, headless: !begins, position, client_id: m.clientId ?? null, through: { gen: 1, seq: null, serial: null } });
  return id;
}
// --8<-- [end:rule]

// --8<-- [start:join]
// load({ until }) fetches GET /v1/conversations/{id}; render(view) shows the view. way 1: attach first
// (default); 2: attach first and hydrate until the attach point; 3: hydrate first, rewind to the answer.
export async function join(channel, load, render, way = 1) {
  let view = null, waiting = [], tries = 0, closed = false, busy = false, begun = false, torn = false, own = false;
  const receive = (m) => {
    if (!view) waiting.push(m);
    else if (apply(view, m)) render(view);
    else again();
  };
  const attach = async (rewind) => {
    if (!['initialized', 'failed'].includes(channel.state)) await channel.detach();  // only a new attach rewinds
    await channel.setOptions({ params: { rewind }, attachOnSubscribe: false });
    [waiting, torn, own] = [[], false, true];
    await channel.attach();                            // a gap right behind it may be reported before this returns
  };
  const merge = (answer) => {
    const next = show(answer);
    const whole = !torn && waiting.every((m) => apply(next, m)) && !answer.reasons.some((r) => r.retry);
    if (whole) [view, waiting, tries, begun] = [next, [], 0, true];
    render(next);
    return whole;
  };
  const restFirst = async () => {
    const answer = await load({});
    if (!answer.rewind_from) return false;
    await attach(answer.rewind_from);
    await new Promise((done) => setTimeout(done, 250));                  // the backlog arrives at once
    const overlap = waiting[0]?.version?.serial <= answer.until;         // no overlap: history has expired
    return overlap && merge(answer);
  };
  const attachFirst = async (ask) => {
    await attach('10s');
    return merge(await load(ask ? { until: channel.properties.attachSerial } : {}));
  };
  const again = async () => {
    if (busy) return;
    busy = true;
    view = null;
    while (!closed) {
      try {
        const pause = tries++ ? Math.min(5000, 100 * 2 ** tries) * (0.5 + Math.random()) : 0;
        await new Promise((done) => setTimeout(done, pause));
        if (tries === 1 && way === 3 ? await restFirst() : await attachFirst(tries === 1 && way === 2)) break;
      } catch (error) {
        if (!begun && tries > 10) throw error;                             // after a first success, retry forever
      }
    }
    busy = false;
  };
  await channel.setOptions({ attachOnSubscribe: false });
  channel.on(['attached', 'update'], (change) => {                       // messages may have been missed
    if (own && change.previous !== 'attached') own = false;              // our own attach
    else torn ||= !change.resumed;
    if (view && torn) again();
  });
  await channel.subscribe(receive);
  await again();
  const close = async () => {
    closed = true;
    channel.unsubscribe();
    channel.off();
    if (channel.state !== 'failed') await channel.detach();
  };
  return { close };
}
// --8<-- [end:join]
