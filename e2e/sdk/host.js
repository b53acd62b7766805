// A host's end of the conversation with the test: commands on standard input, one
// JSON object per line, each answered by one on standard output.

import { createInterface } from 'node:readline';

// What SDKs print must not get between the answers.
console.log = console.info = console.debug = console.error;

/** Answers commands by call(command, args) until the input ends. */
export async function serve(call) {
  for await (const line of createInterface({ input: process.stdin })) {
    const { command, args } = JSON.parse(line);
    let answer;
    try {
      answer = { result: (await call(command, args)) ?? null };
    } catch (error) {
      answer = { error: String(error.stack ?? error) };
    }
    process.stdout.write(JSON.stringify(answer) + '\n');
  }
}
