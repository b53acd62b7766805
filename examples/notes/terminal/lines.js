// The client for programs: commands on standard input, one per line; events on
// standard output, one JSON object per line.
//
//   add TEXT | edit ID TEXT | delete ID | list | state | connect | disconnect | quit
//
// A command answers with {"event":"done"|"failed","command":…}; what it was asked
// for stands in the same object. Unasked come "status", "changes" and "rejected".
// The end of the input is a quit.

import { createInterface } from 'node:readline';

export function emit(event, fields = {}) {
  process.stdout.write(JSON.stringify({ event, ...fields }) + '\n');
}

/** Runs until the input ends or says quit. */
export async function runLines(notes) {
  let last = '';
  notes.watchStatus((status) => {
    const text = JSON.stringify(status);
    if (text !== last) emit('status', status);
    last = text;
  });
  notes.watch(({ added, updated, removed, all }) =>
    emit('changes', {
      added,
      updated: updated.map((row) => row.current),
      removed: removed.map((row) => row.id),
      total: all.length
    })
  );
  notes.connect();

  for await (const line of createInterface({ input: process.stdin })) {
    const [, command, rest] = /^\s*(\S*)\s*(.*?)\s*$/su.exec(line);
    if (command === '') continue;
    if (command === 'quit') break;
    try {
      emit('done', { command, ...(await run(notes, command, rest)) });
    } catch (error) {
      emit('failed', { command, message: error.message });
    }
  }
}

async function run(notes, command, rest) {
  switch (command) {
    case 'add':
      return { id: await notes.add(rest) };
    case 'edit': {
      const [, id, message] = /^(\S*)\s*(.*)$/su.exec(rest);
      await notes.edit(id, message);
      return { id };
    }
    case 'delete':
      await notes.remove(rest);
      return { id: rest };
    case 'list':
      return { notes: await notes.list() };
    case 'state':
      return notes.state();
    case 'connect':
      return void notes.connect();
    case 'disconnect':
      return void (await notes.disconnect());
    default:
      throw new Error(`unknown command "${command}": use add, edit, delete, list, state, connect, disconnect or quit`);
  }
}
