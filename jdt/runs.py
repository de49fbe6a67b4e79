"""Runs as users open them: everything `jdt.store` reads, and source models ready to apply."""

import dataclasses
import os
from typing import TYPE_CHECKING, Any

from jdt import store

if TYPE_CHECKING:
    from jdt.models import Network
    from jdt.pipeline.source_models import SourceModel


@dataclasses.dataclass(frozen=True, eq=False)
class Run(store.Run):
    """A run directory as it was when it was opened; every array holds the complete models only."""

    def source_model(self, model: int, *, network: "Network | None" = None, trust: bool = False) -> "SourceModel":
        """Read one source model of a run that was made with `--save-models`: `.apply(images)`, `.variables`, `.module`.

        Args:
          model: Its id.
          network: What the models are instances of; built from what `run.json` says when None.
          trust: Whether to import the class that `run.json` names, if it is not of jdt's own zoo. Importing runs code,
            so only for runs of which you know where they come from. Nothing else imports what a run names.

        Raises:
          UserError: If the run keeps no models, there is no such model (yet), its bytes are damaged, or the network is
            another.
        """
        from jdt.pipeline.source_models import source_model  # Only here: reading arrays needs no model.

        return source_model(self, model, network=network, trust=trust)


def open_run(path: str | os.PathLike[str]) -> Run:
    """Open a run directory for reading.

    Only `run.json` and the block records are read here; blocks that are written later are not seen.

    Raises:
      UserError: Where there is no run, it has another schema version, or `run.json` or a record is damaged.
    """
    opened = store.open_run(path)
    fields: dict[str, Any] = {field.name: getattr(opened, field.name) for field in dataclasses.fields(opened)}
    return Run(**fields)
