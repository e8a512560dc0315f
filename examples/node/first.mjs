import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

// Without defaults an empty plaintext would come back as undefined.
const definition = loadSync("keyward/v1/crypto.proto", { includeDirs: ["proto"], defaults: true });
const { CryptoService } = grpc.loadPackageDefinition(definition).keyward.v1;
const crypto = new CryptoService("unix:/run/keyward/keyward.sock", grpc.credentials.createInsecure());
const call = (method, request) => promisify(crypto[method]).call(crypto, request, { deadline: Date.now() + 10_000 });

const name = "tenants/acme/keys/customer-pii";
const context = { table: "customers", id: "42" };
// A string would be read as base64, so bytes are a Buffer.
const sealed = await call("Encrypt", { name, plaintext: Buffer.from("0912 345 678"), context });
const phone = await call("Decrypt", { name, ciphertext: sealed.ciphertext, context });
console.log(phone.plaintext.toString());
