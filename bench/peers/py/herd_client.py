"""One of the 16 clients of part 3: MODE KEY OUTDIR RANK ARG. Imports, prints ready, waits, fetches, adds up one word per page."""
import sys, os, time, json, resource, subprocess, mmap
mode, key, out, rank, arg = sys.argv[1:6]; ep, bucket = os.environ["PEERS_ENDPOINT"], os.environ["PEERS_BUCKET"]
import numpy as np
mine = f"{out}/c{rank}"
def cpu(): return sum(r.ru_utime + r.ru_stime for r in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)))
def curl(url, to): subprocess.run(["curl", "-sSf", "-o", to, url], check=True)
if mode == "boto3":
    import boto3, botocore.config
    cl = boto3.client("s3", endpoint_url=ep, config=botocore.config.Config(s3={"addressing_style": "path"}))
    def go(): cl.download_file(bucket, key, mine); return mine
elif mode in ("filecache", "simplecache"):
    import fsspec, s3fs
    fs = fsspec.filesystem(mode, target_protocol="s3", target_options=dict(endpoint_url=ep, config_kwargs={"s3": {"addressing_style": "path"}}), cache_storage=f"{out}/shared")
    def go():
        f = fs.open(f"{bucket}/{key}", "rb"); f.close(); return f.name if hasattr(f, "name") else f"{out}/shared"
elif mode == "curl":
    def go(): curl(arg, mine); return mine
elif mode == "file":
    def go(): return arg
elif mode == "flock":  # reference, not a floor: one process fetches under a lock, the others wait and map the same file
    import fcntl
    def go():
        with open(f"{out}/lock", "w") as l:
            fcntl.flock(l, fcntl.LOCK_EX)
            if not os.path.exists(f"{out}/one"): curl(arg, f"{out}/one.tmp"); os.rename(f"{out}/one.tmp", f"{out}/one")
        return f"{out}/one"
elif mode == "larder":  # arg: LIBRARY,CACHE,URI; go() gives the view itself
    import ctypes as C
    library, cache, uri = arg.split(","); L = C.CDLL(library); larder, obj, err = C.c_void_p(), C.c_void_p(), C.create_string_buffer(4096)
    L.larder_object_data.restype, L.larder_object_size.restype = C.c_void_p, C.c_size_t
    def checked(kind):
        if kind: sys.exit("larder: " + err.raw[12:].split(b"\0")[0].decode())   # behind three ints of struct larder_err
    checked(L.larder_open(cache.encode(), C.byref(larder), err))
    def go():
        checked(L.larder_get(larder, uri.encode(), 60000, C.byref(obj), err))
        return (C.c_ubyte * L.larder_object_size(obj)).from_address(L.larder_object_data(obj))
else:  # any other program: arg is a command line with {out}
    def go(): subprocess.run(arg.format(out=mine), shell=True, check=True); return mine
print("ready", flush=True); sys.stdin.readline()
c0, t0 = cpu(), time.monotonic()
p = go()
if mode == "file":
    n = s = 0
    with open(p, "rb", buffering=0) as f:
        while b := f.read(1 << 20): n += len(b); s += int(np.frombuffer(b, dtype=np.uint64)[::512].sum(dtype=np.uint64))
else:
    m = p
    if isinstance(p, str):
        with open(p, "rb") as f: m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
    n, s = len(m), int(np.frombuffer(m, dtype=np.uint64)[::512].sum(dtype=np.uint64))
print(json.dumps(dict(t=time.monotonic(), secs=time.monotonic() - t0, cpu=cpu() - c0, bytes=n, sum=s % (1 << 64))))
