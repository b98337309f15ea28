"""Import modules, each in a process of its own. Prints a line of JSON for each that
cannot be imported, and one at the end that says how many were tried."""
import importlib
import json
import os
import signal
import sys

limit = int(sys.argv[1])
names = sys.argv[2:]


def child(name, pipe):
    null = os.open(os.devnull, os.O_RDWR)
    for stream in 0, 1, 2:
        os.dup2(null, stream)
    signal.alarm(limit)
    try:
        importlib.import_module(name)
    except BaseException as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        os.write(pipe, text.encode(errors="replace")[:400])
        os._exit(1)
    os._exit(0)


for name in names:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        child(name, write)
    os.close(write)
    _, status = os.waitpid(pid, 0)
    # What a module has started may hold the other end.
    os.set_blocking(read, False)
    text = ""
    if os.WIFSIGNALED(status):
        text = signal.Signals(os.WTERMSIG(status)).name
        if text == "SIGALRM":
            text = f"it takes more than {limit} s"
    elif status != 0:
        try:
            text = os.read(read, 1000).decode(errors="replace")
        except BlockingIOError:
            pass
        if not text:
            text = f"it ended the interpreter (exit {os.WEXITSTATUS(status)})"
    os.close(read)
    if text:
        print(json.dumps({"module": name, "error": text}), flush=True)
print(json.dumps({"tried": len(names)}), flush=True)
