// The module that the service sends as /client.js: everything except React.
export * from './index.js';
export { join } from './ably.js';
export { follow } from './sse.js';
