import subprocess
from lib import *
B = W / "build"
class Base:
    slow, srv = False, None
    def available(self, cls, n, size): return None
    def setup(self, data, cls, n, size): pass
    def env(self): return {}
    def cpu(self): return self.srv.cpu() if self.srv else 0.0
    def teardown(self):
        if self.srv: self.srv.stop(); self.srv = None
class CPlug(Base):
    """build/b_SO.so with argument arg(); load() runs `warm ... load DATADIR`, in `loaders` processes that share the objects."""
    so = None
    def arg(self): raise NotImplementedError
    def load_arg(self): return self.arg()
    def command(self, cls, n, size, secs, seed): return [B / "warm", B / f"b_{self.so}.so", self.arg(), cls, n, size, secs, seed]
    def load(self, data, cls, n, size, loaders=1):
        argv = [B / "warm", B / f"b_{self.so}.so", self.load_arg(), cls, n, size, 0, 0, "load", data]
        with open(LOG / f"warm-{self.name}.log", "ab") as err:
            ps = [subprocess.Popen([str(x) for x in [*argv, k, loaders]], stderr=err, env=env(self.env())) for k in range(loaders)]
        end = time.monotonic() + 180
        try:
            if any([p.wait(max(0.01, end - time.monotonic())) for p in ps]): raise RuntimeError(f"filling the store failed, see warm-{self.name}.log")
        finally:
            for p in ps:
                if p.poll() is None: p.kill(); p.wait()
    def available(self, cls, n, size): return None if (B / f"b_{self.so}.so").exists() else f"b_{self.so}.so is not built"
