// The client in a web page; web.js calls it.

import * as sdk from '@powersync/web';
import { Client } from './client.js';

// The workers are those that the package brings, served as they are.
const worker = '/@powersync/worker.js';

globalThis.client = new Client(sdk, {
  database: (file) => ({ database: { dbFilename: file, worker }, sync: { worker } })
});
