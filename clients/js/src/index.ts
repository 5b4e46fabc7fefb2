export { Conversation } from './conversation.js';
export { decode, type ChannelMessage, type Event, type Kind } from './event.js';
export type { Answer, Grown, Message, Part, Reason, Status, TextPart, Through, ToolCallPart } from './wire.js';
