// Follow a conversation over server-sent events: a snapshot, then every event, once and in order.

const SPOKEN = ['text', 'refusal'];
const PART = { token: 'text', refusal: 'refusal', reasoning: 'reasoning' };

export function follow(url, show, setState) {
  const messages = new Map();
  let source, retry, tries = 0;

  const message = (data) => {
    let known = messages.get(data.message_id);
    if (!known || (data.gen ?? 1) > known.gen) {      // new, or taken over by another publisher
      known = { id: data.message_id, role: 'assistant', status: 'in_progress', parts: [], gen: data.gen ?? 1 };
      messages.set(known.id, known);
    }
    return known;
  };

  const append = (known, type, { text, part }) => {
    const last = known.parts.at(-1);
    const own = part === undefined
      ? (last?.type === type && last.part === undefined ? last : undefined)
      : known.parts.find((each) => each.type === type && each.part === part);
    if (own) own.text += text;
    else known.parts.push({ type, text, part });
  };

  const call = (known, id) => known.parts.find((part) => part.tool_call_id === id);

  const handlers = {
    snapshot: ({ messages: all }) => {
      messages.clear();
      for (const each of all) messages.set(each.id, { ...each, parts: parts_of(each), gen: each.through.gen });
    },
    prompt: (data) => messages.set(data.message_id, {
      id: data.message_id, role: 'user', status: 'completed', gen: 1, parts: [{ type: 'text', text: data.text }],
    }),
    start: (data) => { message(data).prompt_id = data.prompt_id; },
    tool_call: (data) => message(data).parts.push({
      type: 'tool_call', tool_call_id: data.tool_call_id, name: data.name, args: data.args ?? '', status: 'in_progress',
    }),
    tool_args: (data) => { const own = call(message(data), data.tool_call_id); if (own) own.args += data.text; },
    tool_result: (data) => Object.assign(
      call(message(data), data.tool_call_id) ?? {}, { result: data.result, status: data.status ?? 'completed' },
    ),
    repair: (data) => { message(data).parts = data.parts ?? [{ type: 'text', text: data.text ?? '' }]; },
    stop: (data) => Object.assign(message(data), { status: data.status ?? 'completed', error: data.error }),
    again: () => {},                                  // a new snapshot follows
  };
  for (const [kind, type] of Object.entries(PART)) handlers[kind] = (data) => append(message(data), type, data);

  const open = () => {
    source = new EventSource(url);
    source.onopen = () => { tries = 0; setState('live'); };
    source.onerror = () => {                          // EventSource reconnects by itself, unless it was refused
      setState('lost');
      if (source.readyState !== EventSource.CLOSED) return;
      retry = setTimeout(open, Math.min(10_000, 250 * 2 ** tries++) * (0.5 + Math.random()));
    };
    for (const [kind, handle] of Object.entries(handlers)) {
      source.addEventListener(kind, (event) => {
        handle(JSON.parse(event.data));
        show([...messages.values()].map((each) => ({ ...each, text: spoken(each) })));
      });
    }
  };
  open();
  return { close: () => { clearTimeout(retry); source.close(); } };
}

function spoken({ parts }) {
  return parts.filter((part) => SPOKEN.includes(part.type)).map((part) => part.text).join('');
}

function parts_of({ parts, text }) {                  // a prompt may have a text and no parts
  return parts?.length ? parts : [{ type: 'text', text }];
}
