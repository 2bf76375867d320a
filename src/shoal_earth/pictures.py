"""Pictures of answers for the report: which samples to show, and in what colours."""

from __future__ import annotations

__all__ = ["COLOURS", "LEGEND", "choose"]

# Okabe and Ito's palette, told apart by colour-blind readers too.
COLOURS = {"hit": (0, 158, 115), "false": (230, 159, 0), "missed": (204, 85, 167), "truth": (86, 180, 233)}

LEGEND = {
    what: "#{:02x}{:02x}{:02x}".format(*COLOURS[name])
    for what, name in (("truth", "truth"), ("found", "hit"), ("missed", "missed"), ("wrong", "false"))
}
"""What the report's page says of these colours."""


def choose(shares: list[float], count: int = 6) -> list[int]:
    """Which chips to show: spread evenly from the one with most foreground down to those with a fifth of that.

    Depends on the chips alone, so that every model shows the same ones.
    """
    least = max(max(shares, default=0.0) / 5, 1e-9)
    ranked = sorted((i for i, share in enumerate(shares) if share >= least), key=lambda i: (-shares[i], i))
    ranked = ranked or list(range(len(shares)))
    if len(ranked) <= count or count < 2:
        return ranked[: max(count, 0)]
    return [ranked[round(n * (len(ranked) - 1) / (count - 1))] for n in range(count)]
