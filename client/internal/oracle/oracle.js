// Opens a database with the official core extension and obeys commands, one JSON
// object a line: {sql, args}. Values travel as text with their type.
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

const [, , packages, extension, file] = process.argv;
const Database = createRequire(packages + '/')('better-sqlite3');
const db = new Database(file);
db.defaultSafeIntegers();
db.pragma('journal_mode = WAL');
db.pragma('recursive_triggers = TRUE');
db.loadExtension(extension, 'sqlite3_powersync_init');
db.exec('BEGIN; SELECT powersync_init(); COMMIT');

const show = (v) =>
  v === null ? 'null'
  : typeof v === 'bigint' ? 'int ' + v
  : typeof v === 'number' ? 'real ' + v
  : typeof v === 'string' ? 'text ' + v
  : 'blob ' + v.toString('hex');

const read = (v) => (v !== null && typeof v === 'object' ? Buffer.from(v.blob, 'base64') : v);

for await (const line of createInterface({ input: process.stdin })) {
  const { sql, args } = JSON.parse(line);
  let answer;
  try {
    if (args === null) {
      db.exec(sql);
      answer = { rows: [] };
    } else {
      const statement = db.prepare(sql);
      const values = args.map(read);
      if (statement.reader) answer = { rows: statement.raw().all(...values).map((row) => row.map(show)) };
      else { statement.run(...values); answer = { rows: [] }; }
    }
  } catch (e) {
    answer = { error: String(e.message) };
  }
  process.stdout.write(JSON.stringify(answer) + '\n');
}
db.close();
