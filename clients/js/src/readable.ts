// Read the data of a channel message as text, if it can mean only one (docs/protocol.md sections 3.1 and 3.3).
//
// A string, UTF-8 bytes and an object with a string `text` can mean only one text, and are read. Any other
// data where text is expected is unreadable: it is counted, so that a message that lacks it is never taken
// for complete. Absent data is empty content, and nothing is missing.

import { isObject } from './wire.js';

/** The data of a channel message that cannot be decoded: encrypted, or damaged. */
export const UNDECODED = Symbol('undecoded');

const UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

export interface ReadableText {
  readonly text: string;
  readonly unreadable: number;
}

function isBytes(data: unknown): data is ArrayBuffer | ArrayBufferView<ArrayBuffer> {
  return data instanceof ArrayBuffer || ArrayBuffer.isView(data);
}

/** Return the text that *data* means; null if it does not mean exactly one. */
export function textIn(data: unknown): string | null {
  if (isBytes(data)) {
    try {
      return UTF8.decode(data);
    } catch {
      return null;
    }
  }
  const text = isObject(data) ? data.text : data;
  return typeof text === 'string' ? text : null;
}

/** Return the readable text of *data*, the content of an event. */
export function readText(data: unknown): ReadableText {
  const text = data == null ? '' : textIn(data);
  return { text: text ?? '', unreadable: text === null ? 1 : 0 };
}

/** Return the readable text of *data*, a prompt: text, or parts; null: there is no data. */
export function readPrompt(data: unknown): ReadableText | null {
  const parts = Array.isArray(data) ? data : isObject(data) ? data.parts ?? null : null;
  const text = textIn(data);
  if (parts === null) return data == null ? null : readText(data);
  if (!Array.isArray(parts) || (text === null && !parts.length)) return { text: text ?? '', unreadable: 1 };
  const isText = (part: unknown) => typeof part === 'string' || (isObject(part) && [undefined, null, 'text', 'input_text'].includes(part.type as 'text'));
  const texts = parts.map((part) => (isText(part) ? textIn(part) : null));
  return { text: text ?? texts.join(''), unreadable: texts.includes(null) ? 1 : 0 };
}

/** Return whether *data* carries text, or bytes that may be text. */
export function carriesText(data: unknown): boolean {
  return data === UNDECODED || isBytes(data) || !!textIn(data);
}
