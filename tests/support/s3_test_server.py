#!/usr/bin/python3
"""An S3 server for tests: objects in memory, signatures verified, faults on demand.

It is written from the specification of Signature Version 4, not from larder's signer: what the client says it signed is
rebuilt here from the request as it came over the wire. Path style only; keys are bytes, taken as they are.

    s3_test_server.py [--access-key AK] [--secret-key SK] [--session-token T] [--region R] [--bucket NAME]...

prints "port N" once it listens on 127.0.0.1.

Control, without signature:
    PUT  /_control            JSON list of rules: replaces all rules
    GET  /_control/counts     {"GET bucket/key": n, ...}: requests that arrived, of whatever outcome; a listing is
                              "GET bucket/?prefix", a copy "PUT bucket/key"
    GET  /_control/waiting    {"waiting": n}: requests that a hold keeps waiting
    GET  /_control/uploads    {"uploads": n, "used": n}: writes in parts that were neither completed nor aborted; those
                              that a later request named, so that whoever began them knows of them
    POST /_control/hold       {"key": text}: GETs and HEADs of keys (and listings of prefixes) with that text wait
    POST /_control/release    {"key": text}: and go on
    POST /_control/reset      drops rules, holds and counts; keeps the objects

A rule: {"method": "GET" (none: any), "key": text in "bucket/key" (none: any), "count": times (none: always),
         "action": name, ...}. The first that matches a request is applied, and used up by one.
    status            "status": 500, "code": "InternalError", "retry_after": seconds (optional)
    truncate_body     "bytes": n; the length is right, the connection closes after n bytes
    lie_length        "delta": n; Content-Length says n more (then closes) or less (all bytes are sent) than there are
    no_content_length the body ends with the connection
    wrong_body        one byte flipped, ETag kept
    wrong_etag        another ETag, whatever If-Match says
    weak_etag         the ETag with W/ before it, which If-Match then never matches
    wrong_range       Content-Range off by "first", "last" (none of the three: one byte both) and "total" ("*": as text)
    ignore_range      200 and the whole object
    copy_error        a copy is not made, nor a part of one, nor an upload completed: 200, and an error "code" as its body
    blank_first       the body of such an answer begins with blanks
    no_checksums      501 for headers x-amz-checksum-…, as old servers have it
    mute_checksums    such headers are accepted, and not told of
    wrong_checksum    what is told of them is wrong
    delete_error      a batch delete fails at keys with the text "at" with "code"
    raw_list          a listing ignores encoding-type, as some servers do
    whole_list        a listing ignores max-keys
    other_list        a listing ignores its prefix
    no_token          a listing goes on, and does not say where
    same_token        a listing goes on where this one began
    cut_list          "bytes": n; the XML of a listing ends there
    edit_list         "from", "to": a text in the XML of a listing becomes another
    huge_headers      "bytes": n of headers
    delay_ms          "ms": n before the answer
    hang              no answer until the client gives up
    reset             RST, nothing is done
    drop_after_store  the request is carried out, then RST
    hold_answer       the request is carried out, its answer waits for a hold of its key
    skew_date         "seconds": n; the server's clock is off by that much; "ms" as with delay_ms (none: no delay)
    garbage           an answer that is no HTTP
"""
import argparse
import base64
import copy
import ctypes
import datetime
import email.utils
import hashlib
import hmac
import json
import os
import re
import socket
import socketserver
import struct
import threading
import time
import xml.etree.ElementTree
import zlib

MAX_HEAD = 64 * 1024
MAX_BODY = 256 * 1024 * 1024
MAX_KEY = 1024
MAX_SKEW_S = 15 * 60
XMLNS = "http://s3.amazonaws.com/doc/2006-03-01/"
LIST_ARGS = {"list-type", "prefix", "delimiter", "max-keys", "continuation-token", "start-after", "encoding-type"}
UNRESERVED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"


class S3Error(Exception):
    def __init__(self, status, code, message, headers=(), **fields):
        super().__init__(code)
        self.status, self.code, self.message, self.headers, self.fields = status, code, message, list(headers), fields


class Drop(Exception):
    """End the connection by RST."""


# ---- the wire ----

def percent_decode(raw):
    if re.search(rb"%(?![0-9A-Fa-f]{2})", raw):
        raise S3Error(400, "InvalidURI", "Couldn't parse the specified URI.")
    return re.sub(rb"%([0-9A-Fa-f]{2})", lambda m: bytes([int(m.group(1), 16)]), raw)


def percent_encode(raw, keep=b""):
    return "".join(chr(c) if c in UNRESERVED or c in keep else "%%%02X" % c for c in raw)


def xml_time(seconds):
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def xml_text(text):
    return (text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
            .replace("\r", "&#13;").replace("\n", "&#10;"))


