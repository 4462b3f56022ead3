"""The real supervisor over small programs: `python stub_product.py VAR PORT [NAME of an extra program]...`."""

import sys
from pathlib import Path

from iafactory.local.run import require_free_port
from iafactory.local.servers import LocalServers, var_lock
from iafactory.local.supervisor import Program, Supervisor

WEB = """
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
# Ignores TERM and has a child that does the same: only SIGKILL to the group ends both.
STUBBORN = """
import signal, subprocess, sys, time

signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"])
time.sleep(600)
"""
IDLE = "import time; time.sleep(600)"
PROGRAMS = {"stubborn": STUBBORN, "idle": IDLE}


def main() -> None:
    var, port = Path(sys.argv[1]).resolve(), int(sys.argv[2])
    marker = var / "answering"

    def answering(yes: bool) -> None:
        if yes:
            marker.touch()
        else:
            marker.unlink(missing_ok=True)

    with var_lock(var):
        supervisor = Supervisor(
            var=var,
            servers=LocalServers(var, durable=False, outer_environment={}),
            folder=var,
            health_urls=[f"http://127.0.0.1:{port}/"],
            answering=answering,
        )
        supervisor.install_signals()
        supervisor.stop_leftovers()
        require_free_port("127.0.0.1", port, name="PORT")
        try:
            supervisor.start_servers()
            programs = [Program("web", (sys.executable, "-c", WEB, str(port)))]
            programs += [Program(name, (sys.executable, "-c", PROGRAMS[name], str(var))) for name in sys.argv[3:]]
            supervisor.keep_running(programs)
        finally:
            supervisor.stop()


if __name__ == "__main__":
    main()
