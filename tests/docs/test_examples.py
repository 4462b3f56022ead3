"""The README's first calls work as printed: only address and key are put in."""

import json
import os
import subprocess
import sys

from tests.docs.reading import code_blocks, section
from tests.live.conftest import Live

FIRST_CALL = section("README.md", "A first call")
WHOLE, STREAMED = (block for block in code_blocks(FIRST_CALL, "bash") if block.startswith("curl "))
[PYTHON] = code_blocks(FIRST_CALL, "python")
PRINTED_ADDRESS = "http://127.0.0.1:8000"
PRINTED_KEY = "iaf_…"


def run(command: list[str], **environment: str) -> str:
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def test_the_whole_call(product: Live) -> None:
    customer = product.customer()

    output = run(["bash", "-c", WHOLE.replace(PRINTED_ADDRESS, product.url)], KEY=customer.secret)

    answer = json.loads(output)
    assert answer["choices"][0]["message"]["content"].startswith("IA Factory's simulator answers for ")
    assert customer.wallet()[0] < 100


def test_the_streamed_call(product: Live) -> None:
    customer = product.customer()

    output = run(["bash", "-c", STREAMED.replace(PRINTED_ADDRESS, product.url)], KEY=customer.secret)

    assert output.startswith("data: {")
    assert output.endswith("data: [DONE]\n\n")


def test_openais_client(product: Live) -> None:
    customer = product.customer()
    script = PYTHON.replace(PRINTED_ADDRESS, product.url).replace(PRINTED_KEY, customer.secret)

    output = run([sys.executable, "-c", script])

    whole, streamed = output.split("\n")
    assert whole.startswith("IA Factory's simulator answers for ")
    assert streamed == whole
