// How the SDK reaches the notes backend: where its token comes from, and where
// its writes go.

const timeoutMs = 20_000;

export class Connector {
  #backend;
  #user;
  #onRejected;
  #credentials = null;

  /**
   * @param {string} backend base URL of the notes backend
   * @param {string} user whom to sign in as
   * @param {(rejection: object) => void} onRejected told of each write that the backend refused for good
   */
  constructor(backend, user, onRejected) {
    this.#backend = backend.replace(/\/+$/, '');
    this.#user = user;
    this.#onRejected = onRejected;
  }

  /** Called by the SDK whenever it needs a token. */
  async fetchCredentials() {
    const answer = await this.#call(`/api/auth/token?user=${encodeURIComponent(this.#user)}`);
    this.#credentials = {
      endpoint: answer.endpoint,
      token: answer.token,
      expiresAt: new Date(answer.expires_at)
    };
    return this.#credentials;
  }

  /**
   * Called by the SDK when there are local writes. What was written in one transaction
   * goes up in one request, which the backend carries out in one. It leaves the queue
   * only once the backend has acknowledged all of it; an error leaves it there, and the
   * SDK calls again.
   */
  async uploadData(db) {
    for (;;) {
      const transaction = await db.getNextCrudTransaction();
      if (transaction === null) return;
      const answer = await this.#call('/api/data', {
        method: 'POST',
        headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${await this.#token()}` },
        body: JSON.stringify(transaction.crud)
      });
      answer.rejected.forEach(this.#onRejected);
      await transaction.complete();
    }
  }

  /** A token with enough life left for one upload. */
  async #token() {
    const usable = this.#credentials && this.#credentials.expiresAt - Date.now() > 10_000;
    return (usable ? this.#credentials : await this.fetchCredentials()).token;
  }

  async #call(path, options = {}) {
    let response;
    try {
      response = await fetch(this.#backend + path, { ...options, signal: AbortSignal.timeout(timeoutMs) });
    } catch (error) {
      throw new Error(`backend ${this.#backend} not reached: ${error.cause?.message ?? error.message}`);
    }
    if (response.ok) return response.json();
    if (response.status === 401) this.#credentials = null;
    const body = await response.json().catch(() => null);
    throw new Error(`backend answered ${response.status}: ${body?.error?.message ?? response.statusText}`);
  }
}
