"""LMDB, redis, memcached, nginx proxy_cache, plasma (C++), all with C clients."""
import shutil
from contestants.warm._base import *
class Lmdb(CPlug):
    name, so = "lmdb", "lmdb"
    def arg(self): return RAM / "lmdb"
    def load_arg(self): return f"rw:{RAM / 'lmdb'}"
    def setup(self, data, cls, n, size): shutil.rmtree(RAM / "lmdb", ignore_errors=True); self.load(data, cls, n, size)
    def teardown(self): shutil.rmtree(RAM / "lmdb", ignore_errors=True)
class Redis(CPlug):
    name, so = "redis-unix", "redis"
    def arg(self): return W / "redis.sock"
    def setup(self, data, cls, n, size):
        self.srv = Server(["redis-server", "--port", 0, "--unixsocket", self.arg(), "--save", "", "--appendonly", "no", "--dir", W], "redis.log", sock=str(self.arg()))
        self.load(data, cls, n, size)
class Memcached(CPlug):
    name, so = "memcached-unix", "memcached"
    def arg(self): return W / "mc.sock"
    def setup(self, data, cls, n, size):
        self.srv = Server(["memcached", "-u", "root", "-s", self.arg(), "-m", 4096, "-I", "128m", "-t", 2, "-o", "slab_chunk_max=524288"], "memcached.log", sock=str(self.arg()))
        self.load(data, cls, n, size)
class Nginx(CPlug):
    name, so, port = "nginx-proxy_cache", "http", 17081
    def arg(self): return f"http://127.0.0.1:{self.port}"
    def setup(self, data, cls, n, size):
        d = W / "nginx"; shutil.rmtree(d, ignore_errors=True); (d / "tmp").mkdir(parents=True)
        (d / "n.conf").write_text(f"""daemon off; user root; worker_processes 2; pid {d}/pid; error_log {d}/err warn;
events {{ worker_connections 512; }}
http {{ access_log off; sendfile on; tcp_nodelay on; keepalive_requests 1000000000; open_file_cache max=4000;
 client_body_temp_path {d}/tmp/b; proxy_temp_path {d}/tmp/p; fastcgi_temp_path {d}/tmp/f; uwsgi_temp_path {d}/tmp/u; scgi_temp_path {d}/tmp/s;
 proxy_cache_path {d}/cache levels=1:2 keys_zone=z:64m max_size=8g inactive=1d use_temp_path=off;
 server {{ listen 127.0.0.1:{self.port}; location / {{ proxy_pass http://127.0.0.1:{self.port+1}; proxy_cache z; proxy_cache_valid 200 1d; proxy_cache_lock on; }} }}
 server {{ listen 127.0.0.1:{self.port+1}; root {data}; }} }}""")
        self.srv = Server(["nginx", "-p", d, "-c", d / "n.conf"], "nginx.log", port=self.port)
    def teardown(self):
        super().teardown()
        if (W / "nginx/err").exists(): (LOG / "nginx.log").open("ab").write((W / "nginx/err").read_bytes()[-4000:])
        shutil.rmtree(W / "nginx", ignore_errors=True)
class Plasma(CPlug):
    name, so = "plasma-c++", "plasma"
    def arg(self): return W / "plasma.sock"
    def setup(self, data, cls, n, size):
        self.srv = Server([VENV_PLASMA / "bin/plasma_store", "-s", self.arg(), "-m", max(256 << 20, n * size * 13 // 10), "-d", RAM], "plasma.log", sock=str(self.arg()))
        self.load(data, cls, n, size)
class PlasmaMode(CPlug):
    """The same store. unpin: nothing else is held, so the client unmaps the segment at each release and maps it again.
    held: every object got once before the clock and never released: a local look-up, no IPC."""
    so = "plasma"
    def __init__(self, mode): self.mode, self.name = mode, f"plasma-c++-{mode}"
    def setup(self, data, cls, n, size): self.main = PLASMA
    def cpu(self): return self.main.cpu()
    def available(self, cls, n, size): return None if PLASMA.srv else "plasma store is not up"
    def arg(self): return f"{self.mode}:{W / 'plasma.sock'}"
PLASMA = Plasma()
CONTESTANTS = [Lmdb(), Redis(), Memcached(), Nginx(), PLASMA, PlasmaMode("unpin"), PlasmaMode("held")]
