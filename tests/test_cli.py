"""The command line, as a user types it."""

import json
import os
import signal
import subprocess
import sys
import time

import fresh
import pandas as pd
import pytest
import torch
from runs import one_of_two
from safetensors.torch import load_file
from threadpoolctl import threadpool_info, threadpool_limits

import vlm_neurons as vn
from vlm_neurons.cli.main import _parser, main
from vlm_neurons.cli.threads import OF_NUMPY, one_thread

COMMANDS = ("demo", "families", "describe", "scan", "classify", "concepts", "explain", "score", "report")
SCAN = ["scan", "--model", "tiny-llava-scenes", "--batch-size", "4"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "run"
    assert main([*SCAN, "--data", "scenes:n=60,seed=3", "--out", str(out), "--site", "gate,projector"]) == 0
    return out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_a_worked_example(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert f"example: vlm-neurons {command}" in " ".join(capsys.readouterr().out.split())


def test_families_that_work_are_listed_with_their_sites_and_limits(capsys):
    assert main(["families"]) == 0
    words = capsys.readouterr().out.split()
    assert all(name in words for name in vn.families().family) and "projector" in " ".join(words)


def test_scan_classify_and_report_leave_what_they_promise(run, capsys):
    assert main(["classify", str(run)]) == 0
    out = capsys.readouterr().out
    assert "visual" in out and "multi-modal" in out and "classes_by_layer.svg" in out
    table = pd.read_parquet(run / "neurons.parquet")
    assert set(table.site) == {"gate", "projector"} and len(table) == 4 * 384 + 128
    assert main(["report", str(run)]) == 0
    for name in ("scan.json", "scan.safetensors", "samples.parquet", "skipped.jsonl", "classes_by_layer.svg"):
        assert (run / name).stat().st_size >= 0
    assert b"<svg" in (run / "report.html").read_bytes()


def test_other_thresholds_need_no_new_scan_and_change_the_table(run):
    def labels(*options):
        assert main(["classify", str(run), *options]) == 0
        return pd.read_parquet(run / "neurons.parquet").query("site == 'gate'").label.value_counts().to_dict()

    assert labels("--t-visual", "9.9", "--t-text", "9.9").get("unknown", 0) > labels().get("unknown", 0)


def test_describe_writes_responses_that_scan_takes(tmp_path, capsys):
    from vlm_neurons import scenes

    photos = tmp_path / "photos"
    photos.mkdir()
    for sample in scenes(5, seed=2):
        sample.images[0].save(photos / f"{sample.id}.png")
    out = photos / "captions.jsonl"
    assert main(["describe", "--model", "tiny-llava-scenes", "--data", str(photos), "--out", str(out)]) == 0
    assert "5 of 5" in capsys.readouterr().err
    assert all(json.loads(line)["response"] for line in out.read_text().splitlines())
    assert main([*SCAN, "--data", str(photos), "--out", str(tmp_path / "run")]) == 0
    assert len(pd.read_parquet(tmp_path / "run" / "samples.parquet")) == 5


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([*SCAN, "--data", "/no/such/folder", "--out", "OUT"], "/no/such/folder"),
        (["scan", "--model", "/no/such/model", "--data", "scenes:n=2,seed=0", "--out", "OUT"], "local directory"),
        ([*SCAN, "--data", "scenes:n=2,seed=0", "--out", "OUT", "--site", "gates"], "gates"),
        ([*SCAN, "--data", "scenes:n=2,seed=0", "--out", "OUT", "--site", "gates"], "gate, post, projector, vision"),
        (["classify", "OUT"], "scan.json"),
        (["report", "OUT"], "scan.json"),
    ],
)
def test_bad_input_is_one_line_that_names_it_and_exit_code_1(arguments, named, tmp_path, capsys):
    assert main([str(tmp_path / "out") if a == "OUT" else a for a in arguments]) == 1
    error = capsys.readouterr().err
    assert named in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            [*SCAN, "--data", "scenes:n=2,seed=0", "--out", "x", "--site", "gate", "post"],
            "unrecognized arguments: post",
        ),
        ([*SCAN, "--data", "scenes:n=2,seed=0", "--out", "x", "--site", "gate,"], "'gate,': write names with commas"),
        (["explain", "x", "--price", "1"], "1: two numbers with a comma between them, such as 2.5,10"),
        (["score", "x", "--price", "1,two"], "1,two: two numbers with a comma"),
    ],
)
def test_lists_are_written_with_commas(arguments, words, capsys):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2 and words in capsys.readouterr().err


