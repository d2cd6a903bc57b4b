"""What a process does that does not lead: it waits for jobs and does them, until the leader sends it home."""

from __future__ import annotations

import logging
import signal
from typing import Any

import torch
from torch import nn

from rim_bench.engine import attention
from rim_bench.engine.backbone import Backbone
from rim_bench.engine.distributed.trainer import TrainerReplica
from rim_bench.engine.distributed.workers import QUIT, WorkerGroup
from rim_bench.engine.trained_model import TrainedModel, method_of
from rim_bench.evaluate.distributed import do_share
from rim_bench.methods.layout import Layout


def follow(team: WorkerGroup) -> None:
    """Do the leader's jobs. An error in a training job is raised: the launcher then ends all processes."""
    logging.getLogger().setLevel(logging.ERROR)  # the leader says everything once
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the leader hears of it too, and sends the others home
    attention.register()  # models come ready made, and look their kernel up by its name
    follower = Follower(team)
    while True:
        name, *arguments = team.hand_out()
        if name == QUIT:
            torch.distributed.destroy_process_group()
            return
        getattr(follower, name)(*arguments)


class Follower:
    """The jobs, by name."""

    def __init__(self, team: WorkerGroup) -> None:
        self.team = team
        self.replica: TrainerReplica | None = None  # of the training run that goes on
        self.loaded: TrainedModel | None = None  # what is evaluated

    def train(self, device: str) -> None:
        """A training run begins."""
        self.loaded = None
        self.replica = TrainerReplica(self.team, *self.team.give(device=_own(device)))

    def step(self, micros: list[list[Any]], counts: dict[str, float], lr: float) -> None:
        """This process's rows of an optimizer step, as segments."""
        self._training.step([[Layout(segments) for segments in micro] for micro in micros], counts, lr)

    def reset(self) -> None:
        self._training.reset()

    def dropout(self, added: float) -> None:
        self._training.dropout(added)

    def settle(self) -> None:
        self._training.settle()

    def state(self) -> None:
        self._training.state()

    def end(self) -> None:
        """The training run is over, or broken off."""
        self.replica = None

    def load(self, device: str) -> None:
        """A model to evaluate."""
        self.loaded = None
        self.loaded = self._trained(*self.team.give(device=_own(device)))

    def evaluate(self, spec: dict[str, Any] | None, share: Any) -> None:
        """Questions to the model being trained, whose `spec` is given, or to the one that was loaded."""
        trained = self.loaded if spec is None else self._trained(self._training.backbone, self._training.bridges, spec)
        assert trained is not None, "no model was sent before its questions"
        do_share(self.team, trained, share)

    @property
    def _training(self) -> TrainerReplica:
        assert self.replica is not None, "no training run goes on"
        return self.replica

    @staticmethod
    def _trained(backbone: Backbone, bridges: nn.ModuleDict, spec: dict[str, Any]) -> TrainedModel:
        return TrainedModel(backbone, method_of(spec), bridges, spec)


def _own(device: str) -> torch.device:
    """This process's device of that type: the GPU that it was given when it joined."""
    return torch.device("cuda", torch.cuda.current_device()) if device == "cuda" else torch.device(device)
