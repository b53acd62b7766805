// The program of a device on the official Node SDK: see deviceConfig and goDevice. The
// first argument is where the SDK is installed, the second the configuration.

import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const [sdk, text] = process.argv.slice(2);
const config = JSON.parse(text);
const { PowerSyncDatabase, SyncStreamConnectionMethod, Schema, Table, column } = await import(
  pathToFileURL(createRequire(sdk + '/').resolve('@powersync/node'))
);

const schema = new Schema({
  greeting: new Table({ owner: column.text, message: column.text, author: column.text, created_at: column.text })
});

/** How it reaches the notes app's backend: one transaction in each request. */
class Connector {
  async fetchCredentials() {
    const { token } = await this.call(`/api/auth/token?user=${encodeURIComponent(config.user)}`);
    return { endpoint: config.service, token };
  }

  async uploadData(db) {
    const { token } = await this.fetchCredentials();
    for (let t = await db.getNextCrudTransaction(); t !== null; t = await db.getNextCrudTransaction()) {
      await this.call('/api/data', {
        method: 'POST',
        headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${token}` },
        body: JSON.stringify(t.crud)
      });
      await t.complete();
    }
  }

  async call(path, options = {}) {
    const response = await fetch(config.backend + path, { ...options, signal: AbortSignal.timeout(5000) });
    if (!response.ok) throw new Error(`the backend answered ${response.status}: ${await response.text()}`);
    return response.json();
  }
}

const sql = {
  put: ({ id, value }) => ['INSERT INTO greeting(id, owner, message) VALUES (?, ?, ?)', [id, config.user, value]],
  patch: ({ id, value }) => ['UPDATE greeting SET message = ? WHERE id = ?', [value, id]],
  delete: ({ id }) => ['DELETE FROM greeting WHERE id = ?', [id]]
};

const commands = {
  async write(db, { ops }) {
    await db.writeTransaction(async (tx) => {
      for (const op of ops) await tx.execute(...sql[op.do](op));
    });
    return {};
  },
  async read(db) {
    const rows = await db.getAll('SELECT id, message FROM greeting');
    return { rows: Object.fromEntries(rows.map(({ id, message }) => [id, message])) };
  },
  async state(db) {
    const [s] = await db.getAll(`
      WITH kv AS (
        SELECT max(CASE key WHEN 'target_checkpoint_request_id' THEN CAST(value AS INTEGER) END) AS target,
               max(CASE key WHEN 'last_applied_checkpoint_request_id' THEN CAST(value AS INTEGER) END) AS applied
        FROM ps_kv)
      SELECT (SELECT count(*) FROM ps_crud) AS queued, target IS NULL OR coalesce(applied >= target, 0) AS confirmed FROM kv`);
    return {
      confirmed: s.queued === 0 && Boolean(s.confirmed),
      detail: `${s.queued} writes queued, confirmed ${s.confirmed}, ${JSON.stringify(db.currentStatus)}`
    };
  }
};

const db = new PowerSyncDatabase({
  schema,
  database: { dbFilename: config.file },
  logger: { log: ({ level, message, error }) => process.stderr.write(`${level} ${message} ${error?.message ?? ''}\n`) }
});
await db.init();
db.connect(new Connector(), {
  retryDelayMs: 200,
  crudUploadThrottleMs: 10,
  connectionMethod: config.socket ? SyncStreamConnectionMethod.WEB_SOCKET : SyncStreamConnectionMethod.HTTP
}).catch((error) => process.stderr.write(`connect: ${error.message}\n`));

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  const answer = await commands[command.do](db, command).catch((error) => ({ error: error.message }));
  process.stdout.write(JSON.stringify(answer) + '\n');
}
await db.close();
process.exit(0);