def test_data_that_moved_can_be_named_again(tmp_path, capsys):
    from vlm_neurons import scenes

    photos, out = tmp_path / "photos", tmp_path / "run"
    photos.mkdir()
    for sample in scenes(4, seed=2):
        sample.images[0].save(photos / f"{sample.id}.png")
    lines = [json.dumps({"image": f"{i}.png", "response": "a red circle"}) for i in range(4)]
    (photos / "captions.jsonl").write_text("\n".join(lines))
    assert main([*SCAN, "--data", str(photos), "--out", str(out)]) == 0 and main(["classify", str(out)]) == 0
    photos.rename(tmp_path / "moved")
    for command in (["report", str(out)], ["explain", str(out), "--neurons", "L0N1"]):
        capsys.readouterr()
        assert main(command) == 1
        assert "--data" in capsys.readouterr().err
        assert main([*command, "--data", str(tmp_path / "moved")]) == 0


def test_each_method_of_classifying_has_a_figure_of_its_own(run):
    assert main(["classify", str(run)]) == 0
    before = (run / "classes_by_layer.svg").read_bytes()
    assert main(["classify", str(run), "--method", "modality-test"]) == 0
    assert (run / "classes_by_layer.svg").read_bytes() == before
    assert (run / "classes_by_layer-modality-test.svg").stat().st_size > 0


def test_options_of_the_other_method_are_refused(run, capsys):
    before = {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}
    for options in (["--fdr", "0.01"], ["--method", "modality-test", "--t-visual", "3"]):
        assert main(["classify", str(run), *options]) == 1
        assert f"{options[-2]} is of --method" in capsys.readouterr().err
    assert before == {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}


