"""Reading the balance set with an annotator; activations are kept between fits, as every report shows its figures."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from workers.directions.balance import DATA, balance
from workers.directions.direction import SafetyDirection
from workers.engine.annotator import Annotator
from workers.engine.errors import PairRefused
from workers.engine.forward import read_all
from workers.engine.sites import Site


def balance_margins(
    annotator: Annotator,
    direction: SafetyDirection,
    cache: Path | None,
    candidates: Sequence[Site] = (),
    progress: Callable[[int], None] = lambda _done: None,
) -> tuple[Tensor, Tensor]:
    """Raw margins [m] of the pairs of the balance set that fit the annotator's window, and their [m] places in it.

    Args:
        annotator: reads them.
        direction: what they are projected on.
        cache: where activations are kept.
        candidates: sites to read and keep as well, so that the next direction of a choice of them is read at once.
        progress: told how many pairs are read, where they are not kept; may raise to end it.
    """
    sites = tuple(dict.fromkeys([*candidates, *direction.reads]))
    everywhere, places = _activations(annotator, sites, cache, progress)
    activations = everywhere[:, :, [sites.index(site) for site in direction.reads]]
    scores = direction.scores(activations.flatten(0, 1)).view(-1, 2)
    return scores[:, 0] - scores[:, 1], places


def _activations(
    annotator: Annotator, sites: tuple[Site, ...], cache: Path | None, progress: Callable[[int], None]
) -> tuple[Tensor, Tensor]:
    """[m, 2, S, d] activations of chosen and rejected, and [m] places."""
    path = None if cache is None else cache / f"balance-{_key(annotator, sites)}.safetensors"
    if path is not None:
        with suppress(OSError, SafetensorError, KeyError):
            kept = load_file(path)
            return kept["activations"], kept["places"]
    groups, places = [], []
    for place, pair in enumerate(balance().pairs):
        with suppress(PairRefused):
            groups.append(annotator.template.encode(pair.messages, [pair.chosen, pair.rejected]))
            places.append(place)
    readings = read_all(annotator, groups, sites, progress)
    activations = torch.stack(readings) if readings else torch.zeros(0, 2, len(sites), annotator.width)
    found = activations, torch.tensor(places, dtype=torch.long)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(f".{os.getpid()}.part")
        save_file({"activations": found[0], "places": found[1]}, scratch)
        scratch.replace(path)
    return found


def _key(annotator: Annotator, sites: tuple[Site, ...]) -> str:
    data = hashlib.sha256(DATA.read_bytes()).hexdigest()
    places = [(site.layer, site.pooling) for site in sites]
    what = [annotator.revision, annotator.template.digest, annotator.dtype_name, data, places]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:24]
