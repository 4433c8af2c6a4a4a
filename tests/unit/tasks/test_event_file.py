import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tasks.event_file import EventFile

LINES = [json.dumps({"event": "step", "step": name}).encode() + b"\n" for name in ("a", "b", "c")]
JUNK = [b"not json\n", b"[]\n", b'{"event": 3}\n', b"\n"]


def test_file_that_is_not_there_has_no_events(tmp_path: Path) -> None:
    """The engine may not have opened it yet."""
    assert list(EventFile(tmp_path / "none").read_new()) == []


@given(lines=st.permutations(LINES + JUNK), cuts=st.lists(st.integers(0, 200), max_size=8))
def test_events_are_the_same_however_the_writer_is_cut(
    lines: list[bytes], cuts: list[int], tmp_path_factory: object
) -> None:
    """Half lines wait, lines that are no events are passed over, offsets point behind lines."""
    content = b"".join(lines)
    path = tmp_path_factory.mktemp("events") / "events.jsonl"  # type: ignore[attr-defined]
    path.touch()
    file, found = EventFile(path), []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(content)], strict=True):
        with path.open("ab") as writer:
            writer.write(content[start:end])
        found.extend(file.read_new())
    wanted = [json.loads(line) for line in lines if line in LINES]
    assert [event for event, _ in found] == wanted
    for event, offset in found:
        assert content[:offset].endswith(json.dumps(event).encode() + b"\n")
        assert [e for e, _ in EventFile(path, offset).read_new()] == wanted[wanted.index(event) + 1 :]
