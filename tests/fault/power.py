"""Record what a program does to a directory, then say what a disk may hold if the power fails in between.

The model is stricter than any file system in use: what was written to a file is durable
once the file was synced; a name is durable once the directory that got it was synced; of
all that was not yet synced, anything may have reached the disk or not, in any combination.
Only a rename is one thing: it never leaves both names, nor neither.

The recorder stands between the program and the os module, and knows the content of every
file by its own account. At the end of a recording that account has to equal the real
directory: an effect that it missed is a failure of the test.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

#: A directory's content: name -> bytes of a file, or another directory's content.
Tree = dict[str, Any]


@dataclass(eq=False)
class Node:
    """A file or a directory; lives on when its name is gone."""

    is_directory: bool
    #: Written past the page cache: a look at it would leave pages there, which the program counts.
    is_direct: bool = False
    content: bytearray = field(default_factory=bytearray)
    names: dict[str, Node] = field(default_factory=dict)

    def tree(self) -> Any:
        """Return what is to be found from here."""
        if self.is_directory:
            return {name: node.tree() for name, node in sorted(self.names.items())}
        return bytes(self.content)


@dataclass(frozen=True, eq=False)
class Write:
    """Bytes of a file."""

    node: Node
    offset: int
    data: bytes


@dataclass(frozen=True, eq=False)
class Resize:
    """The length of a file."""

    node: Node
    size: int


@dataclass(frozen=True, eq=False)
class Link:
    """Names that appear and go in one instant: (directory, name, what it means from now on)."""

    changes: tuple[tuple[Node, str, Node | None], ...]

    def directories(self) -> set[Node]:
        """Return the directories that have to be synced: those that get a name, if any does."""
        gets = {directory for directory, _, node in self.changes if node is not None}
        return gets or {directory for directory, _, _ in self.changes}


@dataclass(frozen=True, eq=False)
class Sync:
    """A file's content or a directory's names are on stable storage."""

    node: Node


@dataclass(frozen=True, eq=False)
class Mark:
    """The program said that it has come here."""

    name: str


Effect = Write | Resize | Link | Sync | Mark


class Recorder:
    """Writes down every effect on a directory, in order."""

    def __init__(self, root: Path) -> None:
        self.effects: list[Effect] = []
        self._path = root
        self._root = _load(root)
        #: What the directory held before: each node with a copy of itself.
        self._before = {node: _copy(node) for node in _walk(self._root)}
        self._lock = threading.RLock()

    def mark(self, name: str) -> None:
        """Note that the program has come to a point."""
        with self._lock:
            self.effects.append(Mark(name))

    def initial(self) -> tuple[Node, dict[Node, Node]]:
        """Return the directory as it was before, and for each node of then its twin in it."""
        twins = {node: _copy(copy) for node, copy in self._before.items()}
        for twin in twins.values():
            twin.names = {name: twins[node] for name, node in twin.names.items()}
        return twins[self._root], twins

    def check(self) -> None:
        """See that nothing has escaped the recorder: its account is what the directory holds."""
        assert self._root.tree() == _load(self._path).tree()

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Stand between the program and the os module until the patches are undone."""
        for name in (
            "open",
            "pwrite",
            "ftruncate",
            "fsync",
            "fdatasync",
            "rename",
            "replace",
            "link",
            "symlink",
        ):
            patch.setattr(os, name, self._recorded(getattr(os, name), getattr(self, f"_{name}")))
        for name in ("mkdir", "unlink", "remove", "rmdir"):
            patch.setattr(os, name, self._recorded(getattr(os, name), getattr(self, f"_{name}")))

    def wrap_rename(self, real: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
        """Return a function of two paths that renames, recorded."""
        return self._recorded(real, self._rename)

    def wrap_reserve(self, real: Callable[[int, int], None]) -> Callable[[int, int], None]:
        """Return a function of a descriptor and a size that allocates, recorded."""
        return self._recorded(real, self._reserve)

    def _recorded(
        self, real: Callable[..., Any], note: Callable[..., Iterable[Effect]]
    ) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            with self._lock:
                # The generator looks at the state before, is sent the result, and yields the effects.
                effects = iter(note(*arguments, **options))
                try:
                    before = next(effects)
                except StopIteration:
                    return real(*arguments, **options)
                assert before is None
                result = real(*arguments, **options)
                for effect in effects:
                    self.effects.append(effect)
                    _apply(effect)
                return result

        return call

    # Each of these yields None once it knows what concerns it, and its effects once the call has succeeded.

    def _open(self, path: Any, flags: int, *_: Any, dir_fd: int | None = None, **__: Any) -> Iterator[Any]:
        place = self._place(path, dir_fd)
        if place is None:
            return
        directory, name = place
        node = directory.names.get(name)
        if node is None and flags & os.O_CREAT:
            yield None
            yield Link(((directory, name, Node(is_directory=False, is_direct=bool(flags & os.O_DIRECT))),))
        elif node is not None and not node.is_directory and flags & os.O_TRUNC:
            yield None
            yield Resize(node, 0)

    def _pwrite(self, fd: int, data: Any, offset: int) -> Iterator[Any]:
        if (node := self._node_of(fd)) is not None:
            copy = bytes(data)
            yield None
            yield Write(node, offset, copy)

    def _ftruncate(self, fd: int, size: int) -> Iterator[Any]:
        if (node := self._node_of(fd)) is not None:
            yield None
            yield Resize(node, size)

    def _reserve(self, fd: int, size: int) -> Iterator[Any]:
        if (node := self._node_of(fd)) is not None and size > len(node.content):
            yield None
            yield Resize(node, size)

    def _fsync(self, fd: int) -> Iterator[Any]:
        if (node := self._node_of(fd)) is not None:
            yield None
            yield from self._unseen(node, f"/proc/self/fd/{fd}")
            yield Sync(node)

    _fdatasync = _fsync

    def _rename(self, source: Any, target: Any, **_: Any) -> Iterator[Any]:
        places = self._place(source), self._place(target)
        if places[0] is None or places[1] is None:
            assert places == (None, None), "a rename into or out of the directory"
            return
        (source_directory, source_name), (target_directory, target_name) = places
        node = source_directory.names[source_name]
        yield None
        yield from self._unseen(node, target)
        yield Link(((source_directory, source_name, None), (target_directory, target_name, node)))

    _replace = _rename

    def _link(self, source: Any, target: Any, **_: Any) -> Iterator[Any]:
        assert self._place(source) is None, "hard links are not modelled"
        assert self._place(target) is None
        return iter(())

    def _symlink(self, source: Any, target: Any, *_: Any, **__: Any) -> Iterator[Any]:
        assert source
        assert self._place(target) is None, "symbolic links are not modelled"
        return iter(())

    def _mkdir(self, path: Any, *_: Any, dir_fd: int | None = None, **__: Any) -> Iterator[Any]:
        place = self._place(path, dir_fd)
        if place is not None:
            yield None
            yield Link(((*place, Node(is_directory=True)),))

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> Iterator[Any]:
        place = self._place(path, dir_fd)
        if place is not None:
            yield None
            yield Link(((*place, None),))

    _remove = _unlink
    _rmdir = _unlink

    def _unseen(self, node: Node, path: Any) -> Iterator[Effect]:
        """Yield what was written without the os module, as file objects do."""
        if not node.is_directory and not node.is_direct:
            content = Path(path).read_bytes()
            if content != node.content:
                yield Write(node, 0, content)
                yield Resize(node, len(content))

    def _place(self, path: Any, dir_fd: int | None = None) -> tuple[Node, str] | None:
        """Return the directory and the name that a path means, None outside of what is recorded."""
        if isinstance(path, int):
            return None
        base = Path.cwd() if dir_fd is None else Path(f"/proc/self/fd/{dir_fd}").readlink()
        whole = base / os.fsdecode(path)
        if whole == self._path or not whole.is_relative_to(self._path):
            return None
        node = self._root
        *parents, name = whole.relative_to(self._path).parts
        for parent in parents:
            found = node.names.get(parent)
            if found is None:
                return None
            node = found
        return node, name

    def _node_of(self, fd: int) -> Node | None:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        if path == self._path:
            return self._root
        place = self._place(path)
        return None if place is None else place[0].names.get(place[1])


def crash_states(recorder: Recorder) -> Iterator[tuple[list[Effect], Tree]]:
    """Yield everything the disk may hold after a power cut: what had been done by then, and the directory.

    For every prefix of what was done, of all that was not yet synced: nothing has reached
    the disk, all of it, each single thing alone, all but each single thing.
    """
    seen: set[tuple[int, frozenset[int]]] = set()
    effects = recorder.effects
    for count in range(len(effects) + 1):
        done = effects[:count]
        pending = _pending(done)
        everything = frozenset(pending)
        choices = {frozenset[int](), everything}
        choices |= {frozenset({each}) for each in pending} | {everything - {each} for each in pending}
        marks = sum(isinstance(effect, Mark) for effect in done)
        for kept in choices:
            lost = everything - kept
            there = frozenset(index for index in range(count) if index not in lost and _is_data(done[index]))
            if (marks, there) not in seen:
                seen.add((marks, there))
                yield done, _replay(recorder, [effects[index] for index in sorted(there)])


def lay_out(tree: Tree, directory: Path) -> None:
    """Make a directory of a tree."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in tree.items():
        if isinstance(content, dict):
            lay_out(content, directory / name)
        else:
            (directory / name).write_bytes(content)


def _is_data(effect: Effect) -> bool:
    return isinstance(effect, Write | Resize | Link)


def _pending(done: list[Effect]) -> list[int]:
    """Return the indexes of what has not been synced."""
    waiting: dict[int, set[Node]] = {}
    for index, effect in enumerate(done):
        if isinstance(effect, Sync):
            for nodes in waiting.values():
                nodes.discard(effect.node)
        elif isinstance(effect, Link):
            waiting[index] = effect.directories()
        elif isinstance(effect, Write | Resize):
            waiting[index] = {effect.node}
    return [index for index, nodes in waiting.items() if nodes]


def _replay(recorder: Recorder, effects: Iterable[Effect]) -> Tree:
    """Return the directory as it was before, with these effects and no others."""
    root, twins = recorder.initial()

    def twin(node: Node) -> Node:
        if node not in twins:
            twins[node] = Node(is_directory=node.is_directory)
        return twins[node]

    for effect in effects:
        match effect:
            case Write():
                _apply(Write(twin(effect.node), effect.offset, effect.data))
            case Resize():
                _apply(Resize(twin(effect.node), effect.size))
            case Link():
                changes = tuple(
                    (twin(into), name, node and twin(node)) for into, name, node in effect.changes
                )
                _apply(Link(changes))
            case _:
                raise AssertionError(effect)
    tree = root.tree()
    assert isinstance(tree, dict)
    return tree


def _apply(effect: Effect) -> None:
    match effect:
        case Write(node, offset, data):
            if len(node.content) < offset:
                node.content.extend(bytes(offset - len(node.content)))
            node.content[offset : offset + len(data)] = data
        case Resize(node, size):
            del node.content[size:]
            node.content.extend(bytes(size - len(node.content)))
        case Link(changes):
            for directory, name, node in changes:
                if node is None:
                    directory.names.pop(name, None)
                else:
                    directory.names[name] = node
        case _:
            pass


def _walk(node: Node) -> Iterator[Node]:
    """Yield a node and all below it."""
    yield node
    for each in node.names.values():
        yield from _walk(each)


def _copy(node: Node) -> Node:
    """Return a node of the same content that leads to the same nodes."""
    return Node(is_directory=node.is_directory, content=bytearray(node.content), names=dict(node.names))


def _load(path: Path) -> Node:
    """Return a directory as it is."""
    root = Node(is_directory=True)
    for each in path.iterdir():
        if each.is_dir():
            root.names[each.name] = _load(each)
        else:
            root.names[each.name] = Node(is_directory=False, content=bytearray(each.read_bytes()))
    return root
