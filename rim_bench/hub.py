"""Where the files of pretrained weights lie on this machine, fetching them once where a hub can be reached."""

from __future__ import annotations

import json
import os
import socket
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rim_bench.catalog import weight_hashes
from rim_bench.errors import UsageError

WAIT = 3.0  # seconds until a hub that does not answer counts as unreachable
WANTED = ["*.json", "*.safetensors", "*.txt", "*.model"]
UNWANTED = ["onnx/*", "original/*"]


def locate(spec: Mapping[str, Any]) -> Path:
    """The folder with the weights of a "hub" or "path" backbone.

    Raises:
        UsageError: weight files that changed since the spec was made, or a hub model that is neither stored here nor to be had.
    """
    if spec["kind"] == "hub":
        return _from_hub(str(spec["hub"]), spec.get("revision"))
    folder = Path(spec["path"])
    if weight_hashes(folder) != spec["weights"]:
        raise UsageError(f"the weights in {str(folder)!r} changed since the run was made: put the old files back, or start a new run")
    return folder


def stored_here(name: str, revision: str | None = None) -> Path | None:
    """The folder of a hub model that was fetched before, with all it takes to load it; None where there is none. Fetches nothing."""
    import huggingface_hub as hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(hub.snapshot_download(name, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, FileNotFoundError, ValueError):
        return None
    return folder if _complete(folder) else None


def _from_hub(name: str, revision: str | None) -> Path:
    import huggingface_hub as hub
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    way_out = "download it elsewhere and give the folder's path instead of the name"
    if (found := stored_here(name, revision)) is not None:
        return found
    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise UsageError(f"{name} is not stored on this machine and HF_HUB_OFFLINE is set: unset it, or {way_out}")
    endpoint = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    if not _answers(endpoint):
        raise UsageError(f"{name} is not stored on this machine and the hub {endpoint} cannot be reached: {way_out}")
    try:
        folder = Path(hub.snapshot_download(name, revision=revision, allow_patterns=WANTED, ignore_patterns=UNWANTED, endpoint=endpoint))
    except GatedRepoError:
        raise UsageError(
            f"{name} is gated: accept its licence on {endpoint}/{name} and log in with `hf auth login`, or {way_out}"
        ) from None
    except RepositoryNotFoundError:
        raise UsageError(f"{endpoint} has no model {name!r}: check the id's spelling, or give a folder's path") from None
    except (HfHubHTTPError, OSError) as error:
        raise UsageError(f"{name} could not be fetched from {endpoint} ({type(error).__name__}): try again, or {way_out}") from error
    if not _complete(folder):
        raise UsageError(f"{name} has no config.json with *.safetensors and tokenizer.json: only such models are supported")
    return folder


def _complete(folder: Path) -> bool:
    """Whether model and tokenizer can be loaded from the folder alone."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        weights = all((folder / shard).is_file() for shard in shards)
    else:
        weights = any(folder.glob("*.safetensors"))
    return weights and (folder / "config.json").is_file() and (folder / "tokenizer.json").is_file()


def _answers(endpoint: str) -> bool:
    """Whether the endpoint, or the proxy that leads to it, takes a connection; huggingface_hub itself retries for half a minute."""
    url = urlsplit(endpoint)
    proxy = urllib.request.getproxies().get(url.scheme)
    if proxy and not urllib.request.proxy_bypass(url.hostname or ""):
        url = urlsplit(proxy if "//" in proxy else f"//{proxy}", scheme=url.scheme)
    try:
        with socket.create_connection((url.hostname or "", url.port or (443 if url.scheme == "https" else 80)), timeout=WAIT):
            return True
    except OSError:
        return False
