// The notes app in a terminal. See ../README.md.

import { parseArgs } from 'node:util';
import { SyncStreamConnectionMethod } from '@powersync/node';
import { emit, runLines } from './lines.js';
import { Notes } from './notes.js';
import { Screen } from './screen.js';

const usage = `usage: notes --user NAME [options]

  --user NAME       whom to sign in as (NOTES_USER)
  --backend URL     the notes backend (NOTES_BACKEND_URL; http://127.0.0.1:6060)
  --database FILE   the local database (notes-NAME.db in this folder)
  --transport NAME  how to sync: http or websocket (http)
  --retry-ms N      pause before trying again after an error (5000)
  --json            commands on standard input, JSON events on standard output;
                    also when either is no terminal
`;

const transports = {
  http: SyncStreamConnectionMethod.HTTP,
  websocket: SyncStreamConnectionMethod.WEB_SOCKET
};

function options() {
  const { values } = parseArgs({
    options: {
      user: { type: 'string', default: process.env.NOTES_USER },
      backend: { type: 'string', default: process.env.NOTES_BACKEND_URL ?? 'http://127.0.0.1:6060' },
      database: { type: 'string' },
      transport: { type: 'string', default: 'http' },
      'retry-ms': { type: 'string', default: '5000' },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false }
    }
  });
  if (values.help) return null;
  if (!values.user) throw new Error('--user is missing');
  const retryMs = Number(values['retry-ms']);
  if (!Number.isInteger(retryMs) || retryMs < 1) throw new Error('--retry-ms: not a whole number of milliseconds');
  if (!(values.transport in transports)) throw new Error(`--transport: ${values.transport} is neither http nor websocket`);
  if (!URL.canParse(values.backend)) throw new Error(`--backend: ${values.backend} is not a URL`);
  return {
    user: values.user,
    backend: values.backend,
    database: values.database ?? `notes-${encodeURIComponent(values.user)}.db`,
    retryMs,
    transport: transports[values.transport],
    interactive: !values.json && process.stdin.isTTY && process.stdout.isTTY
  };
}

async function main() {
  let opts;
  try {
    opts = options();
  } catch (error) {
    process.stderr.write(`notes: ${error.message}\n${usage}`);
    return 2;
  }
  if (opts === null) {
    process.stdout.write(usage);
    return 0;
  }

  let screen = null;
  const notes = new Notes({
    ...opts,
    onRejected: (rejection) =>
      screen ? screen.say(`refused by the backend: ${rejection.reason}`) : emit('rejected', rejection),
    // On the screen the heading shows the same errors.
    onWarning: (text) => screen ?? process.stderr.write(`notes: ${text}\n`)
  });
  await notes.open();
  if (opts.interactive) screen = new Screen(notes, opts.user);

  const stopped = new Promise((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.once(signal, resolve);
  });
  const running = screen ? screen.run() : runLines(notes);
  await Promise.race([running, stopped.then(() => screen?.stop())]);
  if (screen) await running; // gives the terminal back
  await notes.close();
  return 0;
}

// Whoever reads our events may go away first; that is a quit, not a crash.
process.stdout.on('error', (error) => process.exit(error.code === 'EPIPE' ? 0 : 1));

main().then(
  (code) => process.exit(code),
  (error) => {
    process.stderr.write(`notes: ${error.message}\n`);
    process.exit(1);
  }
);
