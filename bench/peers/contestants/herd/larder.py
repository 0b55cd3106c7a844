"""larderd, started with an empty cache for each repetition, before the clock as nginx and the mount are.
  larder      clients are those of the others, with the view that larder_get() of liblarder gives (through ctypes): what the
              flock reference does with a file of its own, and a reader of the mount with read()
  larder-cli  each client runs `larder get -o FILE`: 16 copies, as curl-each makes them"""
from contestants.herd.peers import *
from larder_agent import *
class Larder(H):
    cache = None
    def available(self): return missing()
    def setup(self, key, out): self.cache = Cache(out / "larder", s3_store(), "s3"); self.srv = Agent(self.cache, "larder-herd.log")
    def client(self, key, out):
        uri = f"s3://{BUCKET}/{key}"
        if self.mode == "larder": return VENV, "larder", f"{LIBRARY},{self.cache.cache},{uri}"
        return VENV, "cmd", f"{LARDER} --cache-dir {self.cache.cache} get {uri} -o {{out}}"
    def teardown(self):
        super().teardown()
        if self.cache: self.cache.remove(); self.cache = None
CONTESTANTS = [Larder("larder", "larder"), Larder("larder-cli", "cmd")]
