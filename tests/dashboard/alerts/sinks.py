"""A mail server on loopback that keeps what it is given."""

import socketserver
import threading


class MailSink:
    """Runs until `stop`. `mails` is what came, as text; `refuse` answers every recipient with this code."""

    def __init__(self) -> None:
        self.mails: list[str] = []
        self.refuse: int | None = None
        sink = self

        class Handler(socketserver.StreamRequestHandler):
            def say(self, text: str) -> None:
                self.wfile.write(f"{text}\r\n".encode())

            def handle(self) -> None:
                self.say("220 sink")
                for raw in self.rfile:
                    verb = raw[:4].upper()
                    if verb in (b"EHLO", b"HELO", b"MAIL", b"RSET"):
                        self.say("250 ok")
                    elif verb == b"RCPT":
                        self.say(f"{sink.refuse} no" if sink.refuse else "250 ok")
                    elif verb == b"DATA":
                        self.say("354 go on")
                        lines = []
                        while (line := self.rfile.readline()) not in (b".\r\n", b""):
                            lines.append(line.decode())
                        sink.mails.append("".join(lines))
                        self.say("250 kept")
                    elif verb == b"QUIT":
                        self.say("221 bye")
                        return

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
