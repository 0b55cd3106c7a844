#!/usr/bin/env python3
"""PART 3, thundering herd: 16 processes ask for one cold 64 MiB object at the same moment.
Counts what the origin saw in its own access log. usage: part3.py [--reps 3] [--clients 16] [--mib 64] [--only name,...]"""
import argparse, re, shutil, subprocess
from lib import *

OP = re.compile(r" s3_(\w+) (?:herd/)?\S+ \S+ (\d{3}) ")
def origin_log(f, off, key):
    """GETs and other requests for the key. versitygw's log names the operation; its bytes-sent field is always 0, so egress
    is counted by a proxy in an untimed pass."""
    g = o = 0; time.sleep(0.5)
    with open(f) as fh:
        fh.seek(off)
        for line in fh:
            if m := OP.search(line):
                if m[1] == "GetObject" and key in line and m[2] in ("200", "206"): g += 1
                else: o += 1
    return g, o

def main():
    ap = argparse.ArgumentParser(); ap.add_argument("--reps", type=int, default=3); ap.add_argument("--clients", type=int, default=16); ap.add_argument("--mib", type=int, default=64); ap.add_argument("--only")
    a = ap.parse_args(); prep(); root, out, al = RAM / "herdroot", RAM / "herdout", LOG / "s3-access.log"
    shutil.rmtree(root, ignore_errors=True); al.unlink(missing_ok=True); al.touch()
    SIZE = a.mib << 20; data = os.urandom(SIZE); want = sum(memoryview(data).cast("Q")[::512].tolist()) % (1 << 64)
    res = {"rows": [], "skipped": {}, "clients": a.clients, "size": SIZE}; cs = load("herd", a.only.split(",") if a.only else None)
    dead, srv, px = set(), None, None
    try:
        (root / BUCKET / "herd").mkdir(parents=True)
        for rep in range(-1, a.reps):   # -1: the counting pass, not timed
            if rep == -1: srv = start_s3(root, al, 17079); px = CountingProxy(S3PORT, 17079)
            if rep == 0: px.stop(); srv.stop(); time.sleep(1); srv = start_s3(root, al)
            for c in cs[rep % len(cs):] + cs[: rep % len(cs)]:
                if c.name in dead: continue
                key = f"herd/{c.name}-{rep}"; shutil.rmtree(out, ignore_errors=True); out.mkdir(parents=True); ps = []
                (root / BUCKET / key).write_bytes(data); os.setxattr(root / BUCKET / key, "user.etag", b"%032x" % (rep + 1))
                err = open(LOG / f"herd-{c.name}.log", "ab")
                try:
                    if why := c.available(): raise RuntimeError(why)
                    c.setup(key, out); py, mode, arg = c.client(key, out)
                    for k in range(a.clients):
                        ps.append(subprocess.Popen([str(x) for x in [py, HERE / "py/herd_client.py", mode, key, out, k, arg]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err, env=env(), text=True))
                    for p in ps:
                        if p.stdout.readline().strip() != "ready": raise RuntimeError("client died before the start (see its log)")
                    off, b0 = al.stat().st_size, px.n; s0, x0 = srv.cpu(), c.cpu(); t0 = time.monotonic()
                    for p in ps: p.stdin.write("go\n"); p.stdin.flush()
                    o = []; fails = 0
                    for p in ps:
                        line = p.stdout.readline()
                        try: o.append(json.loads(line))
                        except ValueError: fails += 1
                    wrong = sum(1 for r in o if r["bytes"] != SIZE or r["sum"] != want)
                    g, h = origin_log(al, off, key)
                    r = dict(name=c.name, rep=rep, gets=g, others=h, egress_mib=(px.n - b0) / (1 << 20) if rep < 0 else None, all_s=max((x["t"] for x in o), default=t0) - t0, first_s=min((x["t"] for x in o), default=t0) - t0,
                             client_cpu_s=sum(x["cpu"] for x in o), cache_cpu_s=c.cpu() - x0, origin_cpu_s=srv.cpu() - s0, failed=fails, wrong=wrong)
                    res["rows"].append(r); save("part3.json", res); log(r)
                except Exception as e:
                    res["skipped"][c.name] = f"{e}"; dead.add(c.name); log("skip", c.name, e)
                finally:
                    for p in ps:
                        p.stdin.close()
                        try: p.wait(60)
                        except subprocess.TimeoutExpired: p.kill(); p.wait()
                        p.stdout.close()
                    c.teardown(); err.close()
                (root / BUCKET / key).unlink(missing_ok=True)
    finally:
        if srv: srv.stop()
        shutil.rmtree(root, ignore_errors=True); shutil.rmtree(out, ignore_errors=True)
    save("part3.json", res)
if __name__ == "__main__": main()
