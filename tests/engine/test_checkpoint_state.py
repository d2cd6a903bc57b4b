"""A checkpoint that is not one of the run, whatever its manifest says: one sentence, and nothing is overwritten."""

from __future__ import annotations

import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_runs
import torch
from safetensors.torch import load_file, save_file
from training_loop import Dying, Killed, new_run, trainer

from rim_bench.baselines.direct import Direct
from rim_bench.engine.backbone import RECORD, Backbone
from rim_bench.methods.schedule import TrainingPlan
from rim_bench.runs.planned_run import plan_study
from rim_bench.runs.training import train
from rim_bench.storage.run_folder import Run
from rim_bench.util.errors import UsageError
from rim_bench.util.files import complete_folder, read_json, write_json_atomic

pytestmark = pytest.mark.usefixtures("one_thread")
PLAN = TrainingPlan(examples=24, batch_size=2, checkpoints=4)  # 12 steps, a checkpoint every 3
PACKAGE = Path(__file__).parents[2] / "rim_bench"


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of a run that was killed behind its checkpoint of step 6."""
    root = tmp_path_factory.mktemp("stopped")
    with pytest.raises(Killed):
        trainer(Dying(new_run(root), 8, "after"), Direct(), PLAN).run()
    return root


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def write_checkpoint(run: Run, write: Callable[[Path], Any], step: int = 6) -> None:
    """A checkpoint that fits its manifest, in the place of the one that is there."""
    shutil.rmtree(run.path / "checkpoints")
    with complete_folder(run.path / "checkpoints" / f"step-{step:08d}") as folder:
        write(folder / "trainer.pt")


def first(state: dict[str, Any]) -> str:
    return next(iter(state["parameters"]))


def shapes(state: dict[str, Any]) -> None:
    state["parameters"][first(state)] = torch.zeros(3)


def dtypes(state: dict[str, Any]) -> None:
    state["parameters"][first(state)] = state["parameters"][first(state)].half()


def not_finite(state: dict[str, Any]) -> None:
    state["parameters"][first(state)].view(-1)[5] = float("nan")


def no_tensor(state: dict[str, Any]) -> None:
    state["parameters"][first(state)] = 5


def moments(state: dict[str, Any]) -> None:
    state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(3)


def other_method(state: dict[str, Any]) -> None:
    groups = state["optimizer"]["param_groups"]
    groups[0]["params"] = groups[0]["params"][:-1]


def other_decay(state: dict[str, Any]) -> None:
    state["optimizer"]["param_groups"][0]["weight_decay"] = 0.5


def other_optimizer(state: dict[str, Any]) -> None:
    state["optimizer"]["state"][0] = {"momentum_buffer": torch.zeros(3)}


def beyond(state: dict[str, Any]) -> None:
    state["step"] = state["spent"] = 10**6


CASES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "beyond": (beyond, "it says step 1,000,000, and its folder 6"),
    "spent": (lambda s: s.update(spent=5), "it says that 6 steps spent 5 of the budget"),
    "negative": (lambda s: s.update(spent=-1), "it has spent -1 steps of a budget of 12"),
    "no step": (lambda s: s.pop("step"), "it has no step"),
    "old": (lambda s: s.pop("spent"), "it was written before FLOPs were counted"),
    "text": (lambda s: s.update(step="6"), "its step is a str"),
    "truth": (lambda s: s.update(stage=True), "its stage is a bool"),
    "stage": (lambda s: s.update(stage=3), "it says stage 4, and its last step was in stage 1"),
    "counters": (lambda s: s.update(counters={"flops": -3}), "its counters are no whole numbers"),
    "loss": (lambda s: s.update(loss=float("nan")), "its loss or seconds are no finite numbers"),
    "random state": (lambda s: s.update(rng=torch.zeros(5)), "its random state is none"),
    "missing": (lambda s: s["parameters"].popitem(), "it holds other parameters than this run trains"),
    "shapes": (shapes, r"its .* is \(3,\) torch.float32, not \("),
    "dtypes": (dtypes, r"torch.float16, not \("),
    "NaN": (not_finite, "holds numbers that are not finite"),
    "no tensor": (no_tensor, "is int, not"),
    "no optimizer": (lambda s: s.update(optimizer={}), "its optimizer is not this run's"),
    "moments": (moments, "its optimizer is not this run's: the exp_avg of a parameter has another shape"),
    "other method": (other_method, "its optimizer is not this run's: other groups or settings"),
    "other decay": (other_decay, "its optimizer is not this run's: other groups or settings"),
    "other optimizer": (other_optimizer, "its optimizer is not this run's: it keeps something else"),
}


@pytest.mark.parametrize(("change", "message"), CASES.values(), ids=CASES)
def test_a_state_that_the_run_cannot_have_had(
    stopped: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    run = new_run(shutil.copytree(stopped, tmp_path / "out"))
    state = torch.load(run.path / "checkpoints/step-00000006/trainer.pt", weights_only=True)
    change(state)
    write_checkpoint(run, lambda path: torch.save(state, path))
    before = bytes_of(run.path)
    with pytest.raises(UsageError, match=message) as caught:
        trainer(run, Direct(), PLAN).run()
    assert re.search(r"checkpoint '.*trainer\.pt' is not one of this run: .*; move it away", str(caught.value))
    assert "\n" not in str(caught.value) and bytes_of(run.path) == before


def test_a_step_beyond_the_plan_is_not_trained(stopped: Path, tmp_path: Path) -> None:
    run = new_run(shutil.copytree(stopped, tmp_path / "out"))
    state = torch.load(run.path / "checkpoints/step-00000006/trainer.pt", weights_only=True)
    for step in (12, 10**6):  # the folder says so, too
        state["step"] = state["spent"] = step
        write_checkpoint(run, lambda path: torch.save(state, path), step)
        with pytest.raises(UsageError, match=f"it has spent {step:,} steps of a budget of 12, and checkpoints are"):
            trainer(run, Direct(), PLAN).run()


class Evil:
    """What a pickle that runs code is made of."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("what", ["code", "noise", "nothing", "a list", "a bare pickle"])
