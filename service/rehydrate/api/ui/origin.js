// The source of each chunk of a message, from this page's point of view.
//
// The service reports which chunks are in the database and which only in channel history. Chunks that
// this page received itself, since it opened the conversation, count as live.

export function pieces(timeline, message) {
  const found = [];
  const base = Date.parse(timeline.begins_at ?? timeline.started_at ?? 0);
  const liveFrom = message && message.joined !== Infinity ? message.joined : null;
  for (const stretch of timeline.stretches) {
    const step = stretch.first === null ? null : (stretch.last - stretch.first) / Math.max(1, stretch.offsets_ms.length - 1);
    stretch.offsets_ms.forEach((offset, n) => {
      const seq = step === null ? null : Math.round(stretch.first + n * step);
      const live = !stretch.whole && liveFrom !== null && seq !== null && seq > liveFrom;
      found.push({ source: live ? 'live' : stretch.source, seq, atMs: base + offset, characters: stretch.characters[n], whole: stretch.whole });
    });
  }
  const reached = timeline.through.seq ?? -1;
  for (const each of message?.received ?? []) {
    if (each.seq !== null && each.seq > reached) found.push({ source: 'live', whole: false, ...each });
  }
  return found;
}

export function sums(found) {
  const made = { database: { pieces: 0, characters: 0 }, history: { pieces: 0, characters: 0 }, live: { pieces: 0, characters: 0 } };
  for (const each of found) {
    made[each.source].pieces += 1;
    made[each.source].characters += each.characters;
  }
  return made;
}
