"""What an application needs of Keyward, to be copied: python tour.py SOCKET [ASSERTION]"""

import os
import random
import sqlite3
import sys
import tempfile
import threading
import time

import grpc
from google.rpc import error_details_pb2, status_pb2
from keyward.v1 import crypto_pb2 as pb
from keyward.v1 import crypto_pb2_grpc

KEY = "tenants/acme/keys/customer-pii"
# Bytes that a ciphertext of a field is longer than its plaintext.
OVERHEAD = 92
# Items of a session that are under way at a time.
WINDOW = 512
# Bytes of a file in one message; at most 1 MiB.
CHUNK = 256 << 10


def connect(socket):
    """Opens a channel, which connects at the first call and again whenever it must."""
    options = [
        # Otherwise gRPC sends the path of the socket, and HTTP/2 refuses every call.
        ("grpc.default_authority", "localhost"),
        # Otherwise it is looked for ever more seldom, up to once in two minutes, while it is away.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        # An answer to a batch is longer than the 4 MiB that gRPC takes by itself.
        ("grpc.max_receive_message_length", 32 << 20),
    ]
    return crypto_pb2_grpc.CryptoServiceStub(grpc.insecure_channel(f"unix:{socket}", options))


class Refused(Exception):
    """Why a call failed: decide by `code` and `reason` (docs/errors.md), show `message` to people."""

    def __init__(self, code, reason, message, retry_after):
        super().__init__(f"{reason or code.name}: {message}")
        self.code, self.reason, self.retry_after = code, reason, retry_after


def refused(error):
    """Reads ErrorInfo and RetryInfo out of what gRPC raises."""
    reason, retry_after = "", None
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            reason, retry_after = details(status_pb2.Status.FromString(value))
    return Refused(error.code(), reason, error.details(), retry_after)


def let_go(error):
    """Frees a stream that has failed, which is its own error: one that is freed at the end of a program can hang it."""
    error.with_traceback(None)


def details(status):
    reason, retry_after = "", None
    for detail in status.details:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToMilliseconds() / 1000
    return reason, retry_after


def may_repeat(why):
    """Whether the connection was lost, or the daemon says that waiting helps: a restart, a full queue, an HSM that is away."""
    lost = why.code == grpc.StatusCode.UNAVAILABLE and not why.reason
    return lost or why.retry_after is not None


def call(method, request, deadline=10.0, metadata=None):
    """Makes a call that may be repeated, and repeats it within the deadline (seconds) while waiting helps."""
    end, pause = time.monotonic() + deadline, 0.02
    while True:
        try:
            return method(request, timeout=max(end - time.monotonic(), 0.001), metadata=metadata)
        except grpc.RpcError as error:
            why = refused(error)
            wait = why.retry_after if why.retry_after is not None else pause * random.uniform(0.5, 1)
            if not may_repeat(why) or time.monotonic() + wait >= end:
                raise why from error
            time.sleep(wait)
            pause = min(1.0, 2 * pause)


def encrypt(crypto, plaintext, context, metadata=None):
    request = pb.EncryptRequest(name=KEY, plaintext=plaintext, context=context)
    return call(crypto.Encrypt, request, metadata=metadata).ciphertext


def decrypt(crypto, ciphertext, context, metadata=None):
    request = pb.DecryptRequest(name=KEY, ciphertext=ciphertext, context=context)
    return call(crypto.Decrypt, request, metadata=metadata).plaintext


def encrypt_batch(crypto, items):
    """Encrypts (plaintext, context) in one call; answers a ciphertext or a Refused for each, in order."""
    items = [pb.BatchEncryptRequest.Item(plaintext=plaintext, context=context) for plaintext, context in items]
    answer = call(crypto.BatchEncrypt, pb.BatchEncryptRequest(name=KEY, items=items))
    return [outcome(result, "ciphertext") for result in answer.results]


def outcome(result, field):
    return why_not(result.error) if result.HasField("error") else getattr(result, field)


def why_not(status):
    reason, retry_after = details(status)
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    return Refused(code, reason, status.message, retry_after)


class Session:
    """One attempt at a stream of items: what is sent waits in `waiting` until it is answered."""

    def __init__(self, items, waiting):
        self.items, self.waiting, self.again = items, waiting, sorted(waiting.items())
        self.room, self.lock = threading.Semaphore(WINDOW), threading.Lock()
        self.stopped, self.failed = False, []

    def requests(self):
        # gRPC runs this in a thread of its own, and would swallow what it raises.
        try:
            while (found := self.next()) is not None:
                number, (plaintext, context) = found
                asked = pb.EncryptRequest(name=KEY, plaintext=plaintext, context=context)
                yield pb.CryptSessionRequest(id=number, encrypt=asked)
        except Exception as error:
            self.failed.append(error)
            raise

    def next(self):
        # Answers are read while requests are sent: a session whose answers are left alone is ended.
        while not self.room.acquire(timeout=0.1):
            if self.stopped:
                return None
        with self.lock:
            if self.stopped:
                return None
            if self.again:
                return self.again.pop(0)
            found = next(self.items, None)
            if found is not None:
                self.waiting[found[0]] = found[1]
            return found

    def stop(self):
        with self.lock:
            self.stopped = True


