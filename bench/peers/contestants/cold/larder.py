"""larder from nothing: the command starts an agent on an empty cache, transfers, and ends the agent (`larder run`). Both are
inside the clock, and the agent is a child that `larder run` waits for, so its CPU is on the bill; the RSS is that of the larger
process. down: store -> cache -> file, as the first reader of a node pays it. The cache is removed after the clock (--keep)."""
import re
from larder_agent import *
class Larder:
    name, dir = "larder", RAM / "cold"
    def knows(self, command, option):
        """Has this larder the command, with the option?"""
        r = subprocess.run([LARDER, command, "--help"], capture_output=True, text=True)
        return r.returncode == 0 and re.search(rf"(^|\s){option}\b", r.stdout)
    def available(self): return missing() or (None if self.knows("run", "-c") else "this larder has no `run`")
    def command(self, d, s, n, size, src, dst):
        what = "get" if d == "down" else "put"
        if not self.knows(what, "-r"): raise NotImplementedError(f"this larder has no `{what} -r`")
        if len(str(self.dir)) > 50: raise RuntimeError("PEERS_WORK is too long: `larder run` would put its cache elsewhere")
        self.cache = Cache(self.dir, s3_store(), "s3")
        a, b = (f"s3://{BUCKET}/{s}/", dst) if d == "down" else (src, f"s3://{UP}/{s}/")
        # eight at a time, as rclone and curl-par8; the cache that `larder run` makes goes where the data is, on the tmpfs
        return [LARDER, "run", "--keep", "-c", self.cache.config, "--", LARDER, what, "-r", "-j", 8, a, b], \
               {"XDG_CACHE_HOME": str(self.dir), "TMPDIR": str(self.dir)}
    def cleanup(self): self.cache.remove()
CONTESTANTS = [Larder()]
