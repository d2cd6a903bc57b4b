"""A trained model as one thing: backbone, method and bridges, saved to and loaded from a run's `model/` folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from rim_bench.engine.backbone import Backbone
from rim_bench.engine.execution import ALONE, ExecutionContext
from rim_bench.engine.packing import PackedModel
from rim_bench.methods.method import Example, Method
from rim_bench.methods.own_methods import bridges_of
from rim_bench.methods.registry import method_of
from rim_bench.storage.records import RunSpec
from rim_bench.util.errors import UsageError
from rim_bench.util.files import write_json_atomic
from rim_bench.util.progress import phase
from rim_bench.util.strict_json import parse_json

if TYPE_CHECKING:
    from rim_bench.storage.run_folder import Run

BRIDGES = "bridges.safetensors"
SHOWN = "shown.json"


@dataclass(frozen=True)
class TrainedModel:
    """What evaluation needs of a run."""

    backbone: Backbone
    method: Method
    bridges: nn.ModuleDict
    spec: RunSpec
    execution: ExecutionContext = ALONE  # what its evaluations share their work and machine with
    shown: tuple[Example, ...] = ()  # training examples that every prompt shows before the question

    @property
    def workspace(self) -> PackedModel:
        return PackedModel(self.backbone, self.bridges)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the weights that `save` writes: of LoRA the adapter and the markers' rows."""
        spec = self.backbone.spec
        weights = [p for p in self.backbone.model.parameters() if p.requires_grad or spec["tuning"] == "full"]
        return sum(p.nbytes for p in (*weights, *self.bridges.parameters()))

    def question(self, text: str) -> tuple[int, ...]:
        """The tokens that the method's prompt takes as its question: the text as in training, or the conversation.

        Raises:
            UsageError: a chat template that fails.
        """
        if turns := self.method.conversation(text, self.shown):
            return self.backbone.encode_conversation(turns)
        return self.backbone.encode_question(text)

    def save(self, folder: Path) -> None:
        """Write the backbone, the bridges and the shown examples."""
        self.backbone.save(folder)
        if self.shown:
            write_json_atomic(folder / SHOWN, [asdict(example) for example in self.shown])
        state = {k: v.detach().cpu().contiguous() for k, v in self.bridges.state_dict().items()}
        if state:
            save_file(state, str(folder / BRIDGES))


def build_bridges(method: Method, backbone: Backbone, seed: int) -> nn.ModuleDict:
    """The method's bridges with seeded weights, on the backbone's device; the global random state is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        bridges = bridges_of(method, backbone.width)
    return (bridges if bridges is not None else nn.ModuleDict()).to(backbone.device)


@phase("loading a trained run")
def load_trained(
    run: Run,
    *,
    device: str | torch.device = "cpu",
    attention: str = "sdpa",
    folder: Path | None = None,
    execution: ExecutionContext = ALONE,
) -> TrainedModel:
    """A finished run's model, its weights verified; or a candidate of the run in `folder`, which the caller verified.

    It computes in the type that it was trained in, whatever the device.

    Raises:
        UsageError: the run is not trained, or its model folder is damaged.
    """
    folder = run.model_path() if folder is None else folder
    method = method_of(run.spec.method)
    backbone = Backbone.load(folder, device=device, attention=attention, dtype=run.spec.dtype)
    bridges = build_bridges(method, backbone, 0)
    file = folder / BRIDGES
    try:
        state = load_file(str(file)) if file.is_file() else {}
    except (OSError, SafetensorError, ValueError) as error:
        raise UsageError(f"{str(file)!r} cannot be read: {error}") from None
    own = {name: (value.shape, value.dtype) for name, value in bridges.state_dict().items()}
    if {name: (value.shape, value.dtype) for name, value in state.items()} != own:
        raise UsageError(
            f"{folder} holds other bridge modules than method {method.name!r} has: was its file changed since training?"
        )
    if not all(bool(torch.isfinite(value).all()) for value in state.values()):
        raise UsageError(f"{str(file)!r} holds numbers that are not finite: train the run again")
    bridges.load_state_dict(state)
    backbone.model.eval()
    return TrainedModel(backbone, method, bridges.eval(), run.spec, execution, _shown_examples(folder))


def _shown_examples(folder: Path) -> tuple[Example, ...]:
    """The examples that the prompts of a run show. Raises UsageError where their file is damaged."""
    file = folder / SHOWN
    try:
        rows: list[dict[str, Any]] = parse_json(file.read_text("utf-8")) if file.is_file() else []
        for row in rows:
            row |= {name: tuple(row[name]) for name in ("steps", "choices")}
        return tuple(Example(**row) for row in rows)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{str(file)!r} is damaged: {error}") from None
