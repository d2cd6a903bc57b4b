"""What a method that is not shipped must be, tried before anything trains, and where in its file a fault lies."""

from __future__ import annotations

import inspect
import json
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from rim_bench.methods.layout import Layout, Segment
from rim_bench.methods.method import Auxiliary, Encoded, Example, Marker, Method, Stage, Turn
from rim_bench.util.errors import UsageError, own_line

if TYPE_CHECKING:
    from torch import nn

ARGUMENTS = {  # of each hook, by position: all numbers that it is called with
    "transform": (2,),
    "shown": (1,),
    "conversation": (2,),
    "markers": (0,),
    "stages": (0,),
    "lay_train": (4,),
    "lay_prompt": (1, 2),
    "lay_probe": (2,),
    "lay_split": (2,),
    "bridges": (1,),
    "auxiliary": (1,),
    "settings": (0,),
}
MOMENTS = (0.0, 0.5, math.nextafter(1.0, 0.0))  # of a stage's progress


def is_own(cls: type[Method]) -> bool:
    """Whether a method is somebody's own and not shipped with this package."""
    return not cls.__module__.startswith("rim_bench.")


@contextmanager
def in_own_code(where: str, doing: str) -> Iterator[None]:
    """Turns whatever code of one's own raises, `sys.exit` too, into a sentence with its file and line.

    Args:
        where: what is said of the place where no line of the code is to blame.
    """
    try:
        yield
    except (UsageError, KeyboardInterrupt):
        raise
    except BaseException as error:
        place = own_line(error) or where
        if isinstance(error, SyntaxError) and error.filename and error.lineno:
            place = f"method file {error.filename!r}, line {error.lineno}"
        said = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
        raise UsageError(f"{place}: {doing}: {type(error).__name__}{': ' if said else ''}{said}") from error


def class_place(cls: type[Method]) -> str:
    """File and line of a method's class."""
    try:
        return f"method file {inspect.getfile(cls)!r}, line {inspect.getsourcelines(cls)[1]}"
    except (OSError, TypeError):  # no file, or not the one that it was read from
        return f"method {cls.name!r} of module {cls.__module__}"


class OwnCode:
    """A method of one's own, and where its code lies."""

    def __init__(self, method: Method) -> None:
        self.method, self.cls, self.name = method, type(method), method.name

    def place(self, hook: str | None = None) -> str:
        """File and line of a hook, or of the class where it does not define the hook itself."""
        code = getattr(vars(self.cls).get(hook or ""), "__code__", None)
        return (
            class_place(self.cls) if code is None else f"method file {code.co_filename!r}, line {code.co_firstlineno}"
        )

    def wrong(self, hook: str | None, problem: str) -> UsageError:
        """The error for what a hook, or the class, does wrong."""
        return UsageError(f"{self.place(hook)}: {self.name}{f'.{hook}' if hook else ''} {problem}")

    def calling(self, hook: str) -> AbstractContextManager[None]:
        """A context in which a hook is called."""
        return in_own_code(self.place(hook), f"{self.name}.{hook} failed")


