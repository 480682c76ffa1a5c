"""Claims of Karlbauer et al. 2024 on Navier-Stokes as checks over a study's rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from models.dlwp.comparing import all_below, arm, below_reference, below_rival, best_everywhere, budget, saturates
from results.claims import Claim, Row, Verdict

__all__ = ["CLAIMS", "arm"]

#: Backbones of the paper that this system has besides FNO2D. The Tucker-factorised TFNO2D is FNO2D's own family, and the
#: paper's experiment has no row of it.
RIVALS = ("unet", "convlstm", "fourcastnet", "swin", "fno3d", "tfno3d", "ms_meshgraphnet")
#: Those that every study of the claim has.
CORE_RIVALS = 3


def swin_second(rows: Sequence[Row], *, first: str = "fno2d", from_size: str = "1M") -> Verdict:
    """Swin below every rival but FNO2D from a size on."""
    sizes = sorted(
        {row["size"] for row in rows if row["variant"] == "swin" and budget(row["size"]) >= budget(from_size)}, key=budget
    )
    rivals = [name for name in (*RIVALS, "swin") if name not in ("swin", first)]
    found = {
        f"{rival} at {size}": below_rival(rows, variant="swin", rival=rival, size=size, bound=1.0)
        for size in sizes
        for rival in rivals
        if arm(rows, rival, size)
    }
    return all_below(found, 1.0, f"Swin from {from_size} on") if found else Verdict.unknown(f"no run of Swin from {from_size} on")


def convlstm_unstable(rows: Sequence[Row], *, stable: str = "1M", unstable: Sequence[str] = ("2M", "4M")) -> Verdict:
    """The least ratio of ConvLSTM's error at larger sizes to that at the last stable one, against twice it."""
    from results.stats import bootstrap_ratio

    base = [
        row["samples"]["rmse_squared"] for row in arm(rows, "convlstm", stable) if "rmse_squared" in (row.get("samples") or {})
    ]
    ratios = {}
    for size in unstable:
        large = [
            row["samples"]["rmse_squared"] for row in arm(rows, "convlstm", size) if "rmse_squared" in (row.get("samples") or {})
        ]
        if len(base) >= 2 and len(large) >= 2:
            ratios[size] = bootstrap_ratio(large, base)
    if not ratios:
        return Verdict.unknown(f"ConvLSTM needs two seeds at {stable} and at one of {', '.join(unstable)}")
    size, found = min(ratios.items(), key=lambda item: item[1].effect)
    return Verdict.above(found.effect, found.low, found.high, 2.0, f"RMSE of ConvLSTM {size} / {stable}")


def _claim(
    name: str, statement: str, check: Callable[[Sequence[Row]], Verdict], scales: tuple[str, ...] = ("small", "paper")
) -> Claim:
    return Claim(name=name, statement=statement, source="arXiv 2407.14129, Navier-Stokes experiments", check=check, scales=scales)


_FNO = partial(below_rival, variant="fno2d", size="50k", bound=0.8)

CLAIMS = (
    _claim(
        "fno2d-beats-persistence",
        "FNO2D at 50k parameters has less than 0.6 times the closed-loop RMSE of persistence.",
        partial(below_reference, variant="fno2d", size="50k", bound=0.6),
    ),
    _claim(
        "fno2d-beats-unet",
        "FNO2D has less than 0.8 times the closed-loop RMSE of U-Net, both at 50k parameters.",
        partial(_FNO, rival="unet"),
    ),
    _claim(
        "fno2d-beats-fourcastnet",
        "FNO2D has less than 0.8 times the closed-loop RMSE of FourCastNet, both at 50k parameters.",
        partial(_FNO, rival="fourcastnet"),
    ),
    _claim(
        "fno2d-best-at-every-size",
        "FNO2D (published as TFNO2D) has the lowest closed-loop RMSE of the published backbones at every common size.",
        partial(best_everywhere, variant="fno2d", rivals=RIVALS, least=CORE_RIVALS),
    ),
    _claim(
        "fno2d-saturates",
        "Every backbone saturates: the error of FNO2D stops following a power law in its parameters.",
        partial(saturates, variant="fno2d"),
    ),
    _claim("swin-second", "From 1M parameters on, Swin has the second lowest closed-loop RMSE.", swin_second, ("paper",)),
    _claim(
        "convlstm-unstable",
        "Above 1M parameters ConvLSTM no longer trains: its error is more than twice that at 1M.",
        convlstm_unstable,
        ("paper",),
    ),
)
