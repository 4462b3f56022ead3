"""`.env.example` explains each setting, and no other, with the default that the code has."""

import ast
import re

from tests.docs.reading import calls_in, text_of

LAUNCHER_HEAD = "# === Only for `make run`"
# Between the Makefile and the launcher.
INTERNAL = {"STOP_WITH_PARENT"}


def settings_read() -> dict[str, ast.Call]:
    """Name to call, of every `env.type("NAME", …)` in the settings."""
    return {
        call.args[0].value: call
        for callee, call in calls_in("iafactory/settings.py")
        if re.fullmatch(r"env\.\w+", callee) and isinstance(call.args[0], ast.Constant) and callee != "env.read_env"
    }


def launcher_reads() -> set[str]:
    readers = {"os.environ.get", "os.environ.pop", "_port_setting"}
    sources = ("iafactory/local/run.py", "routing/management/commands/create_demo.py")
    calls = [call for callee, call in calls_in(*sources) if callee in readers]
    return {call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)}


def default_of(call: ast.Call) -> str:
    """The default as one would write it in the file; empty for none, and for one that depends on something."""
    default = next((keyword.value for keyword in call.keywords if keyword.arg == "default"), None)
    if default is None or any(isinstance(node, ast.Name) for node in ast.walk(default)):
        return ""
    value = eval(compile(ast.Expression(default), "default", "eval"), {})
    return "" if value == [] else str(value)


def documented(part: str) -> dict[str, str]:
    return dict(re.findall(r"^#?([A-Z][A-Z0-9_]*)=(.*)$", part, re.M))


def test_every_setting_is_documented_with_its_default() -> None:
    expected = {name: default_of(call) for name, call in settings_read().items()}
    expected["IAFACTORY_ENV"] = "production"

    found = documented(text_of(".env.example").partition(LAUNCHER_HEAD)[0])

    assert found == expected


def test_every_variable_of_the_launcher_is_documented() -> None:
    expected = launcher_reads() - INTERNAL - settings_read().keys()

    found = documented(text_of(".env.example").partition(LAUNCHER_HEAD)[2])

    assert found.keys() == expected


def test_copying_the_file_changes_nothing() -> None:
    lines = text_of(".env.example").splitlines()

    assert [line for line in lines if line and not line.startswith("#")] == []


def test_each_setting_is_explained() -> None:
    lines = text_of(".env.example").splitlines()
    first_of_group = [
        position
        for position, line in enumerate(lines)
        if re.match(r"#[A-Z][A-Z0-9_]*=", line) and not re.match(r"#[A-Z][A-Z0-9_]*=", lines[position - 1])
    ]

    assert [lines[position] for position in first_of_group if not lines[position - 1].startswith("# ")] == []
