"""What is registered by name is known to the command line, to the documentation and to the errors."""

import re
from operator import attrgetter
from pathlib import Path

import pytest

import vlm_neurons as vn
from vlm_neurons.autointerp import Explainer, Judge, Simulator, registry
from vlm_neurons.autointerp.registry import EXPLAINERS, SIMULATORS, Entry, explainer_of, simulator_of
from vlm_neurons.cli import main

PAGE = (Path(registry.__file__).parent / "README.md").read_text(encoding="utf-8")
ALL = [*((e, Explainer) for e in EXPLAINERS.items()), *((e, Simulator) for e in SIMULATORS.items())]


@pytest.mark.parametrize(("entry", "kind"), ALL, ids=lambda e: e[0] if isinstance(e, tuple) else "")
def test_everything_registered_is_there_and_documented(entry: tuple[str, Entry], kind: type) -> None:
    name, one = entry
    assert issubclass(one.load(), kind)
    assert [line for line in PAGE.splitlines() if line.startswith("| `") and f"`{name}`" in line]
    if one.needs:
        assert one.public in PAGE and attrgetter(one.public.removeprefix("vn."))(vn) is one.load()


@pytest.mark.parametrize(("option", "entries"), [("explain", EXPLAINERS), ("score", SIMULATORS)])
def test_a_new_entry_is_known_to_the_command_line_and_the_errors(
    option: str, entries: dict[str, Entry], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    new = next(iter(entries.values()))
    monkeypatch.setitem(entries, "newcomer", Entry(new.module, new.kind, "came last"))
    with pytest.raises(SystemExit):
        main([option, "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "newcomer came last" in told and ",newcomer}" in told.replace(", ", ",")
    of = explainer_of if entries is EXPLAINERS else simulator_of
    assert isinstance(of("newcomer"), new.load())
    with pytest.raises(ValueError, match=r"'newcommer': a name \(.*'newcomer'\)"):
        of("newcommer")


def test_what_needs_a_model_says_so_by_name() -> None:
    for name, one in (*EXPLAINERS.items(), *SIMULATORS.items()):
        if one.needs:
            of = explainer_of if name in EXPLAINERS and one is EXPLAINERS[name] else simulator_of
            with pytest.raises(ValueError, match=rf"{name!r} needs a model: give an object, {re.escape(one.public)}"):
                of(name)


def test_what_gives_no_name_is_called_as_its_class() -> None:
    class First(Simulator):
        pass

    class Second(First):
        pass

    class Third(First):
        name = "given"

    class Fourth(Third):
        pass

    assert [kind().name for kind in (First, Second, Third, Fourth)] == ["First", "Second", "given", "given"]
    assert type("Says", (Explainer,), {})().name == "Says" and type("Judges", (Judge,), {})().name == "Judges"
