"""Privacy claims of a stored run, as an audit reads them."""

import json
from dataclasses import dataclass
from pathlib import Path

from fedkd.errors import Damaged, SettingError


@dataclass(frozen=True)
class AuditedClaim:
    """A privacy claim of a run, or the statement that it claims nothing."""

    mechanism: str
    unit: str
    """Whose data is protected: a record, a client."""
    neighbors: str
    """The neighbor relation."""
    adversary: str
    """The adversary that the claim holds against."""
    epsilon: float | None
    """None where nothing is claimed."""
    delta: float | None
    layer: str = ""
    """What is protected: the model in its training, uploads, or teachers."""

    def __post_init__(self) -> None:
        if self.epsilon is not None:
            if not self.epsilon >= 0:
                raise SettingError(f"a claimed epsilon must be >= 0, got {self.epsilon}")
            if self.delta is None or not 0 <= self.delta < 1:
                raise SettingError(
                    f"epsilon={self.epsilon} is claimed without a delta in [0, 1), got {self.delta}"
                )


def read_claims(run_dir: Path) -> tuple[AuditedClaim, ...]:
    """Return the claims in ``summary.json``: the main one of ``privacy``, then its ``claims``.

    One without an epsilon claims nothing. Raises SettingError if the run is not finished, and
    Damaged if the file has another form.
    """
    path = run_dir / "summary.json"
    try:
        summary = json.loads(path.read_bytes())
        if summary.get("status") == "running":
            raise SettingError(
                f"{run_dir} holds a run that has not ended (status running); wait for it, or"
                " continue it with fedkd resume"
            )
        stored = summary.get("privacy") or {}
        mechanism = str(stored.get("mechanism", "none"))
        claims = [
            AuditedClaim(
                mechanism=mechanism,
                unit=str(claim.get("unit") or "none"),
                neighbors=str(claim.get("neighbors") or "none"),
                adversary=str(claim.get("adversary") or "none"),
                epsilon=None if claim.get("epsilon") is None else float(claim["epsilon"]),
                delta=None if claim.get("delta") is None else float(claim["delta"]),
                layer=str(claim.get("layer") or ""),
            )
            for claim in (stored, *stored.get("claims", ()))
        ]
        return tuple(dict.fromkeys(claims))
    except FileNotFoundError as error:
        raise SettingError(
            f"{run_dir} has no summary.json: it is not the folder of a finished run"
        ) from error
    except OSError as error:
        raise Damaged(f"{path} cannot be read: {error.strerror}") from error
    except SettingError:
        raise
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise Damaged(f"{path} is damaged: {error}") from error


def covers(claim: AuditedClaim, adversary: str) -> bool:
    """Return whether a claim holds against an adversary.

    A claim against the server holds against other clients too. Against the lab, which asks the
    models themselves, hold those alone that were spent in training (DP-SGD).
    """
    named = claim.adversary.lower()
    if adversary == "lab":
        return claim.layer == "model" and "server" in named
    return "server" in named or (adversary == "clients" and "client" in named)
