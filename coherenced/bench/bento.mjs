// BentoCache's bus, measured: from a `set` in one process until two others have heard of it, or
// serve it. Each has an L1, an L2 in the server and a Redis bus. What a reader saw it tells with
// the time at which it saw it (the monotonic clock, one for all processes of a host), so the way
// back to the writer does not count.
//
//   node bento.mjs '{"modules": DIR with node_modules, "socket": the server's Unix socket}'
//
// A reader reads when it has received the message, without asking again and again before.
//
// Says "ready"; then answers each line {"what": "dropped" | "served", "seconds": S} on standard
// input with one line: the milliseconds that each write took.

import { fork } from "node:child_process";
import { once } from "node:events";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const spec = JSON.parse(process.argv[2]);
const READERS = 2;
const PATIENCE_MS = 5000;
const KEY = "watched";

const { resolve } = createRequire(`${spec.modules}/`);
const load = (name) => import(pathToFileURL(resolve(name)).href);
const { BentoCache, bentostore } = await load("bentocache");
const { memoryDriver } = await load("bentocache/drivers/memory");
const { redisDriver, redisBusDriver } = await load("bentocache/drivers/redis");

const connection = { path: spec.socket };
const store = bentostore()
  .useL1Layer(memoryDriver({ maxSize: "10mb", maxItems: 1000 }))
  .useL2Layer(redisDriver({ connection }))
  .useBus(redisBusDriver({ connection }));
const cache = new BentoCache({ default: "it", ttl: "10m", stores: { it: store } });
const nowMs = () => Number(process.hrtime.bigint()) / 1e6;

await cache.get({ key: KEY }); // connects, and subscribes to the bus
await new Promise((done) => setTimeout(done, 200));
if (process.send) read();
else await write();

function read() {
  let heard = () => {};
  cache.on("bus:message:received", () => heard());
  process.on("disconnect", () => process.exit(0));
  process.on("message", async ({ what, value }) => {
    await cache.get({ key: KEY }); // there is something to drop
    heard = async () => {
      heard = () => {};
      while (what === "served" && (await cache.get({ key: KEY })) !== value);
      process.send({ atMs: nowMs() });
    };
    process.send("armed");
  });
  process.send("ready");
}

async function write() {
  const readers = Array.from({ length: READERS }, () => fork(process.argv[1], [process.argv[2]]));
  const answers = () => Promise.race([Promise.all(readers.map((one) => once(one, "message"))), late()]);
  await answers();
  console.log(JSON.stringify("ready"));
  let value = 0;
  for await (const line of createInterface({ input: process.stdin })) {
    const { what, seconds } = JSON.parse(line);
    const tookMs = [];
    const untilMs = nowMs() + seconds * 1000;
    while (!tookMs.length || nowMs() < untilMs) {
      value += 1;
      const armed = answers();
      for (const reader of readers) reader.send({ what, value });
      await armed;
      const seen = answers();
      const startedMs = nowMs();
      await cache.set({ key: KEY, value });
      tookMs.push(Math.max(...(await seen).map(([told]) => told.atMs)) - startedMs);
    }
    console.log(JSON.stringify(tookMs));
  }
  process.exit(0);
}

function late() {
  return new Promise((_, fail) => {
    const error = new Error(`a write was not seen everywhere within ${PATIENCE_MS} ms`);
    setTimeout(() => fail(error), PATIENCE_MS).unref();
  });
}
