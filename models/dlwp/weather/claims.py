"""Claims on weather as checks over a study's rows: on the generated atmosphere, what carries over from the paper's ranking.

The paper's own tables of weather scores are not in its code, and its data are ERA5: what is claimed here is that a model which
knows the sphere forecasts a flow on the sphere best at equal size, as the paper has it for longer leads.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from models.dlwp.comparing import all_below, below_reference, below_rival
from results.claims import Claim, Row, Verdict

SEEDS = 3
LEADS = {"1d": 24, "3d": 72}


def _metric(hours: int) -> str:
    return f"rmse_z500_{hours}h_squared"


def ahead(rows: Sequence[Row], *, rivals: Sequence[str], size: str, hours: int) -> Verdict:
    """SFNO's z500 RMSE over each rival's at a lead; the largest ratio decides."""
    found = {
        rival: below_rival(rows, variant="sfno", rival=rival, size=size, bound=1.0, metric=_metric(hours), seeds=SEEDS)
        for rival in rivals
    }
    return all_below(found, 1.0, f"z500 RMSE of SFNO {size} / {', '.join(rivals)} at {hours} h")


def _claim(name: str, statement: str, check: partial[Verdict]) -> Claim:
    return Claim(name=name, statement=statement, source="arXiv 2407.14129, weather experiments", check=check, scales=("small",))


CLAIMS = (
    _claim(
        "sfno-beats-persistence",
        "SFNO at 150k parameters has less than 0.75 times the z500 RMSE of persistence at one day.",
        partial(
            below_reference,
            variant="sfno",
            size="150k",
            bound=0.75,
            metric=_metric(24),
            reference=f"persistence_{_metric(24)}",
            seeds=SEEDS,
        ),
    ),
    *(
        _claim(
            f"sfno-ahead-{label}",
            f"SFNO has a lower z500 RMSE than FNO2D and U-Net at {hours // 24} d, all at 150k parameters.",
            partial(ahead, rivals=("fno2d", "unet"), size="150k", hours=hours),
        )
        for label, hours in LEADS.items()
    ),
)
