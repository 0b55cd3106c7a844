"""larder, with a C client on liblarder (c/b_larder.c). The store behind the cache is a local one on the folder of the data
itself: loading gets each object once, as the first reader of a node does, in 16 processes, as the agent gathers changes of
its index for up to 2 ms.
  larder       larder_get(): a view; mappings are kept by the library, as it does by default
  larder-into  larder_get_into() a buffer of the client's, from the same cache
  larder-disk  as larder, with the cache on the disk file system, in the page cache (compare limit-openmap-disk)"""
from contestants.warm._base import *
from larder_agent import *
class Filled:
    """An agent and the cache that it filled, for all contestants that read it."""
    def __init__(self, dir): self.dir, self.users, self.srv = dir, 0, None
    def open(self, data, load):
        if not self.users:
            try: self.cache = Cache(self.dir, local_store(data), "file"); self.srv = Agent(self.cache, "larder.log"); load()
            except BaseException: self.end(); raise
        self.users += 1
    def close(self):
        self.users -= 1
        if not self.users: self.end()
    def end(self):
        if self.srv: self.srv.stop(); self.srv = None
        self.cache.remove()
class Larder(CPlug):
    so = "larder"
    def __init__(self, name, filled, mode=""): self.name, self.filled, self.mode, self.mine = name, filled, mode, False
    def available(self, cls, n, size): return missing() or super().available(cls, n, size)
    def setup(self, data, cls, n, size): self.filled.open(data, lambda: self.load(data, cls, n, size, loaders=16)); self.mine = True
    def env(self): return self.filled.cache.env()
    def arg(self): return f"{self.mode}{self.filled.cache.cache}"
    def cpu(self): return self.filled.srv.cpu()
    def teardown(self):
        if self.mine: self.mine = False; self.filled.close()
TMPFS, DISK = Filled(RAM / "larder"), Filled(W / "larder-disk")
CONTESTANTS = [Larder("larder", TMPFS), Larder("larder-into", TMPFS, "into:"), Larder("larder-disk", DISK)]
