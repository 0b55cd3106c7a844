"""Objects, errors and keys, from one process."""
import gc
import itertools
import os
import pickle
import random
import re
import time
import weakref

import pytest

import larder_cffi
from larder_cffi import LarderError, ffi, lib

SECONDS = 15
LARGE = random.Random(1).randbytes(3 * 1024 * 1024 + 7)  # a block file; what is small stands in the index itself


def since(name):
    return pytest.mark.skipif(not larder_cffi.has(name), reason=f"larder.h of this tree has no {name}()")


def failure(kind, call, *arguments, **more):
    """The error of a call that fails with this kind, and with the class of this kind."""
    with pytest.raises(LarderError) as e:
        call(*arguments, **more)
    assert e.value.kind == kind, e.value
    assert type(e.value) is larder_cffi.ERRORS[kind]
    return e.value


def test_the_library_exports_each_function_of_its_header():
    text = re.sub(r"/\*.*?\*/|typedef [^;]*;", "", larder_cffi.declarations(), flags=re.S)
    names = set(re.findall(r"\b(larder_\w+)\(", text))
    assert len(names) > 20
    assert [n for n in sorted(names) if not hasattr(lib, n)] == []


def test_each_kind_has_its_name():
    for number, name in larder_cffi.KINDS.items():
        assert ffi.string(lib.larder_kind_name(number)).decode() == name


@pytest.mark.parametrize("data", [b"x", b"hello" * 100, LARGE], ids=["byte", "small", "large"])
def test_an_object_is_read_cold_and_warm(agent, larder, data):
    uri = agent.seed("a", data)
    cold, warm = larder.view(uri, SECONDS), larder.view(uri, 0)
    assert cold.data == data and warm.data == data
    assert not cold.was_hit and warm.was_hit
    assert larder.counts()["hits"] == 1


def test_a_view_cannot_be_written_and_its_slices_share_its_bytes(agent, larder):
    view = larder.get(agent.seed("a", LARGE), SECONDS)
    with pytest.raises(TypeError):
        view[0] = 0
    part = view[1000:2000]
    assert part == LARGE[1000:2000] and part.readonly and part.obj is view.obj
    assert memoryview(part).nbytes == 1000
    assert bytes(view[-7:]) == LARGE[-7:]


def test_an_empty_object_is_an_empty_view(agent, larder):
    uri = agent.seed("empty", b"")
    for timeout in (SECONDS, 0):
        view = larder.get(uri, timeout)
        assert len(view) == 0 and bytes(view) == b""
    assert larder.get_into(uri, bytearray(0), 0) == 0
    pieces = []
    larder.stream(uri, lambda p, offset, size: pieces.append((p, offset, size)), 0)
    assert pieces == [(b"", 0, 0)]


# ---- lifetimes ----

def test_a_view_outlives_its_larder(agent):
    l = agent.open()
    small, large = l.get(agent.seed("s", b"hello"), SECONDS), l.get(agent.seed("l", LARGE), SECONDS)
    l.close()
    gone = weakref.ref(l)
    del l
    gc.collect()
    assert gone() is None
    assert small == b"hello" and large == LARGE


def test_a_slice_alone_keeps_the_object(agent, larder):
    part = larder.get(agent.seed("l", LARGE), SECONDS)[100:200]
    gc.collect()
    assert part == LARGE[100:200]


def test_objects_views_and_larders_are_freed_in_any_order(agent):
    uris = [agent.seed("s", b"hello"), agent.seed("l", LARGE)]
    for order in itertools.permutations(range(5)):
        l = agent.open()
        held = [l] + [l.view(u, SECONDS) for u in uris for _ in range(2)]  # twice: of the kept mapping
        del l
        left = dict(enumerate(held))
        del held
        for i in order:
            del left[i]
            gc.collect(0)
            assert all(v.data[-1:] in (b"o", LARGE[-1:]) for v in left.values() if isinstance(v, larder_cffi.View))


def test_a_cycle_of_all_of_them_is_freed_by_the_collector(agent):
    class Holder:
        pass

    holder = Holder()
    holder.me, holder.larder = holder, agent.open()
    holder.view = holder.larder.view(agent.seed("l", LARGE), SECONDS)
    gone = weakref.ref(holder)
    del holder
    gc.collect()
    assert gone() is None


def mapped():
    with open("/proc/self/maps") as f:
        return sum("/blocks/" in line for line in f)


def test_what_nobody_holds_is_unmapped(agent):
    l = agent.open()
    views = [l.get(agent.seed(f"l{i}", LARGE), SECONDS) for i in range(10)]
    assert mapped() >= 10
    l.close()
    assert mapped() >= 10
    del views
    gc.collect()
    assert mapped() == 0


