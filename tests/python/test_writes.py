"""Objects of any size written, signed and deleted, through a real agent."""
import hashlib
import io
import os
import random
import subprocess
import time

import pytest

import larder_cffi
from conftest import wait_until
from larder_cffi import LarderError

SECONDS = 30
BLOCK = 8 << 20
MD5 = "1B2M2Y8AsgTpgAmY7PhCfg=="
BYTES = random.Random(2).randbytes(2 * BLOCK + 777777)


def staged(agent):
    """Files that an upload has left, or has in use."""
    folder = agent.cache + "/rw/staging"
    return os.listdir(folder) if os.path.isdir(folder) else []


def gone(agent):
    wait_until(lambda: not staged(agent))


def refused(kind, call, *arguments, **more):
    with pytest.raises(LarderError) as e:
        call(*arguments, **more)
    assert e.value.kind == kind, e.value
    return e.value


def digest(view):
    return hashlib.sha256(view).hexdigest()


SCHEMES = pytest.mark.parametrize("scheme", ["file://box", "mem://box", "s3://bucket-1"])
SIZES = (0, 1, BLOCK, BLOCK + 1, len(BYTES))


@SCHEMES
def test_a_put_of_any_size_is_read_back(s3_agent, scheme):
    with s3_agent.open() as l:
        for size in SIZES:
            uri, data = f"{scheme}/put/{size}", BYTES[:size]
            l.put(uri, data, content_type="text/x-test", user={"owner": "me"}, timeout=SECONDS)
            assert l.head(uri, SECONDS).size == size
            assert digest(l.get(uri, SECONDS)) == digest(data)
    gone(s3_agent)


@SCHEMES
@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
def test_a_writer_takes_any_steps(s3_agent, scheme, known):
    with s3_agent.open() as l:
        for size in SIZES:
            uri, data = f"{scheme}/written/{size}", BYTES[:size]
            with l.writer(uri, size if known else None, SECONDS) as w:
                for at in range(0, size, 1000001):
                    w.write(data[at:min(at + 1000001, size)])
            assert digest(l.get(uri, SECONDS)) == digest(data)
            assert l.head(uri, SECONDS).size == size
    gone(s3_agent)


def test_bytes_are_read_straight_into_a_writer(agent, larder):
    uri = "file://box/read"
    with larder.writer(uri, None, SECONDS) as w:
        assert w.read_from(io.BytesIO(BYTES)) == len(BYTES)
    assert larder.get(uri, SECONDS) == BYTES


def test_what_is_aborted_leaves_nothing(agent, larder):
    uri = "file://box/aborted"
    with pytest.raises(KeyError):
        with larder.writer(uri, None, SECONDS) as w:
            w.write(BYTES)
            raise KeyError
    gone(agent)
    refused("not_found", larder.get, uri, SECONDS)
    with pytest.raises(ValueError):
        w.write(b"x")


def test_nothing_is_seen_before_the_commit_and_the_old_one_stays(agent, larder):
    uri = "file://box/old"
    larder.put(uri, b"old", timeout=SECONDS)
    w = larder.writer(uri, None, SECONDS)
    w.write(BYTES)
    assert larder.get(uri, SECONDS) == b"old"
    w.commit()
    assert larder.get(uri, SECONDS) == BYTES


def test_without_the_staging_folder_messages_carry_the_bytes(agent, larder):
    """As in a container that has no rw mount: this process's view of the cache is a copy of the socket alone."""
    view = agent.folder + "/view"
    os.mkdir(view)
    os.symlink(agent.cache + "/ipc", view + "/ipc")
    with larder_cffi.Larder(view) as l:
        l.put("file://box/by-message", BYTES, timeout=SECONDS)
    assert larder.get("file://box/by-message", SECONDS) == BYTES
    gone(agent)


def test_a_writer_whose_process_is_killed_leaves_no_object(agent, larder):
    uri = "file://box/killed"
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            agent.open().writer(uri, None, SECONDS).write(BYTES)
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    refused("not_found", larder.get, uri, SECONDS)


def test_conditions_hold_for_small_and_large(s3_agent):
    with s3_agent.open() as l:
        for data in (b"small", BYTES):
            uri = f"s3://bucket-1/conditions-{len(data)}"
            l.put(uri, data, create_only=True, timeout=SECONDS)
            refused("exists", l.put, uri, data, create_only=True, timeout=SECONDS)
            refused("precondition", l.put, uri, data, if_match="0123456789abcdef", timeout=SECONDS)
            l.put(uri, data, if_match=l.head(uri, SECONDS).etag, timeout=SECONDS)
            assert l.get(uri, SECONDS) == data


def test_a_copy_between_stores_keeps_bytes_and_metadata(s3_agent):
    with s3_agent.open() as l:
        for data in (b"", b"small", BYTES):
            source, target = f"mem://box/{len(data)}", f"s3://bucket-1/copied/{len(data)}"
            l.put(source, data, content_type="text/x-test", user={"owner": "me"}, timeout=SECONDS)
            l.copy(source, target, SECONDS)
            assert l.get(target, SECONDS) == data
            meta = l.head(target, SECONDS)
            assert (meta.content_type, meta.user) == ("text/x-test", {"owner": "me"})
        refused("not_found", l.copy, "mem://box/none", "s3://bucket-1/none", SECONDS)


@SCHEMES
def test_many_are_deleted_and_each_tells(s3_agent, scheme):
    uris = [f"{scheme}/many/{i}" for i in range(300)]
    with s3_agent.open() as l:
        for uri in uris[:20]:
            l.put(uri, b"x", timeout=SECONDS)
        assert l.get(uris[0], SECONDS) == b"x"
        results = l.delete_many(uris + ["nonsense"], SECONDS)
        assert results[:-1] == [None] * 300 and results[-1].kind == "invalid"
        refused("not_found", l.get, uris[0], SECONDS)
        assert l.list(f"{scheme}/many/", timeout=SECONDS) == []


def test_a_signed_url_tells_all_that_must_be_sent(s3, s3_agent):
    with s3_agent.open() as l:
        uri = "s3://bucket-1/signed key"
        url, headers, expires = l.sign(uri, lifetime=60, timeout=SECONDS)
        assert url.startswith(s3.endpoint + "/bucket-1/signed%20key?") and "X-Amz-Signature=" in url
        assert "X-Amz-Expires=60" in url and headers == {} and 0 < expires - time.time() <= 61
        url, headers, _ = l.sign(uri, put=True, content_type="text/plain", content_md5=MD5, timeout=SECONDS)
        assert {k.lower(): v for k, v in headers.items()} == {"content-type": "text/plain", "content-md5": MD5}
        refused("unsupported", l.sign, "mem://box/x", timeout=SECONDS)
        refused("invalid", l.sign, uri, lifetime=-1, timeout=SECONDS)


def test_the_program_writes_signs_and_removes(agent):
    larder = [os.path.join(larder_cffi.BUILD, "bin/larder"), "--cache-dir", agent.cache]

    def run(*arguments, **more):
        return subprocess.run(larder + list(arguments), check=True, capture_output=True, timeout=SECONDS, **more).stdout

    with open(agent.folder + "/file", "wb") as f:
        f.write(BYTES)
    run("put", agent.folder + "/file", "file://box/p/file")
    run("put", "-", "file://box/p/pipe", input=BYTES)
    run("cp", "file://box/p/file", "mem://box/p/copy")
    for uri in ("file://box/p/file", "file://box/p/pipe", "mem://box/p/copy"):
        assert run("cat", uri) == BYTES
    run("rm", "-r", "file://box/p")
    assert run("ls", "file://box/p/") == b""
    gone(agent)
