"""fork, pools, loaders, threads; and an agent that is not there."""
import concurrent.futures
import multiprocessing
import multiprocessing.pool
import os
import random
import signal
import time
import traceback
import zlib

import pytest

import workers
from conftest import wait_until
from larder_cffi import ERRORS, Larder, LarderError

SECONDS = 15
LARGE = random.Random(1).randbytes(1024 * 1024)
METHODS = ["fork", "spawn", "forkserver"]


def start_child(work):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def exit_code(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def in_child(work):
    assert exit_code(start_child(work)) == 0


# ---- fork ----

def test_a_child_reads_the_views_of_its_parent_and_goes_on_with_its_handle(agent, larder):
    small, large = larder.get(agent.seed("s", b"hello"), SECONDS), larder.get(agent.seed("l", LARGE), SECONDS)

    def work():
        assert small == b"hello" and large == LARGE
        assert larder.get("file://box/l", 0) == LARGE
        assert larder.get(agent.seed("child", b"cold"), SECONDS) == b"cold"  # not over its parent's connection
        larder.close()
        assert large == LARGE

    for _ in range(3):
        in_child(work)
    assert larder.get(agent.seed("parent", b"cold"), SECONDS) == b"cold"
    assert small == b"hello" and large == LARGE


def test_a_view_outlives_the_process_that_got_it(agent, larder):
    view, (readable, writable) = larder.get(agent.seed("l", LARGE), SECONDS), os.pipe()

    def child():
        def grandchild():
            os.close(writable)
            os.read(readable, 1)  # until everybody else is gone
            assert view == LARGE
        os._exit(start_child(grandchild) and 0)

    in_child(child)
    os.write(writable, b"x")
    os.close(readable)
    os.close(writable)


def test_fork_while_another_thread_waits_for_the_agent(s3_agent, s3):
    with s3_agent.open() as l:
        l.put("s3://bucket-1/held", b"hello", timeout=SECONDS)
        l.delete("s3://bucket-1/held", timeout=SECONDS)
        l.put("s3://bucket-1/warm", LARGE, timeout=SECONDS)
        assert l.get("s3://bucket-1/warm", SECONDS) == LARGE
        s3.hold("held")
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(l.get, "s3://bucket-1/held", SECONDS)
            wait_until(lambda: s3.waiting() == 1)

            def work():
                assert l.get("s3://bucket-1/warm", 0) == LARGE
                assert l.get(s3_agent.seed("cold", b"cold"), SECONDS) == b"cold"
                with pytest.raises(TimeoutError):
                    l.get("s3://bucket-1/held", 0.1)

            for _ in range(5):
                in_child(work)
            s3.release("held")
            with pytest.raises(FileNotFoundError):
                waiting.result()


def test_a_child_that_is_killed_costs_its_parent_nothing(s3_agent, s3):
    s3.hold("held")
    with s3_agent.open() as l:
        pids = [start_child(lambda: l.get("s3://bucket-1/held", SECONDS)) for _ in range(8)]
        wait_until(lambda: s3_agent.status()["contexts_busy"] == 9)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            assert exit_code(pid) == -signal.SIGKILL
        assert l.get(s3_agent.seed("a", b"hello"), SECONDS) == b"hello"
        wait_until(lambda: s3_agent.status()["contexts_busy"] == 1)
    s3.release("held")


# ---- multiprocessing ----

def seeded(agent, n, size=50000):
    data = [random.Random(i).randbytes(size + i) for i in range(n)]
    return [agent.seed(f"part-{i}", d) for i, d in enumerate(data)], [zlib.crc32(d) for d in data]


@pytest.mark.parametrize("method", METHODS)
def test_a_pool_reads_each_object_from_the_store_once(agent, method):
    uris, sums = seeded(agent, 20)
    with multiprocessing.get_context(method).Pool(4, workers.open_own, (agent.cache,)) as pool:
        assert pool.map(workers.checksum, uris * 3, chunksize=1) == sums * 3
        with pytest.raises(ERRORS["not_found"]):
            pool.map(workers.kind_of, ["file://box/none"])
    assert agent.status()["store_gets"] == 20 + 1


@pytest.mark.parametrize("method", METHODS)
def test_a_handle_may_be_given_to_the_tasks_of_a_pool(agent, larder, method):
    uris, sums = seeded(agent, 6)
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.starmap(workers.checksum_with, [(larder, u) for u in uris]) == sums
    assert larder.get(uris[0], 0) is not None


@pytest.mark.parametrize("opens", ["before", "lazily"])
@pytest.mark.parametrize("method", METHODS)
def test_the_workers_of_a_loader_share_the_cache(agent, larder, method, opens):
    n_workers, prefetch, epochs = 4, 2, 2
    uris, sums = seeded(agent, 40)
    larder.get(uris[0], SECONDS)  # so a forked worker inherits a connection, too
    context = multiprocessing.get_context(method)
    indices, loaded = context.Queue(), context.Queue()
    processes = [context.Process(target=workers.load, daemon=True, args=(
        larder if opens == "before" else None, agent.cache, uris, indices, loaded)) for _ in range(n_workers)]
    for p in processes:
        p.start()
    for epoch in range(epochs):
        order = list(range(len(uris)))
        random.Random(epoch).shuffle(order)
        got = {}
        for i in order[:n_workers * prefetch]:
            indices.put(i)
        for i in order[n_workers * prefetch:] + [None] * (n_workers * prefetch):
            index, checksum = loaded.get(timeout=60)
            got[index] = checksum
            if i is not None:
                indices.put(i)
        assert got == dict(enumerate(sums))
        assert larder.get(uris[epoch], 0) is not None  # the owner reads, too
    for _ in processes:
        indices.put(None)
    for p in processes:
        p.join(60)
        assert p.exitcode == 0
    assert agent.status()["store_gets"] == len(uris)


# ---- threads ----

def test_threads_share_a_handle(agent, larder):
    uris, sums = seeded(agent, 30)

    def work(n):
        order = list(range(len(uris)))
        random.Random(n).shuffle(order)
        for i in order:
            view = larder.get(uris[i], SECONDS)
            assert zlib.crc32(view) == sums[i]
        return True

    with multiprocessing.pool.ThreadPool(8) as pool:
        assert all(pool.map(work, range(16)))
    assert agent.status()["store_gets"] == len(uris)


def test_a_waiting_call_does_not_hold_the_interpreter(s3_agent, s3):
    """Else nobody could let the store answer, and the call would run out of time."""
    s3.hold("held")
    with s3_agent.open() as l:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            waiting = [pool.submit(l.head, "s3://bucket-1/held", SECONDS) for _ in range(4)]
            wait_until(lambda: s3.waiting() >= 1)
            assert not any(w.done() for w in waiting)
            s3.release("held")
            assert not any(w.result().exists for w in waiting)


def test_a_larder_may_be_closed_while_another_thread_calls(s3_agent, s3):
    s3.hold("held")
    l = s3_agent.open()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(l.head, "s3://bucket-1/held", SECONDS)
        wait_until(lambda: s3.waiting() == 1)
        l.close()
        s3.release("held")
        assert not waiting.result().exists


def test_a_deadline_is_kept(s3_agent, s3):
    s3.hold("held")
    with s3_agent.open() as l:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            l.get("s3://bucket-1/held", 0.2)
        assert 0.2 <= time.monotonic() - began < 5
        with pytest.raises(TimeoutError):
            l.get("s3://bucket-1/held", 0.0001)  # not "never wait", and not for ever
    s3.release("held")


# ---- no agent ----

def test_views_and_hits_go_on_when_the_agent_was_killed(agent, larder):
    small, large = agent.seed("s", b"hello"), agent.seed("l", LARGE)
    views = larder.get(small, SECONDS), larder.get(large, SECONDS)
    cold = agent.seed("cold", b"cold")
    agent.kill()
    assert views[0] == b"hello" and views[1] == LARGE
    assert larder.get(small, SECONDS) == b"hello" and larder.get(large, SECONDS) == LARGE
    with agent.open() as another:
        assert another.get(large, SECONDS) == LARGE
    began = time.monotonic()
    for call in (lambda: larder.get(cold, SECONDS), lambda: larder.put("mem://box/a", b"x", timeout=SECONDS),
                 lambda: larder.status(SECONDS), lambda: larder.head(cold, SECONDS)):
        with pytest.raises(LarderError) as e:
            call()
        assert e.value.kind == "no_agent" and isinstance(e.value, ConnectionError)
    assert time.monotonic() - began < 5, "at once, as nobody listens"
    agent.start()
    assert larder.get(cold, SECONDS) == b"cold"
    assert views[1] == LARGE and larder.get(large, 0) == LARGE  # a restart keeps the cache


def test_a_call_whose_agent_is_killed_ends(s3_agent, s3):
    s3.hold("held")
    with s3_agent.open() as l, concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(l.get, "s3://bucket-1/held", SECONDS)
        wait_until(lambda: s3.waiting() == 1)
        s3_agent.kill()
        with pytest.raises(ConnectionError):
            waiting.result(5)
    s3.release("held")
    s3_agent.start()


def test_without_any_cache_the_error_says_that_there_is_no_agent(folder):
    with Larder(folder + "/nothing") as l:
        with pytest.raises(ERRORS["no_agent"], match="agent"):
            l.get("file://box/a", SECONDS)
        with pytest.raises(TimeoutError):
            l.get("file://box/a", 0)


def test_the_environment_names_the_cache(agent, monkeypatch):
    monkeypatch.setenv("LARDER_CACHE_DIR", agent.cache)
    with Larder() as l:
        assert l.get(agent.seed("a", b"hello"), SECONDS) == b"hello"


def test_the_agent_stops_while_clients_are_connected(agent, larder):
    view = larder.get(agent.seed("l", LARGE), SECONDS)
    assert agent.stop() == 0
    assert view == LARGE
