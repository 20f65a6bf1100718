// Takes and gives back locks with node-redlock, as peer.py does with other libraries:
//
//     peer.js node-redlock PORT
"use strict";

const readline = require("node:readline");
const { Redis } = require("ioredis");
const { default: Redlock, ExecutionError } = require("redlock");

const PAUSE = 50;

const client = new Redis(Number(process.argv[3]), "127.0.0.1");
const redlock = new Redlock([client], { retryDelay: PAUSE, retryJitter: 0 });
const locks = new Map();

async function act(line) {
  const [what, name, ...numbers] = line.split(" ");
  const [ttl, wait] = numbers.map(Number);
  switch (what) {
    case "acquire":
      locks.set(name, await redlock.acquire([name], ttl, { retryCount: Math.ceil(wait / PAUSE) }));
      return "held";
    case "extend":
      // Once: a second attempt would only come later.
      locks.set(name, await redlock.extend(locks.get(name), ttl, { retryCount: 0 }));
      return "extended";
    case "release":
      await redlock.release(locks.get(name), { retryCount: 0 });
      return "released";
  }
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    try {
      console.log(await act(line));
    } catch (error) {
      if (!(error instanceof ExecutionError)) throw error;
      console.log(line.startsWith("acquire") ? "busy" : "lost");
    }
  }
  client.disconnect();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
