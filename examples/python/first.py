import grpc
from keyward.v1 import crypto_pb2, crypto_pb2_grpc

# Without this option gRPC sends the path of the socket as authority, and HTTP/2 refuses every call.
options = [("grpc.default_authority", "localhost")]
channel = grpc.insecure_channel("unix:/run/keyward/keyward.sock", options)
crypto = crypto_pb2_grpc.CryptoServiceStub(channel)

key = "tenants/acme/keys/customer-pii"
about = {"table": "customers", "id": "42"}
request = crypto_pb2.EncryptRequest(name=key, plaintext="0912 345 678".encode(), context=about)
sealed = crypto.Encrypt(request, timeout=10)
request = crypto_pb2.DecryptRequest(name=key, ciphertext=sealed.ciphertext, context=about)
phone = crypto.Decrypt(request, timeout=10)
print(phone.plaintext.decode())
