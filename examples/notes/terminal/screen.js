// The client for people: the notes as a live list, driven by keys.

import { emitKeypressEvents } from 'node:readline';

const help = '↑↓ move   a add   e edit   d delete   o go offline/online   q quit';

/** Shows the notes until the user quits. */
export class Screen {
  #notes;
  #user;
  #rows = [];
  #status;
  #selected = 0;
  #queued = 0;
  #message = '';
  #input = null; // {label, text, submit} while a text is typed
  #online = true;
  #shown = false;
  #quit;

  constructor(notes, user) {
    this.#notes = notes;
    this.#user = user;
    this.#status = notes.status();
  }

  /** Tells the user something on the line above the keys. */
  say(message) {
    this.#message = message;
    this.#draw();
  }

  async run() {
    const done = new Promise((resolve) => (this.#quit = resolve));
    emitKeypressEvents(process.stdin);
    process.stdin.setRawMode(true);
    process.stdin.resume();
    const onKey = (text, key) => this.#key(text, key).catch((error) => this.say(error.message));
    const onResize = () => this.#draw();
    process.stdin.on('keypress', onKey);
    process.stdout.on('resize', onResize);
    process.stdout.write('\x1b[?1049h\x1b[?25l');
    this.#shown = true;
    try {
      this.#notes.watchStatus((status) => {
        this.#status = status;
        this.#refresh();
      });
      this.#notes.watch(({ all }) => {
        this.#rows = all;
        this.#refresh();
      });
      this.#notes.connect();
      await done;
    } finally {
      this.#shown = false;
      process.stdin.off('keypress', onKey);
      process.stdout.off('resize', onResize);
      process.stdin.setRawMode(false);
      process.stdin.pause();
      process.stdout.write('\x1b[?25h\x1b[?1049l');
    }
  }

  stop() {
    this.#quit?.();
  }

  async #refresh() {
    if (!this.#shown) return;
    this.#queued = (await this.#notes.state()).queued;
    this.#draw();
  }

  async #key(text, key) {
    if (key.ctrl && key.name === 'c') return this.stop();
    if (this.#input) return this.#type(text, key);
    this.#message = '';
    const row = this.#rows[this.#selected];
    switch (key.name) {
      case 'up':
        this.#selected--;
        break;
      case 'down':
        this.#selected++;
        break;
      case 'a':
        this.#input = { label: 'new note: ', text: '', submit: (message) => this.#notes.add(message) };
        break;
      case 'e':
        if (row) this.#input = { label: 'text: ', text: row.message, submit: (message) => this.#notes.edit(row.id, message) };
        break;
      case 'd':
        if (row) await this.#notes.remove(row.id);
        break;
      case 'o':
        this.#online = !this.#online;
        if (this.#online) this.#notes.connect();
        else await this.#notes.disconnect();
        break;
      case 'q':
        return this.stop();
    }
    this.#draw();
  }

  async #type(text, key) {
    const input = this.#input;
    if (key.name === 'return' || key.name === 'enter') {
      this.#input = null;
      if (input.text !== '') await input.submit(input.text);
    } else if (key.name === 'escape') {
      this.#input = null;
    } else if (key.name === 'backspace') {
      input.text = [...input.text].slice(0, -1).join('');
    } else if (text && !key.ctrl && !key.meta) {
      input.text += printable(text);
    }
    this.#draw();
  }

  #draw() {
    if (!this.#shown) return; // a late change must not write on what is no longer ours
    const { rows: height = 24, columns: width = 80 } = process.stdout;
    this.#selected = Math.max(0, Math.min(this.#selected, this.#rows.length - 1));
    const room = Math.max(1, height - 5);
    const top = Math.max(0, Math.min(this.#selected - Math.floor(room / 2), this.#rows.length - room));
    const lines = [this.#heading(), '─'.repeat(width)];
    for (let i = top; i < Math.min(top + room, this.#rows.length); i++) {
      lines.push(`${i === this.#selected ? '›' : ' '} ${printable(this.#rows[i].message ?? '')}`);
    }
    if (this.#rows.length === 0) lines.push(this.#status.synced ? '  no notes yet: press a' : '  waiting for the first sync');
    while (lines.length < height - 2) lines.push('');
    lines.push(this.#input ? this.#input.label + this.#input.text : printable(this.#message), help);
    const fit = (line) => [...line].slice(0, width).join('') + '\x1b[K';
    process.stdout.write('\x1b[H' + lines.map(fit).join('\r\n') + '\x1b[J');
  }

  #heading() {
    const s = this.#status;
    const link = s.connected ? 'connected' : s.connecting ? 'connecting' : this.#online ? 'offline, trying again' : 'offline';
    const parts = [`notes of ${this.#user}`, link];
    if (s.synced_at) parts.push(`synced ${new Date(s.synced_at).toLocaleTimeString()}`);
    parts.push(this.#queued === 0 ? 'all uploaded' : `${this.#queued} to upload`);
    const error = s.upload_error ?? s.download_error;
    if (error) parts.push(printable(error));
    return parts.join(' · ');
  }
}

/** Notes come from elsewhere: control characters must not reach the terminal. */
function printable(text) {
  return text.replace(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, '·');
}
