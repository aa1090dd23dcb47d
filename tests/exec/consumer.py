"""A program for `exec`: adds one line with the id of the batch and its lines to the file OUT, or its lines to the SQLite database DB.

KILL is "MOMENT TARGET": at this moment (start, read or stored) it kills exec, itself (program), or both. It does so in a batch that
begins at the offset KILL_FROM or behind it, and only once: it then creates the file MARK. It fails if a batch has an offset of BAD.
"""
import json, os, signal, sqlite3, sys

batch = os.environ["SCUTTLEUP_BATCH"]


def kill_at(moment):
    wanted, target = (os.environ.get("KILL", "") + " ").split(" ")[:2]
    if wanted != moment or int(batch.rsplit(":", 1)[1].split("-")[0]) < int(os.environ["KILL_FROM"]):
        return
    try:
        os.close(os.open(os.environ["MARK"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    if target in ("exec", "both"):
        os.kill(int(os.environ["EXEC_PID"]), signal.SIGKILL)
    if target in ("program", "both"):
        os.kill(os.getpid(), signal.SIGKILL)


# The parent is exec.
os.environ.setdefault("EXEC_PID", str(os.getppid()))
kill_at("start")
lines = [json.loads(line) for line in sys.stdin]
kill_at("read")
if any(str(line["offset"]) in os.environ.get("BAD", "").split() for line in lines):
    sys.exit("cannot process it")
if "OUT" in os.environ:
    # One write(2): a kill leaves the whole line or none.
    out = os.open(os.environ["OUT"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    record = {"batch": batch, "attempt": int(os.environ["SCUTTLEUP_ATTEMPT"]), "lines": lines}
    os.write(out, (json.dumps(record) + "\n").encode())
if "DB" in os.environ:
    db = sqlite3.connect(os.environ["DB"], timeout=60)
    db.execute("create table if not exists entries (peer text, seq integer, entry text, primary key (peer, seq))")
    db.executemany("insert or ignore into entries values (?, ?, ?)", [(line["peer"], line["seq"], str(line["entry"])) for line in lines])
    db.commit()
kill_at("stored")