def test_a_closed_larder_refuses_calls(agent):
    l = agent.open()
    l.close()
    l.close()
    with pytest.raises(ValueError):
        l.get("file://box/a")


# ---- other ways to read and write ----

def test_an_object_is_read_into_a_buffer(agent, larder):
    uri, room = agent.seed("l", LARGE), bytearray(len(LARGE) + 10)
    for timeout in (SECONDS, 0):
        room[:] = bytes(len(room))
        assert larder.get_into(uri, room, timeout) == len(LARGE)
        assert room[:len(LARGE)] == LARGE and room[-10:] == bytes(10)
    failure("limit_exceeded", larder.get_into, uri, bytearray(10), 0)
    with pytest.raises(BufferError):
        larder.get_into(uri, b"read-only", 0)


def test_an_object_is_streamed_and_the_callback_may_stop_it(agent, larder):
    uri, room = agent.seed("l", LARGE), bytearray()

    def collect(piece, offset, size):
        assert offset == len(room) and size == len(LARGE)
        room.extend(piece)

    for timeout in (SECONDS, 0):
        room.clear()
        larder.stream(uri, collect, timeout)
        assert room == LARGE

    def stop(piece, offset, size):
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        larder.stream(uri, stop, SECONDS)
    assert larder.get(uri, 0) == LARGE


def test_what_is_put_is_read_and_described_and_deleted(larder):
    larder.put("mem://box/p", b"hello", content_type="text/x", user={"colour": "blue", "n": "1"}, timeout=SECONDS)
    assert larder.get("mem://box/p", 0) == b"hello"
    m = larder.head("mem://box/p", SECONDS)
    assert m.exists and m.size == 5 and m.content_type == "text/x" and m.user == {"colour": "blue", "n": "1"}
    assert m.content_encoding is None and abs(m.last_modified - time.time()) < 3600
    larder.put("mem://box/p", memoryview(bytearray(b"again")), timeout=SECONDS)  # any buffer
    assert larder.get("mem://box/p", SECONDS) == b"again"
    larder.delete("mem://box/p", SECONDS)
    larder.delete("mem://box/p", SECONDS)
    assert not larder.head("mem://box/p", SECONDS).exists
    failure("not_found", larder.get, "mem://box/p", SECONDS)


def test_the_agent_tells_of_itself(agent, larder):
    items = larder.status(SECONDS)
    assert items["pid"] == agent.process.pid and items["cache_dir"] == agent.cache
    assert isinstance(items["version"], str)


@since("larder_get_range")
def test_a_range_is_a_view_of_its_own(agent, larder):
    uri = agent.seed("l", LARGE)
    for timeout in (SECONDS, 0):
        r = larder.get_range(uri, 1000, 2000, timeout)
        assert r.data == LARGE[1000:3000] and (r.offset, r.total) == (1000, len(LARGE))
    whole = larder.view(uri, SECONDS)
    assert whole.id == r.id and whole.offset == 0 and whole.total == len(LARGE)
    assert larder.get_range(uri, 5, 0, 0).data == LARGE[5:]
    assert larder.get_range(uri, len(LARGE) - 3, 100, 0).data == LARGE[-3:]
    beyond = larder.get_range(uri, len(LARGE) + 100, 10, 0)
    assert len(beyond.data) == 0 and beyond.total == len(LARGE)


@since("larder_read")
def test_bytes_are_read_like_pread(agent, larder):
    uri, room = agent.seed("l", LARGE), bytearray(1000)
    for timeout in (SECONDS, 0):
        assert larder.read(uri, 500, room, timeout) == (1000, len(LARGE))
        assert room == LARGE[500:1500]
    assert larder.read(uri, len(LARGE) - 10, room, 0) == (10, len(LARGE))
    assert larder.read(uri, len(LARGE), room, 0) == (0, len(LARGE))
    failure("not_found", larder.read, "file://box/none", 0, room, SECONDS)


@since("larder_get_many")
def test_many_objects_are_got_at_once_each_with_its_own_outcome(agent, larder):
    uris = [agent.seed(f"m{i}", b"%d" % i * 1000) for i in range(100)]
    larder.get(uris[3], SECONDS)
    got = larder.get_many(uris + ["file://box/none", "nonsense", uris[5]], SECONDS)
    assert [bytes(v.data) for v in got[:100]] == [b"%d" % i * 1000 for i in range(100)]
    assert [e.kind for e in got[100:102]] == ["not_found", "invalid"]
    assert got[102].data == got[5].data
    assert larder.get_many([], 0) == []
    assert agent.status()["store_gets"] <= 102


