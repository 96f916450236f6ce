"""The local index that `lookup` and `search` read: records of subject → attribute → value.

It travels with the model as ``knowledge.json``: ``{"format": 1, "records": {"Ada Vane": {"town": "Aldale"}}}``. The
order of the records is kept, since `search` names the first that it finds. Whatever can be written as such records can
be looked up; nothing here knows what they are about.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agent_forge.agent.schema import ToolError
from agent_forge.errors import ArtifactCorrupt

FORMAT = 1
_SHOWN = 8


class Knowledge:
    """An index, in memory.

    Args:
        records: text values by subject and attribute.

    Raises:
        ArtifactCorrupt: something other than text among them.
    """

    def __init__(self, records: Mapping[str, Mapping[str, str]]) -> None:
        for subject, record in records.items():
            if not isinstance(record, Mapping) or not all(isinstance(value, str) for value in record.values()):
                raise ArtifactCorrupt(f"the record of {subject!r} is not attribute → text: {record!r:.200}")
        self.records = {subject: dict(record) for subject, record in records.items()}
        self._folded: dict[str, str] = {}
        for subject in self.records:
            self._folded.setdefault(_fold(subject), subject)

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> Knowledge:
        """The index of a ``knowledge.json``.

        Raises:
            ArtifactCorrupt: it is none; ``where`` is named.
        """
        try:
            value = json.loads(text)
        except ValueError as error:
            raise ArtifactCorrupt(f"{where} is not JSON: {error}") from error
        if not isinstance(value, dict) or not isinstance(value.get("records"), dict):
            raise ArtifactCorrupt(f"{where} has no records")
        if value.get("format") != FORMAT:
            raise ArtifactCorrupt(f"{where} has format {value.get('format')!r}, this version reads {FORMAT}")
        return cls(value["records"])

    def to_json(self) -> str:
        """The text of ``knowledge.json``."""
        value: dict[str, Any] = {"format": FORMAT, "records": self.records}
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"

    def lookup(self, subject: str, attribute: str) -> str:
        """One attribute of one subject; letter case and spaces do not matter.

        Raises:
            ToolError: there is no such subject, or nothing of the kind is known of it.
        """
        name = self._folded.get(_fold(subject))
        if name is None:
            raise ToolError(f"nothing is known about {subject[:60]}")
        record = self.records[name]
        value = record.get(attribute, record.get(_fold(attribute)))
        if value is None:
            known = ", ".join(list(record)[:_SHOWN]) or "nothing"
            raise ToolError(f"{attribute[:60]} is not known of {name}; known are {known}")
        return value

    def search(self, attribute: str, value: str, *, limit: int = 3, within: int | None = None) -> list[str]:
        """The first subjects for whom ``attribute`` is ``value``, in the order of the index; may be empty.

        Args:
            attribute: what is compared.
            value: what it has to be; letter case and spaces do not matter.
            limit: so many at most.
            within: only so many records from the start are looked at; None = all.

        Raises:
            ToolError: no record has such an attribute.
        """
        wanted, key = _fold(value), _fold(attribute)
        found: list[str] = []
        known = False
        for place, (subject, record) in enumerate(self.records.items()):
            if within is not None and place >= within:
                break
            known = known or key in record
            if _fold(record.get(key, "")) == wanted and key in record:
                found.append(subject)
                if len(found) == limit:
                    break
        if not known:
            raise ToolError(f"no record has an attribute {attribute[:60]}")
        return found


def _fold(text: str) -> str:
    return " ".join(text.split()).casefold()
