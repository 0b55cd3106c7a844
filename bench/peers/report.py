#!/usr/bin/env python3
"""results/part{1,2,3}.json -> results/results.json + results/results.md (Markdown tables on stdout too)."""
import sys
from collections import defaultdict
from lib import *
def rd(n):
    try: return json.loads((RES / n).read_text())
    except OSError: return None
def si(x): return "-" if x is None else f"{x:,.0f}" if x >= 100 else f"{x:.1f}" if x >= 10 else f"{x:.2f}"
def group(rows, *ks):
    d = defaultdict(list)
    for r in rows: d[tuple(r[k] for k in ks)].append(r)
    return d
def t(head, rows): return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head)] + ["| " + " | ".join(map(str, r)) + " |" for r in rows]) + "\n"
out = []
pn, un = rd("part1pin.json") or {"rows": []}, rd("part1.json") or {"rows": []}
gp, gu = group(pn["rows"], "cls", "name"), group(un["rows"], "cls", "procs", "name")
for cls in dict.fromkeys(r["cls"] for r in pn["rows"] + un["rows"]):
    out.append(f"### Part 1, warm hit, {cls}\n"); rows = []
    procs = sorted({r["procs"] for r in un["rows"] if r["cls"] == cls})
    o = lambda xs: med([x["ops_s"] for x in xs])
    names = {r["name"] for r in pn["rows"] + un["rows"] if r["cls"] == cls}
    for n in sorted(names, key=lambda n: -(o(gp[cls, n]) or o(gu[cls, 1, n]) or 0)):
        a = gp[cls, n]; m = lambda f: si(med([x[f] for x in a]))
        rows.append([n, m("ops_s"), f"{100*spread([x['ops_s'] for x in a]):.0f}%" if a else "-", m("cpu_us"), m("srv_cpu_us"), m("p50_us"), m("p99_us")] +
                    [f"{si(o(gu[cls, k, n]))} ({100*spread([x['ops_s'] for x in gu[cls, k, n]]):.0f}%)" if gu[cls, k, n] else "-" for k in procs])
    out.append(t(["contestant", "pinned ops/s", "spread", "client CPU us/op", "server CPU us/op", "p50 us", "p99 us"] + [f"free, {k} proc: ops/s (spread)" for k in procs], rows))
if p := rd("part2.json"):
    ok = [r for r in p["rows"] if not r["bad"]]; g = group(ok, "set", "dir", "name")
    out.append("### Part 2, cold transfer (per GiB; small = 5,000 x 16 KiB = 0.076 GiB)\n"); rows = []
    for (s, d) in dict.fromkeys((r["set"], r["dir"]) for r in p["rows"]):
        for n in sorted({k[2] for k in g if k[:2] == (s, d)}, key=lambda n: med([x["wall"] for x in g[s, d, n]])):
            a = g[s, d, n]; q = a[0]["gib"]
            rows.append([s, d, n, len(a), f"{med([x['wall'] for x in a]):.2f}", f"{100*spread([x['wall'] for x in a]):.0f}%", f"{med([x['wall'] for x in a])/q:.2f}",
                         f"{med([x['cpu'] for x in a])/q:.2f}", f"{100*spread([x['cpu'] for x in a]):.0f}%", f"{med([x['server_cpu'] for x in a])/q:.2f}", f"{med([x['rss_mib'] for x in a]):.0f}"])
    out.append(t(["set", "dir", "contestant", "n", "wall s", "spread", "wall s/GiB", "client CPU s/GiB", "spread", "server CPU s/GiB", "RSS MiB"], rows))
    bad = [(r["set"], r["dir"], r["name"], r["bad"]) for r in p["rows"] if r["bad"]]
    if bad: out.append("Failed: " + "; ".join(map(str, bad)) + "\n")
if p := rd("part3.json"):
    g = group([r for r in p["rows"] if r["rep"] >= 0], "name"); eg = {r["name"]: r for r in p["rows"] if r["rep"] < 0}; rows = []
    for n, a in sorted(((k[0], v) for k, v in g.items()), key=lambda kv: (med([x["gets"] for x in kv[1]]), med([x["all_s"] for x in kv[1]]))):
        m = lambda f: med([x[f] for x in a])
        rows.append([n, len(a), f"{m('gets'):.0f}", f"{m('others'):.0f}", f"{eg[n]['egress_mib']:.0f}" if n in eg else "-", f"{m('all_s'):.2f}", f"{100*spread([x['all_s'] for x in a]):.0f}%", f"{m('first_s'):.2f}",
                     f"{m('client_cpu_s'):.2f}", f"{m('cache_cpu_s'):.2f}", f"{m('origin_cpu_s'):.2f}", f"{sum(x['failed'] for x in a)}/{sum(x['wrong'] for x in a)}"])
    out.append(f"### Part 3, herd: {p['clients']} processes, one cold {p['size'] >> 20} MiB object\n")
    out.append(t(["contestant", "n", "origin GETs", "other requests", "egress MiB", "all have it, s", "spread", "first has it, s", "client CPU s", "cache CPU s", "origin CPU s", "failed/wrong"], rows))
allr = {k: rd(f"{k}.json") for k in ("part1pin", "part1", "part2", "part3")}
for k, v in allr.items():
    if v and v["skipped"]: out.append(f"Skipped in {k}: " + "; ".join(f"{a}: {b}" for a, b in v["skipped"].items()) + "\n")
save("results.json", allr); (RES / "results.md").write_text("\n".join(out)); print("\n".join(out))