@since("larder_list")
def test_a_prefix_is_listed(larder):
    for i in range(20):
        larder.put(f"mem://box/d/{i:02}", b"x" * i, timeout=SECONDS)
    larder.put("mem://box/d/deep/er", b"", timeout=SECONDS)
    names = [f"mem://box/d/{i:02}" for i in range(20)]
    assert larder.list("mem://box/d/", timeout=SECONDS) == \
        [(n, i) for i, n in enumerate(names)] + [("mem://box/d/deep/er", 0)]
    assert larder.list("mem://box/d/", "/", SECONDS)[-1] == ("mem://box/d/deep/", None)
    assert larder.list("mem://box/none/", timeout=SECONDS) == []


@since("larder_copy")
def test_an_object_is_copied_in_its_store_and_to_another(larder):
    larder.put("mem://box/from", b"hello", timeout=SECONDS)
    larder.copy("mem://box/from", "mem://box/to", SECONDS)
    assert larder.get("mem://box/to", SECONDS) == b"hello"
    failure("not_found", larder.copy, "mem://box/none", "mem://box/to", SECONDS)
    larder.copy("mem://box/from", "file://box/to", SECONDS)
    assert larder.get("file://box/to", SECONDS) == b"hello", "between stores it is a stream"


@since("larder_why")
def test_it_is_told_why_an_object_is_served_from_the_cache(agent, larder):
    uri = agent.seed("a", b"hello")
    larder.get(uri, SECONDS)
    assert larder.why(uri, SECONDS)


# ---- errors ----

def test_failures_are_exceptions_of_their_kind(agent, larder):
    assert isinstance(failure("not_found", larder.get, "file://box/none", SECONDS), FileNotFoundError)
    assert isinstance(failure("timeout", larder.get, agent.seed("cold", b"x"), 0), TimeoutError)
    assert isinstance(failure("invalid", larder.get, "nonsense", SECONDS), ValueError)
    failure("invalid", larder.get, "file:///etc/passwd", SECONDS)
    failure("invalid", larder.get, "gopher://box/key", SECONDS)
    failure("invalid", larder.put, "mem://box/p", b"x", user={"n": "ü"}, timeout=SECONDS)
    failure("limit_exceeded", larder.put, "mem://box/p", b"x", user={"n": "v" * 20000}, timeout=SECONDS)
    larder.put("mem://box/once", b"1", create_only=True, timeout=SECONDS)
    assert isinstance(failure("exists", larder.put, "mem://box/once", b"2", create_only=True, timeout=SECONDS),
                      FileExistsError)
    assert larder.get("mem://box/once", SECONDS) == b"1"


def test_an_error_names_the_object_and_survives_pickle(larder):
    e = failure("not_found", larder.get, "file://box/ü", SECONDS)
    assert "file://box/ü" in str(e)
    again = pickle.loads(pickle.dumps(e))
    assert type(again) is type(e) and str(again) == str(e) and again.kind == e.kind


def test_a_failure_of_the_store_carries_its_status(s3_agent, s3):
    s3.control("PUT", "", [{"action": "status", "status": 403, "code": "AccessDenied"}])
    with s3_agent.open() as l:
        e = failure("denied", l.get, "s3://bucket-1/a", SECONDS)
        assert isinstance(e, PermissionError) and e.http == 403


def test_a_cut_message_is_still_text(larder):
    e = failure("not_found", larder.get, "file://box/" + "ü" * 100, SECONDS)
    assert "�" not in str(e)


# ---- keys ----

ODD = ["a b", "ü€😀", "%", "%20", "%2F", "a?x=1&y", "a#f", "a+b", "a\\b", "a:b@c", ".hidden", "a//b", "trailing/",
       "new\nline", "tab\t", "\x01\x7f", "'\"`$(x)", "k" * 800, os.fsdecode(b"\xff\xfe\x80"), "nfc é", "nfd e\u0301"]


def test_odd_keys_are_taken_literally(larder):
    for i, key in enumerate(ODD):
        larder.put("mem://box/" + key, b"%d" % i, timeout=SECONDS)
    for i, key in enumerate(ODD):
        assert larder.get("mem://box/" + key, SECONDS) == b"%d" % i, repr(key)
    with pytest.raises(LarderError):
        larder.get("mem://box/a", SECONDS)  # none of "a?x=1&y", "a#f"


def test_a_reference_with_a_nul_is_refused(larder):
    larder.put("mem://box/a", b"x", timeout=SECONDS)
    failure("invalid", larder.get, "mem://box/a\0b", SECONDS)
