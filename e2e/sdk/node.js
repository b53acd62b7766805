// A client on an SDK for Node.js: node node.js PACKAGE SQLITE, where SQLITE is what
// keeps the local database: better-sqlite3 or node:sqlite.

import { serve } from './host.js';
import { Client } from './client.js';

const sdk = await import(process.argv[2]);
const client = new Client(sdk, {
  database: (file) => ({ database: { dbFilename: file, implementation: { type: process.argv[3] } } })
});
await serve((command, args) => {
  // Only the host knows the SDK's constants.
  if (args?.options?.clientImplementation) args.options.clientImplementation = sdk.SyncClientImplementation[args.options.clientImplementation];
  return client.call(command, args);
});
process.exit(0);
