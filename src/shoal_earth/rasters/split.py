"""Split scenes into regions for training, validation and test that share no pixel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from shoal.errors import UsageError

__all__ = ["SPLITS", "assign", "deal", "parse_shares"]

SPLITS = ("train", "val", "test")


def assign(weights: Sequence[float], shares: Mapping[str, float], seed: int) -> list[str]:
    """Give each region to a split, so that each split gets its share of the foreground and of the area.

    Regions are dealt from the one with most foreground down, each to the split that is furthest behind its share; regions
    without any are then dealt by number.

    Args:
        weights: foreground of each region, in pixels.
        shares: split to its share; they are scaled to sum to 1.
        seed: shuffles regions of similar weight, and those that are empty.
    """
    total = sum(shares.values())
    names = [name for name in SPLITS if shares.get(name, 0) > 0]
    wanted = {name: shares[name] / total for name in names}
    rng = np.random.default_rng(seed)
    shuffled = [int(i) for i in rng.permutation(len(weights))]
    # Regions within a factor of about 1.5 count as alike, so that the seed has something to decide.
    ranked = sorted(shuffled, key=lambda i: -round(np.log(weights[i]) / 0.4) if weights[i] > 0 else np.inf)
    got, held = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
    result = [""] * len(weights)
    foreground = sum(weights) or 1.0
    for done, index in enumerate(ranked):
        if weights[index] > 0:
            chosen = max(names, key=lambda n: wanted[n] - got[n] / foreground)
        else:
            chosen = max(names, key=lambda n: wanted[n] * (done + 1) - held[n])
        got[chosen] += weights[index]
        held[chosen] += 1
        result[index] = chosen
    return result


def deal(weights: Mapping[str, float], shares: Sequence[float], seed: int) -> dict[str, str]:
    """The split of each group, by :func:`assign`; where there are enough groups, no split with a share stays empty.

    Args:
        weights: group to its foreground, in pixels.
        shares: of training, validation and test.
        seed: as in :func:`assign`.
    """
    groups = sorted(weights)
    wanted = dict(zip(SPLITS, shares, strict=True))
    given = dict(zip(groups, assign([weights[group] for group in groups], wanted, seed), strict=True))
    # With few groups a small share may round to none: the split that has most gives its lightest.
    for split in (name for name, share in wanted.items() if share > 0 and name not in given.values()):
        counts = Counter(given.values())
        largest = max(SPLITS, key=lambda name: counts[name])
        if counts[largest] > 1:
            given[min((weights[group], group) for group in groups if given[group] == largest)[1]] = split
    return given


def parse_shares(text: str, option: str = "--shares") -> tuple[float, float, float]:
    """Shares of training, validation and test from ``0.6,0.2,0.2``, as an option of the command line gives them.

    Raises:
        UsageError: these are not three numbers, or training gets nothing.
    """
    try:
        one, two, three = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f'{option} needs three numbers such as 0.6,0.2,0.2, not "{text}"') from None
    if min(one, two, three) < 0 or one <= 0:
        raise UsageError("the split needs three shares (training, validation, test), and training must have one")
    return one, two, three
