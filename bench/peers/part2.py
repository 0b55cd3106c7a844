#!/usr/bin/env python3
"""PART 2, cold transfer from a real S3 server (versitygw) on loopback: wall and client CPU seconds per GiB.
usage: part2.py [--reps 3] [--only name,name] [--sets big,mid,small] [--dirs down,up]"""
import argparse, hashlib, json, os, shutil, time
from lib import *

SETS = {"big": (1, 1 << 30), "mid": (64, 16 << 20), "small": (5000, 16 << 10)}
SLOW_S = 12.0   # a contestant with a repetition slower than this gets one repetition fewer

def make(setname, d):
    n, size = SETS[setname]; d.mkdir(parents=True, exist_ok=True)
    blk = os.urandom(1 << 20)
    for i in range(n):
        p = d / f"o{i:05d}"
        if p.exists() and p.stat().st_size == size: continue
        with open(p, "wb") as f:
            left = size
            while left: k = min(left, 1 << 20); f.write(i.to_bytes(8, "little") + blk[8:k]); left -= k

def check(setname, d):
    n, size = SETS[setname]; got = [p for p in d.rglob("o*") if p.is_file()]
    if len(got) != n: return f"{len(got)} of {n} objects"
    for p in got[:: max(1, n // 50)]:
        if p.stat().st_size != size: return f"{p.name}: size {p.stat().st_size}"
        i = int(p.name[1:6])
        with open(p, "rb") as f:
            for off in (0, (size - 1) >> 20 << 20):
                f.seek(off)
                if int.from_bytes(f.read(8), "little") != i: return f"{p.name}: wrong bytes"
    return None

def main():
    ap = argparse.ArgumentParser(); ap.add_argument("--reps", type=int, default=3)
    ap.add_argument("--only"); ap.add_argument("--sets", default="big,mid,small"); ap.add_argument("--dirs", default="down,up")
    a = ap.parse_args(); prep()
    root, src, dst = RAM / "s3root", RAM / "s3src", RAM / "s3dst"
    shutil.rmtree(root, ignore_errors=True); srv = start_s3(root); res = {"rows": [], "skipped": {}}
    try:
        cs = []
        for c in load("cold", a.only.split(",") if a.only else None):
            why = c.available()
            if why: res["skipped"][c.name] = why; log("skip", c.name, why)
            else: cs.append(c)
        for s in a.sets.split(","):
            n, size = SETS[s]; sd = src / s; make(s, sd)
            for f in sd.iterdir(): # put the originals in the bucket as the gateway itself keeps them
                t = root / BUCKET / s; t.mkdir(exist_ok=True); shutil.copyfile(f, t / f.name)
                # versitygw keeps the ETag in an xattr; CRT clients refuse an object without one
                with open(f, "rb") as fh: etag = hashlib.file_digest(fh, "md5").hexdigest()   # the true MD5: rclone verifies it
                os.setxattr(t / f.name, "user.etag", etag.encode())
            gib = n * size / (1 << 30)
            for d in a.dirs.split(","):
                slow = set(); dead = set()
                for rep in range(a.reps):
                    order = cs[rep % len(cs):] + cs[: rep % len(cs)]   # rotate: nobody is always first
                    for c in order:
                        if c.name in dead or (c.name in slow and rep >= a.reps - 1): continue
                        shutil.rmtree(dst, ignore_errors=True); dst.mkdir(parents=True)
                        upd = root / UP / s
                        shutil.rmtree(upd, ignore_errors=True)
                        try:
                            argv, ex = c.command(d, s, n, size, sd, dst)
                        except Exception as e:   # NotImplementedError: it declines this set
                            why = str(e) if isinstance(e, NotImplementedError) else f"{type(e).__name__}: {e}"
                            dead.add(c.name); res["skipped"][f"{c.name} {s} {d}"] = why; log("skip", c.name, s, d, why); continue
                        s0 = srv.cpu(); r = run_rusage(argv, ex, log=f"cold-{c.name}.log"); s1 = srv.cpu()
                        if hasattr(c, "cleanup"): c.cleanup()
                        bad = f"exit {r['rc']}" if r["rc"] else check(s, dst if d == "down" else upd)
                        r.update(name=c.name, set=s, dir=d, rep=rep, gib=gib, server_cpu=s1 - s0, bad=bad)
                        log(f"{s:5} {d:4} {rep} {c.name:18} wall {r['wall']:.2f} cpu {r['cpu']:.2f} srv {s1-s0:.2f} rss {r['rss_mib']:.0f} {bad or 'ok'}")
                        res["rows"].append(r); save("part2.json", res)
                        if bad: dead.add(c.name)
                        if r["wall"] > SLOW_S: slow.add(c.name)
            shutil.rmtree(root / UP / s, ignore_errors=True)
    finally:
        srv.stop(); shutil.rmtree(root, ignore_errors=True); shutil.rmtree(dst, ignore_errors=True); shutil.rmtree(src, ignore_errors=True)
    save("part2.json", res)
if __name__ == "__main__": main()
