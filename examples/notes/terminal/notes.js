import { LogLevels, PowerSyncDatabase } from '@powersync/node';
import { Connector } from './connector.js';
import { schema } from './schema.js';

/** Longest message, in UTF-16 units. */
const maxMessage = 10_000;

/**
 * The notes of one user: a local database that the SDK keeps in step with the
 * server. Every write is local first; it works the same with the server away.
 */
export class Notes {
  #db;
  #connector;
  #user;
  #options;

  /**
   * @param {object} options
   * @param {string} options.backend base URL of the notes backend
   * @param {string} options.user whom to sign in as
   * @param {string} options.database file of the local database
   * @param {SyncStreamConnectionMethod} options.transport how to sync
   * @param {number} options.retryMs pause before the SDK tries again after an error
   * @param {(rejection: object) => void} options.onRejected told of writes that the backend refused for good
   * @param {(text: string) => void} options.onWarning told what the SDK warns of
   */
  constructor(options) {
    this.#options = options;
    this.#user = options.user;
    this.#connector = new Connector(options.backend, options.user, options.onRejected);
    this.#db = new PowerSyncDatabase({
      schema,
      database: { dbFilename: options.database },
      logger: {
        log: ({ level, message, error }) => {
          if (level >= LogLevels.warn) options.onWarning([message, error?.message].filter(Boolean).join(': '));
        }
      }
    });
  }

  async open() {
    await this.#db.init();
  }

  /** Starts syncing, and does not wait for it: the status tells how it goes. The SDK tries until disconnect. */
  connect() {
    this.#db
      .connect(this.#connector, { retryDelayMs: this.#options.retryMs, connectionMethod: this.#options.transport })
      .catch((error) => this.#options.onWarning(`connect: ${error.message}`));
  }

  disconnect() {
    return this.#db.disconnect();
  }

  close() {
    return this.#db.close();
  }

  /** All notes, oldest first. */
  list() {
    return this.#db.getAll(listing);
  }

  /** Adds a note and returns its id. */
  async add(message) {
    checkMessage(message);
    const [{ id }] = await this.#db.getAll('SELECT uuid() AS id');
    await this.#db.execute('INSERT INTO greeting (id, owner, message, author, created_at) VALUES (?, ?, ?, ?, ?)', [
      id,
      this.#user,
      message,
      this.#user,
      new Date().toISOString()
    ]);
    return id;
  }

  async edit(id, message) {
    checkMessage(message);
    await this.#exists(id);
    await this.#db.execute('UPDATE greeting SET message = ? WHERE id = ?', [message, id]);
  }

  async remove(id) {
    await this.#exists(id);
    await this.#db.execute('DELETE FROM greeting WHERE id = ?', [id]);
  }

  /**
   * Where the local writes stand: how many wait for their upload, and whether
   * everything written here has come back from the service (its write checkpoint
   * is complete).
   */
  async state() {
    // The view of a local write ends when the service confirms the checkpoint
    // that the SDK asked for after the upload. Ids are 64-bit: compared in SQL.
    const [state] = await this.#db.getAll(`
      WITH kv AS (
        SELECT max(CASE key WHEN 'target_checkpoint_request_id' THEN CAST(value AS INTEGER) END) AS target,
               max(CASE key WHEN 'last_applied_checkpoint_request_id' THEN CAST(value AS INTEGER) END) AS applied
        FROM ps_kv)
      SELECT (SELECT count(*) FROM ps_crud) AS queued,
             CAST(target AS TEXT) AS target, CAST(applied AS TEXT) AS applied,
             target IS NULL OR coalesce(applied >= target, 0) AS confirmed
      FROM kv`);
    return { ...state, confirmed: Boolean(state.confirmed) && state.queued === 0 };
  }

  status() {
    const s = this.#db.currentStatus;
    return {
      connected: s.connected,
      connecting: s.connecting,
      downloading: s.downloading,
      uploading: s.uploading,
      synced: s.hasSynced === true,
      synced_at: s.lastSyncedAt?.toISOString() ?? null,
      download_error: s.downloadError?.message ?? null,
      upload_error: s.uploadError?.message ?? null
    };
  }

  /** Calls onStatus at once and whenever the status changes. */
  watchStatus(onStatus) {
    onStatus(this.status());
    return this.#db.registerListener({ statusChanged: () => onStatus(this.status()) });
  }

  /** Calls onDiff with {added, updated, removed, all} whenever notes change. */
  watch(onDiff) {
    const watched = this.#db.query({ sql: listing }).differentialWatch();
    return watched.registerListener({
      onDiff,
      onError: (error) => {
        throw error;
      }
    });
  }

  async #exists(id) {
    if ((await this.#db.getOptional('SELECT 1 FROM greeting WHERE id = ?', [id])) === null) {
      throw new Error(`no note ${id}`);
    }
  }
}

const listing = 'SELECT id, owner, message, author, created_at FROM greeting ORDER BY created_at, id';

function checkMessage(message) {
  if (message === '') throw new Error('a note needs a text');
  if (message.length > maxMessage) throw new Error(`a note has at most ${maxMessage} characters`);
}
