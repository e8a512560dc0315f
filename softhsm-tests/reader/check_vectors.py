#!/usr/bin/python3
"""Runs the reader over the vectors of format 1; exits 1 on any mismatch, 2 without python3-cryptography."""

import hashlib
import json
import pathlib
import sys

try:
    import keyward_format1 as kw
except ModuleNotFoundError as missing:
    print(f"check_vectors: error: {missing}", file=sys.stderr)
    print("check_vectors: hint: apt-get install python3-cryptography", file=sys.stderr)
    sys.exit(2)

VECTORS = pathlib.Path(__file__).parent.parent / "vectors" / "format1.json"


def answer(call):
    """(answer, result) of a call of the reader."""
    try:
        return "accepted", call()
    except (kw.Refused, kw.Malformed) as refusal:
        return refusal.answer, None


class Checker:
    def __init__(self, vectors):
        self.vectors = vectors
        self.by_name = {case["name"]: case for case in vectors["ciphertexts"]}
        self.failures = []

    def spell(self, pieces):
        return b"".join(map(self.spell_one, pieces))

    def spell_one(self, piece):
        if "hex" in piece:
            return bytes.fromhex(piece["hex"])
        if "repeat_hex" in piece:
            return bytes.fromhex(piece["repeat_hex"]) * piece["count"]
        return self.spell(self.by_name[piece["of"]]["ciphertext"])[piece["from"] : piece["to"]]

    def expect(self, case, what, expected, found):
        if expected != found:
            self.failures.append(f"{case['name']}: {what}: expected {expected!r:.200}, found {found!r:.200}")

    def ciphertext(self, case):
        who = (
            case["read_as"],
            bytes.fromhex(case["dek"]),
            bytes.fromhex(case["dek_id"]),
            case["tenant"],
            case["key"],
            case["context"],
        )
        made_from = case.get("sealed")
        plaintext = made_from and self.spell(made_from["plaintext"])
        if made_from:
            sealed, digest = kw.seal(*who, bytes.fromhex(made_from["salt"]), plaintext)
            self.expect(case, "digest", made_from["digest"], digest.hex())
            self.expect(case, "sha256", made_from["sha256"], hashlib.sha256(sealed).hexdigest())
        given = self.spell(case["ciphertext"]) if "ciphertext" in case else sealed
        found, opened = answer(lambda: kw.open_ciphertext(*who, given))
        self.expect(case, "answer", case["expect"], found)
        self.expect(case, "plaintext", plaintext, opened)

    def context(self, case):
        found, encoded = answer(lambda: kw.encode_context(case["pairs"]))
        self.expect(case, "answer", case["expect"], found)
        self.expect(case, "encoding", case.get("encoded"), encoded and encoded.hex())

    def text(self, case):
        found, decoded = answer(lambda: kw.decode_text(case["text"]))
        self.expect(case, "answer", case["expect"], found)
        self.expect(case, "bytes", case.get("bytes"), decoded and decoded.hex())
        if decoded:
            self.expect(case, "text", case["text"], kw.encode_text(decoded))

    def index(self, case):
        key, value = bytes.fromhex(case["key"]), bytes.fromhex(case["value"])
        found, index = answer(lambda: kw.blind_index(key, case["version"], case["rule"], value))
        self.expect(case, "answer", case["expect"], found)
        self.expect(case, "index", case.get("index"), index and index.hex())

    def run(self):
        count = 0
        for kind in ("ciphertext", "context", "text", "index"):
            cases = self.vectors["indexes" if kind == "index" else kind + "s"]
            for case in cases:
                getattr(self, kind)(case)
            count += len(cases)
        return count


def main():
    checker = Checker(json.loads(VECTORS.read_text(encoding="utf-8")))
    count = checker.run()
    for failure in checker.failures:
        print(f"check_vectors: error: {failure}", file=sys.stderr)
    print(f"{count} vectors, {len(checker.failures)} mismatches")
    return 1 if checker.failures or count < 200 else 0


if __name__ == "__main__":
    sys.exit(main())
