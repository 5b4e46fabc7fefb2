// What client.js keeps of ended responses: half of them with a message per token, half appended to.
const { show, apply } = await import(process.argv[2]);
const view = show({ messages: [], reasons: [] });
let clock = 100_000;
const publish = (name, data, rid, more = {}) => {
  const serial = `${clock++}`;
  const m = { name, data, id: `m${serial}`, serial, extras: { headers: { responseId: rid } }, ...more };
  m.version ??= { serial: m.serial };
  if (!apply(view, m)) throw new Error(`again at ${JSON.stringify(m)}`);
  return serial;
};
const grown = (rid, ...texts) => {
  const first = publish('response', texts[0], rid);
  const append = (data, metadata) =>
    publish('response', data, rid, { action: 'message.append', serial: first, version: { serial: `${clock++}`, metadata } });
  texts.slice(1).forEach((text) => append(text));
  return append;
};
const open = grown('open', 'op', 'en');
publish('token', 'x', 'streams');
for (let n = 0; n < 100; n += 1) {
  for (const token of 'ab') publish('token', token, `t${n}`);
  publish('stop', undefined, `t${n}`);
  grown(`g${n}`, 'a')('b', { phase: 'done' });
}
const kept = [...view.values()];
const before = view.get('open').text;
const texts = kept.filter((v) => v.id !== 'streams' && v.id !== 'open').map((v) => v.text);
const chains = view.chains.size;
open('!');
console.log(JSON.stringify({
  texts: [...texts, before], chains, ids: kept.filter((v) => v.recent_ids).length, open: [before, view.get('open').text],
}));
