// One client on an official SDK, as the end-to-end tests command it: the same for
// every SDK and transport. Hosts (node.js, web.js) pass commands on to call().

/** How often an expectation is looked at again, in milliseconds. */
const lookMs = 15;

export class Client {
  #sdk;
  #options;
  #db;
  #subscriptions = new Map();
  #history = [];
  #warnings = [];

  /**
   * @param {object} sdk the SDK's module
   * @param {object} options what differs between SDKs: database(file) gives the options of
   *   the local database, and more of the constructor's
   */
  constructor(sdk, options) {
    this.#sdk = sdk;
    this.#options = options;
  }

  /** Runs a command of the test's and returns what it answers. */
  call(command, args) {
    const { open, connect, disconnect, close, query, execute, subscribe, unsubscribe, until, history, status } = this;
    const commands = { open, connect, disconnect, close, query, execute, subscribe, unsubscribe, until, history, status };
    return commands[command].call(this, args);
  }

  async open({ file }) {
    const { column, Schema, Table, PowerSyncDatabase } = this.#sdk;
    const schema = new Schema({
      lists: new Table({ owner: column.text, name: column.text }),
      items: new Table({ list: column.text, body: column.text, size: column.integer }),
      bulk: new Table({ body: column.text }),
      extras: new Table({ body: column.text })
    });
    this.#db = new PowerSyncDatabase({ schema, ...this.#options.database(file, (text) => this.#warnings.push(text)) });
    await this.#db.init();
    this.#db.registerListener({ statusChanged: () => this.#note() });
  }

  /** Starts syncing, and does not wait for it. */
  connect({ backend, user, transport, params, options }) {
    const { SyncStreamConnectionMethod } = this.#sdk;
    const connector = new Connector(backend, user);
    const how = { http: SyncStreamConnectionMethod.HTTP, websocket: SyncStreamConnectionMethod.WEB_SOCKET }[transport];
    this.#db
      .connect(connector, { connectionMethod: how, params, retryDelayMs: 100, crudUploadThrottleMs: 10, appMetadata: { test: user }, ...options })
      .catch((error) => this.#warnings.push(`connect: ${error.message}`));
  }

  async disconnect() {
    await this.#db.disconnect();
  }

  async close() {
    await this.#db.close({ disconnect: true });
  }

  query({ sql, args }) {
    return this.#db.getAll(sql, args ?? []);
  }

  async execute({ sql, args }) {
    await this.#db.execute(sql, args ?? []);
  }

  async subscribe({ handle, stream, params, ttl, priority }) {
    this.#subscriptions.set(handle, await this.#db.syncStream(stream, params).subscribe({ ttl, priority }));
  }

  unsubscribe({ handle }) {
    this.#subscriptions.get(handle).unsubscribe();
    this.#subscriptions.delete(handle);
  }

  /** Waits until a query's rows are those expected, in JSON; it answers with the last rows, and whether they are. */
  async until({ sql, args, want, timeoutMs }) {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const rows = await this.query({ sql, args });
      const ok = JSON.stringify(rows) === JSON.stringify(want);
      if (ok || Date.now() > deadline) return { ok, rows, status: this.status(), warnings: this.#warnings.slice(-5) };
      await new Promise((resolve) => setTimeout(resolve, lookMs));
    }
  }

  status() {
    const s = this.#db.currentStatus;
    const priority = (p) => s.statusForPriority(p).hasSynced === true;
    return {
      connected: s.connected,
      synced: s.hasSynced === true,
      first: priority(1),
      last: priority(3),
      downloadError: (s.downloadError ?? s.dataFlowStatus?.downloadError)?.message ?? null,
      uploadError: (s.uploadError ?? s.dataFlowStatus?.uploadError)?.message ?? null
    };
  }

  /** The statuses since the last call, those that differ from the one before. */
  history() {
    return this.#history.splice(0);
  }

  #note() {
    const status = this.status();
    if (JSON.stringify(status) !== JSON.stringify(this.#history.at(-1))) this.#history.push(status);
  }
}

class Connector {
  constructor(backend, user) {
    this.backend = backend;
    this.user = user;
  }

  async fetchCredentials() {
    const response = await fetch(`${this.backend}/token?user=${this.user}`);
    if (!response.ok) throw new Error(`token: ${response.status}`);
    const { endpoint, token, expiresAt } = await response.json();
    return { endpoint, token, expiresAt: new Date(expiresAt) };
  }

  async uploadData(db) {
    for (let tx = await db.getNextCrudTransaction(); tx; tx = await db.getNextCrudTransaction()) {
      const response = await fetch(`${this.backend}/upload`, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json' },
        body: JSON.stringify(tx.crud)
      });
      if (!response.ok) throw new Error(`upload: ${response.status} ${await response.text()}`);
      await tx.complete();
    }
  }
}
