#!/usr/bin/python3
"""Verifies a checkpoint and an attested document with another implementation than Keyward's.

check_checkpoint.py KEYS CHECKPOINT DOCUMENT; exits 1 with the reason, 2 without python3-cryptography.
"""

import base64
import hashlib
import json
import sys

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, utils
except ModuleNotFoundError as missing:
    print(f"check_checkpoint: error: {missing}", file=sys.stderr)
    print("check_checkpoint: hint: apt-get install python3-cryptography", file=sys.stderr)
    sys.exit(2)


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def verifier_key(text):
    """(name, key id, public key) of a C2SP verifier key for ECDSA."""
    name, identity, encoded = text.split("+", 2)
    raw = base64.b64decode(encoded, validate=True)
    assert raw[0] == 2, "not an ECDSA key"
    assert sha256(raw[1:])[:4].hex() == identity, "the key id is not the one of the key"
    return name, bytes.fromhex(identity), serialization.load_der_public_key(raw[1:])


def checkpoint(note, keys):
    """(size, root) of a signed note that one of the keys signed."""
    text, signatures = note.rsplit("\n\n", 1)
    text += "\n"
    origin, size, root = text.split("\n")[:3]
    for line in signatures.splitlines():
        dash, name, encoded = line.split(" ")
        assert dash == "\u2014", "not a signature line"
        raw = base64.b64decode(encoded, validate=True)
        for known, identity, public in keys:
            if (known, identity) == (name, raw[:4]) and name == origin:
                public.verify(raw[4:], text.encode(), ec.ECDSA(hashes.SHA256()))
                return int(size), base64.b64decode(root, validate=True)
    raise AssertionError("no trusted key signed the checkpoint")


def root_of(leaf, index, size, path):
    """RFC 9162, section 2.1.3.2."""
    assert index < size, "the leaf is not in the tree"
    at, last, result = index, size - 1, leaf
    for sibling in path:
        assert last > 0, "the path is too long"
        if at & 1 or at == last:
            result = sha256(b"\x01", sibling, result)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            result = sha256(b"\x01", result, sibling)
        at, last = at >> 1, last >> 1
    assert last == 0, "the path is too short"
    return result


def lp32(data):
    return len(data).to_bytes(4, "big") + data


def document(text, keys):
    doc = json.loads(text)
    assert doc["format"] == "keyward/1/attested-document"
    named = verifier_key(doc["key"])
    public = [public for name, identity, public in keys if (name, identity) == named[:2]]
    assert public, "its key is not trusted"
    index, record = doc["inclusion"]["index"], base64.b64decode(doc["inclusion"]["record"], validate=True)
    leaf = sha256(b"\x00", record)
    # RFC 8785 for what Keyward lets into a body.
    body = json.dumps(doc["body"], sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    statement = sha256(
        lp32(b"keyward/1/attested-document"), lp32(doc["kind"].encode()), index.to_bytes(8, "big"), leaf, lp32(body)
    )
    raw = base64.b64decode(doc["hsm_signature"], validate=True)
    assert len(raw) == 64
    signature = utils.encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    public[0].verify(signature, statement, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
    size, root = checkpoint(doc["checkpoint"], keys)
    path = [base64.b64decode(node, validate=True) for node in doc["inclusion"]["proof"]]
    assert root_of(leaf, index, size, path) == root, "the record is not in the tree"
    return doc


def main(keys, note, attested):
    with open(keys, encoding="utf-8") as file:
        trusted = [verifier_key(line) for line in file.read().split("\n") if line and not line.startswith("#")]
    with open(note, encoding="utf-8", newline="") as file:
        size, root = checkpoint(file.read(), trusted)
    with open(attested, encoding="utf-8") as file:
        doc = document(file.read(), trusted)
    print(json.dumps({"size": size, "root": root.hex(), "kind": doc["kind"], "body": doc["body"]}))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (AssertionError, InvalidSignature, ValueError) as refusal:
        print(f"check_checkpoint: error: {refusal or type(refusal).__name__}", file=sys.stderr)
        sys.exit(1)