def encrypt_many(crypto, items, attempts=8):
    """Encrypts very many (plaintext, context) on one stream; yields (number, ciphertext or Refused) as they come."""
    items, waiting = iter(enumerate(items)), {}
    for attempt in range(attempts):
        session = Session(items, waiting)
        answers = crypto.CryptSession(session.requests())
        problems = []
        try:
            for answer in answers:
                session.room.release()
                found = why_not(answer.error) if answer.HasField("error") else answer.encrypt.ciphertext
                if isinstance(found, Refused) and may_repeat(found):
                    # It still waits: the daemon stops, say, and the next attempt asks again.
                    problems = [found]
                elif waiting.pop(answer.id, None) is not None:
                    yield answer.id, found
            if not waiting:
                return
        except grpc.RpcError as error:
            problems = session.failed or [refused(error)]
            let_go(error)
        finally:
            session.stop()
            answers.cancel()
            del answers
        if problems and not (isinstance(problems[0], Refused) and may_repeat(problems[0])):
            raise problems.pop()
        if attempt + 1 < attempts:
            time.sleep(min(1.0, 0.1 * 2**attempt))
    raise problems.pop() if problems else Refused(grpc.StatusCode.UNAVAILABLE, "", "items are not answered", None)


def convert_file(method, request, source, target, context):
    """Encrypts or decrypts a file; `target` appears when it is whole, and not before."""
    with open(source, "rb") as file, tempfile.NamedTemporaryFile(dir=os.path.dirname(target) or ".", delete=False) as draft:
        # gRPC runs this in a thread of its own, and would swallow what it raises.
        failed = []

        def requests():
            try:
                yield request(header=pb.StreamHeader(name=KEY, context=context))
                while chunk := file.read(CHUNK):
                    yield request(chunk=chunk)
            except Exception as error:
                failed.append(error)
                raise

        problems = []
        try:
            # What was written before an error is not the file: only the end of the stream says that it is whole.
            for answer in method(requests()):
                draft.write(answer.chunk)
            draft.flush()
            os.fsync(draft.fileno())
            os.replace(draft.name, target)
        except grpc.RpcError as error:
            os.unlink(draft.name)
            problems = failed or [refused(error)]
            let_go(error)
        except BaseException:
            os.unlink(draft.name)
            raise
        # Not in the handler: the exception would hold the stream.
        if problems:
            raise problems.pop()


def customers(crypto, database):
    """Keeps telephone numbers of at most 32 bytes in a column that is as long as their ciphertexts."""
    database.execute(
        f"CREATE TABLE customers (id INTEGER PRIMARY KEY, phone BLOB CHECK (length(phone) <= {32 + OVERHEAD})) STRICT"
    )
    # The context names the place: a ciphertext that is moved to another row does not decrypt.
    about = lambda number: {"table": "customers", "column": "phone", "id": str(number)}
    for number, phone in ((1, "0912 345 678"), (2, "0987 654 321")):
        sealed = encrypt(crypto, phone.encode(), about(number))
        assert len(sealed) == len(phone.encode()) + OVERHEAD
        database.execute("INSERT INTO customers VALUES (?, ?)", (number, sealed))
    (sealed,) = database.execute("SELECT phone FROM customers WHERE id = 2").fetchone()
    print("customer 2:", decrypt(crypto, sealed, about(2)).decode())
    try:
        decrypt(crypto, sealed, about(1))
    except Refused as why:
        print("in another row:", why.reason)


def main(socket, assertion=None):
    crypto = connect(socket)
    customers(crypto, sqlite3.connect(":memory:"))
    items = [(f"value {n}".encode(), {"id": str(n)}) for n in range(100)]
    print("batch:", sum(isinstance(sealed, bytes) for sealed in encrypt_batch(crypto, items)))
    many = ((f"value {n}".encode(), {"id": str(n)}) for n in range(5000))
    print("session:", sum(isinstance(sealed, bytes) for _, sealed in encrypt_many(crypto, many)))
    with tempfile.TemporaryDirectory() as folder:
        plain, sealed, again = (os.path.join(folder, name) for name in ("plain", "sealed", "again"))
        with open(plain, "wb") as file:
            file.write(os.urandom(3 << 20))
        about = {"file": "plain"}
        convert_file(crypto.EncryptStream, pb.EncryptStreamRequest, plain, sealed, about)
        convert_file(crypto.DecryptStream, pb.DecryptStreamRequest, sealed, again, about)
        print("file:", open(plain, "rb").read() == open(again, "rb").read())
    if assertion:
        # Allowed is what both the application and the staff member may; the record names who it was, and where.
        metadata = (("keyward-assertion", assertion), ("keyward-client-address", "203.0.113.7"))
        about = {"table": "customers", "id": "42"}
        sealed = encrypt(crypto, b"for alice", about, metadata)
        print("for a staff member:", decrypt(crypto, sealed, about, metadata).decode())


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(*sys.argv[1:])
