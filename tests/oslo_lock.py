"""nova's part in the tests of locks: takes nova's locks with the real oslo.concurrency, as nova.utils.synchronized does.

oslo_lock.py LOCK_PATH reads one order a line and answers each with one word:

    wait NAME       takes the lock, however long that takes: held
    try NAME        takes the lock if it is free: held, or busy
    release NAME    lets it go: released
"""

import sys

from oslo_concurrency import lockutils


def main(lock_path):
    held = {}
    print("ready", flush=True)
    for order in sys.stdin:
        verb, name = order.split()
        if verb == "release":
            held.pop(name).__exit__(None, None, None)
            print("released", flush=True)
            continue
        lock = lockutils.lock(
            name,
            lock_file_prefix="nova-",
            external=True,
            lock_path=lock_path,
            blocking=verb == "wait",
        )
        try:
            lock.__enter__()
        except lockutils.AcquireLockFailedException:
            print("busy", flush=True)
        else:
            held[name] = lock
            print("held", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
