"""Any task or group of the installed lm-eval, by its own name (arXiv:2405.14782)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.core import BenchError
from harness.registry import task
from harness.toolkit import identity
from tasks._lm_eval import data, task_index
from tasks._lm_eval.zero_shot import ZeroShot, digest

_WRITTEN = "generate_until"  # lm-eval's word for answers that the model writes


@task("lm_eval", kind="causal_lm", fallback=True)
class LmEval(ZeroShot):
    """A task, group or tag of lm-eval, or a YAML file that declares one.

    A grid writes the name itself: ``arc_easy``, ``{name: piqa, limit: 100}``, ``mmlu``,
    ``./my_task.yaml``.

    Args:
        id: Name of the task, group or tag, or path of a YAML file; the name in the grid
            sets it.
    """

    id: str

    def __post_init__(self) -> None:
        """Refuse an unknown task, and examples that no task of it would take.

        Raises:
            ValueError: If the name is unknown or an option has no effect.
        """
        if task_index.card(self.id) is None:
            raise ValueError(task_index.unknown(self.id))
        super().__post_init__()
        if self.num_fewshot and not any(self.shots().values()):
            raise ValueError(
                f"num_fewshot {self.num_fewshot} has no effect: the task sets 0, which "
                "lm-eval never changes; leave it out"
            )

    @staticmethod
    def claim(name: str) -> dict[str, Any] | None:
        """Every name that lm-eval knows, and every path of a YAML file.

        Args:
            name: As a grid writes it.

        Returns:
            The options that the name implies.

        Raises:
            BenchError: If there is no such task; offers the nearest names.
        """
        if task_index.card(name) is None:
            raise BenchError(task_index.unknown(name))
        return {"id": name}

    def paths(self) -> tuple[str, ...]:
        """The option ``id`` if it is a path, which the fingerprint covers."""
        return ("id",) if Path(self.id).suffix == ".yaml" else ()

    @property
    def card(self) -> task_index.Card:
        """The task's files, its members and the data that they read."""
        known = task_index.card(self.id)
        if known is None:
            raise BenchError(task_index.unknown(self.id))
        return known

    def task(self) -> tuple[str, Any]:
        """The task's name, which lm-eval also loads it by."""
        return self.card.name, self.card.name

    def versions(self) -> dict[str, Any]:
        """Each task below this name, with its version."""
        return {name: facts["version"] for name, facts in self.card.tasks.items()}

    def default_shots(self) -> dict[str, int | None]:
        """Each task below this name, with the number of examples that it sets."""
        return {n: facts.get("num_fewshot") for n, facts in self.card.tasks.items()}

    def writes(self) -> dict[str, bool | None]:
        """Each task below this name -> whether the model writes its answers."""
        kinds = {n: facts.get("output_type") for n, facts in self.card.tasks.items()}
        return {n: None if k is None else k == _WRITTEN for n, k in kinds.items()}

    def samples(self) -> bool:
        """Whether a task below this name draws the tokens of its answers."""
        return any(facts.get("samples") for facts in self.card.tasks.values())

    def check_data(self) -> None:
        """Refuse local text files that ``datasets`` would misread.

        Raises:
            BenchError: Naming each file and its first wrong byte.
        """
        for facts in self.card.tasks.values():
            data.check_text(facts)

    def manager(self) -> Any:
        """lm-eval's task manager over the folders of this task."""
        return task_index.manager(self.card)

    def reads(self) -> str:
        """The data sets of the hub, with their configurations."""
        known = [f for f in self.card.tasks.values() if "dataset" in f]
        names = [f"{f['dataset']} {f['config'] or ''}".strip() for f in known]
        return ", ".join(dict.fromkeys(names)) or "which its code makes"

    def fingerprint(self) -> str:
        """The commit of the data set, or one hash over several and a task's own files.

        Returns:
            The identity of the data on this machine; what is missing is fetched.

        Raises:
            BenchError: If a data set is missing and cannot be fetched.
        """
        missing = [n for n, f in self.card.tasks.items() if _revision(f) is None]
        if missing:
            self.fetch()
        parts = {n: _revision(f) or "unknown" for n, f in self.card.tasks.items()}
        if Path(self.id).suffix == ".yaml":  # lm-eval's own have its version
            own = task_index.sources(Path(self.id).expanduser())
            # The space makes the key different from every name of a task.
            parts[" its files"] = identity.of_files(own)
        return digest(parts)


def _revision(facts: dict[str, Any]) -> str | None:
    return data.revision(facts)