def test_a_wrong_command_line_is_exit_code_2(capsys):
    for arguments in ([], ["scan"], [*SCAN, "--data", "x", "--out", "y", "--top-n", "0"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--batch-size", "x"], "x: a whole number from 1 on"), (["--device", "gpu"], "gpu: write cpu, cuda or cuda:1")],
)
def test_a_wrong_value_of_an_option_is_named_with_the_remedy(options, said, capsys):
    with pytest.raises(SystemExit):
        main([*SCAN, "--data", "x", "--out", "y", *options])
    assert capsys.readouterr().err.endswith(f"{options[0]}: {said}\n")


def test_an_option_that_is_given_twice_is_refused(capsys):
    with pytest.raises(SystemExit):
        main([*SCAN, "--data", "x", "--out", "y", "--site", "gate", "--site=post"])
    assert "--site is given twice: give it once, a list with commas" in capsys.readouterr().err
    with pytest.raises(SystemExit):  # else the second would be taken for an abbreviation of the first
        main([*SCAN, "--data", "x", "--out", "y", "--top-n", "4", "--top", "5"])
    assert "unrecognized arguments: --top 5" in capsys.readouterr().err


def test_data_that_are_not_there_are_told_before_the_model_is_loaded(capsys, tmp_path):
    assert main(["scan", "--model", str(tmp_path), "--data", str(tmp_path / "photoss"), "--out", "x"]) == 1
    assert "photoss" in capsys.readouterr().err
    assert main(["scan", "--model", "tiny-lava", "--data", str(tmp_path / "photoss"), "--out", "x"]) == 1
    assert "tiny-llava-scenes" in capsys.readouterr().err


def test_explain_says_which_neurons_it_takes_without_a_choice(capsys):
    with pytest.raises(SystemExit):
        main(["explain", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "without --neurons and --class, the clearest neurons of each of visual, text, multimodal" in said


def test_the_package_runs_as_a_module_and_tells_its_version_without_imports():
    asked = [sys.executable, "-X", "importtime", "-m", "vlm_neurons", "--version"]
    done = subprocess.run(asked, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == f"{vn.__version__}\n"
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"torch", "numpy", "pandas", "transformers", "PIL", "rich"}


@pytest.mark.parametrize("step", ["scan", "explain", "score", "report", "classify", "describe", "demo", "families"])
def test_ctrl_c_is_one_line_that_is_true_of_the_step(step, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["vlm_neurons.cli.main"], step, stop)
    needed = {"scan": [*SCAN[1:], "--data", "x", "--out", "y"], "describe": [*SCAN[1:3], "--data", "x", "--out", "y"]}
    given = needed.get(step, [] if step in ("demo", "families") else ["run"])
    assert main([step, *given]) == 130
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1 and said.startswith("interrupted; ")
    assert ("last finished block" in said) == (step == "scan")


def test_ctrl_c_before_the_command_is_known_says_that_nothing_was_begun(monkeypatch, capsys):
    def stop():
        raise KeyboardInterrupt  # while modules are imported

    monkeypatch.setattr(sys.modules["vlm_neurons.cli.main"], "_parser", stop)
    assert main(["report", "run"]) == 130
    assert capsys.readouterr().err.strip() == "interrupted; nothing was begun"


def test_a_run_of_units_that_see_images_only_says_why_it_has_no_classes(tmp_path, capsys):
    out = str(tmp_path / "run")
    assert main([*SCAN, "--site", "projector", "--data", "scenes:n=4,seed=4", "--out", out]) == 0
    assert main(["classify", out]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "no classes: units of projector see images only" in said and "scan gate or post" in said


def test_classes_are_known_in_both_spellings(run, capsys):
    assert main(["explain", str(run), "--class", "multi-modal", "--top", "1", "--dry-run"]) in (0, 1)
    assert "write some of" not in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["explain", str(run), "--class", "visual,textual"])
    assert "'textual': write some of visual, text, multimodal" in capsys.readouterr().err


def test_several_classes_are_explained_in_one_call():
    assert _parser().parse_args(["explain", "r", "--class", "text,multi-modal"]).labels == ["text", "multimodal"]


def test_counts_beyond_what_the_scan_kept_are_refused(run, capsys):
    assert main(["classify", str(run), "--n-visual", "5"]) == 1
    assert "the scan kept 4" in capsys.readouterr().err


def test_ctrl_c_leaves_a_run_that_the_same_command_finishes_with_the_same_result(tmp_path):
    command = [*SCAN, "--data", "scenes:n=40,seed=4", "--block-size", "2"]
    out = tmp_path / "run"
    code = "import runpy; runpy.run_module('vlm_neurons.cli.main', run_name='__main__')"
    process = fresh.start(code, *command, "--out", out, out=tmp_path)
    while len(list(out.glob("blocks/*.safetensors"))) < 2:
        assert process.is_alive()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    done = len(list(out.glob("blocks/*.safetensors")))
    assert 2 <= done < 20 and not (out / "scan.safetensors").exists()
    for folder in (out, tmp_path / "whole"):
        assert main([*command, "--out", str(folder)]) == 0
    resumed, whole = load_file(out / "scan.safetensors"), load_file(tmp_path / "whole" / "scan.safetensors")
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.parametrize(("setting", "threads"), [(None, 1), ("2", 2)])
def test_commands_use_one_thread_for_small_work_unless_the_user_said_how_many(tmp_path, monkeypatch, setting, threads):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    if setting:
        monkeypatch.setenv("OMP_NUM_THREADS", setting)
    before = torch.get_num_threads()
    torch.set_num_threads(2)  # as torch does by itself
    try:
        assert main([*SCAN, "--data", "scenes:n=2,seed=3", "--out", str(tmp_path / "run")]) == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert json.loads((tmp_path / "run/scan.json").read_text())["threads"] == threads


@pytest.mark.parametrize(("setting", "threads"), [(None, 1), ("OPENBLAS_NUM_THREADS", 2), ("OMP_NUM_THREADS", 2)])
def test_products_of_numpy_have_one_thread_in_a_command_unless_the_user_said_how_many(monkeypatch, setting, threads):
    for name in OF_NUMPY:
        monkeypatch.delenv(name, raising=False)
    if setting:
        monkeypatch.setenv(setting, "2")

    def now():
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    with threadpool_limits(2, user_api="blas"):  # as numpy does by itself where there are two cores
        with one_thread():
            assert now() == {threads}
        assert now() == {2}


def test_a_command_goes_on_with_a_run_that_was_begun_on_more_threads(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    command = [*SCAN, "--data", "scenes:n=4,seed=3", "--block-size", "2", "--out", str(tmp_path / "run")]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_of_two():
            assert main(command) == 0
        torch.set_num_threads(1)
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            monkeypatch.delenv(name, raising=False)
        assert main(command) == 0 and vn.Run.load(tmp_path / "run").complete
    finally:
        torch.set_num_threads(before)
