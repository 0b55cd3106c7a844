#!/usr/bin/env python3
"""PART 1, warm hit: N client processes read random keys of objects that the node already holds.
usage: part1.py [--pin] [--reps 3] [--secs 0.4] [--procs 1,2,4] [--classes 4k,64k,1m,64m] [--only name,...]"""
import argparse, os, shutil, subprocess
from lib import *
CLASSES = {"4k": (20000, 4 << 10), "64k": (2000, 64 << 10), "1m": (200, 1 << 20), "64m": (16, 64 << 20)}

def make(cls, d):
    n, size = CLASSES[cls]; (d / cls).mkdir(parents=True, exist_ok=True); blk = os.urandom(1 << 20)
    for i in range(n):
        p = d / cls / f"o{i:05d}"
        if p.exists() and p.stat().st_size == size: continue
        with open(p, "wb") as f:
            f.write(i.to_bytes(8, "little") + blk[8:min(size, 1 << 20)]); left = size - min(size, 1 << 20)
            while left: f.write(blk[:min(left, 1 << 20)]); left -= min(left, 1 << 20)

    if n > 10000 and not (d / f"{cls}.pack").exists():   # too many files to hold open: one packed file for limit-mapfd and limit-pread
        with open(d / f"{cls}.pack", "wb") as f:
            for i in range(n): f.write((d / cls / f"o{i:05d}").read_bytes())

def cell(c, cls, procs, secs, rep):
    n, size = CLASSES[cls]; ps = []; err = open(LOG / f"warm-{c.name}.log", "ab")
    try:
        for k in range(procs):
            ps.append(subprocess.Popen([str(x) for x in c.command(cls, n, size, secs, rep * 97 + k + 1)], stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE, stderr=err, env=env(c.env()), text=True))
        for p in ps:
            if p.stdout.readline().strip() != "ready": raise RuntimeError(f"{c.name}: worker died (see its log)")
        s0 = c.cpu()
        for p in ps: p.stdin.write("go\n"); p.stdin.flush()
        out = [json.loads(p.stdout.readline()) for p in ps]
        s1 = c.cpu()
    finally:
        for p in ps:
            p.stdin.close(); p.stdout.close()
            try: p.wait(20)
            except subprocess.TimeoutExpired: p.kill(); p.wait()
        err.close()
    ops = sum(o["ops"] for o in out)
    return dict(name=c.name, cls=cls, procs=procs, rep=rep, ops_s=sum(o["ops"] / o["secs"] for o in out),
                cpu_us=1e6 * sum(o["cpu"] for o in out) / ops, srv_cpu_us=1e6 * (s1 - s0) / ops,
                p50_us=med([o["p50_us"] for o in out]), p99_us=max(o["p99_us"] for o in out), ops=ops)

def main():
    ap = argparse.ArgumentParser(); ap.add_argument("--reps", type=int, default=3); ap.add_argument("--secs", type=float, default=0.4)
    ap.add_argument("--procs", default="1,2,4"); ap.add_argument("--classes", default="4k,64k,1m,64m"); ap.add_argument("--only")
    ap.add_argument("--pin", action="store_true", help="clients and servers all on one core, 1 client: no cross-core wake-ups; writes part1pin.json")
    a = ap.parse_args(); prep(); name = "part1.json"
    if a.pin: os.sched_setaffinity(0, {0}); a.procs = "1"; name = "part1pin.json"
    d = RAM / "warm"; res = {"rows": [], "skipped": {}}
    only = a.only.split(",") if a.only else None
    for cls in a.classes.split(","):
        n, size = CLASSES[cls]; shutil.rmtree(d, ignore_errors=True); make(cls, d); cs = []
        try:
            for c in load("warm", only):
                try:
                    why = c.available(cls, n, size)
                    if not why: c.setup(d, cls, n, size); cs.append(c)
                except Exception as e: why = f"{type(e).__name__}: {e}"; c.teardown()
                if why: res["skipped"][f"{c.name} {cls}"] = why; log("skip", c.name, cls, why)
            for rep in range(a.reps):
                for procs in map(int, a.procs.split(",")):
                    for c in (cs[rep % max(1, len(cs)):] + cs[: rep % max(1, len(cs))]):
                        if c.slow and rep >= 2: continue
                        try: r = cell(c, cls, procs, a.secs, rep)
                        except Exception as e: res["skipped"][f"{c.name} {cls} p{procs}"] = str(e); log("FAIL", c.name, cls, procs, e); continue
                        res["rows"].append(r)
                        if rep == 0: log(f"{cls:4} p{procs} {c.name:22} {r['ops_s']:12.0f}/s cpu {r['cpu_us']:.2f}+{r['srv_cpu_us']:.2f} us p50 {r['p50_us']:.2f} p99 {r['p99_us']:.2f}")
                save(name, res)
        finally:
            for c in cs: c.teardown()
    shutil.rmtree(d, ignore_errors=True); save(name, res)
if __name__ == "__main__": main()