class Checked(OwnCode):
    """A method of one's own, whose hooks are called as a run calls them; what they return is looked at.

    Raises:
        UsageError: anything that a run could not go on with: one sentence with file and line.
    """

    def __init__(self, method: Method) -> None:
        super().__init__(method)
        self._check_class()
        for hook, counts in ARGUMENTS.items():
            self._check_signature(hook, counts)
        self.markers = self._markers()
        self.stages = () if method.trains == "nothing" else self._stages()
        with self.calling("settings"):
            settings = json.dumps(method.settings(), allow_nan=False)
        if not settings.startswith("{"):
            raise self.wrong("settings", "must return the fields as a dictionary")

    def _check_class(self) -> None:
        cls, method = self.cls, self.method
        annotated = [name for name, kind in inspect.get_annotations(cls).items() if "ClassVar" not in str(kind)]
        if annotated and "__dataclass_fields__" not in vars(cls):
            raise self.wrong(None, f"has the field {annotated[0]!r} and no @dataclass(frozen=True) above the class")
        for attribute, kinds, called in (
            ("summary", (str,), "text"),
            ("effort_field", (str, type(None)), "the name of a field, or None"),
            ("writes_steps", (bool,), "True or False"),
            ("adapter_of", (str, type(None)), "the name of a method, or None"),
        ):
            if not isinstance(value := getattr(cls, attribute), kinds):
                raise self.wrong(None, f"has {attribute} = {value!r}, which must be {called}")
        if cls.trains not in ("all", "markers", "nothing"):
            raise self.wrong(None, f"has trains = {cls.trains!r}, which must be 'all', 'markers' or 'nothing'")
        for hook in () if cls.trains == "nothing" else ("shown", "conversation"):
            if getattr(cls, hook) is not getattr(Method, hook):  # else it would be asked what training never shows
                raise self.wrong(hook, "is for a method that trains nothing (trains = 'nothing')")
        if not isinstance(cls.until, tuple) or not all(isinstance(text, str) and text for text in cls.until):
            raise self.wrong(None, f"has until = {cls.until!r}, which must be a tuple of texts")
        if type(cls.room) is not int or cls.room < 0:
            raise self.wrong(None, f"has room = {cls.room!r}, which must be a whole number of at least 0")
        field = cls.effort_field
        if field is not None and not isinstance(getattr(method, field, None), int):
            raise self.wrong(None, f"has effort_field = {field!r}, and no field of that name that is a whole number")
        for hook in ("lay_prompt",) if cls.trains == "nothing" else ("lay_prompt", "lay_train"):
            if getattr(cls, hook) is getattr(Method, hook):
                raise self.wrong(None, f"does not define {hook}, which every method needs")

    def _check_signature(self, hook: str, counts: Sequence[int]) -> None:
        if getattr(self.cls, hook) is (usual := getattr(Method, hook)):
            return
        with self.calling(hook):
            function = getattr(self.method, hook)
            signature = inspect.signature(function)
        wanted = ", ".join(list(inspect.signature(usual).parameters)[1:])
        for count in counts:
            try:
                signature.bind(*range(count))
            except TypeError:
                names = ", ".join(signature.parameters)
                raise self.wrong(hook, f"takes ({names}), and is called with ({wanted})") from None

    # what hooks return

    def _markers(self) -> frozenset[str]:
        with self.calling("markers"):
            markers = self.method.markers()
        if not _all(markers, Marker):
            raise self.wrong("markers", f"returns {_called(markers, Marker)}: a tuple of Marker is needed")
        for marker in markers:
            if not isinstance(marker.name, str) or not marker.name:
                raise self.wrong("markers", f"returns a marker whose name is {marker.name!r}, which must be text")
            if not isinstance(marker.like, str | None):
                raise self.wrong("markers", f"returns marker {marker.name!r} with like = {marker.like!r}, no text")
        if markers and self.method.trains == "nothing":
            raise self.wrong("markers", "returns new tokens, which nothing would train")
        names = [marker.name for marker in markers]
        if len(set(names)) < len(names):
            raise self.wrong("markers", "returns two markers of one name")
        return frozenset(names)

    def _stages(self) -> Sequence[Stage]:
        with self.calling("stages"):
            stages = self.method.stages()
        if not _all(stages, Stage) or not stages:
            raise self.wrong("stages", f"returns {_called(stages, Stage)}: a tuple of at least one Stage is needed")
        for stage in stages:
            fitting = {
                "share": _number(stage.share) and stage.share >= 0,
                "lr_scale": _number(stage.lr_scale) and stage.lr_scale > 0,
                "dropout": _number(stage.dropout) and 0 <= stage.dropout < 1,
                "name": isinstance(stage.name, str),
                "given_by": isinstance(stage.given_by, str | None),
            }
            if (bad := next((name for name, fits in fitting.items() if not fits), None)) is not None:
                value = getattr(stage, bad)
                raise self.wrong("stages", f"returns stage {stage.name!r} with {bad} = {value!r}, which cannot be")
        return stages

    def transformed(self, rows: Sequence[Example], seed: int) -> Sequence[Example]:
        """The training examples as the method takes them."""
        with self.calling("transform"):
            examples = self.method.transform(rows, seed)
        if not _all(examples, Example) or not examples:
            raise self.wrong("transform", f"returns {_called(examples, Example)}: at least one Example is needed")
        for e in () if examples is rows else examples:
            texts = (e.id, e.question, e.answer, *(e.steps if isinstance(e.steps, tuple) else (None,)))
            if not all(isinstance(text, str) for text in texts) or not e.question:
                raise self.wrong("transform", f"returns example {e.id!r} with a field that is not of its type")
        return examples

    def check_conversation(self, rows: Sequence[Example]) -> None:
        """Asks the first question as the method does, where it is one that trains nothing."""
        with self.calling("shown"):
            shown = self.method.shown(rows)
        if len(shown) and not _all(shown, Example):
            raise self.wrong("shown", f"returns {_called(shown, Example)}: a tuple of Example is needed")
        with self.calling("conversation"):
            turns = self.method.conversation(rows[0].question, shown)
        sound = isinstance(turns, tuple) and all(
            isinstance(t, Turn) and t.role in ("user", "assistant") and isinstance(t.text, str) for t in turns
        )
        if not sound or (turns and turns[-1].role != "user"):
            raise self.wrong("conversation", f"returns {turns!r}: Turns of user and assistant are needed, user's last")

    def check_layouts(self, examples: Iterable[Encoded]) -> None:
        """Lays out examples for training at three moments of every stage, and their questions as prompts."""
        for example in examples:
            for stage in self.stages:
                for progress in MOMENTS:
                    with self.calling("lay_train"):
                        layout = self.method.lay_train(example, stage, progress, random.Random(0))
                    self.check_layout("lay_train", layout)
                    if not layout.labels:
                        raise self.wrong("lay_train", f"gives no token a loss (stage {stage.name!r})")
            for hook in ("lay_prompt", "lay_probe", "lay_split"):
                with self.calling(hook):
                    prompt = getattr(self.method, hook)(example.question, None)
                if prompt is None and hook != "lay_prompt":
                    continue
                self.check_layout(hook, prompt)
                if not prompt.resume:
                    raise self.wrong(hook, "returns a layout without `resume`: nothing says where the answer begins")

    def check_layout(self, hook: str, layout: Any) -> None:
        """Refuses what is no tree of segments whose tokens are ids and the method's markers."""
        if not isinstance(layout, Layout):
            raise self.wrong(hook, f"returns {_called(layout, Layout)}: a Layout is needed")
        for segment in layout.segments:
            if not isinstance(segment, Segment):
                raise self.wrong(hook, f"returns a layout with {_called(segment, Segment)} in place of a Segment")
            if (problem := self._problem(segment)) is not None:
                raise self.wrong(hook, f"returns segment {segment.name!r} with {problem}")

    def _problem(self, s: Segment) -> str | None:
        if not isinstance(s.name, str) or not isinstance(s.group, str) or not isinstance(s.bridge, str | None):
            return "a name, group or bridge that is no text"
        if not isinstance(s.tokens, tuple) or type(s.slots) is not int:
            return "tokens that are no tuple, or slots that are no whole number"
        if not _number(s.weight) or s.weight < 0:
            return f"weight = {s.weight!r}, which must be a number of at least 0"
        for token in s.tokens:
            if isinstance(token, str) and token not in self.markers:
                return f"token {token!r}, which markers() does not have"
            if not isinstance(token, str) and (type(token) is not int or token < 0):
                return f"token {token!r}, which must be an id or the name of a marker"
        return None


