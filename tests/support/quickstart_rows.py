"""A store with the rows of one run of the packaged grid `quickstart`."""

import datetime as dt
import json

from paths import SUPPORT

from results.schema import TABLES
from results.storage.store import Store

ROWS = SUPPORT / "quickstart.jsonl"


def load_quickstart(store: Store) -> Store:
    found: dict[str, list] = {table: [] for table in TABLES}
    for line in ROWS.read_text(encoding="utf-8").splitlines():
        one = json.loads(line)
        for column in ("started_at", "planned_at"):
            if column in one:
                moment = dt.datetime.fromisoformat(one[column])
                one[column] = moment.replace(tzinfo=dt.UTC)
        found[one.pop("table")].append(one)
    store.append_all(found["trials"], found["samples"])
    plans = {row["plan"] for row in found["plans"]}
    for plan in plans:
        store.record_plan([row for row in found["plans"] if row["plan"] == plan])
    return store
