// What the service sends as /client.js: everything but React, as one module.
export * from './index.js';
export { join } from './ably.js';
export { follow } from './sse.js';