def check_rows_of(method: Method, rows: Sequence[Example], seed: int = 0) -> None:
    """Tries one's own method on the training rows: the shortest and the longest question of every number of steps.

    Tokens are the bytes of the texts: the model with its tokenizer need not be there.
    """
    if not is_own(type(method)):
        return
    checked = Checked(method)
    chosen: dict[tuple[int, bool], Example] = {}
    for example in sorted(checked.transformed(rows, seed), key=lambda e: len(e.question)):
        chosen.setdefault((len(example.steps), False), example)
        chosen[len(example.steps), True] = example
    checked.check_conversation(rows)
    checked.check_layouts(map(_as_bytes, {id(e): e for e in chosen.values()}.values()))


def bridges_of(method: Method, width: int) -> nn.ModuleDict | None:
    """The method's bridges at this width of the model, or None.

    Raises:
        UsageError: one's own method that fails, or returns something else.
    """
    if not is_own(type(method)):
        return method.bridges(width)
    own = OwnCode(method)
    with own.calling("bridges"):
        bridges = method.bridges(width)
    if bridges is not None and type(bridges).__name__ != "ModuleDict":  # by name: torch is not imported here
        raise own.wrong("bridges", f"returns {_called(bridges, Method)}: a torch.nn.ModuleDict or None is needed")
    return bridges


def auxiliary_of(method: Method, width: int) -> Auxiliary | None:
    """The method's auxiliary loss at this width of the model, or None. Raises UsageError for one's own that fails."""
    if not is_own(type(method)):
        return method.auxiliary(width)
    with OwnCode(method).calling("auxiliary"):
        return method.auxiliary(width)


def _as_bytes(e: Example) -> Encoded:
    question, answer = tuple(f"{e.question}\n".encode()), (*f"#### {e.answer}".encode(), 0)
    return Encoded(e.id, question, tuple(tuple(f"{step}\n".encode()) for step in e.steps), answer)


def _all(values: Any, kind: type) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, str) and all(isinstance(v, kind) for v in values)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _called(value: Any, kind: type) -> str:
    """What a value is, in the place of one or several of a kind."""
    if isinstance(value, list | tuple):
        return "nothing" if not value else next(_called(v, kind) for v in value if not isinstance(v, kind)) + " in it"
    return "None" if value is None else f"{value!r} ({type(value).__name__})"