def test_a_file_that_is_no_state(stopped: Path, tmp_path: Path, what: str) -> None:
    run = new_run(shutil.copytree(stopped, tmp_path / "out"))
    writes: dict[str, Callable[[Path], Any]] = {
        "code": lambda path: torch.save({"step": Evil(tmp_path / "PWNED")}, path),
        "noise": lambda path: path.write_bytes(b"\x80\x04noise"),
        "nothing": lambda path: path.write_bytes(b""),
        "a list": lambda path: torch.save([1], path),
        "a bare pickle": lambda path: path.write_bytes(pickle.dumps(Evil(tmp_path / "PWNED"))),
    }
    write_checkpoint(run, writes[what])
    with pytest.raises(UsageError, match=r"trainer\.pt' is not one of this run: it (cannot be read|holds a list)"):
        trainer(run, Direct(), PLAN).run()
    assert not (tmp_path / "PWNED").exists()


def test_a_damaged_checkpoint_stops_the_run(tmp_path: Path) -> None:
    (planned,) = plan_study(small_runs.options(tmp_path, "direct"))

    def stop(_: str, step: int) -> None:
        if step == 9:
            raise Killed

    with pytest.raises(Killed):
        train(planned, small_runs.Heard(at=stop))
    ((_, folder),) = [planned.run.latest_checkpoint() or (0, Path())]
    file = folder / "trainer.pt"
    file.write_bytes(file.read_bytes()[:-100])
    before = bytes_of(planned.run.path)
    with pytest.raises(UsageError, match=r"checkpoint '.*' is damaged: trainer\.pt has .* bytes instead of .*move it"):
        train(planned)
    assert bytes_of(planned.run.path).keys() == before.keys()
    assert bytes_of(folder) == {
        k.removeprefix(f"checkpoints/{folder.name}/"): v for k, v in before.items() if "checkp" in k
    }


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("spec", None, "its spec is missing or of another kind"),
        ("markers", [], "its markers is missing or of another kind"),
        ("markers", {"<b>": 5}, "the ids of its markers cannot be"),
        ("markers", {"<b>": "x"}, "the ids of its markers cannot be"),
        ("sha256", 5, "its sha256 is missing or of another kind"),
        ("end", None, "its end is missing or of another kind"),
    ],
)
def test_a_model_whose_record_is_damaged(tmp_path: Path, key: str, value: Any, message: str) -> None:
    save_model(tmp_path)
    write_json_atomic(tmp_path / RECORD, read_json(tmp_path / RECORD) | {key: value})
    with pytest.raises(UsageError, match=f"backbone.json' is damaged: .*{message}"):
        Backbone.load(tmp_path)


def test_a_model_that_is_not_finite(tmp_path: Path) -> None:
    backbone = save_model(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    name = next(iter(state))
    state[name].view(-1)[0] = float("inf")
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with torch.no_grad():
        dict(backbone.model.named_parameters())[name].view(-1)[0] = float("inf")
    record = read_json(tmp_path / RECORD) | {"sha256": backbone.weights_sha256()}
    write_json_atomic(tmp_path / RECORD, record)
    with pytest.raises(UsageError, match="hold numbers that are not finite"):
        Backbone.load(tmp_path)


def save_model(folder: Path) -> Backbone:
    backbone = trainer(new_run(folder / "run"), Direct(), PLAN).backbone
    backbone.save(folder)
    return backbone


def test_nothing_that_is_stored_is_unpickled() -> None:
    """torch.load reads weights only; the two modules that unpickle read what this program itself has just sent."""
    loads = {p: re.findall(r"torch\.load\(.*", p.read_text("utf-8")) for p in PACKAGE.rglob("*.py")}
    assert sum(map(len, loads.values())) == 1
    assert all("weights_only=True" in call for calls in loads.values() for call in calls)
    unpickle = r"pickle\.(load|Unpickler)|joblib|np\.load|read_pickle|yaml\.(unsafe_|full_)?load\("
    where = {p.relative_to(PACKAGE).as_posix() for p in loads if re.search(unpickle, p.read_text("utf-8"))}
    assert where == {"engine/distributed/workers.py", "bench/memory.py"}
    assert "trust_remote_code=True" not in "".join(p.read_text("utf-8") for p in loads)
