// What an application needs of Keyward, to be copied: node tour.mjs SOCKET [ASSERTION]

import assert from "node:assert/strict";
import { randomBytes, randomUUID } from "node:crypto";
import { createReadStream, realpathSync } from "node:fs";
import { mkdtemp, open, readFile, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const KEY = "tenants/acme/keys/customer-pii";
// Bytes that a ciphertext of a field is longer than its plaintext.
const OVERHEAD = 92;
// Items of a session that are under way at a time.
const WINDOW = 512;
// Bytes of a file in one message; at most 1 MiB.
const CHUNK = 256 << 10;

// Beside this file, where an application ships them, or where the repository and an installation have them.
const FOLDERS = [".", "proto", "../../proto"].map((folder) => fileURLToPath(new URL(folder, import.meta.url)));
const definition = loadSync(["keyward/v1/crypto.proto", "error_details.proto"], {
  includeDirs: FOLDERS,
  // Otherwise an empty plaintext comes back as undefined.
  defaults: true,
  // Otherwise the id of a session's item comes back as an object.
  longs: Number,
  // Otherwise ErrorInfo and RetryInfo come back as the bytes that a Status holds.
  json: true,
});
const { google, keyward } = grpc.loadPackageDefinition(definition);

/** Opens a channel, which connects at the first call and again whenever it must. */
export function connect(socket) {
  return new keyward.v1.CryptoService(`unix:${socket}`, grpc.credentials.createInsecure(), {
    // An answer to a batch is longer than the 4 MiB that gRPC takes by itself.
    "grpc.max_receive_message_length": 32 << 20,
    // Otherwise it is looked for ever more seldom, up to once in two minutes, while it is away.
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 1000,
  });
}

/** Why a call failed: decide by `code` and `reason` (docs/errors.md), show `message` to people. */
export class Refused extends Error {
  constructor(code, message, details) {
    const found = (type) => details.find((detail) => detail["@type"] === `type.googleapis.com/google.rpc.${type}`);
    const reason = found("ErrorInfo")?.reason ?? "";
    const delay = found("RetryInfo")?.retryDelay;
    super(`${reason || grpc.status[code]}: ${message}`);
    this.code = code;
    this.reason = reason;
    this.retryAfter = delay ? delay.seconds * 1000 + delay.nanos / 1e6 : undefined;
  }
}

/** Reads ErrorInfo and RetryInfo out of what gRPC throws; what anything else throws stays as it is. */
function refused(error) {
  if (!(error.metadata instanceof grpc.Metadata)) return error;
  const [bytes] = error.metadata.get("grpc-status-details-bin");
  return new Refused(error.code, error.details, bytes ? google.rpc.Status.deserialize(bytes).details : []);
}

/** Whether the connection was lost, or the daemon says that waiting helps: a restart, a full queue, a lost HSM. */
function mayRepeat(why) {
  // Node 18 tells a connection that was lost while it sent in the second of these ways.
  const ways = ["UNAVAILABLE: ", "INTERNAL: Write error: write after end"];
  const lost = !why.reason && ways.some((way) => why.message.startsWith(way));
  return lost || why.retryAfter !== undefined;
}

/** Makes a call that may be repeated, and repeats it within the deadline (milliseconds) while waiting helps. */
export async function call(crypto, method, request, { deadline = 10_000, metadata = new grpc.Metadata() } = {}) {
  const end = Date.now() + deadline;
  for (let pause = 20; ; pause = Math.min(1000, 2 * pause)) {
    try {
      return await promisify(crypto[method]).call(crypto, request, metadata, { deadline: end });
    } catch (error) {
      const why = refused(error);
      const wait = why.retryAfter ?? pause * (0.5 + Math.random() / 2);
      if (!mayRepeat(why) || Date.now() + wait >= end) throw why;
      await sleep(wait);
    }
  }
}

// A string would be read as base64, so bytes are a Buffer everywhere.
export async function encrypt(crypto, plaintext, context, options) {
  return (await call(crypto, "Encrypt", { name: KEY, plaintext, context }, options)).ciphertext;
}

export async function decrypt(crypto, ciphertext, context, options) {
  return (await call(crypto, "Decrypt", { name: KEY, ciphertext, context }, options)).plaintext;
}

/** Encrypts [plaintext, context] in one call; answers a ciphertext or a Refused for each, in order. */
export async function encryptBatch(crypto, items) {
  const request = { name: KEY, items: items.map(([plaintext, context]) => ({ plaintext, context })) };
  const answer = await call(crypto, "BatchEncrypt", request);
  return answer.results.map(({ error, ciphertext }) => (error ? whyNot(error) : ciphertext));
}

function whyNot(status) {
  return new Refused(status.code, status.message, status.details);
}

/** One attempt at a stream of items: what is sent waits in `waiting` until it is answered. */
class Session {
  constructor(crypto, items, waiting) {
    this.items = items;
    this.waiting = waiting;
    this.again = [...waiting];
    this.underWay = 0;
    this.wake = () => {};
    this.stream = listened(crypto.CryptSession());
    // Answers are read while requests are sent: a session whose answers are left alone is ended.
    this.sent = this.send().catch((error) => this.fail(error));
  }

  async send() {
    for (let found = await this.next(); found; found = await this.next()) {
      const [id, [plaintext, context]] = found;
      this.stream.write({ id, encrypt: { name: KEY, plaintext, context } });
      this.underWay += 1;
    }
    this.stream.end();
  }

  async next() {
    while (this.underWay === WINDOW && !this.stopped) await this.change();
    if (this.stopped) return undefined;
    if (this.again.length) return this.again.shift();
    const { value, done } = await this.items.next();
    if (!done) this.waiting.set(...value);
    // What came too late for this attempt waits for the next one.
    return this.stopped ? undefined : value;
  }

  change() {
    return new Promise((wake) => {
      this.wake = wake;
    });
  }

  answered() {
    this.underWay -= 1;
    this.wake();
  }

  fail(error) {
    this.failed = error;
    this.stop();
  }

  stop() {
    this.stopped = true;
    this.wake();
    this.stream.cancel();
  }
}

/** A call that is cancelled says so once more when nobody reads it, which would end the process. */
function listened(stream) {
  return stream.on("error", () => {});
}

async function* numbered(items) {
  let number = 0;
  for await (const item of items) yield [number++, item];
}

/** Yields what a session answers for good; returns why it should be tried again, if it should. */
async function* answers(session) {
  let why;
  try {
    for await (const answer of session.stream) {
      session.answered();
      const found = answer.error ? whyNot(answer.error) : answer.encrypt.ciphertext;
      // It still waits: the daemon stops, say, and the next attempt asks again.
      if (answer.error && mayRepeat(found)) why = found;
      else if (session.waiting.delete(answer.id)) yield [answer.id, found];
    }
  } catch (error) {
    why = session.failed ?? refused(error);
    if (session.failed || !mayRepeat(why)) throw why;
  } finally {
    session.stop();
  }
  await session.sent;
  return why;
}

/** Encrypts very many [plaintext, context] on one stream; yields [number, ciphertext or Refused] as they come. */
export async function* encryptMany(crypto, items, attempts = 8) {
  const source = numbered(items);
  const waiting = new Map();
  let why;
  try {
    for (let attempt = 0; attempt < attempts; attempt += 1) {
      why = yield* answers(new Session(crypto, source, waiting));
      if (!why && !waiting.size) return;
      await sleep(Math.min(1000, 100 * 2 ** attempt));
    }
  } finally {
    // Whoever stops reading early leaves nothing open behind the items.
    await source.return();
  }
  throw why;
}

/** Encrypts or decrypts a file; `target` appears when it is whole, and not before. */
export async function convertFile(stream, source, target, context) {
  const draft = `${target}.${randomUUID()}`;
  try {
    await convertInto(draft, listened(stream), source, context);
    await rename(draft, target);
  } catch (error) {
    stream.cancel();
    await rm(draft, { force: true });
    throw refused(error);
  }
}

async function convertInto(draft, stream, source, context) {
  const file = await open(draft, "wx", 0o600);
  try {
    // What was written before an error is not the file: only the end of the stream says that it is whole.
    await pipeline(parts(source, context), stream, async (answers) => {
      for await (const { chunk } of answers) await file.appendFile(chunk);
    });
    await file.sync();
  } finally {
    await file.close();
  }
}

async function* parts(source, context) {
  yield { header: { name: KEY, context } };
  for await (const chunk of createReadStream(source, { highWaterMark: CHUNK })) yield { chunk };
}

/** Keeps telephone numbers of at most 32 bytes in a column that is as long as their ciphertexts. */
async function customers(crypto) {
  // A Map stands for the table, as not every Node has a database; in SQL it is a BLOB with a CHECK of its length.
  const column = new Map();
  // The context names the place: a ciphertext that is moved to another row does not decrypt.
  const about = (id) => ({ table: "customers", column: "phone", id: String(id) });
  for (const [id, phone] of [[1, "0912 345 678"], [2, "0987 654 321"]]) {
    const sealed = await encrypt(crypto, Buffer.from(phone), about(id));
    assert(sealed.length === Buffer.byteLength(phone) + OVERHEAD && sealed.length <= 32 + OVERHEAD);
    column.set(id, sealed);
  }
  console.log("customer 2:", String(await decrypt(crypto, column.get(2), about(2))));
  await decrypt(crypto, column.get(2), about(1)).catch((why) => console.log("in another row:", why.reason));
}

function* values(count) {
  for (let n = 0; n < count; n += 1) yield [Buffer.from(`value ${n}`), { id: String(n) }];
}

async function many(crypto) {
  let count = 0;
  for await (const [, sealed] of encryptMany(crypto, values(5000))) count += Buffer.isBuffer(sealed);
  return count;
}

async function files(crypto) {
  const folder = await mkdtemp(join(tmpdir(), "tour-"));
  try {
    const [plain, sealed, again] = ["plain", "sealed", "again"].map((name) => join(folder, name));
    await writeFile(plain, randomBytes(3 << 20));
    await convertFile(crypto.EncryptStream(), plain, sealed, { file: "plain" });
    await convertFile(crypto.DecryptStream(), sealed, again, { file: "plain" });
    return (await readFile(plain)).equals(await readFile(again));
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** Allowed is what both the application and the staff member may; the record names who it was, and where. */
async function forStaff(crypto, assertion) {
  const metadata = new grpc.Metadata();
  metadata.set("keyward-assertion", assertion);
  metadata.set("keyward-client-address", "203.0.113.7");
  const about = { table: "customers", id: "42" };
  const sealed = await encrypt(crypto, Buffer.from("for alice"), about, { metadata });
  return String(await decrypt(crypto, sealed, about, { metadata }));
}

async function main(socket, assertion) {
  const crypto = connect(socket);
  await customers(crypto);
  console.log("batch:", (await encryptBatch(crypto, [...values(100)])).filter(Buffer.isBuffer).length);
  console.log("session:", await many(crypto));
  console.log("file:", (await files(crypto)) ? "True" : "False");
  if (assertion) console.log("for a staff member:", await forStaff(crypto, assertion));
}

// Nothing runs when another program imports this one.
if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const words = process.argv.slice(2);
  if (words.length === 1 || words.length === 2) await main(...words);
  else {
    console.error("node tour.mjs SOCKET [ASSERTION]");
    process.exitCode = 1;
  }
}
