"""An agent for each test, in a directory of its own, and a store that can be held. Everything is immutable here."""
import faulthandler
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest

import larder_cffi

TEST_SECONDS = 120  # a test that takes longer hangs: all stacks are shown, and the run ends
START_SECONDS = 20
S3_SERVER = os.path.join(larder_cffi.ROOT, "tests/support/s3_test_server.py")


def pytest_collection_modifyitems(items):
    if larder_cffi.SANITIZER:
        why = f"{larder_cffi.LIBRARY} needs the runtime of {larder_cffi.SANITIZER}"
        print(f"SKIPPED: {why}", file=sys.stderr)
        for item in items:
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(autouse=True)
def watchdog():
    faulthandler.dump_traceback_later(TEST_SECONDS, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def folder():
    """A short path (a socket's has 90 bytes), where a cache can live."""
    suitable = subprocess.check_output([os.path.join(larder_cffi.ROOT, "scripts/suitable-dir")], text=True).strip()
    path = tempfile.mkdtemp(prefix="larder-py-", dir=suitable)
    yield path
    shutil.rmtree(path)


def wait_until(what, seconds=START_SECONDS):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.002)


class Agent:
    def __init__(self, folder, s3):
        self.folder, self.cache, self.process = folder, folder + "/cache", None
        os.mkdir(folder + "/objects")
        stores = {"mem": {}}
        if s3:
            stores["s3"] = {"kind": "s3", "config": {"endpoint": s3.endpoint, "region": "us-east-1",
                                                     "access_key_id": "larder-test",
                                                     "secret_key": "larder-test-secret", "auth_type": "accesskey"}}
        settings = {
            "storage": {"type": "local", "stow": {"config": {"path": folder + "/objects"}}, "schemes": stores},
            "larder": {"cache": {"dir": self.cache, "max_size": "512MiB", "min_free": "0", "min_free_inodes": "0"},
                       "prefixes": [{"match": s + "://", "freshness": "immutable"} for s in ("file", "mem", "s3")]}}
        with open(folder + "/larderd.yaml", "w") as f:
            json.dump(settings, f)  # JSON is YAML

    def start(self):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LARDER_")}
        with open(self.folder + "/larderd.log", "a") as log:
            self.process = subprocess.Popen([os.path.join(larder_cffi.BUILD, "bin/larderd"), "-c",
                                             self.folder + "/larderd.yaml"], stderr=log, env=environment)
        with self.open() as l:
            wait_until(lambda: self.process.poll() is not None or self.answers(l))
        assert self.process.poll() is None, open(self.folder + "/larderd.log").read()

    @staticmethod
    def answers(l):
        try:
            return l.status(timeout=5)
        except larder_cffi.LarderError:
            return False

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(START_SECONDS)

    def open(self):
        return larder_cffi.Larder(self.cache)

    def status(self):
        with self.open() as l:
            return l.status(timeout=START_SECONDS)

    def seed(self, name, data):
        """Put an object into the local store behind the agent's back; its reference."""
        path = f"{self.folder}/objects/box/{name}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as f:
            f.write(data)
        return f"file://box/{name}"


class S3:
    def __init__(self, log):
        self.process = subprocess.Popen([sys.executable, S3_SERVER, "--bucket", "bucket-1"], stdout=subprocess.PIPE,
                                        stderr=log, text=True)
        self.port = int(self.process.stdout.readline().split()[1])
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def control(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_SECONDS)
        connection.request(method, "/_control" + path, json.dumps(body))
        answer = connection.getresponse()
        assert answer.status == 200
        data = json.loads(answer.read() or "null")
        connection.close()
        return data

    def hold(self, key):
        self.control("POST", "/hold", {"key": key})

    def release(self, key):
        self.control("POST", "/release", {"key": key})

    def waiting(self):
        return self.control("GET", "/waiting")["waiting"]

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def s3(folder):
    with open(folder + "/s3.log", "w") as log:
        server = S3(log)
        yield server
        server.close()


def running(folder, s3):
    agent = Agent(folder, s3)
    agent.start()
    return agent


@pytest.fixture
def agent(folder):
    a = running(folder, None)
    yield a
    a.kill()


@pytest.fixture
def s3_agent(folder, s3):
    a = running(folder, s3)
    yield a
    a.kill()


@pytest.fixture
def larder(agent):
    with agent.open() as l:
        yield l
