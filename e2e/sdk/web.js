// A client on the SDK for the web, in Chromium: node web.js FOLDER, for the
// browser's profile, which keeps the local databases.

import { createServer } from 'node:http';
import { readFile } from 'node:fs/promises';
import { dirname, extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { chromium } from 'playwright-core';
import { serve } from './host.js';

const here = dirname(fileURLToPath(import.meta.url));
const workers = join(here, 'node_modules', '@powersync', 'web', 'dist', 'worker');
const types = { '.js': 'text/javascript', '.wasm': 'application/wasm', '.html': 'text/html' };

const bundle = await build({
  entryPoints: [join(here, 'page.js')],
  bundle: true,
  format: 'esm',
  write: false,
  logLevel: 'error'
});

const files = createServer(async (request, response) => {
  const path = normalize(new URL(request.url, 'http://page').pathname);
  try {
    let body;
    if (path === '/') body = '<!doctype html><title>client</title><script type="module" src="/page.js"></script>';
    else if (path === '/page.js') body = bundle.outputFiles[0].contents;
    else if (path.startsWith('/@powersync/')) body = await readFile(join(workers, path.slice('/@powersync/'.length)));
    else throw new Error('no such file');
    response.writeHead(200, { 'Content-Type': types[extname(path) || '.html'] ?? 'application/octet-stream' });
    response.end(body);
  } catch {
    response.writeHead(404).end();
  }
});
await new Promise((resolve) => files.listen(0, '127.0.0.1', resolve));

const browser = await chromium.launchPersistentContext(process.argv[2], {
  executablePath: '/usr/bin/chromium',
  headless: true,
  args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync']
});
const page = browser.pages()[0] ?? (await browser.newPage());
page.on('console', (message) => console.error(message.text()));
page.on('pageerror', (error) => console.error(error));

async function load() {
  await page.goto(`http://127.0.0.1:${files.address().port}/`);
  await page.waitForFunction(() => globalThis.client !== undefined);
}

await load();
await serve(async (command, args) => {
  const result = await page.evaluate(([command, args]) => globalThis.client.call(command, args), [command, args]);
  if (command === 'close') await load(); // as if the page had been closed
  return result;
});
await browser.close();
process.exit(0);
