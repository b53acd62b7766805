// Opens a database with the official SDK for Node.js and obeys commands, one JSON object a line.
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const [, , packages, file, tables] = process.argv;
const entry = createRequire(packages + '/').resolve('@powersync/node');
const { column, PowerSyncDatabase, Schema, Table } = await import(pathToFileURL(entry));

const schema = new Schema(
  Object.fromEntries(
    JSON.parse(tables).map(({ name, columns }) => [
      name,
      new Table(Object.fromEntries(columns.map((c) => [c.name, column[c.type]])))
    ])
  )
);
const db = new PowerSyncDatabase({ schema, database: { dbFilename: file }, logger: { log() {} } });
await db.init();

let transaction = null;
const commands = {
  execute: ({ sql }) => db.execute(sql).then(() => null),
  write: ({ statements }) =>
    db.writeTransaction(async (tx) => {
      for (const sql of statements) await tx.execute(sql);
      return null;
    }),
  all: ({ sql }) => db.getAll(sql),
  // The oldest transaction of the upload queue, which complete is about.
  next: async () => {
    transaction = await db.getNextCrudTransaction();
    return transaction && transaction.crud;
  },
  complete: () => transaction.complete().then(() => null),
  // Syncs with a token, uploading by way of a backend's URL, until all is uploaded and has come back.
  sync: async ({ endpoint, token, backend }) => {
    await db.connect({
      fetchCredentials: async () => ({ endpoint, token }),
      uploadData: async (db) => {
        const transaction = await db.getNextCrudTransaction();
        if (!transaction) return;
        const answer = await fetch(backend, { method: 'POST', body: JSON.stringify(transaction.crud) });
        if (!answer.ok) throw new Error(`backend: ${answer.status}`);
        await transaction.complete();
      }
    }, { retryDelayMs: 200, crudUploadThrottleMs: 1 });
    await db.waitForFirstSync();
    return null;
  },
  status: () => ({ connected: db.currentStatus.connected, synced: db.currentStatus.hasSynced === true })
};

for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...args } = JSON.parse(line);
  let answer;
  try {
    answer = { result: await commands[command](args) };
  } catch (e) {
    answer = { error: String(e.message) };
  }
  process.stdout.write(JSON.stringify(answer) + '\n');
}
await db.close();
process.exit(0);