class Request:
    def __init__(self, rfile):
        head = b""
        while True:
            line = rfile.readline(MAX_HEAD)
            if not line:
                raise EOFError
            if line in (b"\r\n", b"\n"):
                if head:
                    break
                continue
            head += line
            if len(head) > MAX_HEAD or not line.endswith(b"\n"):
                raise EOFError
        lines = [x.rstrip(b"\r") for x in head.split(b"\n")[:-1]]
        self.method, self.target, self.version = lines[0].decode("latin-1").split(" ")
        self.raw_path, _, self.raw_query = self.target.encode("latin-1").partition(b"?")
        self.headers = []  # (lower-case name, value as text), in order
        for line in lines[1:]:
            name, colon, value = line.partition(b":")
            if not colon or not name or name != name.strip():
                raise EOFError
            self.headers.append((name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t")))
        self.expects_continue = (self.header("expect") or "").lower() == "100-continue"
        self.rfile = rfile
        self.body = b""
        self.unread = self.header("content-length") not in (None, "0") or self.header("transfer-encoding") is not None

    def header(self, name):
        for n, v in self.headers:
            if n == name:
                return v
        return None

    def read_body(self, wfile):
        length = self.header("content-length")
        if self.header("transfer-encoding"):
            raise S3Error(411, "MissingContentLength", "You must provide the Content-Length HTTP header.")
        if self.method in ("PUT", "POST") and length is None:
            raise S3Error(411, "MissingContentLength", "You must provide the Content-Length HTTP header.")
        if length is None:
            return
        if not re.fullmatch(r"\d{1,12}", length) or int(length) > MAX_BODY:
            raise S3Error(400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed object size.")
        if self.expects_continue:
            wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            wfile.flush()
        self.body = self.rfile.read(int(length))
        if len(self.body) < int(length):
            raise EOFError
        self.unread = False


# ---- Signature Version 4 ----

def query_pairs(raw_query):
    pairs = []
    for part in raw_query.split(b"&") if raw_query else []:
        name, _, value = part.partition(b"=")
        pairs.append((percent_encode(percent_decode(name)), percent_encode(percent_decode(value))))
    return sorted(pairs)


def query_args(raw_query):
    """The pairs as they are meant: a '+' is a blank in no signed query."""
    for part in raw_query.split(b"&") if raw_query else []:
        name, _, value = part.partition(b"=")
        yield percent_decode(name).decode("latin-1"), percent_decode(value)


def canonical_request(req, signed, payload_hash):
    headers = ""
    for name in signed:
        values = [re.sub(r" +", " ", v) for n, v in req.headers if n == name]
        if not values:
            raise S3Error(403, "SignatureDoesNotMatch", "A signed header is not in the request.")
        headers += name + ":" + ",".join(values) + "\n"
    return "\n".join([
        req.method,
        percent_encode(percent_decode(req.raw_path), keep=b"/"),  # once: S3 does not encode twice, nor clean the path
        "&".join(n + "=" + v for n, v in query_pairs(req.raw_query)),
        headers,
        ";".join(signed),
        payload_hash,
    ])


def verify(req, options, now):
    auth = req.header("authorization")
    if not auth:
        raise S3Error(403, "AccessDenied", "Access Denied")
    m = re.fullmatch(r"AWS4-HMAC-SHA256 +Credential=([^,\s]+), *SignedHeaders=([^,\s]+), *Signature=([0-9a-f]{64})", auth)
    if not m:
        raise S3Error(400, "AuthorizationHeaderMalformed", "The authorization header is malformed.")
    scope = m.group(1).split("/")
    signed = m.group(2).split(";")
    if len(scope) != 5 or scope[4] != "aws4_request" or scope[3] != "s3" or signed != sorted(set(signed)):
        raise S3Error(400, "AuthorizationHeaderMalformed", "The authorization header is malformed.")
    key_id, day, region = scope[0], scope[1], scope[2]
    if region != options.region:
        raise S3Error(400, "AuthorizationHeaderMalformed",
                      "The authorization header is malformed; the region '%s' is wrong; expecting '%s'"
                      % (region, options.region), Region=options.region)
    if key_id != options.access_key:
        raise S3Error(403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.",
                      AWSAccessKeyId=key_id)
    token = req.header("x-amz-security-token")
    if options.session_token and token != options.session_token or token and not options.session_token:
        raise S3Error(400, "InvalidToken", "The provided token is malformed or otherwise invalid.")

    stamp = req.header("x-amz-date") or ""
    try:
        when = datetime.datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.timezone.utc)
    except ValueError:
        raise S3Error(403, "AccessDenied", "AWS authentication requires a valid Date or x-amz-date header")
    if stamp[:8] != day:
        raise S3Error(400, "AuthorizationHeaderMalformed", "Invalid credential date.")
    if abs(when.timestamp() - now) > MAX_SKEW_S:
        raise S3Error(403, "RequestTimeTooSkewed",
                      "The difference between the request time and the current time is too large.",
                      RequestTime=stamp,
                      ServerTime=datetime.datetime.fromtimestamp(now, datetime.timezone.utc)
                      .strftime("%Y-%m-%dT%H:%M:%SZ"), MaxAllowedSkewMilliseconds=str(MAX_SKEW_S * 1000))

    must = {"host"} | {n for n, _ in req.headers if n.startswith("x-amz-") or n == "content-md5"}
    unsigned = must - set(signed)
    if unsigned:
        raise S3Error(403, "AccessDenied", "There were headers present in the request which were not signed",
                      HeadersNotSigned=", ".join(sorted(unsigned)))
    payload_hash = req.header("x-amz-content-sha256")
    if payload_hash is None:
        raise S3Error(400, "InvalidRequest", "Missing required header for this request: x-amz-content-sha256")
    if payload_hash != "UNSIGNED-PAYLOAD" and not re.fullmatch(r"[0-9a-f]{64}", payload_hash):
        raise S3Error(501, "NotImplemented", "This payload signature is not implemented.")

    canonical = canonical_request(req, signed, payload_hash)
    to_sign = "\n".join(["AWS4-HMAC-SHA256", stamp, "/".join(scope[1:]),
                         hashlib.sha256(canonical.encode("latin-1")).hexdigest()])
    key = ("AWS4" + options.secret_key).encode()
    for part in scope[1:]:
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    if not hmac.compare_digest(hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest(), m.group(3)):
        raise S3Error(403, "SignatureDoesNotMatch",
                      "The request signature we calculated does not match the signature you provided.",
                      AWSAccessKeyId=key_id, StringToSign=to_sign, CanonicalRequest=canonical)
    if payload_hash != "UNSIGNED-PAYLOAD" and hashlib.sha256(req.body).hexdigest() != payload_hash:
        raise S3Error(400, "XAmzContentSHA256Mismatch",
                      "The provided 'x-amz-content-sha256' header does not match what was computed.")


# ---- objects ----

KEPT_HEADERS = ("content-type", "content-encoding", "cache-control", "content-disposition", "content-language")
MIN_PART = 5 * 1024 * 1024


def crc_by_table(poly, bits):
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (poly if byte & 1 else 0)
        table.append(byte)

    def crc(data):
        state = (1 << bits) - 1
        for byte in data:
            state = state >> 8 ^ table[(state ^ byte) & 255]
        return state ^ ((1 << bits) - 1)
    return crc


def crc32c_function():
    """By isa-l where it is there: the table takes a second for some MiB."""
    try:
        isal = ctypes.CDLL("libisal.so.2").crc32_iscsi
    except (OSError, AttributeError):
        return crc_by_table(0x82F63B78, 32)
    isal.restype, isal.argtypes = ctypes.c_uint, [ctypes.c_char_p, ctypes.c_int, ctypes.c_uint]
    return lambda data: isal(data, len(data), 0xFFFFFFFF) ^ 0xFFFFFFFF


crc32c, crc64nvme = crc32c_function(), crc_by_table(0x9A6C9329AC4BC9B5, 64)
CHECKSUMS = {
    "x-amz-checksum-crc32": lambda b: struct.pack(">I", zlib.crc32(b)),
    "x-amz-checksum-crc32c": lambda b: struct.pack(">I", crc32c(b)),
    "x-amz-checksum-crc64nvme": lambda b: struct.pack(">Q", crc64nvme(b)),
    "x-amz-checksum-sha1": lambda b: hashlib.sha1(b).digest(),
    "x-amz-checksum-sha256": lambda b: hashlib.sha256(b).digest(),
}


class Object:
    def __init__(self, req, now):
        self.bytes = req.body
        self.etag = '"%s"' % hashlib.md5(req.body).hexdigest()
        self.modified = int(now)
        self.headers = [(n, v) for n, v in req.headers if n in KEPT_HEADERS or n.startswith("x-amz-meta-")]
        if not req.header("content-type"):
            self.headers.append(("content-type", "binary/octet-stream"))
        self.checksums = []
        for n, v in req.headers:
            if n == "content-md5" and base64.b64decode(v) != hashlib.md5(req.body).digest():
                raise S3Error(400, "BadDigest", "The Content-MD5 you specified did not match what we received.")
            if n.startswith("x-amz-checksum-") and n not in ("x-amz-checksum-type", "x-amz-checksum-algorithm"):
                if n not in CHECKSUMS:
                    raise S3Error(501, "NotImplemented", "This checksum is not implemented.")
                if base64.b64decode(v) != CHECKSUMS[n](req.body):
                    raise S3Error(400, "BadDigest", "The checksum you specified did not match what we received.")
                self.checksums.append((n, v))


class Upload:
    """A write in parts: the object as it will be, and its parts by number."""

    def __init__(self, req, bucket, key, now):
        self.bucket, self.key, self.object, self.parts = bucket, key, Object(req, now), {}
        algo = req.header("x-amz-checksum-algorithm")
        self.used = False
        self.sum = "x-amz-checksum-" + algo.lower() if algo else None
        if self.sum and (self.sum not in CHECKSUMS or req.header("x-amz-checksum-type") != "FULL_OBJECT"):
            raise S3Error(501, "NotImplemented", "This checksum is not implemented.")

    def sum_of(self, data):
        return base64.b64encode(CHECKSUMS[self.sum](data)).decode()

    def element(self, data):
        name = "Checksum" + self.sum[len("x-amz-checksum-"):].upper() if self.sum else ""
        return "<%s>%s</%s>" % (name, self.sum_of(data), name) if self.sum else ""


class Store:
    def __init__(self, options):
        self.options = options
        self.lock = threading.Condition()
        # under lock
        self.buckets = {b: {} for b in options.bucket or ["b"]}
        self.uploads = {}
        self.rules, self.counts, self.holds, self.waiting = [], {}, set(), 0

    def take_rule(self, method, key):
        with self.lock:
            for r in self.rules:
                if r.get("method", method) == method and r.get("key", "") in key and r.get("count", -1) != 0:
                    if r.get("count", -1) > 0:
                        r["count"] -= 1
                    return r
        return {"action": None}

    def count(self, name):
        with self.lock:
            self.counts[name] = self.counts.get(name, 0) + 1

    def wait_for_release(self, key):
        def held():
            return any(h in key for h in self.holds)

        with self.lock:
            self.waiting += 1
            self.lock.wait_for(lambda: not held())
            self.waiting -= 1

    def control(self, req):
        what = req.target[len("/_control"):]
        args = json.loads(req.body) if req.body else None
        with self.lock:
            if req.method == "PUT" and what == "":
                self.rules = args
            elif req.method == "GET" and what == "/counts":
                return self.counts
            elif req.method == "GET" and what == "/waiting":
                return {"waiting": self.waiting}
            elif req.method == "GET" and what == "/uploads":
                return {"uploads": len(self.uploads), "used": sum(u.used for u in self.uploads.values())}
            elif req.method == "POST" and what == "/hold":
                self.holds.add(args["key"])
            elif req.method == "POST" and what == "/release":
                self.holds.discard(args["key"])
                self.lock.notify_all()
            elif req.method == "POST" and what == "/reset":
                self.rules, self.counts, self.holds = [], {}, set()
                self.lock.notify_all()
            else:
                raise S3Error(404, "NoSuchControl", "There is no such control.")
        return {}

    def bucket(self, name):
        if name not in self.buckets:
            raise S3Error(404, "NoSuchBucket", "The specified bucket does not exist", BucketName=name)
        return self.buckets[name]

    # Each answers (status, headers, body).

    def copy_source(self, req):
        """Under lock: who is copied, and its bucket and key."""
        source = percent_decode(req.header("x-amz-copy-source").encode("latin-1")).lstrip(b"/")
        bucket, _, key = source.partition(b"/")
        bucket = bucket.decode("latin-1")
        old = self.bucket(bucket).get(key)
        if not old:
            raise S3Error(404, "NoSuchKey", "The specified key does not exist.")
        if req.header("x-amz-copy-source-if-match") not in (None, old.etag):
            raise S3Error(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
        return old, (bucket, key)

    def late_answer(self, rule, name, fields):
        """An answer whose status is sent before it is known how things go."""
        if rule["action"] == "copy_error":
            name, xmlns = "Error", ""
            fields = ("<Code>%s</Code><Message>We encountered an error.</Message><RequestId>in-body</RequestId>"
                      % rule["code"])
        else:
            xmlns = ' xmlns="%s"' % XMLNS
        body = '<?xml version="1.0" encoding="UTF-8"?>\n<%s%s>%s</%s>' % (name, xmlns, fields, name)
        return 200, [("Content-Type", "application/xml")], (
            " \r\n" * 20 if rule["action"] == "blank_first" else "").encode() + body.encode()

    def copy(self, req, bucket, key, now, rule):
        if req.header("x-amz-metadata-directive") not in (None, "COPY"):
            raise S3Error(501, "NotImplemented", "This directive is not implemented.")
        with self.lock:
            old, source = self.copy_source(req)
            if source == (bucket, key):
                raise S3Error(400, "InvalidRequest", "This copy request is illegal because it is trying to copy an "
                              "object to itself without changing the object's metadata, storage class, website "
                              "redirect location or encryption attributes.")
            made = copy.copy(old)
            made.modified = int(now)
            if rule["action"] != "copy_error":
                self.bucket(bucket)[key] = made
        return self.late_answer(rule, "CopyObjectResult", "<LastModified>%s</LastModified><ETag>%s</ETag>"
                                % (xml_time(made.modified), xml_text(made.etag)))

    # ---- writes in parts, batch deletes, making buckets ----

    def upload(self, args, bucket, key):
        found = self.uploads.get(args["uploadId"].decode("latin-1"))
        if not found or (found.bucket, found.key) != (bucket, key):
            raise S3Error(404, "NoSuchUpload", "The specified upload does not exist.")
        found.used = True
        return found

    def begin(self, req, bucket, key, now, rule):
        made, name = Upload(req, bucket, key, now), os.urandom(12).hex() + "+/&<"
        if rule["action"] == "mute_checksums":
            made.sum = None
        with self.lock:
            self.bucket(bucket)
            self.uploads[name] = made
        told = [("x-amz-checksum-algorithm", req.header("x-amz-checksum-algorithm")),
                ("x-amz-checksum-type", "FULL_OBJECT")] if made.sum else []
        return 200, told, ('<InitiateMultipartUploadResult xmlns="%s"><Bucket>%s</Bucket><UploadId>%s</UploadId>'
                           "</InitiateMultipartUploadResult>" % (XMLNS, bucket, xml_text(name))).encode()

    def part(self, req, bucket, key, args, now, rule):
        n = int(args["partNumber"])
        if not 1 <= n <= 10000:
            raise S3Error(400, "InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive")
        if not req.header("x-amz-copy-source"):
            made = Object(req, now)
            with self.lock:
                self.upload(args, bucket, key).parts[n] = (made.bytes, made.etag)
            return 200, [("ETag", made.etag)] + made.checksums, b""
        with self.lock:
            upload = self.upload(args, bucket, key)
            data = self.copy_source(req)[0].bytes
            m = re.fullmatch(r"bytes=(\d+)-(\d+)", req.header("x-amz-copy-source-range"))
            if not m or int(m.group(2)) >= len(data) or int(m.group(1)) > int(m.group(2)):
                raise S3Error(400, "InvalidArgument", "The x-amz-copy-source-range value is not satisfiable")
            data = data[int(m.group(1)):int(m.group(2)) + 1]
            etag = '"%s"' % hashlib.md5(data).hexdigest()
            if rule["action"] != "copy_error":
                upload.parts[n] = (data, etag)
        return self.late_answer(rule, "CopyPartResult", "<LastModified>%s</LastModified><ETag>%s</ETag>%s"
                                % (xml_time(now), xml_text(etag), upload.element(data)))

    def complete(self, req, bucket, key, args, now, rule):
        with self.lock:
            upload = self.upload(args, bucket, key)
            self.check_conditions(req, bucket, key)
            listed = [{e.tag.rpartition("}")[2]: e.text for e in part}
                      for part in xml.etree.ElementTree.fromstring(req.body)]
            data, digests, last = b"", b"", 0
            for i, p in enumerate(listed):
                n = int(p["PartNumber"])
                if n <= last:
                    raise S3Error(400, "InvalidPartOrder", "The list of parts was not in ascending order.")
                if n not in upload.parts or upload.parts[n][1] != p["ETag"]:
                    raise S3Error(400, "InvalidPart", "One or more of the specified parts could not be found.")
                part = upload.parts[n][0]
                if len(part) < MIN_PART and i < len(listed) - 1:
                    raise S3Error(400, "EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size")
                if upload.element(part) not in ("<%s>%s</%s>" % (k, v, k) for k, v in p.items()) and upload.sum:
                    raise S3Error(400, "InvalidPart", "One or more of the specified parts have another checksum.")
                data, digests, last = data + part, digests + hashlib.md5(part).digest(), n
            if upload.sum and req.header(upload.sum) not in (None, upload.sum_of(data)):
                raise S3Error(400, "BadDigest", "The checksum you specified did not match the calculated one.")
            made = upload.object
            made.bytes, made.modified = data, int(now)
            made.etag = '"%s-%d"' % (hashlib.md5(digests).hexdigest(), len(listed))
            made.checksums = [(upload.sum, upload.sum_of(data))] if upload.sum else []
            if rule["action"] != "copy_error":
                self.bucket(bucket)[key] = made
                del self.uploads[args["uploadId"].decode("latin-1")]
        told = upload.element(data[1:] if rule["action"] == "wrong_checksum" else data)
        return self.late_answer(rule, "CompleteMultipartUploadResult", "<ETag>%s</ETag>%s"
                                % (xml_text(made.etag), told))

    def abort(self, bucket, key, args):
        with self.lock:
            self.upload(args, bucket, key)
            del self.uploads[args["uploadId"].decode("latin-1")]
        return 204, [], b""

    def delete_many(self, req, bucket, rule):
        if not req.header("content-md5"):
            raise S3Error(400, "InvalidRequest", "Missing required header for this request: Content-MD5")
        Object(req, 0)  # checks the sums
        failed = ""
        with self.lock:
            objects = self.bucket(bucket)
            for e in xml.etree.ElementTree.fromstring(req.body).iter("{%s}Key" % XMLNS):
                if rule["action"] == "delete_error" and rule["at"] in e.text:
                    failed += ("<Error><Key>%s</Key><Code>%s</Code><Message>No &lt;way&gt;.</Message></Error>"
                               % (xml_text(rule.get("says", e.text)), rule["code"]))
                else:
                    objects.pop(e.text.encode(), None)
        return 200, [], ('<DeleteResult xmlns="%s">%s</DeleteResult>' % (XMLNS, failed)).encode()

    def make_bucket(self, bucket):
        with self.lock:
            if bucket in self.buckets:
                raise S3Error(409, "BucketAlreadyOwnedByYou", "The bucket you tried to create already exists.")
            self.buckets[bucket] = {}
        return 200, [("Location", "/" + bucket)], b""

    def list(self, req, bucket, args, rule):
        action = rule["action"]
        if args.get("list-type") != b"2" or set(args) - LIST_ARGS:
            raise S3Error(501, "NotImplemented", "Such a request of a bucket is not implemented.")
        prefix, delimiter, after = (args.get(n, b"") for n in ("prefix", "delimiter", "start-after"))
        token = args.get("continuation-token")
        limit = min(int(args.get("max-keys", b"1000")), 1000)
        url = args.get("encoding-type") == b"url" and action != "raw_list"
        if args.get("encoding-type", b"url") != b"url":
            raise S3Error(400, "InvalidArgument", "Invalid Encoding Method specified in Request")
        if token is not None:
            try:
                after = base64.b64decode(token, validate=True)
            except ValueError:
                raise S3Error(400, "InvalidArgument", "The continuation token provided is incorrect")
        if action == "other_list":
            prefix = b""
        with self.lock:
            keys = sorted(self.bucket(bucket).items())
        entries, last, more = [], after, False  # (text, object or None: a group)
        for key, o in keys:
            at = key.find(delimiter, len(prefix)) if delimiter else -1
            text = key if at < 0 else key[:at + len(delimiter)]
            # a token may name a group: all of its keys are done
            if not key.startswith(prefix) or key <= last or at >= 0 and last.startswith(text):
                continue
            if len(entries) == limit and action != "whole_list":
                more = True
                break
            entries.append((text, o if at < 0 else None))
            last = text

        def shown(raw):
            return percent_encode(raw, keep=b"/").replace("%20", "+") if url else xml_text(raw.decode("utf-8", "replace"))

        fields = [("Name", bucket), ("Prefix", shown(prefix)), ("KeyCount", str(len(entries))), ("MaxKeys", str(limit)),
                  ("IsTruncated", "true" if more or action in ("no_token", "same_token") else "false")]
        if delimiter:
            fields.append(("Delimiter", shown(delimiter)))
        if token is not None:
            fields.append(("ContinuationToken", xml_text(token.decode("latin-1"))))
        if action == "same_token":
            fields.append(("NextContinuationToken", xml_text((token or b"").decode("latin-1"))))
        elif more and action != "no_token":
            fields.append(("NextContinuationToken", base64.b64encode(last).decode()))
        items = ["<Contents><Key>%s</Key><LastModified>%s</LastModified><ETag>%s</ETag><Size>%d</Size><Owner><ID>%s</ID>"
                 "</Owner><StorageClass>STANDARD</StorageClass></Contents>"
                 % (shown(text), xml_time(o.modified), xml_text(o.etag), len(o.bytes), "me") for text, o in entries if o]
        items += ["<CommonPrefixes><Prefix>%s</Prefix></CommonPrefixes>" % shown(text) for text, o in entries if not o]
        if url:
            items.append("<EncodingType>url</EncodingType>")  # behind the keys, as some servers have it
        body = ('<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="%s">' % XMLNS +
                "".join("<%s>%s</%s>" % (n, v, n) for n, v in fields) + "".join(items) + "</ListBucketResult>")
        if action == "edit_list":
            body = body.replace(rule["from"], rule["to"], 1)
        body = body.encode()
        return 200, [("Content-Type", "application/xml")], body[:rule["bytes"]] if action == "cut_list" else body

    def check_conditions(self, req, bucket, key):
        """Under lock: may the object be written?"""
        old = self.bucket(bucket).get(key)
        if req.header("if-none-match") == "*" and old:
            raise S3Error(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold",
                          Condition="If-None-Match")
        if req.header("if-none-match") not in (None, "*"):
            raise S3Error(501, "NotImplemented", "A header you provided implies functionality that is not implemented")
        if req.header("if-match") and (not old or old.etag != req.header("if-match")):
            raise S3Error(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold",
                          Condition="If-Match")

    def put(self, req, bucket, key, now):
        made = Object(req, now)
        with self.lock:
            objects = self.bucket(bucket)
            self.check_conditions(req, bucket, key)
            objects[key] = made
        return 200, [("ETag", made.etag)] + made.checksums, b""

    def delete(self, req, bucket, key, now):
        with self.lock:
            self.check_conditions(req, bucket, key)
            self.bucket(bucket).pop(key, None)
        return 204, [], b""

    def get(self, req, bucket, key, rule):
        with self.lock:
            o = self.bucket(bucket).get(key)
        if not o:
            raise S3Error(404, "NoSuchKey", "The specified key does not exist.", Key=key.decode("utf-8", "replace"))
        weak = rule["action"] == "weak_etag"
        if req.header("if-match") not in (None, "*", None if weak else o.etag) and rule["action"] != "wrong_etag":
            raise S3Error(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold",
                          Condition="If-Match")
        etag = '"%s"' % ("0" * 32) if rule["action"] == "wrong_etag" else "W/" + o.etag if weak else o.etag
        headers = [("ETag", etag), ("Last-Modified", email.utils.formatdate(o.modified, usegmt=True)),
                   ("Accept-Ranges", "bytes")] + o.headers
        if req.header("x-amz-checksum-mode"):
            headers += o.checksums
        if req.header("if-none-match") in ("*", o.etag, "W/" + o.etag):
            return 304, headers, b""
        size, status, body = len(o.bytes), 200, o.bytes
        m = re.fullmatch(r"bytes=(\d*)-(\d*)", req.header("range") or "")
        if m and m.group(0) != "bytes=-" and rule["action"] != "ignore_range":
            if m.group(1):
                first, last = int(m.group(1)), min(int(m.group(2)) if m.group(2) else size, size - 1)
            else:
                first, last = max(0, size - int(m.group(2))), size - 1
            if first >= size or first > last and m.group(2) and int(m.group(2)) >= first:
                raise S3Error(416, "InvalidRange", "The requested range is not satisfiable",
                              headers=[("Content-Range", "bytes */%d" % size)],
                              RangeRequested=req.header("range"), ActualObjectSize=str(size))
            if first <= last:
                status, body = 206, o.bytes[first:last + 1]
                said, total = rule if rule["action"] == "wrong_range" else {"first": 0}, size
                off = 0 if {"first", "last", "total"} & set(said) else 1
                if "total" in said:
                    total = said["total"] if said["total"] == "*" else size + said["total"]
                headers.append(("Content-Range", "bytes %d-%d/%s" % (first + said.get("first", off),
                                                                     last + said.get("last", off), total)))
        return status, headers, body


# ---- connections ----

class Handler(socketserver.StreamRequestHandler):
    wbufsize = 64 * 1024
    disable_nagle_algorithm = True

    def handle(self):
        try:
            while self.one_request():
                pass
        except Drop:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # The files made from the socket keep it open: shut them without flushing, then close for the RST.
            self.rfile.close()
            self.wfile.raw.close()
            self.connection.close()
        except (EOFError, ValueError, OSError):
            pass

    def finish(self):
        try:
            super().finish()
        except (OSError, ValueError):
            pass

    def one_request(self):
        store = self.server.store
        req = Request(self.rfile)
        self.keep = req.version == "HTTP/1.1" and (req.header("connection") or "").lower() != "close"
        self.request_id = os.urandom(8).hex().upper()
        self.clock = time.time()
        self.rule = {"action": None}
        if req.target.startswith("/_control"):
            return self.control(req)
        try:
            bucket, key = self.names(req)
            args = dict(query_args(req.raw_query))
            text = key if key or req.method != "GET" else b"?" + args.get("prefix", b"")
            name = bucket + "/" + text.decode("utf-8", "surrogateescape")
            store.count(req.method + " " + name)
            self.rule = store.take_rule(req.method, name)
            answer = self.faulted(req, bucket, key, name, args)
        except S3Error as e:
            answer = self.error(req, e)
        self.answer(req, *answer)
        return self.keep

    def control(self, req):
        try:
            req.read_body(self.wfile)
            status, out = 200, self.server.store.control(req)
        except S3Error as e:
            status, out = e.status, {"error": e.message}
        body = json.dumps(out, sort_keys=True).encode()
        self.send(status, [("Content-Length", str(len(body)))], body)
        return self.keep

    def names(self, req):
        path = percent_decode(req.raw_path)
        bucket, _, key = path[1:].partition(b"/")
        if not path.startswith(b"/"):
            raise S3Error(400, "InvalidURI", "Couldn't parse the specified URI.")
        if len(key) > MAX_KEY:
            raise S3Error(400, "KeyTooLongError", "Your key is too long")
        return bucket.decode("latin-1"), key

    def faulted(self, req, bucket, key, name, args):
        store, rule, action = self.server.store, self.rule, self.rule["action"]
        if action == "reset":
            raise Drop
        if action == "skew_date":
            self.clock += rule["seconds"]
        req.read_body(self.wfile)
        if action == "hang":
            while self.connection.recv(1, socket.MSG_PEEK):  # until the client closes
                time.sleep(0.01)
            raise Drop
        if "ms" in rule:
            time.sleep(rule["ms"] / 1000)
        if action == "garbage":
            self.wfile.write(b"\x00\x01\x02 this is no HTTP\r\n\r\n")
            raise EOFError
        verify(req, store.options, self.clock)
        if action == "status":
            headers = [("Retry-After", str(rule["retry_after"]))] if "retry_after" in rule else []
            raise S3Error(rule["status"], rule.get("code", "InternalError"),
                          "We encountered an internal error. Please try again.", headers=headers)
        if action == "no_checksums" and req.method in ("PUT", "POST") and \
                any(n.startswith("x-amz-checksum-") for n, _ in req.headers):
            raise S3Error(501, "NotImplemented", "A header you provided implies functionality that is not implemented")
        if not key and req.method == "PUT" and not args:
            out = store.make_bucket(bucket)
        elif not key and req.method == "POST" and "delete" in args:
            out = store.delete_many(req, bucket, rule)
        elif not key and req.method != "GET":
            raise S3Error(501, "NotImplemented", "Such requests of a bucket are not implemented.")
        elif req.method == "POST" and "uploads" in args:
            out = store.begin(req, bucket, key, self.clock, rule)
        elif req.method == "POST" and "uploadId" in args:
            out = store.complete(req, bucket, key, args, self.clock, rule)
        elif req.method == "PUT" and "uploadId" in args:
            out = store.part(req, bucket, key, args, self.clock, rule)
        elif req.method == "DELETE" and "uploadId" in args:
            out = store.abort(bucket, key, args)
        elif req.method == "PUT" and req.header("x-amz-copy-source"):
            out = store.copy(req, bucket, key, self.clock, rule)
        elif req.method == "PUT":
            out = store.put(req, bucket, key, self.clock)
        elif req.method == "DELETE":
            out = store.delete(req, bucket, key, self.clock)
        elif req.method in ("GET", "HEAD"):
            if action != "hold_answer":
                store.wait_for_release(name)
            out = store.get(req, bucket, key, rule) if key else store.list(req, bucket, args, rule)
        else:
            raise S3Error(405, "MethodNotAllowed", "The specified method is not allowed against this resource.")
        if action in ("mute_checksums", "wrong_checksum"):
            mute = action == "mute_checksums"  # then nothing is said of the algorithm either
            told = [h for h in out[1] if not (h[0].startswith("x-amz-checksum-") if mute else h[0] in CHECKSUMS)]
            wrong = [(n, "AAAAAA==") for n, _ in out[1] if n in CHECKSUMS] if action == "wrong_checksum" else []
            out = out[0], told + wrong, out[2]
        if action == "drop_after_store":
            raise Drop
        if action == "hold_answer":
            store.wait_for_release(name)
        return out

    def error(self, req, e):
        fields = [("Code", e.code), ("Message", e.message)] + sorted(e.fields.items())
        fields += [("RequestId", self.request_id), ("HostId", "test")]
        body = '<?xml version="1.0" encoding="UTF-8"?>\n<Error>' + "".join(
            "<%s>%s</%s>" % (n, xml_text(v), n) for n, v in fields) + "</Error>"
        return e.status, e.headers + [("Content-Type", "application/xml")], body.encode("utf-8", "replace")

    def answer(self, req, status, headers, body):
        rule, action = self.rule, self.rule["action"]
        says = len(body)
        if status >= 300 and action not in ("huge_headers",):
            action = None  # the other faults are those of a body
        if action == "truncate_body":
            body = body[:rule["bytes"]]
        elif action == "lie_length":
            says += rule["delta"]
        elif action == "wrong_body" and body:
            at = len(body) // 2
            body = body[:at] + bytes([body[at] ^ 1]) + body[at + 1:]
        elif action == "huge_headers":
            headers = headers + [("x-filler-%d" % i, "x" * 1000) for i in range(rule["bytes"] // 1000 + 1)]
        if status not in (204, 304) and action != "no_content_length":
            headers = headers + [("Content-Length", str(says))]
        if action in ("truncate_body", "lie_length", "no_content_length") or req.unread:
            self.keep = False
        self.send(status, headers, b"" if req.method == "HEAD" else body)

    def send(self, status, headers, body):
        lines = ["HTTP/1.1 %d %s" % (status, {200: "OK", 204: "No Content", 206: "Partial Content"}.get(status, "X")),
                 "Date: " + email.utils.formatdate(self.clock, usegmt=True), "Server: s3-test",
                 "x-amz-request-id: " + self.request_id, "x-amz-id-2: test"]
        lines += ["%s: %s" % h for h in headers]
        if not self.keep:
            lines.append("Connection: close")
        self.wfile.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        self.wfile.write(body)
        self.wfile.flush()


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, options):
        self.store = Store(options)
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, request, client_address):
        import traceback
        traceback.print_exc()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--access-key", default="larder-test")
    p.add_argument("--secret-key", default="larder-test-secret")
    p.add_argument("--session-token")
    p.add_argument("--region", default="us-east-1")
    p.add_argument("--bucket", action="append")
    server = Server(p.parse_args())
    print("port %d" % server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
