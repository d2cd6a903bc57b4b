"""Which points of a method's search space are tried: the recipe's own first, then quasi-random ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rim_bench.methods.method import Method, SearchRange

OF_THE_PLAN = ("lr", "weight_decay")  # settings that are numbers of the optimizer; all others are fields of the method


def quasi_random_points(ranges: Sequence[SearchRange], count: int) -> list[dict[str, float]]:
    """Values by setting at `count` points that fill the space evenly: a scrambled Halton sequence (scipy.stats.qmc) of
    seed 0, so that spaces of as many ranges get the same points, each on its own scale.
    """
    from scipy.stats import qmc

    shares = qmc.Halton(len(ranges), scramble=True, seed=0).random(count)
    return [{r.name: r.at(float(share)) for r, share in zip(ranges, point, strict=True)} for point in shares]


def points_to_try(method: Method, recipe: Mapping[str, float], common_lr: float, count: int) -> list[dict[str, float]]:
    """`count` points of a method's space: what the recipe has, then quasi-random ones.

    Args:
        recipe: the recipe's `lr` and `weight_decay` for this method.
        common_lr: the rate that the recipe has for every method, which the range of `lr` is multiples of.
    """
    ranges = method.search_space()
    own = {r.name: recipe[r.name] if r.name in OF_THE_PLAN else float(getattr(method, r.name)) for r in ranges}
    drawn = quasi_random_points(ranges, count - 1) if count > 1 else []
    for point in drawn:
        point["lr"] = float(f"{point['lr'] * common_lr:.3g}")
    return [own, *drawn]


def inner_ranges(method: Method, common_lr: float) -> dict[str, tuple[float, float]]:
    """Of each setting the range without its outer tenths: a value that is not inside lies near an end, or beyond it."""
    units = {"lr": common_lr}
    return {
        r.name: (r.at(0.1) * units.get(r.name, 1.0), r.at(0.9) * units.get(r.name, 1.0)) for r in method.search_space()
    }
