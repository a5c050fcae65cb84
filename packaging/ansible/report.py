"""One table and one JSON of what audit.yml or prune.yml brought back from each host.

    python3 report.py audit|prune RESULTS HOST...

Reads RESULTS/audit/HOST.json (or prune), writes RESULTS/audit.json and RESULTS/audit.txt (or prune), and prints the
table. An audit also gives RESULTS/plans/HOST.json. Hosts that share an instances path are one cache, counted once.
"""

import json
import pathlib
import sys

# What hosts that share a cache disagree on is shown with the first of these verdicts.
CAUTIOUS = ["in_use", "ignored", "unknown", "too_young", "removable"]
# What exit codes mean, and the worst of them last.
STATES = {0: "done", 3: "busy", 1: "incomplete", 2: "refused"}
WORST = [*STATES.values(), "failed", "unreachable"]


def main():
    kind, results, *hosts = sys.argv[1:]
    results = pathlib.Path(results)
    of_hosts = {host: read(results / kind / f"{host}.json") for host in hosts}
    if kind == "audit":
        for host, it in of_hosts.items():
            keep_plan(results / "plans" / f"{host}.json", it and it["plan"])
        report, rows, notes = audit(of_hosts)
    else:
        report, rows, notes = prune(of_hosts)
    text = table(rows) + "".join(f"{note}\n" for note in notes)
    (results / f"{kind}.json").write_text(json.dumps(report, indent=2) + "\n")
    (results / f"{kind}.txt").write_text(text)
    print(text, end="")


def read(path):
    return json.loads(path.read_text()) if path.exists() else None


def keep_plan(path, plan):
    """The plan of this audit, or none: not that of an earlier one."""
    if plan:
        path.write_text(json.dumps(plan, indent=2) + "\n")
    else:
        path.unlink(missing_ok=True)


# An audit


def audit(of_hosts):
    caches = {}
    for host, it in of_hosts.items():
        output = it and it["explain"]
        caches.setdefault(identity(host, it, output), []).append((host, it, output))
    caches = [cache(members) for members in caches.values()]
    columns = ["removable", "too_young", "not_downloadable"]
    total = {name: add(it[name] for it in caches) for name in columns}
    total["unlisted_directories"] = add(it["unlisted_directories"] for it in caches)
    total |= {"hosts": len(of_hosts), "caches": len(caches), "missing": sum(len(it["missing"]) for it in caches)}

    rows = [["HOSTS", "STATE", "REMOVABLE", "TOO YOUNG", "NOT DOWNLOADABLE", "MISSING", "OF NO INSTANCE", "UNREADABLE"]]
    for it in caches:
        state = max((host["state"] for host in it["hosts"].values()), key=WORST.index)
        sizes = [amount(it[name]) for name in columns]
        found = [len(it["missing"]), amount(it["unlisted_directories"]), len(it["unreadable"])]
        rows.append([", ".join(it["hosts"]), state, *sizes, *found])
    sizes = [amount(total[name]) for name in columns]
    rows.append(["total", "", *sizes, total["missing"], amount(total["unlisted_directories"]), ""])
    return {"total": total, "caches": caches}, rows, notes([it["hosts"] for it in caches])


def identity(host, it, output):
    """What only hosts that share an instances path have in common: nova's list of those hosts, the inode of the path
    and the size of its filesystem. The list alone can be a copy, and inodes are the same on many disks."""
    try:
        nodes = sorted(json.loads(it["compute_nodes"]))
        return (*nodes, it["inode"], output["filesystem"]["size_bytes"])
    except (TypeError, KeyError, ValueError):
        return host


def cache(members):
    outputs = [output for _, _, output in members if output]
    files, missing, unreadable = {}, {}, {}
    for output in outputs:
        for file in output["files"]:
            other = files.get(file["name"], file)
            files[file["name"]] = min(file, other, key=lambda it: CAUTIOUS.index(it["verdict"]))
        # Each host tells of its own instances.
        missing |= {it["name"]: it for it in output["missing"]}
        unreadable |= {it["path"]: it for it in output["unreadable"] if it["blocks"]}
    unlisted = outputs[0]["unlisted_directories"] if outputs else []
    with_verdict = lambda verdict: [it for it in files.values() if it["verdict"] == verdict]
    return {
        "hosts": {host: state(it, output) for host, it, output in members},
        "removable": add(with_verdict("removable")),
        "too_young": add(with_verdict("too_young")),
        "unknown": add(with_verdict("unknown")),
        "not_downloadable": add(it for it in files.values() if it["downloadable"] is False),
        "missing": sorted(missing),
        "unlisted_directories": add(unlisted),
        "unreadable": [f"{it['path']}: {it['error']}" for it in unreadable.values()],
    }


# A prune


def prune(of_hosts):
    hosts, rows = {}, [["HOST", "STATE", "REMOVED", "WOULD REMOVE", "NOT REMOVED"]]
    total = {name: nothing() for name in ("removed", "would_remove", "not_removed")}
    for host, it in of_hosts.items():
        output = it and it["prune"]
        files = output["files"] if output else []
        with_outcome = lambda *outcomes: add(file for file in files if file["outcome"] in outcomes)
        done = {
            "removed": with_outcome("removed"),
            "would_remove": with_outcome("would_remove"),
            "not_removed": with_outcome("locked", "open", "changed", "failed", "not_reached"),
        }
        hosts[host] = state(it, output) | done
        total = {name: add([total[name], done[name]]) for name in total}
        rows.append([host, hosts[host]["state"], *map(amount, done.values())])
    rows.append(["total", "", *map(amount, total.values())])
    return {"total": total, "hosts": hosts}, rows, notes([hosts])


# Both


def state(it, output):
    """How it went on a host, and what there is to say."""
    if it is None:
        return {"state": "left_out", "messages": []}
    if it["unreachable"]:
        return {"state": "unreachable", "messages": [it["unreachable"]]}
    warnings = [warning["text"] for warning in (output or {"warnings": []})["warnings"] if warning["level"] == "warning"]
    return {"state": STATES.get(int(it["exit_code"]), "failed"), "messages": it["error"].splitlines() + warnings}


def nothing():
    return {"files": 0, "disk_bytes": 0}


def add(amounts):
    amounts = list(amounts)
    return {
        "files": sum(it.get("files", 1) for it in amounts),
        "disk_bytes": sum(it["disk_bytes"] for it in amounts),
    }


def amount(it):
    return f"{it['files']} ({it['disk_bytes'] / 2**30:.1f} GiB)" if it["files"] else "-"


def notes(groups):
    return [f"{host}: {line}" for group in groups for host, it in group.items() for line in it["messages"]]


def table(rows):
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() + "\n" for row in rows)


if __name__ == "__main__":
    main()
