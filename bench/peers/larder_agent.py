"""larderd as the contestants run it. PEERS_LARDER_TREE: where larder is built (default: the project that this folder is in).
LARDER_* of the environment reaches the agent (LARDER_CACHE_BLOCK_SIZE=16MiB ./part3.py), but for the places of cache and socket."""
from lib import *

TREE = pathlib.Path(os.environ.get("PEERS_LARDER_TREE") or HERE.parent.parent)
LARDER, LARDERD, LIBRARY = TREE / "build/bin/larder", TREE / "build/bin/larderd", TREE / "build/lib/liblarder.so"

def missing():
    gone = [p.name for p in (LARDER, LARDERD, LIBRARY) if not p.exists()]
    return f"{', '.join(gone)} not built: run scons in {TREE}, or set PEERS_LARDER_TREE" if gone else None

def s3_store():
    """Credentials come from the environment, as for the peers."""
    return f'{{type: s3, container: {BUCKET}, stow: {{kind: s3, config: {{auth_type: iam, endpoint: "{ENDPOINT}", region: us-east-1}}}}}}'
def local_store(path): return f'{{type: local, stow: {{config: {{path: "{path}"}}}}}}'

class Cache:
    """A cache that is empty, in DIR, and its configuration; everything but room and freshness is larder's default."""
    def __init__(self, dir, store, scheme):
        self.dir, self.cache, self.config = dir, dir / "cache", dir / "larder.yaml"
        self.remove(); dir.mkdir(parents=True)
        self.config.write_text(f"""storage: {store}
larder:
  cache: {{dir: "{self.cache}", max_size: 4GiB, min_free: 0, min_free_inodes: 0}}
  prefixes: [{{match: "{scheme}://", freshness: immutable}}]
  log: {{level: warn}}
""")
    def env(self): return {"LARDER_CACHE_DIR": str(self.cache), "LARDER_ENDPOINT": str(self.cache / "ipc"), "LD_LIBRARY_PATH": str(LIBRARY.parent)}
    def remove(self): shutil.rmtree(self.dir, ignore_errors=True)

class Agent(Server):
    """larderd on a Cache, ready when it answers. Server's own probe would not do: a client that leaves amid its handshake
    is the worst guest for libnng 1.5 (the agent has to listen anew)."""
    def __init__(self, cache, log, wait=20):
        self.f = open(LOG / log, "ab")
        self.p = subprocess.Popen([LARDERD, "-c", cache.config], stdout=self.f, stderr=self.f, env=env(cache.env()), start_new_session=True)
        end = time.time() + wait
        while self.p.poll() is None and time.time() < end:
            if subprocess.run([LARDER, "--timeout", "1s", "status"], env=env(cache.env()), capture_output=True).returncode == 0: return
            time.sleep(0.02)
        self.stop(); raise RuntimeError(f"larderd did not come up, see {log}")
