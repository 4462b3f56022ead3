"""A flame graph of the web process under 64 clients: `make flame-graph` writes docs/performance-flame.svg.

    .venv/bin/python -m benchmarks.flame [--scene whole-64] [--seconds 15] [--file docs/performance-flame.svg]

The parts of it that are ours go into docs/performance.md. Width is time with Python's lock held, from top to bottom who called
whom. It is taken by py-spy from outside: the process runs unchanged.
"""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.contenders import quiet_product, the_product
from benchmarks.figures import SCENES
from benchmarks.running import module
from benchmarks.table import as_markdown, into
from benchmarks.windows import generator_result, generator_start, simulator_behave
from chaos.product import PROJECT

DRAWING = PROJECT / "docs" / "performance-flame.svg"
DOCUMENT = PROJECT / "docs" / "performance.md"
SAMPLES_A_SECOND = 250
SMALLEST_PERCENT = 1.5
OURS = ("iafactory/", "routing/", "billing/", "ratelimit/", "dashboard/")
FRAME = re.compile(r'<title>(\S+) \(([^)]+):\d+\) \([\d,]+ samples, ([\d.]+)%\)</title><rect x="([\d.]+)%" y="(\d+)"')
# The load starts first: connections and caches are no part of the path.
LEAD_SECONDS = 3.0


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--scene", choices=[scene.name for scene in SCENES], default="whole-64")
    arguments.add_argument("--seconds", type=int, default=15)
    arguments.add_argument("--file", type=Path, default=DRAWING)
    options = arguments.parse_args()
    scene = next(scene for scene in SCENES if scene.name == options.scene)
    product = quiet_product()
    try:
        product.start()
        web = the_product(product, tuple(module(product, "benchmarks.customers", "customers", "16")))
        simulator_behave(product, scene)
        generator = generator_start(web, scene, options.seconds + 2 * LEAD_SECONDS)
        time.sleep(LEAD_SECONDS)
        spy = [str(Path(sys.executable).with_name("py-spy")), "record", "--pid", str(web.pid), "--output", str(options.file)]
        spy += ["--rate", str(SAMPLES_A_SECOND), "--duration", str(options.seconds), "--function", "--gil"]
        spied = subprocess.run(spy, capture_output=True, text=True, check=False)
        load = generator_result(generator)
    finally:
        product.stop()
        product.remove()
    if spied.returncode:
        print(spied.stderr, file=sys.stderr)
        return 1
    title = f"One web process, {scene.text}: every call billed"
    options.file.write_text(re.sub(r'(<text id="title"[^>]*>)[^<]*', rf"\g<1>{title}", options.file.read_text()))
    if options.file == DRAWING:
        into(DOCUMENT, "shares of the flame graph", as_markdown(shares(options.file.read_text())))
    size = options.file.stat().st_size / 1024
    print(f"{options.file}: {size:.0f} KB, {load.answered:,} calls at {load.per_second:,.0f} a second")
    return 0


def shares(drawing: str) -> list[list[str]]:
    """The frames of ours in it as rows below a head, callers before what they call, small ones left out."""
    found = [
        (float(left), int(depth), f"`{function}`", f"`{file}`", float(percent))
        for function, file, percent, left, depth in FRAME.findall(drawing)
        if file.startswith(OURS) and float(percent) >= SMALLEST_PERCENT
    ]
    return [
        ["function", "file", "share"],
        *([function, file, f"{share:.0f} %"] for _, _, function, file, share in sorted(found)),
    ]


if __name__ == "__main__":
    sys.exit(main())
