"""First contact: what `import vlm_neurons` gives, and what it costs."""

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path

import vlm_neurons as vn

ROOT = Path(__file__).parent.parent


def test_every_public_name_stays_what_it_is_whatever_modules_were_imported_before():
    for module in pkgutil.walk_packages(vn.__path__, "vlm_neurons."):
        importlib.import_module(module.name)
    for name in vn.__all__:
        assert not inspect.ismodule(getattr(vn, name)), name
    assert callable(vn.scan) and callable(vn.scenes) and callable(vn.classify) and callable(vn.report)


def test_hooks_are_importable_as_the_readme_says():
    from vlm_neurons.hooks import ablate, record

    assert record("L0N1", {})[0][0] == "blocks.0.mlp.hook_act" == ablate("L0N1")[0][0]


def test_import_takes_less_than_a_second_more_than_import_torch():
    # processor time: a busy machine makes the clock on the wall say anything
    code = "import time, torch; before = time.process_time(); import vlm_neurons; print(time.process_time() - before)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(done.stdout) < 1


def test_import_loads_no_heavy_library():
    heavy = "('torch', 'transformers', 'transformer_lens', 'pandas', 'matplotlib')"
    code = f"import sys, vlm_neurons; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_the_notices_of_what_is_shipped_come_with_the_package():
    text = (files("vlm_neurons.viz") / "THIRD_PARTY_NOTICES.md").read_text(encoding="utf-8").lower()
    assert "circuitsvis" in text and "permission is hereby granted" in text


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(vn, "no_such_thing")


def test_every_folder_with_code_is_shipped():
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    rooms = {".".join(file.parent.relative_to(ROOT).parts) for file in ROOT.glob("vlm_neurons/**/*.py")}
    assert sorted(shipped) == sorted({*rooms, "vlm_neurons.hooks"})


def test_the_citation_is_of_this_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [vn.__version__]
    assert f"\n## {vn.__version__.partition('.dev')[0]} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_rooms_are_reached_as_attributes_without_an_import():
    code = """
import vlm_neurons as vn
assert vn.explainers.DissectionExplainer and vn.simulators.ConceptSimulator and vn.scorers
assert vn.sites.names() and vn.scanning.merge and vn.interventions.logit_lens and {"sites", "explainers"} <= {*dir(vn)}
"""
    subprocess.run([sys.executable, "-c", code], check=True)
