"""Shared helpers of the peer benchmark: paths, servers, rusage, statistics, plug-in loading."""
import importlib.util, json, os, pathlib, resource, shutil, signal, socket, statistics, subprocess, sys, threading, time

HERE = pathlib.Path(__file__).resolve().parent
W = pathlib.Path(os.environ.get("PEERS_WORK") or os.path.join(os.environ.get("TMPDIR", "/var/tmp"), "larder-peers"))
BIN, RAM, LOG, RES = W / "bin", W / "ram", W / "log", W / "results"
VENV, VENV_S3FS = W / "venv/bin/python", W / "venv-s3fs/bin/python"
VENV_PLASMA, VENV_VINE = W / "venv-plasma", W / "venv-vineyard"
S3PORT, BUCKET = int(os.environ.get("PEERS_S3_PORT", "80")), "bench"
UP = "upload"
ENDPOINT = "http://127.0.0.1" + ("" if S3PORT == 80 else f":{S3PORT}")  # 80: the CRT in awscli 2.9 ignores a port
# throw-away keys of the loopback gateway that this harness starts itself
KEY, SECRET = "peersaccess", "peerssecretpeerssecret"
S3ENV = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1",
         "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
         "AWS_ENDPOINT_URL": ENDPOINT, "PEERS_ENDPOINT": ENDPOINT, "PEERS_BUCKET": BUCKET, "PEERS_UP": UP}
HZ = os.sysconf("SC_CLK_TCK")

def prep():
    for d in (W, LOG, RES, RAM):
        d.mkdir(parents=True, exist_ok=True)
    h = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (h, h))

    # a killed run must still stop the servers it started: turn SIGTERM into an exception
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))

def env(extra=None):
    e = dict(os.environ); e.update(S3ENV); e.update(extra or {}); return e

class Server:
    """A process this harness started; stopped by its own pid only."""
    def __init__(self, argv, log, port=None, sock=None, extra_env=None, wait=20):
        if sock and os.path.exists(sock): os.unlink(sock)
        if port:   # a stale server on the port would be measured in place of ours
            with socket.socket() as t:
                if t.connect_ex(("127.0.0.1", port)) == 0: raise RuntimeError(f"port {port} is already in use by another process")
        self.f = open(LOG / log, "ab")
        self.p = subprocess.Popen([str(a) for a in argv], stdout=self.f, stderr=self.f, env=env(extra_env),
                                  start_new_session=True)
        end = time.time() + wait
        while time.time() < end:
            if self.p.poll() is not None: raise RuntimeError(f"{argv[0]} exited {self.p.returncode}, see {log}")
            try:
                s = socket.socket(socket.AF_UNIX if sock else socket.AF_INET); s.settimeout(1)
                s.connect(sock if sock else ("127.0.0.1", port)); s.close(); return
            except OSError: time.sleep(0.05)
        self.stop(); raise RuntimeError(f"{argv[0]}: no listener")
    def pids(self):
        out, todo = [], [self.p.pid]
        while todo:
            p = todo.pop(); out.append(p)
            try: todo += [int(x) for x in open(f"/proc/{p}/task/{p}/children").read().split()]
            except OSError: pass
        return out
    def cpu(self):
        t = 0
        for p in self.pids():
            try:
                f = open(f"/proc/{p}/stat").read().rsplit(")", 1)[1].split(); t += int(f[11]) + int(f[12])
            except OSError: pass
        return t / HZ
    def stop(self):
        if self.p.poll() is None:
            self.p.send_signal(signal.SIGTERM)
            try: self.p.wait(10)
            except subprocess.TimeoutExpired: self.p.kill(); self.p.wait()
        self.f.close()

def start_s3(root, access_log=None, port=None):
    root = pathlib.Path(root); (root / BUCKET).mkdir(parents=True, exist_ok=True)
    (root / UP).mkdir(exist_ok=True)
    a = [BIN / "versitygw", "--access", KEY, "--secret", SECRET, "--port", f"127.0.0.1:{port or S3PORT}", "--quiet", "--keep-alive"]
    if not (BIN / "versitygw").exists(): sys.exit("no versitygw, the S3 server of this part: run setup.sh (needs Go)")
    if access_log: a += ["--access-log", access_log]
    return Server(a + ["posix", root], "versitygw.log", port=port or S3PORT)

class CountingProxy:
    """Bytes that the origin sent, counted on the wire (response headers included). Only for untimed passes: it costs CPU."""
    def __init__(self, listen, to):
        self.n, self.to, self.lock = 0, to, threading.Lock()
        self.s = socket.create_server(("127.0.0.1", listen), backlog=256); threading.Thread(target=self.loop, daemon=True).start()
    def loop(self):
        while True:
            try: c, _ = self.s.accept()
            except OSError: return
            u = socket.create_connection(("127.0.0.1", self.to))
            threading.Thread(target=self.pump, args=(c, u, False), daemon=True).start()
            threading.Thread(target=self.pump, args=(u, c, True), daemon=True).start()
    def pump(self, a, b, count):
        buf = memoryview(bytearray(1 << 18))
        try:
            while k := a.recv_into(buf):
                if count:
                    with self.lock: self.n += k
                b.sendall(buf[:k])
        except OSError: pass
        for x, how in ((b, socket.SHUT_WR), (a, socket.SHUT_RD)):
            try: x.shutdown(how)
            except OSError: pass
    def stop(self): self.s.shutdown(socket.SHUT_RDWR); self.s.close()   # shutdown wakes the accept()

def run_rusage(argv, extra_env=None, timeout=300, log="client.log"):
    """Run one client; wall seconds, CPU seconds of exactly that child tree (wait4), exit code, max RSS."""
    with open(LOG / log, "ab") as f:
        f.write(("\n$ " + " ".join(map(str, argv))[:400] + "\n").encode()); f.flush()
        t0 = time.monotonic()
        p = subprocess.Popen([str(a) for a in argv], stdout=f, stderr=f, env=env(extra_env), start_new_session=True)
        def late(*_): os.killpg(p.pid, signal.SIGKILL)
        signal.signal(signal.SIGALRM, late); signal.alarm(timeout)
        _, st, ru = os.wait4(p.pid, 0); signal.alarm(0)
        wall = time.monotonic() - t0
        p.returncode = os.waitstatus_to_exitcode(st)
    return dict(rc=p.returncode, wall=wall, cpu=ru.ru_utime + ru.ru_stime, user=ru.ru_utime, sys=ru.ru_stime,
                rss_mib=ru.ru_maxrss / 1024)

def load(kind, only=None):
    out = []
    for f in sorted((HERE / "contestants" / kind).glob("*.py")):
        if f.name.startswith("_"): continue
        spec = importlib.util.spec_from_file_location(f"{kind}_{f.stem}", f)
        m = importlib.util.module_from_spec(spec); spec.loader.exec_module(m)
        for c in (m.CONTESTANTS if hasattr(m, "CONTESTANTS") else [m.Contestant()]):
            if not only or c.name in only: out.append(c)
    return out

def med(xs): return statistics.median(xs) if xs else None
def spread(xs):
    """(max-min)/median: with 3 to 5 repetitions the honest spread is the range."""
    return (max(xs) - min(xs)) / statistics.median(xs) if len(xs) > 1 and statistics.median(xs) else 0.0
def save(name, obj):
    RES.mkdir(parents=True, exist_ok=True); (RES / name).write_text(json.dumps(obj, indent=1))
def log(*a): print(time.strftime("%H:%M:%S"), *a, file=sys.stderr, flush=True)
