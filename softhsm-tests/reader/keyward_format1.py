"""Reader and writer of Keyward's ciphertext format 1, written from docs/format.md.

It shares no code with Keyward. AES-256-GCM comes from the Debian package
python3-cryptography, the rest from the standard library.
"""

import base64
import hashlib
import hmac
import re
import unicodedata

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FIELD, STREAM, DATA_KEY = 1, 2, 3
HEADER, TAG, SEGMENT = 76, 16, 65536
ZERO_NONCE = bytes(12)


class Refused(Exception):
    """The one answer to a wrong key, name, context, suite or byte."""

    answer = "refused"


class Malformed(Exception):
    """The bytes alone show that nothing can be opened."""

    def __init__(self, answer):
        super().__init__(answer)
        self.answer = answer


def u32(number):
    return number.to_bytes(4, "big")


def lp32(data):
    return u32(len(data)) + data


def encode_context(pairs):
    """CONTEXT of a list of (key, value) strings."""
    pairs = sorted((key.encode(), value.encode()) for key, value in pairs)
    keys = [key for key, _ in pairs]
    good = (
        len(pairs) <= 64
        and len(set(keys)) == len(keys)
        and all(1 <= len(key) <= 256 and not key.startswith(b"keyward:") for key in keys)
        and all(len(value) <= 4096 for _, value in pairs)
    )
    encoded = u32(len(pairs)) + b"".join(lp32(key) + lp32(value) for key, value in pairs)
    if not good or len(encoded) > 16384:
        raise Refused
    return encoded


def bind(suite, dek_id, salt, tenant, key, pairs):
    start = b"KW" + bytes([1, suite]) + dek_id + salt
    return start + lp32(tenant.encode()) + lp32(key.encode()) + encode_context(pairs)


def hkdf_expand(prk, info, length):
    out, block, number = b"", b"", 1
    while len(out) < length:
        block = hmac.digest(prk, block + info + bytes([number]), "sha256")
        out, number = out + block, number + 1
    return out[:length]


def derive(dek, bound):
    """Message key and commitment."""
    info = lp32(b"keyward/1/message") + hashlib.sha256(bound).digest()
    okm = hkdf_expand(dek, info, 64)
    return okm[:32], okm[32:]


def stream_nonce(number, last):
    return bytes(7) + u32(number) + bytes([last])


def seal(suite, dek, dek_id, tenant, key, pairs, salt, plaintext):
    """A ciphertext, and the digest of what it is bound to."""
    bound = bind(suite, dek_id, salt, tenant, key, pairs)
    message_key, commitment = derive(dek, bound)
    gcm = AESGCM(message_key)
    if suite == STREAM:
        count = max(1, -(-len(plaintext) // SEGMENT))
        parts = [plaintext[at * SEGMENT : (at + 1) * SEGMENT] for at in range(count)]
        nonces = [stream_nonce(at, at == count - 1) for at in range(count)]
        body = b"".join(gcm.encrypt(nonce, part, bound) for nonce, part in zip(nonces, parts))
    else:
        body = gcm.encrypt(ZERO_NONCE, plaintext, bound)
    return bound[:44] + commitment + body, hashlib.sha256(bound).digest()


def parse(ciphertext):
    """The suite, after everything that the bytes alone can show."""
    if ciphertext[:2] != b"KW"[: len(ciphertext)]:
        raise Malformed("not_keyward")
    if len(ciphertext) < 3:
        raise Malformed("truncated")
    if ciphertext[2] != 1:
        raise Malformed("newer_format" if ciphertext[2] > 1 else "not_keyward")
    if len(ciphertext) < 4:
        raise Malformed("truncated")
    if ciphertext[3] not in (FIELD, STREAM, DATA_KEY):
        raise Malformed("unknown_suite")
    if len(ciphertext) < HEADER + TAG:
        raise Malformed("truncated")
    return ciphertext[3]


def open_body(suite, gcm, bound, body):
    if suite != STREAM:
        return gcm.decrypt(ZERO_NONCE, body, bound)
    size, out, number = SEGMENT + TAG, [], 0
    while len(body) > size:
        out.append(gcm.decrypt(stream_nonce(number, 0), body[:size], bound))
        body, number = body[size:], number + 1
    if len(body) < TAG or (number > 0 and len(body) == TAG):
        raise Refused
    out.append(gcm.decrypt(stream_nonce(number, 1), body, bound))
    return b"".join(out)


def open_ciphertext(suite, dek, dek_id, tenant, key, pairs, ciphertext):
    """The plaintext; raises Malformed or Refused."""
    found = parse(ciphertext)
    if found != suite or ciphertext[4:20] != dek_id:
        raise Refused
    if suite == DATA_KEY and len(ciphertext) != HEADER + 32 + TAG:
        raise Refused
    bound = bind(suite, dek_id, ciphertext[20:44], tenant, key, pairs)
    message_key, commitment = derive(dek, bound)
    if not hmac.compare_digest(commitment, ciphertext[44:76]):
        raise Refused
    try:
        return open_body(suite, AESGCM(message_key), bound, ciphertext[HEADER:])
    except InvalidTag:
        raise Refused from None


def encode_text(ciphertext):
    return "kw1:" + base64.urlsafe_b64encode(ciphertext).decode().rstrip("=")


def decode_text(text):
    body = text[4:]
    if not text.startswith("kw1:") or not re.fullmatch(r"[A-Za-z0-9_-]*", body) or len(body) % 4 == 1:
        raise Refused
    ciphertext = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    if encode_text(ciphertext) != text:  # unused bits that are not zero
        raise Refused
    return ciphertext


WHITE_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007"
    "\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)


def normalise(rule, value):
    if rule == "exact":
        return value
    if rule == "digits":
        digits = bytes(byte for byte in value if 0x30 <= byte <= 0x39)
        if not digits:
            raise Refused
        return digits
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused from None
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    return text.strip(WHITE_SPACE).encode()


def blind_index(key, version, rule, value):
    message = lp32(b"keyward/1/index") + lp32(rule.encode()) + lp32(normalise(rule, value))
    return u32(version) + hmac.digest(key, message, "sha256")[:16]
